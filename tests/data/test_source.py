from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit.data.content import check_split, content_hash
from evalkit.data.source import open_source, sample_root, status, verify
from evalkit.errors import DataError
from evalkit.registry import get_task
from evalkit.spec import resolve
from evalkit.types import Sample

MMLU, CEVAL, CMMLU = map(get_task, ("mmlu", "ceval", "cmmlu"))


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EVALKIT_DATA", raising=False)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory in the official layouts; it holds the sample data."""
    return Path(shutil.copytree(sample_root(), tmp_path / "data"))


@pytest.mark.parametrize("task", [MMLU, CEVAL, CMMLU], ids=lambda task: task.name)
def test_sample_data_is_read_by_the_official_parsers(task) -> None:
    source = open_source("sample")
    for split in task.splits:
        subsets = source.available(task, split)
        assert len(subsets) == 3
        for subset in subsets:
            samples = source.load(task, split, subset)
            assert samples
            assert {sample.subset for sample in samples} == {subset}
            answers = {None} if (task.name, split) == ("ceval", "test") else set(task.choices)
            assert {sample.target for sample in samples} <= answers
    (resolved,) = resolve(task.name)
    assert [len(examples) for examples in source.shots(resolved, subsets[0], samples[:2])] == [5, 5]


def test_sample_lacks_most_subsets() -> None:
    with pytest.raises(DataError, match="the sample has only a few subsets"):
        open_source("sample").load(MMLU, "test", "virology")


def test_a_folder_covers_every_subset_and_a_missing_one_is_an_error(folder: Path) -> None:
    source = open_source(str(folder))
    assert source.available(CMMLU, "test") == list(CMMLU.subsets)
    with pytest.raises(DataError) as raised:
        source.load(CMMLU, "test", "agronomy")
    message = str(raised.value)
    assert str(folder / "CMMLU/data/test/agronomy.csv") in message
    assert "evalkit data fetch cmmlu" in message
    assert "--data sample" in message
    assert raised.value.exit_code == 4


def test_sources_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_source("hub").describe() == {
        "kind": "hub",
        "root": str(tmp_path / "cache/data"),
        "variant": None,
    }
    assert open_source("auto") == open_source(None) == open_source("hub")
    monkeypatch.setenv("EVALKIT_DATA", str(folder))
    assert open_source().describe() == {"kind": "path", "root": str(folder), "variant": None}
    assert open_source("auto") == open_source(str(folder))
    assert open_source("sample").kind == "sample"
    assert open_source("hub").kind == "hub"


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; give --data .* hub, sample, auto"):
        open_source(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("beside", ["CMMLU", "CMMLU/data", ".."])
def test_a_folder_one_level_off_gets_the_right_one_named(folder: Path, beside: str) -> None:
    source = open_source(str(folder / beside))
    with pytest.raises(DataError, match=rf"the folder above CMMLU: --data {folder}$"):
        source.load(CMMLU, "test", "astronomy")


def test_the_cache_is_used_without_network(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "cache/data")
    assert open_source("auto", offline=True).load(CMMLU, "test", "astronomy")


def test_too_few_examples_are_an_error(folder: Path) -> None:
    source = open_source(str(folder))
    (resolved,) = resolve("mmlu")
    samples = source.load(MMLU, "test", "computer_security")[:1]
    assert source.shots(replace(resolved, shots=0), "computer_security", samples) == [()]
    with pytest.raises(DataError, match="has 5 examples, 6 are asked for; use --shots 5 or less"):
        source.shots(replace(resolved, shots=6), "computer_security", samples)


def test_status_looks_without_reading(folder: Path) -> None:
    (folder / "MMLU/data/test/computer_security_test.csv").write_text("broken")
    shutil.rmtree(folder / "CMMLU")
    few = replace(CEVAL, subsets={"computer_network": "计算机网络"})
    mmlu, ceval, cmmlu = status([MMLU, few, CMMLU], open_source(str(folder)))
    assert (mmlu.state, ceval.state, cmmlu.state) == ("partial", "complete", "missing")
    assert (mmlu.files["test"], mmlu.expected_files) == (3, 57)
    assert mmlu.remedy == "fetch it with: evalkit data fetch mmlu"


def test_verify_tells_other_data_from_the_official_release() -> None:
    checks = verify(MMLU, open_source("sample"))
    assert [check.ok for check in checks] == [False] * 3
    assert "instead of 14042" in str(checks[-1].problem)


def records() -> dict[str, list[Sample]]:
    return {"b": [Sample("0", "b", {"q": "x", "A": "1"}, "A")], "a": [Sample("0", "a", {"q": "题"}, None)]}


def test_content_hash_covers_records_and_not_their_arrangement() -> None:
    turned = {
        "a": [Sample("0", "a", {"q": "题"}, None)],
        "b": [Sample("0", "b", {"A": "1", "q": "x"}, "A")],
    }
    assert content_hash(turned) == content_hash(records())


@pytest.mark.parametrize(
    "change",
    [
        {"id": "1"},
        {"fields": {"q": "x", "A": "1 "}},
        {"fields": {"q": "x"}},
        {"target": "B"},
        {"target": None},
    ],
)
def test_content_hash_notices(change: dict) -> None:
    changed = records()
    changed["b"] = [replace(changed["b"][0], **change)]
    assert content_hash(changed) != content_hash(records())


def test_checks_name_what_differs() -> None:
    task = replace(MMLU, sizes={"test": 2}, content_sha256={"test": content_hash(records())})
    assert check_split(task, "test", records()).problem is None
    other = records() | {"a": []}
    assert check_split(task, "test", other).problem == "1 samples instead of 2"
    other["a"] = [Sample("0", "a", {"q": "!"}, None)]
    assert "content sha256" in str(check_split(task, "test", other).problem)
    assert "content sha256" in str(check_split(replace(task, sizes={}), "test", other).problem)
    assert check_split(replace(task, sizes={}, content_sha256={}), "test", other).ok

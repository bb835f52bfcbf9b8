"""Runs that differ in one planted thing: the comparison names it, on the rung where it acts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from _planted import SUBJECTS, mock, parted, run_model, tiny_folder
from helpers import cli, mock_run, write_cmmlu
from tokenizers import processors

from evalkit.backends.mock import MockBackend
from evalkit.tasks import _multiple_choice as mc
from evalkit.types import Failure


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_cmmlu(tmp_path / "data", SUBJECTS)


def edit(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = file.read_text("utf-8").splitlines()
    file.write_text("\n".join(change(lines)) + "\n", "utf-8")


class Perturbed(MockBackend):
    """The mock, as another engine would compute it: every log-probability is a little off."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self._info = replace(super().info, backend=backend)

    def score_reference(self, request: Any) -> Any:
        found = super().score_reference(request)
        if isinstance(found, Failure):
            return found
        scores = tuple(replace(s, logprob=s.logprob - 1e-4 * s.n_tokens) for s in found.scores)
        return replace(found, scores=scores)


def test_the_same_run_twice_differs_in_nothing(data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data)
    mock(tmp_path / "b", data)
    first, causes, task = parted(tmp_path / "a", tmp_path / "b")
    assert (first, causes, task["examples"]) == (None, [], [])
    assert {rung["status"] for rung in task["rungs"].values()} == {"equal"}
    assert task["effect"]["points"] == 0


def test_an_edited_row_of_the_data(data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data)
    file = data / "CMMLU/data/test/anatomy.csv"
    edit(file, lambda lines: [line.replace("anatomy test 2:", "anatomy test two:") for line in lines])
    mock(tmp_path / "b", data)
    first, causes, task = parted(tmp_path / "a", tmp_path / "b")
    assert (first, causes) == ("data", ["data"])
    assert "1 of 14" in task["causes"][0]["sentence"]
    assert [(one["subset"], one["id"]) for one in task["examples"]] == [("anatomy", "2")]


def test_an_edited_answer(data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data)
    edit(data / "CMMLU/data/test/anatomy.csv", lambda lines: [*lines[:-1], lines[-1][:-1] + "D"])
    mock(tmp_path / "b", data)
    first, causes, task = parted(tmp_path / "a", tmp_path / "b")
    assert (first, causes) == ("data", ["data"])
    assert task["rungs"]["data"]["differing"] == 1


def test_fewer_samples(data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data)
    mock(tmp_path / "b", data, limit=3)
    _, _, task = parted(tmp_path / "a", tmp_path / "b")
    assert (task["shared"], task["only_a"], task["only_b"]) == (6, 8, 0)
    assert task["effect"]["n"] == 6


def test_another_protocol(data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data, "cmmlu@official")
    mock(tmp_path / "b", data, "cmmlu@lm-eval")
    first, causes, _ = parted(tmp_path / "a", tmp_path / "b")
    assert (first, causes[0]) == ("prompts", "protocol")


def test_examples_in_another_order(data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data, log_prompts=True)
    for subject in SUBJECTS:
        file = data / f"CMMLU/data/dev/{subject}.csv"
        edit(file, lambda lines: [lines[0], *lines[:0:-1]])
    mock(tmp_path / "b", data, log_prompts=True)
    first, causes, task = parted(tmp_path / "a", tmp_path / "b")
    assert (first, causes) == ("prompts", ["shot order"])
    assert task["examples"][0]["prompt_diff"]["lines"][0] == "--- A"


def test_an_edited_example(data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data)
    for subject in SUBJECTS:
        file = data / f"CMMLU/data/dev/{subject}.csv"
        edit(file, lambda lines: [line.replace("dev 1:", "dev one:") for line in lines])
    mock(tmp_path / "b", data)
    first, causes, task = parted(tmp_path / "a", tmp_path / "b")
    assert (first, causes) == ("prompts", ["prompt"])
    assert "--log-prompts" in task["causes"][0]["sentence"]


def test_another_seed_of_sampling(tmp_path: Path) -> None:
    for split, n in (("train", 30), ("test", 4)):
        rows = [{"question": f"{split} {i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(n)]
        file = tmp_path / f"data/GSM8K/{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for name, seed in (("a", 0), ("b", 1)):
        mock_run(tmp_path / name, "gsm8k@lm-eval", data=tmp_path / "data", seed=seed)
    first, causes, _ = parted(tmp_path / "a", tmp_path / "b")
    assert (first, causes) == ("token_ids", ["seed"])


def test_a_bos_on_one_side(data: Path, tmp_path: Path) -> None:
    def without(tokenizer: Any) -> None:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")

    a = run_model(tiny_folder(tmp_path / "one"), data, tmp_path / "a")
    b = run_model(tiny_folder(tmp_path / "two", change=without), data, tmp_path / "b")
    first, causes, task = parted(a, b)
    assert first == "token_ids"
    assert causes[0] == "bos"
    assert task["token_ids"] == {"differing": 14, "compared": 14, "earliest": 0, "median": 0}
    diff = task["examples"][0]["token_diff"]
    assert (diff["a"] - diff["b"], diff["position"], diff["more"]) == (1, 0, False)
    assert [(part["op"], part["n"]) for part in diff["parts"]] == [("delete", 1), ("equal", diff["b"])]
    shown = cli("diff", a, b).out
    assert "token ids  differs   14 of 14 samples  <- first difference" in shown
    assert f"{diff['a']} and {diff['b']} token ids, from 0 on: [-0-] " in shown


def test_another_revision_of_the_tokenizer(data: Path, tmp_path: Path) -> None:
    def without_a_merge(tokenizer: Any) -> None:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["model"]["merges"] = state["model"]["merges"][:40]
        tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))

    a = run_model(tiny_folder(tmp_path / "one"), data, tmp_path / "a")
    b = run_model(tiny_folder(tmp_path / "two", change=without_a_merge), data, tmp_path / "b")
    first, causes, task = parted(a, b)
    assert (first, causes) == ("token_ids", ["tokenizer"])
    assert task["token_ids"]["differing"] == 14
    assert {"delete", "insert"} <= {part["op"] for part in task["examples"][0]["token_diff"]["parts"]}


def test_other_weights(data: Path, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "one")
    a = run_model(folder, data, tmp_path / "a")
    model = tiny.model("llama-grouped")
    with torch.no_grad():
        model.lm_head.weight[7] += 0.1
    other = tmp_path / "two"
    shutil.copytree(folder, other)
    model.save_pretrained(other)
    b = run_model(other, data, tmp_path / "b")
    first, causes, _ = parted(a, b)
    assert (first, causes[0]) == ("responses", "weights")


def test_another_precision(data: Path, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "one")
    a = run_model(folder, data, tmp_path / "a")
    b = run_model(folder, data, tmp_path / "b", "--dtype", "bfloat16")
    first, causes, task = parted(a, b)
    assert (first, causes[0]) == ("responses", "dtype")
    assert 0 < task["logprobs"]["median"] < task["logprobs"]["largest"]


def test_another_engine(data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data, backend=Perturbed("engine one"))
    mock(tmp_path / "b", data, backend=Perturbed("engine two"))
    document = json.loads((tmp_path / "b/manifest.json").read_text("utf-8"))
    assert document["model"]["backend"] == "engine two"
    shutil.rmtree(tmp_path / "a")
    mock(tmp_path / "a", data)
    first, causes, task = parted(tmp_path / "a", tmp_path / "b")
    assert (first, causes[0]) == ("responses", "engine")
    assert task["logprobs"]["largest"] == pytest.approx(1e-4, rel=0.01)


def test_a_shorter_window_cuts_prompts(data: Path, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "one")
    a = run_model(folder, data, tmp_path / "a", "--max-length", "1900")
    b = run_model(folder, data, tmp_path / "b", "--max-length", "300")
    first, causes, _ = parted(a, b)
    assert first in ("prompts", "token_ids")
    assert causes[0] == "truncation"


def test_another_extraction(data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data, "cmmlu@oc-gen")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    rejudged(tmp_path / "b")
    first, causes, task = parted(tmp_path / "a", tmp_path / "b")
    assert (first, causes) == ("outcomes", ["extraction"])
    assert "B was judged again" in task["causes"][0]["sentence"]


def rejudged(root: Path) -> None:
    """Judge a run's answers as a version with another extraction would."""
    from evalkit.publish import rescore
    from evalkit.store import RunStore
    from evalkit.tasks import cmmlu

    protocol = cmmlu.TASK.protocols["oc-gen"]
    object.__setattr__(protocol, "judge", mc.judge_by(lambda text: "A"))
    try:
        rescore(RunStore(root))
    finally:
        object.__setattr__(protocol, "judge", mc.judge_by(mc.first_capital))


def test_every_kind_of_difference_is_shown_as_text(data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data)
    mock(tmp_path / "b", data, backend=MockBackend("another\x1b[31m model"))
    done = cli("diff", tmp_path / "a", tmp_path / "b")
    assert done.code == 0
    assert "<- first difference" in done.out
    assert "\x1b" not in done.out
    assert (
        json.loads(cli("diff", tmp_path / "a", tmp_path / "b", "--json").out)["tasks"][0]["first"]
        == "responses"
    )


@pytest.mark.parametrize("other", ["missing", "file.txt", "empty"])
def test_what_is_no_run(other: str, data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data)
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    done = cli("diff", tmp_path / "a", tmp_path / other)
    assert done.code == 2
    assert other in done.err


def test_nothing_in_common(data: Path, tmp_path: Path) -> None:
    mock(tmp_path / "a", data, "cmmlu")
    mock_run(tmp_path / "b", "mmlu", data="sample")
    done = cli("diff", tmp_path / "a", tmp_path / "b")
    assert (done.code, "nothing to compare" in done.err) == (2, True)

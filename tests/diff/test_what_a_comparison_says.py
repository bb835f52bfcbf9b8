"""Effect, verdict and several causes at once; what cannot be compared; damaged runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _planted import SUBJECTS, mock, parted
from helpers import UnrulyBackend, cli, failing, mock_run, write_cmmlu

from evalkit.backends.mock import MockBackend
from evalkit.store import RunStore
from evalkit.types import Failure, Outcome

TASK = "cmmlu@official:test:5shot"
Json = dict[str, Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_cmmlu(tmp_path / "data", SUBJECTS)


@pytest.fixture
def runs(data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same run twice."""
    for name in "ab":
        mock(tmp_path / name, data, log_prompts=True)
    return tmp_path / "a", tmp_path / "b"


def change_samples(run: Path, change: Callable[[Outcome], Outcome]) -> None:
    store = RunStore(run)
    store.write_samples([change(outcome) for outcome in store.read_samples()])


def change_document(file: Path, change: Callable[[Json], object]) -> None:
    document = json.loads(file.read_text("utf-8"))
    change(document)
    file.write_text(json.dumps(document), "utf-8")


def replace_in(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")


def published(run: Path) -> float:
    results = json.loads((run / "results.json").read_text("utf-8"))
    return float(results["tasks"][TASK]["metrics"]["acc"]["value"])


def kinds(part: Json) -> list[str]:
    return [cause["kind"] for cause in part["causes"]]


class TestEffect:
    def test_is_of_the_published_average(self, tmp_path: Path) -> None:
        data = write_cmmlu(tmp_path / "data", {"agronomy": 20, "anatomy": 3})
        for name in "ab":
            mock(tmp_path / name, data, backend=MockBackend(name))
        _, _, task = parted(tmp_path / "a", tmp_path / "b")
        apart = 100 * (published(tmp_path / "b") - published(tmp_path / "a"))
        assert task["effect"]["points"] == pytest.approx(apart)
        assert "points [" in (shown := cli("diff", tmp_path / "a", tmp_path / "b").out)
        assert "of the macro average (acc) on 23 samples; right only in A" in shown

    def test_is_of_all_samples_alike_where_averages_differ(self, data: Path, tmp_path: Path) -> None:
        mock(tmp_path / "a", data)
        mock(tmp_path / "b", data, "cmmlu@lm-eval")
        _, _, task = parted(tmp_path / "a", tmp_path / "b")
        assert task["effect"]["average"] == "micro"

    def test_of_scores_between_right_and_wrong(self, runs: tuple[Path, Path]) -> None:
        change_samples(runs[1], lambda o: replace(o, correct=0.5))
        assert "; higher only in A " in cli("diff", *runs).out


class TestSamples:
    def test_none_in_common(self, data: Path, tmp_path: Path) -> None:
        for name, subject in (("a", "agronomy"), ("b", "anatomy")):
            mock_run(tmp_path / name, "cmmlu", data=data, subsets=(subject,))
        ran = cli("diff", tmp_path / "a", tmp_path / "b")
        assert ran.code == 2
        assert "agronomy/0 and agronomy/1" in ran.err
        assert "anatomy/0 and anatomy/1" in ran.err

    def test_of_a_limited_run(self, data: Path, tmp_path: Path) -> None:
        mock(tmp_path / "a", data)
        mock(tmp_path / "b", data, limit=1)
        shown = cli("diff", tmp_path / "a", tmp_path / "b").out
        assert "2 samples in both, 12 only in A, 0 only in B" in shown
        assert "B ran with --limit 1" in shown
        assert "no difference in what both put down" in shown

    def test_tasks_are_paired_by_protocol_before_benchmark(self, data: Path, tmp_path: Path) -> None:
        mock(tmp_path / "a", data, "cmmlu,cmmlu@lm-eval")
        mock(tmp_path / "b", data, "cmmlu@lm-eval", shots=2)
        _, _, task = parted(tmp_path / "a", tmp_path / "b")
        assert (task["a"], task["b"]) == ("cmmlu@lm-eval:test:5shot", "cmmlu@lm-eval:test:2shot")


class TestVerdict:
    def test_no_difference(self, runs: tuple[Path, Path]) -> None:
        assert parted(*runs)[2]["verdict"] == "equal"
        shown = cli("diff", *runs).out
        assert "  no difference\n" in shown
        assert "log-probabilities" not in shown

    def test_rounding(self, runs: tuple[Path, Path]) -> None:
        def nudge(o: Outcome) -> Outcome:
            return replace(o, choice_logprobs=tuple(x + 2e-5 for x in o.choice_logprobs or ()))

        change_samples(runs[1], nudge)
        first, causes, task = parted(*runs)
        assert (first, causes, task["verdict"]) == ("responses", ["rounding"], "rounding")
        assert task["examples"] == []

    def test_small_differences_that_change_an_answer_are_none(self, runs: tuple[Path, Path]) -> None:
        def nudge(o: Outcome) -> Outcome:
            logprobs = tuple(x + 2e-5 for x in o.choice_logprobs or ())
            return replace(
                o, choice_logprobs=logprobs, prediction="A" if o.sample_id == "0" else o.prediction
            )

        change_samples(runs[1], nudge)
        _, causes, task = parted(*runs)
        assert (causes, task["verdict"]) == (["unknown"], "differs")

    def test_scores_that_are_not_finite_equal_themselves(self, runs: tuple[Path, Path]) -> None:
        for run in runs:
            change_samples(run, lambda o: replace(o, choice_logprobs=(float("nan"),) * 4))
        assert parted(*runs)[2]["verdict"] == "equal"

    def test_another_wording_of_an_error_is_no_difference(self, data: Path, tmp_path: Path) -> None:
        for name in "ab":
            backend = UnrulyBackend(lambda i, r, why=name: Failure(why) if i == 0 else r)
            mock(tmp_path / name, data, backend=backend)
        assert parted(tmp_path / "a", tmp_path / "b")[2]["verdict"] == "equal"

    def test_a_secondary_metric_that_differs_is_counted(self, runs: tuple[Path, Path]) -> None:
        change_samples(runs[1], lambda o: replace(o, metrics={**o.metrics, "other": 1.0}))
        first, causes, task = parted(*runs)
        assert (first, causes) == ("outcomes", ["extraction"])
        assert task["rungs"]["outcomes"]["differing"] == 14


class TestCauses:
    def test_another_model(self, data: Path, tmp_path: Path) -> None:
        for name in "ab":
            mock(tmp_path / name, data, backend=MockBackend(name))
        first, causes, task = parted(tmp_path / "a", tmp_path / "b")
        assert (first, causes) == ("responses", ["model"])
        assert task["causes"][0]["sentence"] == "another model: a in A, b in B"

    def test_samples_that_failed(self, data: Path, tmp_path: Path) -> None:
        mock(tmp_path / "a", data)
        mock(tmp_path / "b", data, backend=failing(1, 2, 3))
        first, causes, task = parted(tmp_path / "a", tmp_path / "b")
        assert (first, causes) == ("responses", ["failed"])
        assert task["causes"][0]["sentence"] == "3 samples failed in B only: out of memory"

    def test_two_at_once(self, data: Path, tmp_path: Path) -> None:
        mock(tmp_path / "a", data)
        replace_in(data / "CMMLU/data/test/anatomy.csv", "anatomy test 2:", "anatomy test two:")
        mock(tmp_path / "b", data, backend=MockBackend("other"))
        first, causes, task = parted(tmp_path / "a", tmp_path / "b")
        assert (first, causes) == ("data", ["data"])
        (also,) = task["also"]
        assert (also["rung"], also["differing"], also["of"], kinds(also)) == ("responses", 13, 13, ["model"])
        shown = cli("diff", tmp_path / "a", tmp_path / "b").out
        assert "also, 13 of the 13 samples with the same prompt have other responses" in shown

    def test_an_edited_row_beside_another_protocol(self, data: Path, tmp_path: Path) -> None:
        mock(tmp_path / "a", data)
        replace_in(data / "CMMLU/data/test/anatomy.csv", "anatomy test 2:", "anatomy test two:")
        mock(tmp_path / "b", data, "cmmlu@lm-eval")
        _, causes, task = parted(tmp_path / "a", tmp_path / "b")
        assert causes == ["protocol", "data"]
        assert "14 of 14" not in task["causes"][1]["sentence"]

    def test_an_edited_example_of_one_subject(self, data: Path, tmp_path: Path) -> None:
        mock(tmp_path / "a", data, log_prompts=True)
        replace_in(data / "CMMLU/data/dev/agronomy.csv", "dev 1:", "dev one:")
        mock(tmp_path / "b", data)
        first, causes, task = parted(tmp_path / "a", tmp_path / "b")
        assert (first, causes, task["also"]) == ("prompts", ["prompt"], [])
        said = "examples of 1 of 2 subsets differ; run B with --log-prompts and the difference is shown"
        assert task["causes"][0]["sentence"] == said

    def test_another_seed_beside_fixed_examples(self, data: Path, tmp_path: Path) -> None:
        mock(tmp_path / "a", data, seed=0)
        replace_in(data / "CMMLU/data/dev/agronomy.csv", "dev 1:", "dev one:")
        mock(tmp_path / "b", data, seed=1)
        assert parted(tmp_path / "a", tmp_path / "b")[1] == ["prompt"]

    def test_white_space_at_the_end(self, runs: tuple[Path, Path]) -> None:
        change_samples(runs[1], lambda o: replace(o, prompt=f"{o.prompt}\n", prompt_sha256="0" * 64))
        first, causes, task = parted(*runs)
        assert (first, causes) == ("prompts", ["white space"])
        assert task["causes"][0]["sentence"].endswith(r"：\n' in B")
        assert task["examples"][0]["prompt_diff"]["lines"][-1].endswith(r"：\n'")


def test_long_prompts_that_differ_everywhere_are_cut(runs: tuple[Path, Path]) -> None:
    for run in runs:
        text = "".join(f"{run.name} {i} {'x' * 5000}\n" for i in range(1000))
        change_samples(run, lambda o, text=text: replace(o, prompt=text, prompt_sha256=text[:64]))
    ran = cli("diff", *runs, "--examples", "1")
    assert len(ran.out) < 20_000
    assert "more lines" in ran.out
    assert "prompts part at character 0: 'a 0 xxx" in ran.out
    assert len(cli("diff", *runs, "--examples", "1", "--json").out) < 600_000


class TestDamage:
    @pytest.mark.parametrize(
        ("file", "change"),
        [
            ("results.json", lambda d: d.pop("tasks")),
            ("results.json", lambda d: d.pop("model")),
            ("results.json", lambda d: d["tasks"][TASK].pop("average")),
            ("results.json", lambda d: d.update(tasks={})),
            ("manifest.json", lambda d: d["model"].update(details=None)),
            ("manifest.json", lambda d: d["model"].update(details={"versions": 1})),
            ("manifest.json", lambda d: d["tasks"][TASK].update(hashes=None)),
            ("manifest.json", lambda d: d["tasks"][TASK]["data"].update(chat=[1])),
            ("manifest.json", lambda d: d["request"].update(subsets=[1])),
            ("manifest.json", lambda d: d.update(request=[])),
        ],
    )
    def test_of_documents(self, file: str, change: Callable[[Json], object], runs: tuple[Path, Path]) -> None:
        change_document(runs[1] / file, change)
        for order in (runs, runs[::-1]):
            ran = cli("diff", *order)
            assert (ran.code, ran.out) == (4, "")
            assert str(runs[1]) in ran.err

    @pytest.mark.parametrize(
        "change",
        [
            {"task": "another"},
            {"subset": None},
            {"sample_id": None},
            {"sample_id": "1"},
            {"correct": float("nan")},
            {"correct": 2.0},
            {"choice_logprobs": (None, 1.0, 1.0, 1.0)},
        ],
        ids=str,
    )
    def test_of_samples(self, change: Json, runs: tuple[Path, Path]) -> None:
        first = RunStore(runs[1]).read_samples()[0]
        change_samples(runs[1], lambda o: replace(o, **change) if o.sample_id == first.sample_id else o)
        assert cli("diff", *runs).code == 4

    def test_a_missing_table(self, runs: tuple[Path, Path]) -> None:
        (runs[1] / "samples.parquet").unlink()
        ran = cli("diff", *runs)
        assert (ran.code, "samples.parquet" in ran.err) == (2, True)

    def test_a_missing_manifest_leaves_only_the_samples(self, runs: tuple[Path, Path]) -> None:
        (runs[1] / "manifest.json").unlink()
        task = parted(*runs)[2]
        assert (task["verdict"], task["rungs"]["data"]["status"]) == ("equal", "unknown")


def test_an_interrupted_run_with_logs_below_is_no_log(runs: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(runs[1], tmp_path / "c")
    (tmp_path / "c/results.json").unlink()
    (tmp_path / "c/samples_cmmlu_agronomy.jsonl").write_text("")
    assert cli("diff", runs[0], tmp_path / "c").code == 2

"""A run from names to the run directory: what it writes, what it counts, what it refuses, how it resumes."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import (
    UnrulyBackend,
    cli,
    failing,
    journal,
    mock_run,
    samples,
    stopping,
    write_ceval,
    write_cmmlu,
)

from evalkit.backends.base import ModelInfo
from evalkit.backends.mock import MockBackend
from evalkit.errors import DataError, RunInterrupted, UsageError
from evalkit.publish import rescore
from evalkit.registry import get_task
from evalkit.store import RunStore
from evalkit.tokens import EncodedPrompt
from evalkit.types import (
    Failure,
    GenerateResponse,
    Outcome,
    Response,
    ScoreResponse,
)

CMMLU = "cmmlu@official:test:5shot"
N_SAMPLE = 72


def shape(document: Any) -> Any:
    """Types in the place of values."""
    if isinstance(document, dict):
        return {key: shape(value) for key, value in document.items()}
    return [shape(value) for value in document] if isinstance(document, list) else type(document)


ESTIMATE = {"acc": {"value": float, "stderr": float, "ci95": [float, float], "n": int}}


class TestResults:
    def test_follow_the_contract(self, tmp_path: Path) -> None:
        results = mock_run(tmp_path / "run")
        assert json.loads((tmp_path / "run/results.json").read_text()) == results
        task = results["tasks"].pop(CMMLU)
        assert results["tasks"] == {}
        assert results | {"cost": None} == {
            "schema_version": 1,
            "evalkit_version": results["evalkit_version"],
            "run_id": "run",
            "status": "complete",
            "model": {"name": "mock", "backend": "mock", "dtype": "float64", "fingerprint": "mock:mock"},
            "tasks": {},
            "cost": None,
        }
        whole = ("tokens_logical", "tokens_computed", "tokens_generated", "peak_memory_bytes")
        assert {key: results["cost"][key] for key in whole}.keys() == set(whole)
        assert all(type(results["cost"][key]) is int for key in whole)
        assert all(type(results["cost"][key]) is float for key in ("wall_s", "load_s"))
        identity = ("task", "protocol", "split", "shots", "average")
        assert [task[key] for key in identity] == ["cmmlu", "official", "test", 5, "macro"]
        assert shape(task["metrics"]) == ESTIMATE
        assert [shape(group) for group in task["groups"].values()] == [ESTIMATE] * len(task["groups"])
        assert list(task["subsets"]) == ["astronomy", "chinese_food_culture", "elementary_commonsense"]
        assert [shape(subset) for subset in task["subsets"].values()] == [ESTIMATE] * 3
        assert shape(task["averages"]) == {"macro": {"acc": float}, "micro": {"acc": float}}
        zero = dict.fromkeys(
            (
                "errors",
                "truncated",
                "unfinished",
                "unfinished_reasoning",
                "ties",
                "non_finite",
                "unparsed",
                "close_calls",
            ),
            0,
        )
        assert task["counters"] == {"samples": N_SAMPLE, **zero}

    def test_rows_stand_in_dataset_order(self, tmp_path: Path) -> None:
        subjects = {"agronomy": 11, "virology": 3, "anatomy": 2}  # officially: anatomy before virology
        data = write_cmmlu(tmp_path, subjects)
        mock_run(tmp_path / "run", data=data, subsets=tuple(subjects))
        expected = [(s, str(i)) for s in ("agronomy", "anatomy", "virology") for i in range(subjects[s])]
        assert [(row["subset"], row["sample_id"]) for row in samples(tmp_path / "run")] == expected

    def test_limit_takes_the_first_of_each_subset(self, tmp_path: Path) -> None:
        data = write_cmmlu(tmp_path, {"agronomy": 9, "virology": 2})
        mock_run(tmp_path / "run", data=data, subsets=("agronomy", "virology"), limit=3)
        rows = [(row["subset"], row["sample_id"]) for row in samples(tmp_path / "run")]
        assert rows == [("agronomy", "0"), ("agronomy", "1"), ("agronomy", "2"), ("virology", "0"),
                        ("virology", "1")]  # fmt: skip

    def test_limit_changes_nothing_about_the_samples_it_keeps(self, tmp_path: Path) -> None:
        mock_run(tmp_path / "all")
        mock_run(tmp_path / "few", limit=2)
        few = samples(tmp_path / "few")
        assert len(few) == 6
        assert all(row in samples(tmp_path / "all") for row in few)

    def test_several_tasks_share_a_run(self, tmp_path: Path) -> None:
        results = mock_run(tmp_path, "ceval,cmmlu@lm-eval:test:0shot,cmmlu,ceval@official:val:5shot", limit=2)
        names = ["ceval@official:val:5shot", "cmmlu@lm-eval:test:0shot", CMMLU]
        assert list(results["tasks"]) == names
        assert list(dict.fromkeys(row["task"] for row in samples(tmp_path))) == names

    def test_hash_ladder_has_every_rung(self, tmp_path: Path) -> None:
        mock_run(tmp_path)
        hashes = json.loads((tmp_path / "manifest.json").read_text())["tasks"][CMMLU]["hashes"]
        assert list(hashes) == ["data", "prompts", "token_ids", "responses", "outcomes"]
        assert all(len(rung) == 64 for rung in hashes.values())

    def test_another_model_shares_the_rungs_below_its_answers(self, tmp_path: Path) -> None:
        ladders = []
        for name in ("one", "two"):
            mock_run(tmp_path / name, backend=MockBackend(name))
            ladders.append(json.loads((tmp_path / name / "manifest.json").read_text())["tasks"][CMMLU])
        one, two = (ladder["hashes"] for ladder in ladders)
        assert {rung: one[rung] == two[rung] for rung in one} == {
            "data": True, "prompts": True, "token_ids": True, "responses": False, "outcomes": False,
        }  # fmt: skip

    def test_prompts_are_kept_on_request(self, tmp_path: Path) -> None:
        mock_run(tmp_path, limit=1, log_prompts=True)
        rendered = cli("tasks", "render", "cmmlu", "--data", "sample").out
        assert samples(tmp_path)[0]["prompt"] == rendered
        assert (
            samples(tmp_path)[0]["prompt_token_ids"] == MockBackend().tokenizer.encode([rendered])[0].tolist()
        )

    def test_token_ids_are_those_left_of_a_prompt_that_was_cut(self, tmp_path: Path) -> None:
        whole, cut = MockBackend(), MockBackend(max_length=60)
        for name, backend in (("whole", whole), ("cut", cut)):
            mock_run(tmp_path / name, "cmmlu@lm-eval", backend=backend, limit=1, log_prompts=True)
        before, after = (samples(tmp_path / name)[0] for name in ("whole", "cut"))
        assert (after["prompt_sha256"], after["truncated"]) == (before["prompt_sha256"], True)
        assert 50 < len(after["prompt_token_ids"]) <= 60
        assert before["prompt_token_ids"][-len(after["prompt_token_ids"]) :] == after["prompt_token_ids"]

    def test_token_ids_of_a_generation_run_survive_a_rescore(self, tmp_path: Path) -> None:
        mock_run(tmp_path, "cmmlu@oc-gen", limit=1, log_prompts=True)
        before = samples(tmp_path)
        rescore(RunStore(tmp_path))
        assert all(row["prompt_token_ids"] for row in before)
        assert samples(tmp_path) == before


class TestCevalTest:
    def test_without_answers_predictions_go_to_a_submission(self, tmp_path: Path) -> None:
        data = write_ceval(tmp_path, {"law": 3, "physician": 2})
        results = mock_run(tmp_path / "run", "ceval:test", data=data, subsets=("law", "physician"))
        (task,) = results["tasks"].values()
        assert task["metrics"] == {}
        assert task["counters"]["samples"] == 5
        rows = samples(tmp_path / "run")
        assert {row["target"] for row in rows} == {row["correct"] for row in rows} == {None}
        expected = {"law": {}, "physician": {}}
        for row in rows:
            expected[row["subset"]][row["sample_id"]] = row["prediction"]
        assert json.loads((tmp_path / "run" / task["submission"]).read_text()) == expected
        assert {x for predictions in expected.values() for x in predictions.values()} <= set("ABCD")


class TestErrors:
    def test_are_counted_and_never_wrong_answers(self, tmp_path: Path) -> None:
        clean = mock_run(tmp_path / "clean", limit=4)["tasks"][CMMLU]
        flawed = mock_run(tmp_path / "flawed", limit=4, backend=failing(0, 5))
        rows, clean_rows = samples(tmp_path / "flawed"), samples(tmp_path / "clean")
        assert flawed["status"] == "partial"
        task = flawed["tasks"][CMMLU]
        assert task["counters"] == clean["counters"] | {"errors": 2}
        assert task["metrics"]["acc"]["n"] == 10
        assert [i for i, row in enumerate(rows) if row["error"] == "out of memory"] == [0, 5]
        assert [rows[i][key] for i in (0, 5) for key in ("prediction", "correct", "choice_logprobs")] == [
            None
        ] * 6
        assert [row for i, row in enumerate(rows) if i not in (0, 5)] == [
            row for i, row in enumerate(clean_rows) if i not in (0, 5)
        ]

    @pytest.mark.parametrize(
        ("limit", "code"), [("0", 3), ("1", 3), ("2", 0), ("2%", 3), ("3%", 0), ("100%", 0)]
    )
    def test_above_the_limit_the_exit_code_is_3(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, code: int
    ) -> None:
        monkeypatch.setattr("evalkit.backends.mock.MockBackend", lambda name: failing(3, 60))
        arguments = ("--model", "m", "--backend", "mock", "--tasks", "cmmlu", "--data", "sample", "--json")
        ran = cli("run", *arguments, "--output", tmp_path / "run", "--max-errors", limit)
        assert ran.code == code
        assert json.loads(ran.out)["tasks"][CMMLU]["counters"]["errors"] == 2
        assert ("error: 2 of 72 samples could not be scored" in ran.err) == (code == 3)

    def test_not_finite_scores_are_errors(self, tmp_path: Path) -> None:
        def spoil(index: int, response: Response) -> Response:
            if index != 1 or not isinstance(response, ScoreResponse):
                return response
            first = dataclasses.replace(response.scores[0], logprob=float("nan"))
            return ScoreResponse((first, *response.scores[1:]))

        task = mock_run(tmp_path, limit=1, backend=UnrulyBackend(spoil))["tasks"][CMMLU]
        assert (task["counters"]["errors"], task["counters"]["non_finite"]) == (1, 1)
        assert "non-finite" in samples(tmp_path)[1]["error"]


def stopped(output: Path, after: int, **options: Any) -> None:
    with pytest.raises(RunInterrupted, match="kept in"):
        mock_run(output, backend=stopping(after), **options)


class TestResume:
    @pytest.mark.parametrize("seed", range(6))
    def test_after_stops_anywhere_gives_the_same_run(self, tmp_path: Path, seed: int) -> None:
        tasks, rng = "cmmlu,ceval@oc-ppl:val:2shot", random.Random(seed)
        whole = mock_run(tmp_path / "whole", tasks)
        done = 0
        for _ in range(3):
            more = rng.randrange(20)
            stopped(tmp_path / "run", more, tasks=tasks, resume=True)
            done += more
            assert len(journal(tmp_path / "run").read_text("utf-8").splitlines()) == done
        results = mock_run(tmp_path / "run", tasks, resume=True)
        assert results["tasks"] == whole["tasks"]
        assert results["cost"]["samples_resumed"] == done
        tables = [pq.read_table(tmp_path / name / "samples.parquet") for name in ("run", "whole")]
        assert tables[0].equals(tables[1])
        ladders = [
            json.loads((tmp_path / n / "manifest.json").read_text())["tasks"] for n in ("run", "whole")
        ]
        assert ladders[0] == ladders[1]
        assert not journal(tmp_path / "run").parent.exists()

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ({"backend": MockBackend("other")}, "the model"),
            ({"tasks": "cmmlu:3shot"}, "the tasks or samples"),
            ({"tasks": "cmmlu,mmlu"}, "the tasks or samples"),
            ({"limit": 5}, "the tasks or samples"),
            ({"log_prompts": True}, "--log-prompts"),
        ],
    )
    def test_refuses_a_changed_command(self, tmp_path: Path, change: dict[str, Any], what: str) -> None:
        stopped(tmp_path, 30)
        before = journal(tmp_path).read_bytes()
        with pytest.raises(UsageError, match=f"cannot resume .*: {what} differ"):
            mock_run(tmp_path, resume=True, **change)
        assert journal(tmp_path).read_bytes() == before

    def test_refuses_other_batch_tokens(self, tmp_path: Path) -> None:
        class Batched(MockBackend):
            @property
            def info(self) -> ModelInfo:
                return dataclasses.replace(super().info, details={"batch_tokens": 512})

        stopped(tmp_path, 30)
        with pytest.raises(UsageError, match="--batch-tokens differ"):
            mock_run(tmp_path, resume=True, backend=Batched())

    def test_of_a_finished_run_returns_its_results_without_a_model(self, tmp_path: Path) -> None:
        results = mock_run(tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        assert mock_run(tmp_path, resume=True, backend=stopping(0)) == results
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    @pytest.mark.parametrize("change", [{"tasks": "mmlu"}, {"limit": 1}, {"model": "other"}])
    def test_of_a_finished_run_refuses_a_changed_command(
        self, tmp_path: Path, change: dict[str, Any]
    ) -> None:
        mock_run(tmp_path)
        with pytest.raises(UsageError, match="holds a finished run, but of"):
            mock_run(tmp_path, resume=True, **change)

    def test_of_nothing_starts(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "stopped" / "journal").mkdir(parents=True)
        (tmp_path / "stopped" / ".manifest.json.partial").touch()
        for name in ("absent", "empty", "stopped"):
            assert mock_run(tmp_path / name, resume=True, limit=1)["status"] == "complete"

    def test_after_a_stop_between_results_and_tidying_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        whole = mock_run(tmp_path / "whole", limit=1)
        monkeypatch.setattr("evalkit.store.shutil.rmtree", stop)
        with pytest.raises(RunInterrupted):
            mock_run(tmp_path / "run", limit=1)
        monkeypatch.undo()
        assert mock_run(tmp_path / "run", resume=True, limit=1)["tasks"] == whole["tasks"]
        assert RunStore(tmp_path / "run").is_complete


class FullDisk(RunStore):
    """Its disk is full after a few responses, or when the results are to be written."""

    def __init__(self, root: Path, room: int) -> None:
        super().__init__(root)
        self._room = room

    def append(self, task: str, index: int, response: ScoreResponse) -> None:
        self._room -= 1
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().append(task, index, response)

    def write_samples(self, outcomes: Sequence[Outcome]) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


class TestFullDisk:
    @pytest.mark.parametrize("room", [0, 40, N_SAMPLE])
    def test_keeps_what_was_scored_and_can_be_resumed(self, tmp_path: Path, room: int) -> None:
        whole = mock_run(tmp_path / "whole")
        with pytest.raises(RunInterrupted, match=r"the disk of .*run is full; what was scored is kept"):
            mock_run(tmp_path / "run", store=FullDisk(tmp_path / "run", room))
        assert len(journal(tmp_path / "run").read_text("utf-8").splitlines()) == room
        results = mock_run(tmp_path / "run", resume=True)
        assert results["cost"]["samples_resumed"] == room
        assert results["tasks"] == whole["tasks"]

    def test_while_rescoring_leaves_the_run_as_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mock_run(tmp_path, limit=1)
        before = (tmp_path / "results.json").read_bytes()
        with pytest.raises(RunInterrupted, match=r"disk of .* is full"):
            rescore(FullDisk(tmp_path, 0))
        assert (tmp_path / "results.json").read_bytes() == before


class TestOutput:
    def test_in_use_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        mock_run(tmp_path / "run", limit=1)
        (tmp_path / "full").mkdir()
        (tmp_path / "full/thesis.txt").touch()
        (tmp_path / "file").touch()
        for name, message in (
            ("run", "already holds a run; continue it with --resume"),
            ("full", "is not empty"),
            ("file", "is a file"),
            ("file/run", "cannot write to"),
        ):
            with pytest.raises(UsageError, match=message):
                mock_run(tmp_path / name, limit=1)
        assert list((tmp_path / "full").iterdir()) == [tmp_path / "full/thesis.txt"]

    def test_without_a_run_is_not_resumed_into(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").touch()
        with pytest.raises(UsageError, match="holds no run"):
            mock_run(tmp_path, resume=True)


class TestData:
    def test_subset_without_samples_is_an_error_naming_the_file(self, tmp_path: Path) -> None:
        data = write_cmmlu(tmp_path, {"agronomy": 3, "virology": 0})
        with pytest.raises(DataError, match=r"test/virology\.csv: holds no samples"):
            mock_run(tmp_path / "run", data=data, subsets=("agronomy", "virology"))


class TestRescore:
    TASKS = "cmmlu,ceval@oc-ppl:test:1shot"

    def test_repeats_the_results_exactly(self, tmp_path: Path) -> None:
        results = mock_run(tmp_path, self.TASKS)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert rescore(RunStore(tmp_path)) == results
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        changed = {name for name in after if after[name] != before.get(name)}
        assert changed == {"manifest.json"}  # which says that it was rescored

    def test_keeps_errors(self, tmp_path: Path) -> None:
        results = mock_run(tmp_path, limit=2, backend=failing(1))
        assert rescore(RunStore(tmp_path)) == results
        assert results["status"] == "partial"

    def test_judges_anew(self, tmp_path: Path) -> None:
        mock_run(tmp_path)
        path = tmp_path / "samples.parquet"
        table = pq.read_table(path)
        column = table.column_names.index("target")
        pq.write_table(table.set_column(column, "target", table["prediction"]), path)
        task = rescore(RunStore(tmp_path))["tasks"][CMMLU]
        assert task["metrics"]["acc"]["value"] == 1.0
        assert {row["correct"] for row in samples(tmp_path)} == {1.0}

    def test_applies_a_changed_protocol(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        results = mock_run(tmp_path)
        protocols = get_task("cmmlu").protocols
        worst = dataclasses.replace(protocols["official"], choice_scores=lambda lps, _: [-lp for lp in lps])
        monkeypatch.setitem(protocols, "official", worst)
        before = results["tasks"][CMMLU]["metrics"]["acc"]["value"]
        assert rescore(RunStore(tmp_path))["tasks"][CMMLU]["metrics"]["acc"]["value"] != before

    def test_refuses_what_is_not_finished(self, tmp_path: Path) -> None:
        stopped(tmp_path, 10)
        with pytest.raises(UsageError, match=r"holds no finished run \(results\.json is missing\)"):
            rescore(RunStore(tmp_path))

    def test_refuses_a_task_that_now_resolves_to_something_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mock_run(tmp_path, limit=1)
        protocols = get_task("cmmlu").protocols
        monkeypatch.setitem(
            protocols, "official", dataclasses.replace(protocols["official"], default_shots=4)
        )
        with pytest.raises(UsageError, match=f"{CMMLU} .* is no longer what 'cmmlu' resolves to"):
            rescore(RunStore(tmp_path))


class Thinking(MockBackend):
    """Thinks before every answer, and gives up on some until it is `patient`."""

    def __init__(self, *, patient: bool) -> None:
        super().__init__()
        self._patient = patient

    def generate(
        self, requests: Sequence[EncodedPrompt], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        assert {request.reasoning for request in requests} == {("<think>", "</think>")}
        for i, response in super().generate(requests, done):
            if i > 1 and not self._patient:
                yield i, Failure("out of memory")
                continue
            assert isinstance(response, GenerateResponse)
            said: dict[str, Any] = {"reasoning": f"hm {i} \ud83d", "text": "B"}
            said |= {"text": "", "finish_reason": "length"} if i == 0 else {}
            yield i, GenerateResponse((dataclasses.replace(response.completions[0], **said),))


def test_reasoning_outlives_resume_and_rescore(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"limit": 1, "reasoning_tags": ("<think>", "</think>")}
    spec = "cmmlu@oc-gen:test:0shot"
    mock_run(tmp_path / "run", spec, backend=Thinking(patient=False), **asked)
    results = mock_run(tmp_path / "run", spec, backend=Thinking(patient=True), resume=True, **asked)
    rows = samples(tmp_path / "run")
    assert [row["reasoning"] for row in rows] == [f"hm {i} ?" for i in range(3)]
    assert [row["completion"] for row in rows] == ["", "B", "B"]
    counters = results["tasks"][spec]["counters"]
    assert (counters["unfinished"], counters["unfinished_reasoning"], counters["errors"]) == (1, 1, 0)
    assert rescore(RunStore(tmp_path / "run")) == results
    assert samples(tmp_path / "run") == rows
    assert "still reasoned" in (tmp_path / "run/report.md").read_text("utf-8")


def test_a_run_with_errors_is_tried_again_on_resume(tmp_path: Path) -> None:
    first = mock_run(tmp_path / "run", backend=failing(1, 3), limit=3)
    assert first["status"] == "partial"
    assert first["tasks"]["cmmlu@official:test:5shot"]["counters"]["errors"] == 2
    again = mock_run(tmp_path / "run", limit=3, resume=True)
    assert again["status"] == "complete"
    assert (
        again["cost"]["samples_resumed"]
        == first["tasks"]["cmmlu@official:test:5shot"]["counters"]["samples"] - 2
    )
    assert samples(tmp_path / "run") == samples_of_a_whole_run(tmp_path)


def samples_of_a_whole_run(tmp_path: Path) -> list[dict[str, Any]]:
    mock_run(tmp_path / "whole", limit=3)
    return samples(tmp_path / "whole")


def test_a_run_of_random_weights_does_not_answer_for_the_model(tmp_path: Path) -> None:
    mock_run(tmp_path / "run", limit=1, engine={"load_format": "dummy"})
    with pytest.raises(UsageError, match="another --load-format"):
        mock_run(tmp_path / "run", limit=1, resume=True)


@pytest.mark.parametrize("change", [{"chat": True}, {"seed": 1}, {"engine": {"dtype": "float32"}}])
def test_a_finished_run_does_not_answer_for_other_options(tmp_path: Path, change: dict[str, Any]) -> None:
    mock_run(tmp_path / "run", limit=1)
    with pytest.raises(UsageError, match=f"a finished run, but of another --{next(iter(change))[:4]}|dtype"):
        mock_run(tmp_path / "run", limit=1, resume=True, **change)

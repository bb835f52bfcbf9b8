"""Whole leakage runs on the mock engine: what is written, resumed, refused and concluded."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import CMMLU_COLUMNS, UnrulyBackend, cli, failing, mock_run, stopping, write_ceval, write_csv

from evalkit.backends.base import Capabilities
from evalkit.backends.mock import MockBackend
from evalkit.data.source import open_source
from evalkit.errors import RunInterrupted, UsageError
from evalkit.leakage.options import LeakageOptions
from evalkit.leakage.run import analyse_again, run
from evalkit.store import RunStore
from evalkit.types import Response, ScoreResponse

WORDS = ("red", "violet", "green and blue", "a kind of grey", "black")
MOCK = ("--model", "mock", "--backend", "mock", "--tasks", "cmmlu", "--method", "order")
TASK = "cmmlu@official:test:5shot"


def memorising(index: int, response: Response) -> Response:
    """The published order, which is the first, is by far the likeliest."""
    assert isinstance(response, ScoreResponse)
    first, *others = response.scores
    return ScoreResponse((replace(first, logprob=0.0), *others))


def leaky() -> MockBackend:
    return UnrulyBackend(memorising, "leaky")


def examine(
    output: Path, data: Path | str, backend: MockBackend | None = None, *, resume: bool = False, **asked: Any
) -> dict[str, Any]:
    # The published rules, whose null takes seconds, are left to the test of what is written.
    asked = {"model": "mock", "tasks": "cmmlu", "controls": 10, "methods": ("order", "source")} | asked
    options = LeakageOptions(**asked)
    engine = backend or MockBackend()
    return run(options, open_source(str(data), offline=True), lambda: engine, RunStore(output), resume=resume)


def write_exam(root: Path, sizes: dict[str, int]) -> Path:
    """CMMLU's layout, with options in random order."""
    generator = random.Random(0)
    for subject, size in sizes.items():
        rows = []
        for i in range(size):
            options = [f"{generator.choice(WORDS)} {x}{i}" for x in "abcd"]
            generator.shuffle(options)
            rows.append((str(i), f"{subject} {i}?", *options, "A"))
        write_csv(root / f"CMMLU/data/test/{subject}.csv", CMMLU_COLUMNS, rows)
    return root


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exam(tmp_path_factory.mktemp("exam"), {"agronomy": 60, "anatomy": 60})


@pytest.fixture(autouse=True)
def _two_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    from evalkit.data.source import DataSource
    from evalkit.task import Task

    def present(self: DataSource, task: Task, split: str) -> list[str]:
        return [s for s in task.subsets if self.file(task, split, s).is_file()]

    monkeypatch.setattr(DataSource, "available", present)


class TestWhatIsWritten:
    def test_the_files_others_rely_on(self, exam: Path, tmp_path: Path) -> None:
        document = examine(tmp_path / "run", exam, methods=())
        assert json.loads((tmp_path / "run/leakage.json").read_text()) == document
        task = document["tasks"][TASK]
        assert (task["n_items"], task["n_permutations"]) == (120, {"24": 120})
        for found in task["methods"].values():
            assert {
                "statistic",
                "threshold",
                "flagged",
                "null_floor",
                "p_value",
                "ci95",
                "verdict",
            } <= found.keys()
        rows = pq.read_table(tmp_path / "run/permutations.parquet").to_pylist()
        assert len(rows) == 120
        assert all(len(row["logprobs"]) == 24 and row["task"] == TASK for row in rows)
        assert TASK in (tmp_path / "run/leakage.md").read_text()
        assert not (tmp_path / "run/journal").exists()

    def test_all_conclusions_can_be_drawn_again_without_a_model(self, exam: Path, tmp_path: Path) -> None:
        document = examine(tmp_path / "run", exam, leaky())
        assert analyse_again(tmp_path / "run") == document

    def test_other_records_are_noticed(self, exam: Path, tmp_path: Path) -> None:
        examine(tmp_path / "run", exam)
        other = write_exam(tmp_path / "other", {"agronomy": 60, "anatomy": 61})
        with pytest.raises(UsageError, match="the records are not what"):
            analyse_again(tmp_path / "run", open_source(str(other), offline=True))

    def test_what_is_left_out_is_counted(self, tmp_path: Path) -> None:
        data = write_exam(tmp_path / "data", {"agronomy": 60})
        file = data / "CMMLU/data/test/agronomy.csv"
        lines = file.read_text().splitlines()
        lines[4] = "3,why,x,x,x,x,A"
        file.write_text("\n".join(lines) + "\n")
        document = examine(tmp_path / "run", data)
        assert document["tasks"][TASK]["excluded"] == {"fewer than two distinct options": 1}
        assert document["tasks"][TASK]["n_items"] == 59
        assert "fewer than two distinct options" in (tmp_path / "run/leakage.md").read_text()


class TestVerdicts:
    def test_a_memorised_file_is_a_file_leak(self, exam: Path, tmp_path: Path) -> None:
        task = examine(tmp_path / "run", exam, leaky())["tasks"][TASK]
        assert task["verdict"]["kind"] == "file leak"
        assert task["methods"]["option order"]["p_value"] < 1e-20
        assert task["fraction"]["ci95"][0] > 0.05
        assert task["fraction"]["ci95"][1] == 1.0

    def test_a_model_that_knows_nothing_is_not_called_clean(self, exam: Path, tmp_path: Path) -> None:
        task = examine(tmp_path / "run", exam)["tasks"][TASK]
        assert task["verdict"]["kind"] == "inconclusive"
        sees = 100 * task["power"]["detectable"]
        assert task["verdict"]["short"] == f"inconclusive (this run could have seen ≥ {sees:.1f} %)"
        assert "clean" not in task["verdict"]["sentence"]

    def test_enough_items_allow_to_speak_of_no_evidence(self, exam: Path, tmp_path: Path) -> None:
        task = examine(tmp_path / "run", exam, smallest=0.6)["tasks"][TASK]
        assert task["verdict"]["kind"] in ("no evidence", "inconclusive")
        upper = 100 * task["fraction"]["ci95"][1]
        if task["verdict"]["p_file"] > 0.05:
            assert task["verdict"]["short"] == f"no evidence above {upper:.1f} %"

    def test_sequential_stops_when_the_evidence_suffices(self, exam: Path, tmp_path: Path) -> None:
        task = examine(tmp_path / "run", exam, leaky(), sequential=True)["tasks"][TASK]
        assert task["sequential"]["decision"] == "evidence"
        assert task["sequential"]["items"] < task["sequential"]["of_items"]
        assert task["verdict"]["kind"] == "file leak"
        assert len(pq.read_table(tmp_path / "run/permutations.parquet")) == task["sequential"]["items"]

    def test_a_natural_order_is_not_taken_for_a_leak(self, tmp_path: Path) -> None:
        """Options a, b, c, d in alphabetical order, and a model that likes just that."""
        data = write_ceval(tmp_path / "data", {"accountant": 200})
        task = examine(tmp_path / "run", data, leaky(), tasks="ceval")["tasks"]["ceval@official:val:5shot"]
        assert not task["publisher_order"]["random"]
        assert task["methods"]["option order"]["p_value"] is None
        assert task["verdict"]["kind"] != "file leak"


class TestResuming:
    def test_an_interrupted_run_ends_as_an_uninterrupted_one(self, exam: Path, tmp_path: Path) -> None:
        whole = examine(tmp_path / "whole", exam)
        with pytest.raises(RunInterrupted):
            examine(tmp_path / "run", exam, stopping(after=70))
        again = examine(tmp_path / "run", exam, resume=True)
        assert again["tasks"] == whole["tasks"]
        files = [pq.read_table(tmp_path / name / "permutations.parquet") for name in ("whole", "run")]
        assert files[0].equals(files[1])

    def test_what_failed_is_tried_again(self, exam: Path, tmp_path: Path) -> None:
        document = examine(tmp_path / "run", exam, failing(5))
        assert document["status"] == "partial"
        assert document["tasks"][TASK]["errors"]
        again = examine(tmp_path / "run", exam, resume=True)
        assert again["status"] == "complete"
        assert again["tasks"][TASK]["n_items"] == 120

    def test_a_control_that_failed_is_tried_again_and_stays_the_same_item(
        self, exam: Path, tmp_path: Path
    ) -> None:
        whole = examine(tmp_path / "whole", exam)
        failed = examine(tmp_path / "run", exam, failing(5))
        assert failed["status"] == "partial"
        examine(tmp_path / "run", exam, resume=True)
        files = [pq.read_table(tmp_path / name / "controls.parquet") for name in ("whole", "run")]
        assert files[0].equals(files[1])
        assert whole["status"] == "complete"

    def test_another_way_of_asking_is_refused(self, exam: Path, tmp_path: Path) -> None:
        with pytest.raises(RunInterrupted):
            examine(tmp_path / "run", exam, stopping(after=70))
        with pytest.raises(UsageError, match="--format"):
            examine(tmp_path / "run", exam, format="lettered", resume=True)


@pytest.mark.data
class TestTexts:
    def test_a_benchmark_of_texts(self, official_data: Path, tmp_path: Path) -> None:
        asked = {"tasks": "gsm8k", "limit": 60, "methods": (), "control": "gsm8k:train"}
        document = examine(tmp_path / "run", official_data, **asked)
        (task,) = document["tasks"].values()
        assert task["n_items"] == 60
        assert {"item order", "min k", "completion", "context gain"} <= task["methods"].keys()
        assert task["methods"]["min k"]["e_value"] is None
        assert task["verdict"]["kind"] == "inconclusive"
        assert "loss_gap" in task["texts"]["not_run"]
        assert "Not run: loss_gap" in (tmp_path / "run/leakage.md").read_text()
        assert json.loads(json.dumps(analyse_again(tmp_path / "run"))) == json.loads(json.dumps(document))

    def test_a_control_that_is_the_benchmark_is_refused(self, official_data: Path, tmp_path: Path) -> None:
        asked = {"tasks": "gsm8k", "limit": 20, "methods": (), "control": "gsm8k:test"}
        with pytest.raises(UsageError, match="20 of its 20 texts are in gsm8k"):
            examine(tmp_path / "run", official_data, **asked)


class TestReferences:
    def test_a_reference_is_told_beside_the_model(self, exam: Path, tmp_path: Path) -> None:
        examine(tmp_path / "old", exam, MockBackend("old"), controls=60)
        task = examine(tmp_path / "run", exam, leaky(), controls=60, references=(str(tmp_path / "old"),))[
            "tasks"
        ][TASK]
        assert task["methods"]["ranks beside old"]["p_value"] < 1
        assert task["methods"]["source exposure"]["e_value"] is not None

    def test_without_one_source_exposure_is_not_claimed(self, exam: Path, tmp_path: Path) -> None:
        task = examine(tmp_path / "run", exam)["tasks"][TASK]
        assert task["methods"]["source exposure"]["verdict"] == "no claim without --reference"

    def test_the_model_itself_is_no_reference(self, exam: Path, tmp_path: Path) -> None:
        examine(tmp_path / "old", exam)
        with pytest.raises(UsageError, match="the examined model itself"):
            examine(tmp_path / "run", exam, references=(str(tmp_path / "old"),))

    def test_a_reference_measured_in_another_way(self, exam: Path, tmp_path: Path) -> None:
        examine(tmp_path / "old", exam, MockBackend("old"), format="lettered")
        with pytest.raises(UsageError, match="another --format"):
            examine(tmp_path / "run", exam, references=(str(tmp_path / "old"),))

    def test_a_reference_on_other_items(self, exam: Path, tmp_path: Path) -> None:
        examine(tmp_path / "old", exam, MockBackend("old"), subsets=("anatomy",))
        with pytest.raises(UsageError, match="none of the examined items"):
            examine(tmp_path / "run", exam, subsets=("agronomy",), references=(str(tmp_path / "old"),))

    def test_a_folder_that_is_no_leakage_run(self, exam: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"leakage\.json"):
            examine(tmp_path / "run", exam, references=(str(tmp_path),))


class TestRefusals:
    def test_too_few_items(self, exam: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="needs at least"):
            examine(tmp_path / "run", exam, limit=2)

    def test_an_engine_that_cannot_score_texts(self, exam: Path, tmp_path: Path) -> None:
        backend = MockBackend()
        backend.capabilities = Capabilities(no_scores="the server gives no prompt log-probabilities")
        with pytest.raises(UsageError, match="the server gives no prompt log-probabilities"):
            examine(tmp_path / "run", exam, backend)

    def test_texts_to_compare_with_are_not_for_options(self, exam: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="--control and --rephrased are for"):
            examine(tmp_path / "run", exam, control="gsm8k:train")

    def test_a_method_that_does_not_apply(self, exam: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="none of the methods asked for"):
            examine(tmp_path / "run", exam, methods=("item_order",))

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"methods": ("ordr",)}, "did you mean order"),
            ({"format": "letterd"}, "did you mean lettered"),
            ({"alpha": 2.0}, "--alpha"),
            ({"permutations": 1}, "--permutations"),
        ],
    )
    def test_values_that_make_no_sense(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            LeakageOptions("mock", "cmmlu", **wrong)


class TestCleanScore:
    def test_verdict_and_score_on_clean_items_reach_the_run(self, exam: Path, tmp_path: Path) -> None:
        mock_run(tmp_path / "run", data=exam, shots=0)
        options = (*MOCK, "--data", exam, "--controls", "0")
        ran = cli("leakage", "run", *options, "--output", tmp_path / "leak", "--into", tmp_path / "run", "-q")
        assert ran.code == 0, ran.err
        results = json.loads((tmp_path / "run/results.json").read_text())
        found = results["leakage"]["tasks"]["cmmlu@official:test:0shot"]
        assert found["clean_score"]["all"]["n"] == 120
        report = (tmp_path / "run/report.md").read_text()
        assert "Contamination" in report
        assert found["verdict"]["short"] in report

    def test_a_run_of_another_model_is_refused(self, exam: Path, tmp_path: Path) -> None:
        mock_run(tmp_path / "run", data=exam, shots=0, backend=MockBackend("other"))
        options = (*MOCK, "--data", exam, "--controls", "0")
        ran = cli("leakage", "run", *options, "--output", tmp_path / "leak", "--into", tmp_path / "run", "-q")
        assert ran.code == 2
        assert "other" in ran.err


class TestCommandLine:
    def test_the_document_alone_on_stdout(self, tmp_path: Path) -> None:
        ran = cli("leakage", "run", *MOCK, "--data", "sample", "--json", "--output", tmp_path / "run")
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["tasks"]

    def test_the_published_table_with_its_floor(self) -> None:
        ran = cli("leakage", "published")
        assert "| CMMLU | 0.38 | 0.39 | 0.23 | 0.27 | 0.22 | 0.30 |" in ran.out

    def test_power(self) -> None:
        ran = cli("leakage", "power", "--n", "11582")
        assert ran.code == 0
        assert "80 %" in ran.out
        assert cli("leakage", "power", "--n", "0").code == 2
        assert cli("leakage", "power", "--n", "9", "--sensitivity", "0.01").code == 2

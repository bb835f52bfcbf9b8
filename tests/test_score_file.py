"""Predictions made elsewhere, through the command line as users call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import cli

RECORDS = [("Two and two?", "It is 4.\n#### 4"), ("Ten times ten?", "It is 100.\n#### 1,000")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """GSM8K in its official layout, with made-up questions."""
    folder = tmp_path / "data"
    (folder / "GSM8K").mkdir(parents=True)
    lines = (json.dumps({"question": q, "answer": a}) for q, a in RECORDS)
    (folder / "GSM8K/test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def write(tmp_path: Path):
    def write(*lines: Any) -> Path:
        path = tmp_path / "predictions.jsonl"
        path.write_bytes(b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines))
        return path

    return write


def scored(*arguments: str | Path) -> dict[str, Any]:
    ran = cli("score-file", *arguments, "--json")
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_predictions_are_matched_by_id(data: Path, write) -> None:
    file = write({"id": "1", "completion": "#### 1000"}, {"id": "0", "completion": "#### 5"})
    found = scored("gsm8k@lm-eval", file, "--data", data)
    assert {key: found[key] for key in ("task", "subset", "n")} == {
        "task": "gsm8k@lm-eval:test:5shot",
        "subset": "main",
        "n": 2,
    }
    strict = found["metrics"]["strict"]
    assert (strict["value"], strict["n"]) == (0.5, 2)
    assert set(strict) == {"value", "stderr", "ci95", "n"}
    assert found["counters"]["samples"] == 2


@pytest.mark.parametrize("completion", ["", None, "\x00", "x" * 10_000_000, "\ud800"])
def test_odd_completions_are_scored_and_counted(data: Path, write, completion: str | None) -> None:
    file = write({"id": 0, "completion": completion})
    found = scored("gsm8k@lm-eval", file, "--data", data)
    assert found["metrics"]["strict"]["value"] == 0
    assert found["counters"]["unparsed"] == 1


def test_bytes_that_are_no_text_are_replaced(data: Path, write) -> None:
    file = write(b'{"id": "0", "completion": "\xff\xfe #### 4"}')
    assert scored("gsm8k@lm-eval", file, "--data", data)["metrics"]["strict"]["value"] == 1


@pytest.mark.parametrize(
    ("lines", "code", "message"),
    [
        ([{"id": "7", "completion": "x"}], 4, "has no sample with the id '7'; ids run from '0' to '1'"),
        ([{"id": "0", "completion": "x"}, {"id": "1"}], 4, ':2: needs "id" and "completion"'),
        ([b'{"id": "0", "compl'], 4, ":1: not valid JSON"),
        ([[1, 2]], 4, ":1: is not a JSON object"),
        ([], 4, "holds no predictions"),
    ],
)
def test_damaged_files_are_errors_with_file_and_line(
    data: Path, write, lines: list[Any], code: int, message: str
) -> None:
    ran = cli("score-file", "gsm8k@lm-eval", write(*lines), "--data", data)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
    assert "predictions.jsonl" in ran.err


def test_option_scores_are_not_in_such_a_file(data: Path, write) -> None:
    ran = cli("score-file", "cmmlu", write({"id": "0", "completion": "A"}), "--data", data)
    assert ran.code == 2
    assert "protocols that judge texts: oc-gen, official-cot" in ran.err


def test_the_official_lines_of_longbench_need_no_data(write, tmp_path: Path) -> None:
    lines = [
        {"pred": "in Paris", "answers": ["Rome", "Paris"], "all_classes": None, "length": 3000},
        {"pred": "x", "answers": ["Rome"], "all_classes": None, "length": 9000},
    ]
    found = scored("longbench", write(*lines), "--subset", "hotpotqa", "--data", tmp_path)
    assert found["metrics"]["score"]["value"] == pytest.approx((2 / 3) / 2)
    ran = cli("score-file", "longbench", write({"pred": "x", "answers": []}), "--subset", "hotpotqa")
    assert ran.code == 4
    assert ":1:" in ran.err


def test_a_subset_must_be_named_where_there_are_several(write) -> None:
    ran = cli("score-file", "longbench", write({"id": "0", "completion": "A"}))
    assert ran.code == 2
    assert "longbench has 21 subsets; say which with --subset" in ran.err


def test_programs_are_not_run_without_a_sandbox(
    write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = cli("score-file", "humaneval", write({"id": "HumanEval/0", "completion": "    return True"}))
    assert ran.code == 3
    assert "apt install bubblewrap" in ran.err


class TestRuns:
    def run(self, data: Path, output: Path, *more: str) -> Any:
        common = (
            "run",
            "--model",
            "m",
            "--backend",
            "mock",
            "--tasks",
            "gsm8k@lm-eval:0shot",
            "--data",
            data,
        )
        return cli(*common, "--output", output, "--quiet", *more)

    def test_a_run_keeps_completions_and_rescore_judges_them(self, data: Path, tmp_path: Path) -> None:
        ran = self.run(data, tmp_path / "run")
        assert ran.code == 0, ran.err
        before = json.loads((tmp_path / "run/results.json").read_text("utf-8"))
        again = cli("rescore", tmp_path / "run", "--json")
        assert again.code == 0, again.err
        assert json.loads(again.out)["tasks"] == before["tasks"]
        assert before["cost"]["tokens_generated"] == 64

    def test_rescore_says_when_the_data_are_gone(self, data: Path, tmp_path: Path) -> None:
        assert self.run(data, tmp_path / "run").code == 0
        (data / "GSM8K/test.jsonl").unlink()
        ran = cli("rescore", tmp_path / "run")
        assert ran.code == 4
        assert "test.jsonl" in ran.err

    def test_an_unknown_data_variant_is_a_usage_error(self, data: Path, tmp_path: Path) -> None:
        ran = self.run(data, tmp_path / "run", "--data-variant", "partial")
        assert ran.code == 2
        assert "partial" in ran.err

    def test_a_prompt_without_room_for_its_answer_is_an_error(self, data: Path, tmp_path: Path) -> None:
        ran = self.run(data, tmp_path / "run", "--max-length", "100")
        assert ran.code == 2
        assert "0 fit" in ran.err

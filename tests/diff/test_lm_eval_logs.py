"""Logs as lm-evaluation-harness writes them, made up from evalkit runs on the mock."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from _planted import SUBJECTS, mock
from helpers import cli, mock_run, write_cmmlu

from evalkit.diff.document import compare
from evalkit.diff.sides import read
from evalkit.store import RunStore
from evalkit.types import Outcome

Json = dict[str, Any]


def scored(outcome: Outcome, target: str, options: Iterable[str] = "ABCD") -> Json:
    """A line as lm-eval writes it for options."""
    assert outcome.choice_logprobs is not None
    return {
        "doc": {},
        "target": target,
        "arguments": {
            f"gen_args_{i}": {"arg_0": outcome.prompt, "arg_1": f" {option}"}
            for i, option in enumerate(options)
        },
        "resps": [[[str(x), "False"]] for x in outcome.choice_logprobs],
        "filtered_resps": [[str(x), "False"] for x in outcome.choice_logprobs],
        "filter": "none",
        "metrics": ["acc"],
        "acc": outcome.correct,
    }


def generated(outcome: Outcome, target: str, metric: str, found: str, doc: Json) -> Json:
    """A line as lm-eval writes it for a completion."""
    return {
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": outcome.prompt, "arg_1": {"until": ["\n"]}}},
        "resps": [list(outcome.completions or ())],
        "filtered_resps": [found],
        "filter": "strict-match",
        "metrics": [metric],
        metric: outcome.correct,
    }


def write(file: Path, lines: Iterable[Json]) -> Path:
    """One file of a log; returns its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"doc_id": i} | line for i, line in enumerate(lines))
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file.parent


def cmmlu_log(
    run: Path, folder: Path, change: Callable[[Json], Mapping[str, Any]] = lambda line: line
) -> Path:
    outcomes = [o for o in RunStore(run).read_samples() if "@lm-eval" in o.task]
    for subject in SUBJECTS:
        lines = [scored(o, str("ABCD".index(o.target or ""))) for o in outcomes if o.subset == subject]
        write(
            folder / f"samples_cmmlu_{subject}_2025-01-01T00-00-00.123.jsonl", map(dict, map(change, lines))
        )
    return folder


def task_of(a: Path, b: Path) -> Json:
    (task,) = compare(read(a), read(b), 3)["tasks"]
    json.dumps(task, allow_nan=False)
    return dict(task)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    data = write_cmmlu(tmp_path / "data", SUBJECTS)
    mock(tmp_path / "run", data, "cmmlu,cmmlu@lm-eval", log_prompts=True)
    return tmp_path / "run"


def test_the_same_numbers(run: Path, tmp_path: Path) -> None:
    task = task_of(run, cmmlu_log(run, tmp_path / "log/model"))
    assert (task["a"], task["b"]) == ("cmmlu@lm-eval:test:5shot", "cmmlu@lm-eval")
    assert (task["verdict"], task["shared"], task["first"]) == ("equal", 14, None)
    shown = cli("diff", run, tmp_path / "log").out
    assert "data       unknown   (right answers are the same)" in shown
    assert "no difference in what both put down" in shown
    assert "log-probabilities" not in shown


def test_rounding_is_said_to_be_harmless(run: Path, tmp_path: Path) -> None:
    def rounded(line: Json) -> Json:
        return line | {"resps": [[[str(float(r[0][0]) + 1e-5), "False"]] for r in line["resps"]]}

    log = cmmlu_log(run, tmp_path / "model", rounded)
    task = task_of(run, log)
    assert (task["verdict"], task["examples"]) == ("rounding", [])
    assert [cause["kind"] for cause in task["causes"]] == ["engine", "rounding"]
    assert "at most 1e-05 nat apart, no answer differs: rounding" in cli("diff", run, log).out


def test_another_model_than_the_logged_one(run: Path, tmp_path: Path) -> None:
    def other(line: Json) -> Json:
        return line | {"resps": [[[str(-1.0 - i), "False"]] for i in range(4)], "acc": 0.0}

    task = task_of(run, cmmlu_log(run, tmp_path / "org__model", other))
    assert (task["first"], task["verdict"]) == ("responses", "differs")
    assert [cause["kind"] for cause in task["causes"]] == ["engine", "model"]
    assert "mock in A, org__model in B" in task["causes"][1]["sentence"]


def test_another_protocol_than_the_logged_one(run: Path, tmp_path: Path) -> None:
    log = cmmlu_log(run, tmp_path / "model")
    mock(tmp_path / "official", tmp_path / "data")
    task = task_of(tmp_path / "official", log)
    assert task["causes"][0]["sentence"].startswith(
        "two protocols: cmmlu@official:test:5shot and lm-eval's own"
    )
    assert "run A with --log-prompts" in task["causes"][1]["sentence"]


def test_worked_answers_of_gsm8k(tmp_path: Path) -> None:
    for split, n in (("train", 12), ("test", 4)):
        rows = [{"question": f"{split} {i}?", "answer": f"It is.\n#### 1,00{i}"} for i in range(n)]
        file = tmp_path / f"data/GSM8K/{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    mock_run(tmp_path / "run", "gsm8k@lm-eval", data=tmp_path / "data", log_prompts=True)
    lines = [
        generated(o, f"It is.\n#### 1,00{i}", "exact_match", "[invalid]", {"question": "?"})
        for i, o in enumerate(RunStore(tmp_path / "run").read_samples())
    ]
    flexible = [line | {"filter": "flexible-extract", "filtered_resps": ["7"]} for line in lines]
    rows = [{"doc_id": i} | line for part in (lines, flexible) for i, line in enumerate(part)]
    log = write(tmp_path / "m/samples_gsm8k_2025-01-01T00-00-00.123.jsonl", rows)
    task = task_of(tmp_path / "run", log)
    assert (task["shared"], task["verdict"]) == (4, "equal")
    assert task["rungs"]["data"]["of"] == 4


def test_ids_and_right_options_of_kobest(tmp_path: Path) -> None:
    header = ["ID", "sentence", "question", "1", "2", "Answer"]
    for split in ("train", "test"):
        file = tmp_path / f"data/KoBEST/v1.0/COPA/{split}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8", newline="") as out:
            rows = [[i + 1, f"{split} {i}", "원인", f"left {i}", f"right {i}", i % 2 + 1] for i in range(5)]
            csv.writer(out, delimiter="\t").writerows([header, *rows])
    mock_run(tmp_path / "run", "kobest_copa@lm-eval", data=tmp_path / "data", log_prompts=True)
    lines = []
    for i, o in enumerate(RunStore(tmp_path / "run").read_samples()):
        options = (f"left {i}", f"right {i}")
        lines.append(scored(o, options[int(o.target or 0)], options))
    log = write(tmp_path / "m/samples_kobest_copa_2025-01-01T00-00-00.123.jsonl", lines)
    task = task_of(tmp_path / "run", log)
    assert (task["shared"], task["only_a"], task["verdict"]) == (5, 0, "equal")
    assert task["rungs"]["data"]["of"] == task["rungs"]["outcomes"]["of"] == 5


def test_samples_that_are_numbered_otherwise_are_known_by_their_prompts(run: Path, tmp_path: Path) -> None:
    log = cmmlu_log(run, tmp_path / "model")
    for file in log.iterdir():
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        write(file, (line | {"doc": {"id": f"record {i}"}} for i, line in enumerate(lines)))
    assert task_of(run, log)["shared"] == 14


def test_programs_of_humaneval_are_no_right_answers(tmp_path: Path) -> None:
    outcome = Outcome(
        "", "", "", "", None, None, 1.0, None, None, completions=("return 1",), prompt="def f():"
    )
    line = generated(outcome, "def check(f): …", "pass@1", "def f(): return 1", {"task_id": "HumanEval/0"})
    side = read(write(tmp_path / "m/samples_humaneval_2025-01-01T00-00-00.123.jsonl", [line]))
    ((key, found),) = side.tasks["humaneval@base"].samples.items()
    assert key == ("humaneval", "HumanEval/0")
    assert (found.target, found.prediction, found.correct, found.completions) == (
        None,
        None,
        1.0,
        ("return 1",),
    )


@pytest.mark.parametrize("score", [{"acc": float("nan")}, {"acc": 3.5}, {"acc": None}, {"acc": [1]}])
def test_what_is_no_fraction_is_no_score(score: Json, run: Path, tmp_path: Path) -> None:
    task = task_of(run, cmmlu_log(run, tmp_path / "model", lambda line: line | score))
    assert task["effect"] is None


def test_only_the_headline_is_the_score(run: Path, tmp_path: Path) -> None:
    def in_bits(line: Json) -> Json:
        return {name: value for name, value in line.items() if name != "acc"} | {
            "metrics": ["bpb"],
            "bpb": 0.5,
        }

    assert task_of(run, cmmlu_log(run, tmp_path / "model", in_bits))["effect"] is None


ENDS: dict[str, Callable[[bytes], bytes]] = {
    "blank line at the end": lambda text: text + b"\n",
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "CRLF": lambda text: text.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("change", ENDS.values(), ids=ENDS.keys())
def test_files_that_other_tools_touched(change: Callable[[bytes], bytes], run: Path, tmp_path: Path) -> None:
    log = cmmlu_log(run, tmp_path / "model")
    for file in log.iterdir():
        file.write_bytes(change(file.read_bytes()))
    assert task_of(run, log)["verdict"] == "equal"


def test_texts_may_hold_what_ends_a_line_elsewhere(run: Path, tmp_path: Path) -> None:
    log = cmmlu_log(run, tmp_path / "model", lambda line: line | {"doc": {"text": "a\u2028b\u0085c"}})
    assert task_of(run, log)["verdict"] == "equal"


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": [["context", " A"]]},
        {"arguments": {}},
        {"arguments": {"gen_args_0": {"arg_0": 7, "arg_1": " A"}}},
        {"doc": "text"},
        {"target": "²"},
        {"target": "17"},
        {"resps": None},
    ],
    ids=str,
)
def test_what_lm_eval_does_not_write(change: Json, run: Path, tmp_path: Path) -> None:
    ran = cli("diff", run, cmmlu_log(run, tmp_path / "model", lambda line: line | change))
    assert ran.code == 4
    assert "samples_cmmlu_agronomy_2025-01-01T00-00-00.123.jsonl:1: not a sample" in ran.err


def test_bytes_that_are_no_text(run: Path, tmp_path: Path) -> None:
    log = cmmlu_log(run, tmp_path / "model")
    for file in log.iterdir():
        file.write_bytes(b'{"a": "\xff"}\n')
    assert cli("diff", run, log).code == 4


def test_two_models_in_one_folder(run: Path, tmp_path: Path) -> None:
    for model in ("one", "two"):
        cmmlu_log(run, tmp_path / "logs" / model)
    ran = cli("diff", run, tmp_path / "logs")
    assert ran.code == 2
    assert f"{tmp_path / 'logs/one'}, {tmp_path / 'logs/two'}" in ran.err


def test_a_run_with_a_log_in_it_is_a_run(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "both")
    cmmlu_log(run, tmp_path / "both/lm-eval", lambda line: line | {"acc": 0.0})
    document = compare(read(run), read(tmp_path / "both"), 3)
    assert [task["verdict"] for task in document["tasks"]] == ["equal", "equal"]

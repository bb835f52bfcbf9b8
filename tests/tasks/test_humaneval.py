from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from _generation import HOSTILE, generated, golden, judge, records, resolved

from evalkit import sandbox
from evalkit.data.source import open_source, verify
from evalkit.errors import DataError
from evalkit.registry import get_task
from evalkit.results import aggregate
from evalkit.sandbox import Program, Verdict
from evalkit.task import JudgeSettings
from evalkit.types import Message, Outcome, Sample, Sampling

TASK = get_task("humaneval")
PROMPT = (
    "from typing import List\n\n\ndef helper(x):\n    return x\n\n\n"
    'def add(a: int) -> List[int]:\n    """Add."""\n'
)
RECORD = {
    "task_id": "HumanEval/0",
    "prompt": PROMPT,
    "canonical_solution": "    return [a]\n",
    "test": "def check(candidate):\n    assert candidate(1) == [1]\n",
    "entry_point": "add",
}
SAMPLE = Sample("HumanEval/0", "humaneval", {k: v for k, v in RECORD.items() if k != "task_id"}, "passed")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the sandbox: programs pass if they hold GOOD, and time out if they hold SLOW."""
    programs: list[str] = []

    def run(given: Iterable[Program], **_: object) -> list[Verdict]:
        texts = [program.source for program in given]
        programs.extend(texts)
        return [
            Verdict("passed", "", 0.1, False)
            if "GOOD" in text
            else Verdict("timeout" if "SLOW" in text else "failed", "why", 0.1, False)
            for text in texts
        ]

    monkeypatch.setattr(sandbox, "run_programs", run)
    return programs


# -- prompts ------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("base", (348, "00b2e074e127a6a9")),
        ("base-n200", (348, "00b2e074e127a6a9")),
        ("oc-v1", (348, "00b2e074e127a6a9")),
        ("lm-eval-instruct", (445, "1ed496539efc49dc")),
        ("oc-v2", (384, "b19a3c697a8df671")),
        ("chat", (384, "b19a3c697a8df671")),
    ],
)
def test_golden_prompts(protocol: str, expected: tuple[int, str], official_data: Path) -> None:
    assert golden(f"humaneval@{protocol}", "humaneval", official_data) == expected


@pytest.mark.data
def test_the_base_prompt_is_the_record_as_it_stands(official_data: Path) -> None:
    (first, *_) = records("humaneval", "humaneval", official_data, "test")
    prompt = generated("humaneval", first).prompt
    assert isinstance(prompt, str)
    assert prompt.startswith("from typing import List\n\n\ndef has_close_elements(")
    assert prompt.endswith('    """\n')


def test_base_stops_where_the_paper_does() -> None:
    request = generated("humaneval", SAMPLE)
    assert request.stop == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    assert (request.sampling, request.prefill) == (None, "")
    drawn = generated("humaneval@base-n200", SAMPLE)
    assert drawn.sampling == Sampling(0.8, top_p=0.95, n=200)
    assert drawn.stop == request.stop


def test_lm_eval_instruct_puts_the_code_into_the_models_mouth() -> None:
    request = generated("humaneval@lm-eval-instruct", SAMPLE)
    assert request.prompt == (
        Message(
            "user",
            "Write a solution to the following problem and make sure that it passes the tests:\n"
            f"```python\n{PROMPT}\n```\n",
        ),
    )
    assert request.prefill == f"Here is the completed function:\n```python\n{PROMPT}\n"


@pytest.mark.parametrize("protocol", ["oc-v1", "oc-v2"])
def test_opencompass_stops_nowhere_and_reads_512_tokens(protocol: str) -> None:
    request = generated(f"humaneval@{protocol}", SAMPLE)
    assert (request.stop, request.max_new_tokens, request.prefill) == ((), 512, "")


# -- data ---------------------------------------------------------------------------------------------


@pytest.mark.data
def test_size_of_the_official_data(official_data: Path) -> None:
    (check,) = verify(TASK, open_source(str(official_data)))
    assert (check.samples, check.problem) == (164, None)
    samples = records("humaneval", "humaneval", official_data, "test")
    assert [s.id for s in samples] == [f"HumanEval/{i}" for i in range(164)]
    assert all(s.fields["prompt"].endswith("\n") for s in samples)
    helped = [
        s.id
        for s in samples
        if s.fields["prompt"].count("\ndef ") + s.fields["prompt"].startswith("def ") > 1
    ]
    assert helped == ["HumanEval/10", "HumanEval/32", "HumanEval/38", "HumanEval/50"]


def packed(folder: Path, *rows: object) -> Path:
    path = folder / "HumanEval.jsonl.gz"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


@pytest.mark.parametrize(
    ("rows", "line", "problem"),
    [
        ([RECORD, {k: v for k, v in RECORD.items() if k != "test"}], 2, "lacks test"),
        ([RECORD | {"prompt": None}], 1, "prompt is not a text"),
        ([RECORD, "", RECORD], 3, "repeated id 'HumanEval/0'"),
        ([RECORD, '{"task_id": '], 2, "not valid JSON"),
        ([], 1, "the file is empty"),
    ],
)
def test_defects_name_file_and_line(tmp_path: Path, rows: list[object], line: int, problem: str) -> None:
    path = packed(tmp_path, *rows)
    with pytest.raises(DataError) as raised:
        TASK.parse(path, "test", "humaneval")
    assert str(raised.value).startswith(f"{path}:{line}: {problem}")


@pytest.mark.parametrize(
    "content", [b"", b"plain text", gzip.compress(b"{}" * 1000, mtime=0)[:-9], b"\x1f\x8b\x08\0"]
)
def test_a_damaged_archive_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "HumanEval.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"HumanEval\.jsonl\.gz"):
        TASK.parse(path, "test", "humaneval")


def test_another_encoding_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "HumanEval.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(RECORD) + "\n题目").encode("gb18030")))
    with pytest.raises(DataError, match=r":2: not UTF-8 text"):
        TASK.parse(path, "test", "humaneval")


# -- judging ------------------------------------------------------------------------------------------


def test_the_program_is_prompt_completion_and_tests(ran: list[str]) -> None:
    judgement = judge("humaneval", SAMPLE, "    return [a]  # GOOD\n")
    assert ran == [f"{PROMPT}    return [a]  # GOOD\n\n{RECORD['test']}\ncheck(add)"]
    assert (judgement.prediction, judgement.metrics) == (
        "passed",
        {"pass@1": 1.0, "pass@1_without_retry": 1.0, "timeout": 0.0},
    )


def test_a_completion_is_never_stripped(ran: list[str]) -> None:
    judge("humaneval", SAMPLE, "   return [a]")
    assert ran[0].startswith(f"{PROMPT}   return [a]\n")


def test_every_protocol_has_its_own_extraction(ran: list[str]) -> None:
    fenced = "Sure:\n```python\ndef add(a):\n    x = a\n\n    return [x]\n```\nDone."
    bodies = {}
    for protocol in ("base", "lm-eval-instruct", "oc-v1", "oc-v2", "chat"):
        ran.clear()
        judge(f"humaneval@{protocol}", SAMPLE, fenced)
        bodies[protocol] = ran[0].removesuffix(f"\n{RECORD['test']}\ncheck(add)")
    assert bodies["base"] == PROMPT + fenced
    assert bodies["lm-eval-instruct"] == PROMPT + "Sure:\n"
    assert bodies["oc-v1"] == PROMPT + "    x = a"
    assert bodies["oc-v2"] == PROMPT + "    x = a\n    return [x]"
    assert bodies["chat"].endswith("    return [x]")
    assert bodies["chat"].startswith("from typing import List\n\n\ndef helper(x):\n    return x\n")
    assert bodies["chat"].count("def add") == 1


def test_verdicts_are_counted_and_named(ran: list[str]) -> None:
    slow = judge("humaneval", SAMPLE, "SLOW")
    assert (slow.prediction, slow.metrics) == (
        "timeout: why",
        {"pass@1": 0.0, "pass@1_without_retry": 0.0, "timeout": 1.0},
    )
    assert judge("humaneval", SAMPLE, "x").prediction == "failed: why"


def test_pass_at_k_is_unbiased_and_reported_where_there_are_enough(ran: list[str]) -> None:
    drawn = judge("humaneval@base-n200", SAMPLE, *(["GOOD"] * 10 + ["x"] * 190))
    assert drawn.metrics == {
        "pass@1": pytest.approx(0.05),
        "pass@10": pytest.approx(0.408548, abs=1e-6),
        "pass@100": pytest.approx(0.999229, abs=1e-6),
        "pass@1_without_retry": pytest.approx(0.05),
        "timeout": 0.0,
    }
    assert len(ran) == 200
    twelve = judge("humaneval", SAMPLE, *["x"] * 12).metrics
    assert set(twelve) == {"pass@1", "pass@10", "pass@1_without_retry", "timeout"}


def test_pass_at_k_needs_k_completions_of_every_problem(ran: list[str]) -> None:
    protocol = resolved("humaneval").protocol
    assert protocol.judge is not None
    for judgement in protocol.judge([(SAMPLE, ["x"] * 12), (SAMPLE, ["x"] * 9)], JudgeSettings()):
        assert "pass@10" not in judgement.metrics


def test_problems_do_not_get_each_others_verdicts(ran: list[str]) -> None:
    protocol = resolved("humaneval").protocol
    assert protocol.judge is not None
    answered = [(SAMPLE, ("x", "GOOD")), (SAMPLE, ("x",)), (SAMPLE, ("GOOD",))]
    found = [j.metrics["pass@1"] for j in protocol.judge(answered, JudgeSettings())]
    assert found == [0.5, 0.0, 1.0]


@pytest.mark.parametrize("protocol", ["base", "lm-eval-instruct", "oc-v1", "oc-v2", "chat"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_completions_become_programs(protocol: str, name: str, ran: list[str]) -> None:
    judgement = judge(f"humaneval@{protocol}", SAMPLE, HOSTILE[name])
    assert judgement.metrics["pass@1"] == 0.0


def test_the_score_is_the_mean_over_problems() -> None:
    one = resolved("humaneval")
    outcomes = [
        Outcome(one.name, "humaneval", str(i), "", "passed", "passed", v, None, None, metrics={"pass@1": v})
        for i, v in enumerate((1.0, 0.0, 0.5, 0.5))
    ]
    assert aggregate(one, outcomes, None)["metrics"]["pass@1"]["value"] == 0.5

"""What the tests of the generation tasks share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _exam import fingerprint, request

from evalkit.data.source import open_source
from evalkit.judge import judge as rejudge
from evalkit.prompts import prompt_text, render
from evalkit.spec import ResolvedTask, resolve
from evalkit.task import Judgement
from evalkit.types import GenerateRequest, Outcome, Request, Sample

HOSTILE = {
    "nothing": "",
    "blanks": " \n\t\n ",
    "garbage": "\x00\ufffd\ud83d🙂\u2028<|im_end|>\u202e",
    "one word": "a" * 1_000_000,
    "one line": "The answer is 3, A 答案是答案为正确 #### " * 25_000,
    "many lines": "Paragraph 段落 ```\n正确 答案为\n\n" * 30_000,
    "digits": "1" * 1_000_000,
    "dots": "." * 1_000_000,
}
"""Completions no judge may fail on or take long over."""


def golden(spec: str, subset: str, data: Path) -> tuple[int, str]:
    """Length and hash of the prompt of the first sample."""
    return fingerprint(prompt_text(request(spec, subset, data)))


def resolved(spec: str) -> ResolvedTask:
    (one,) = resolve(spec)
    return one


def judge(spec: str, sample: Sample, *completions: str) -> Judgement:
    """What a protocol makes of completions of one sample."""
    one = resolved(spec)
    answered = replace(outcome(one, sample.subset, **{one.protocol.headline: 0.0}), completions=completions)
    (judged,) = rejudge(one, [answered], {(sample.subset, answered.sample_id): sample})
    return Judgement(judged.prediction, judged.metrics)


def asked(spec: str, sample: Sample, shots: Sequence[Sample] = ()) -> Request:
    """The request of one sample."""
    ((_, rendered),) = render(resolved(spec), [sample], [tuple(shots)])
    return rendered


def generated(spec: str, sample: Sample, shots: Sequence[Sample] = ()) -> GenerateRequest:
    rendered = asked(spec, sample, shots)
    assert isinstance(rendered, GenerateRequest)
    return rendered


def records(task_spec: str, subset: str, data: Path, split: str, variant: str | None = None) -> list[Sample]:
    return open_source(str(data), variant=variant).load(resolved(task_spec).task, split, subset)


def write_lines(path: Path, *rows: Any) -> Path:
    """A JSON Lines file; a text is a line as it stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def outcome(one: ResolvedTask, subset: str, /, number: int = 0, **metrics: float) -> Outcome:
    """A made-up judged sample."""
    return Outcome(
        one.name,
        subset,
        str(number),
        "",
        "p",
        "t",
        metrics[one.protocol.headline],
        None,
        None,
        completions=("p",),
        metrics=metrics,
    )

"""What the tests of the three exams share."""

from __future__ import annotations

import hashlib
from pathlib import Path

from evalkit.data.source import DataSource, open_source
from evalkit.prompts import render
from evalkit.spec import resolve
from evalkit.task import JudgeSettings, PromptInput, Task
from evalkit.types import GenerateRequest, Request, Sample, ScoreRequest, SpanRequest


def request(spec: str, subset: str, data: Path) -> Request:
    """Render the first sample of a subset."""
    (resolved,) = resolve(spec)
    source = open_source(str(data))
    samples = source.load(resolved.task, resolved.split, subset)
    shots = source.shots(resolved, subset, samples)
    ((_, rendered),) = render(resolved, samples[:1], shots[:1])
    return rendered


def context(spec: str, subset: str, data: Path) -> str:
    rendered = request(spec, subset, data)
    assert isinstance(rendered, ScoreRequest)
    return rendered.context


def fingerprint(text: str) -> tuple[int, str]:
    return len(text), hashlib.sha256(text.encode()).hexdigest()[:16]


def synthetic(spec: str, subset: str, n_shots: int) -> Request:
    """Render a made-up question after made-up examples, which all have the answer B."""
    (resolved,) = resolve(spec)
    fields = {"question": " 1+1=? ", "A": "1", "B": "2", "C": "3", "D": "4"}
    sample = Sample("0", subset, fields, "B")
    title = resolved.task.subsets[subset]
    return resolved.protocol.render(PromptInput(subset, title, (sample,) * n_shots, sample))


def texts(rendered: Request) -> tuple[str, ...]:
    assert isinstance(rendered, SpanRequest)
    return rendered.texts


def turns(spec: str, subset: str, n_shots: int) -> list[tuple[str, str]]:
    """Role and content of every turn of a made-up question after made-up examples."""
    rendered = synthetic(spec, subset, n_shots)
    assert isinstance(rendered, GenerateRequest)
    assert not isinstance(rendered.prompt, str)
    assert (rendered.stop, rendered.sampling, rendered.prefill) == ((), None, "")
    return [(message.role, message.content) for message in rendered.prompt]


def reply(
    task: Task, protocol: str, text: str, target: str | None = "B"
) -> tuple[str | None, dict[str, float]]:
    """Prediction and metrics of one made-up completion."""
    judge = task.protocols[protocol].judge
    assert judge is not None
    sample = Sample("0", next(iter(task.subsets)), {}, target)
    (judgement,) = judge([(sample, (text,))], JudgeSettings())
    return judgement.prediction, dict(judgement.metrics)


FIRST_CAPITALS = [
    ("B", "B"),
    (" b) no, B", "B"),
    ("The answer is B", "T"),
    ("答案是: B", "B"),
    ("选项É", "É"),
    ("", None),
    ("the answer", None),
    ("1" * 1_000_000, None),
]
"""What OpenCompass takes of a reply: the first upper-case letter anywhere."""


def check_groups(task: Task) -> None:
    """Every member of every category is a subject, and every subject is in a category."""
    for protocol in task.protocols.values():
        members = [handle for group in protocol.groups.members.values() for handle in group]
        assert set(members) == set(task.subsets), protocol.name


def group_sizes(task: Task, protocol: str, split: str, data: Path) -> dict[str, tuple[int, int]]:
    """Category to its number of subjects and of samples."""
    source = open_source(str(data))
    return {
        name: (len(group), sum(count(source, task, split, handle) for handle in group))
        for name, group in task.protocols[protocol].groups.members.items()
    }


def count(source: DataSource, task: Task, split: str, subset: str) -> int:
    return len(source.load(task, split, subset))

"""What every task must do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from evalkit.task import PromptInput, Protocol, Task
from evalkit.testing.rules import named
from evalkit.types import (
    ContinuationScore,
    GenerateRequest,
    NextToken,
    Request,
    Sample,
    ScoreRequest,
    ScoreResponse,
    SpanRequest,
)

_NAME = re.compile(r"[^@:,\s]+")


def check_task(task: Task, sample: Sample | None = None) -> None:
    """Check that a task is complete, consistent and asks without giving the answer away.

    Args:
        task: the task; its data is not read.
        sample: a sample to render. Tasks whose options are single letters get a made-up one with the
            fields `question` and one per letter; other tasks are rendered only if this is given.

    Raises:
        AssertionError: naming the first rule that does not hold.
    """
    with named(f"task '{task.name}'"):
        _check_identity(task)
        _check_layout(task)
        assert task.protocols, "it has no protocol"
        default = task.default_protocol
        assert default in task.protocols, f"there is no default protocol {default!r}"
        for name, protocol in task.protocols.items():
            with named(f"protocol '{name}'"):
                assert protocol.name == name, f"it calls itself {protocol.name!r}"
                _check_protocol(task, protocol)
                asked = sample or _made_up(task)
                if asked is not None:
                    _check_rendering(task, protocol, asked)


def _check_identity(task: Task) -> None:
    assert _NAME.fullmatch(task.name), "a name has no blank, comma, colon or @"
    assert task.title.strip(), "title is empty"
    assert len(set(task.choices)) == len(task.choices), f"choices repeat themselves: {task.choices}"


def _check_layout(task: Task) -> None:
    assert task.subsets, "it has no subset"
    assert task.splits, "it has no split"
    assert len(set(task.splits)) == len(task.splits), f"splits repeat themselves: {task.splits}"
    if any(p.max_shots and p.shots_split is None for p in task.protocols.values()):
        assert task.shots_split in task.splits, f"examples come from an unknown split {task.shots_split!r}"
    for field in ("sizes", "content_sha256"):
        unknown = set(getattr(task, field)) - set(task.splits)
        assert not unknown, f"{field} name unknown splits {sorted(unknown)}"
    paths = [task.path(split, subset) for split in task.splits for subset in task.subsets]
    assert all(path and not path.startswith("/") for path in paths), "paths are relative to the task's folder"


def _check_protocol(task: Task, protocol: Protocol) -> None:
    assert _NAME.fullmatch(protocol.name), "a name has no blank, comma, colon or @"
    assert protocol.source.strip(), "its source is missing"
    assert protocol.default_split in task.splits, f"unknown default split {protocol.default_split!r}"
    assert 0 <= protocol.default_shots <= protocol.max_shots, (
        f"{protocol.default_shots} examples by default, at most {protocol.max_shots}"
    )
    for group, members in protocol.groups.members.items():
        assert members, f"the group {group!r} is empty"
        unknown = set(members) - set(task.subsets)
        assert not unknown, f"the group {group!r} names unknown subsets {sorted(unknown)}"


def _made_up(task: Task) -> Sample | None:
    if not task.choices or any(len(choice) != 1 for choice in task.choices):
        return None
    subset = next(iter(task.subsets))
    fields = {"question": "1 + 1 = ?", **{choice: f"option {choice}" for choice in task.choices}}
    return Sample("0", subset, fields, task.choices[0])


def _check_rendering(task: Task, protocol: Protocol, sample: Sample) -> None:
    title = task.subsets[sample.subset]
    for n_shots in sorted({0, protocol.default_shots, protocol.max_shots}):
        shots = tuple(replace(sample, id=f"shot {n}") for n in range(n_shots))
        request = protocol.render(PromptInput(sample.subset, title, shots, sample))
        with named(f"{n_shots} examples"):
            _check_asks(request)
            unanswered = replace(sample, target=None)
            assert protocol.render(PromptInput(sample.subset, title, shots, unanswered)) == request, (
                "the prompt depends on the answer it asks for"
            )
            generates = isinstance(request, GenerateRequest)
            assert generates == (protocol.judge is not None), "completions and only they need a judge"
            if not isinstance(request, GenerateRequest):
                _check_scores_per_option(task, protocol, len(_asked(request)))


def _check_asks(request: Request) -> None:
    if isinstance(request, GenerateRequest):
        assert request.prompt, "it asks nothing"
        assert request.max_new_tokens > 0, "it leaves no room for an answer"
        assert all(request.stop), "a stop text is empty"
        return
    asked = _asked(request)
    assert asked, "it asks nothing"
    assert all(a.text if isinstance(a, NextToken) else a for a in asked), "it asks an empty text"


def _asked(request: ScoreRequest | SpanRequest) -> Sequence[str | NextToken]:
    return request.texts if isinstance(request, SpanRequest) else request.continuations


def _check_scores_per_option(task: Task, protocol: Protocol, n_asked: int) -> None:
    answered = ScoreResponse(tuple(ContinuationScore(-1.0 - j, 1, is_greedy=False) for j in range(n_asked)))
    logprobs, n_tokens = protocol.combine(answered)
    scores = protocol.choice_scores(logprobs, n_tokens)
    n_options = len(task.labels(len(logprobs)))
    assert len(logprobs) == len(n_tokens) == len(scores) == n_options, (
        f"{len(logprobs)} log-probabilities, {len(n_tokens)} token counts and {len(scores)} scores "
        f"for {n_options} options"
    )

"""The rungs from data to outcomes, and on which of them two sides of a task part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from evalkit.diff import tokens
from evalkit.diff.sides import Key, TaskSide
from evalkit.types import Outcome

Rung = Literal["data", "prompts", "token_ids", "responses", "outcomes"]
RUNGS: tuple[Rung, ...] = ("data", "prompts", "token_ids", "responses", "outcomes")

Status = Literal["equal", "differs", "unknown"]


@dataclass(frozen=True, slots=True)
class Step:
    """One rung of one task."""

    rung: Rung
    status: Status
    keys: tuple[Key, ...]
    """Samples that differ, where that can be said of samples."""
    n: int
    """Samples compared."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Samples of one task on both sides."""

    both: tuple[Key, ...]
    """In the order of the first side."""
    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]


def pair(a: TaskSide, b: TaskSide) -> Pairs:
    """Match samples by subset and id."""
    return Pairs(
        tuple(key for key in a.samples if key in b.samples),
        tuple(key for key in a.samples if key not in b.samples),
        tuple(key for key in b.samples if key not in a.samples),
    )


def climb(a: TaskSide, b: TaskSide, pairs: Pairs) -> list[Step]:
    """Compare rung by rung, by the hashes of the whole task and, where samples say it, sample by sample."""
    return [_step(rung, a, b, pairs) for rung in RUNGS]


def first_difference(steps: Sequence[Step]) -> Step | None:
    """The lowest rung that differs."""
    return next((step for step in steps if step.status == "differs"), None)


def _step(rung: Rung, a: TaskSide, b: TaskSide, pairs: Pairs) -> Step:
    differ = _DIFFER[rung]
    keys = tuple(key for key in pairs.both if differ(a.samples[key], b.samples[key]))
    mine, theirs = a.hashes.get(rung), b.hashes.get(rung)
    if mine and theirs and not (pairs.only_a or pairs.only_b):
        status: Status = "equal" if mine == theirs else "differs"
    elif keys:
        status = "differs"
    else:
        # Equal samples say nothing of what samples do not hold.
        status = "unknown" if rung in ("data", "token_ids") else "equal"
    return Step(rung, status, keys, len(pairs.both))


def _by(what: Callable[[Outcome], object]) -> Callable[[Outcome, Outcome], bool]:
    return lambda a, b: what(a) != what(b)


_DIFFER: dict[Rung, Callable[[Outcome, Outcome], bool]] = {
    "data": _by(lambda o: o.target),
    "prompts": _by(lambda o: o.prompt_sha256),
    "token_ids": tokens.differ,
    "responses": _by(lambda o: (o.choice_logprobs, o.completions, o.error)),
    "outcomes": _by(lambda o: (o.prediction, o.correct)),
}
"""Whether a sample differs on a rung, by what it holds of that."""

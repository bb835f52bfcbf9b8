"""The rungs from data to outcomes, and on which of them two sides of a task part."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from evalkit.diff.sides import Key, TaskSide
from evalkit.types import Outcome

RUNGS = ("data", "prompts", "token_ids", "responses", "outcomes")
Rung = Literal["data", "prompts", "token_ids", "responses", "outcomes"]

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


def _step(rung: str, a: TaskSide, b: TaskSide, pairs: Pairs) -> Step:
    compared = _COMPARED.get(rung)
    keys = tuple(_differing(a, b, pairs, compared)) if compared else ()
    if rung == "data":
        keys = tuple(key for key in pairs.both if a.samples[key].target != b.samples[key].target)
    mine, theirs = a.hashes.get(rung), b.hashes.get(rung)
    if mine and theirs and not (pairs.only_a or pairs.only_b):
        status: Status = "equal" if mine == theirs else "differs"
    elif keys:
        status = "differs"
    else:
        # Equal samples say nothing of what samples do not hold.
        status = "unknown" if rung in ("data", "token_ids") else "equal"
    return Step(rung, status, keys, len(pairs.both))  # type: ignore[arg-type]


def _differing(
    a: TaskSide, b: TaskSide, pairs: Pairs, compared: Callable[[Outcome], object]
) -> Iterator[Key]:
    for key in pairs.both:
        if compared(a.samples[key]) != compared(b.samples[key]):
            yield key


_COMPARED: dict[str, Callable[[Outcome], object]] = {
    "prompts": lambda o: o.prompt_sha256,
    "responses": lambda o: (o.choice_logprobs, o.completions, o.error),
    "outcomes": lambda o: (o.prediction, o.correct),
}
"""What of a sample belongs to a rung."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """How far the log-probabilities of the same options lie apart, in nats."""

    n: int
    """Options compared."""
    median: float
    largest: float
    key: Key
    """Sample of the largest difference."""


def scatter(a: TaskSide, b: TaskSide, pairs: Pairs) -> Scatter | None:
    """Compare the log-probabilities of samples that have as many options on both sides; None without any."""
    gaps: list[tuple[float, Key]] = []
    for key in pairs.both:
        mine, theirs = a.samples[key].choice_logprobs, b.samples[key].choice_logprobs
        if mine and theirs and len(mine) == len(theirs):
            gaps += [(abs(x - y), key) for x, y in zip(mine, theirs, strict=True)]
    if not gaps:
        return None
    largest, key = max(gaps)
    return Scatter(len(gaps), statistics.median(gap for gap, _ in gaps), largest, key)

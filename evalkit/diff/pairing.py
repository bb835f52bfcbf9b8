"""Which tasks and samples of two sides stand for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from evalkit.diff.sides import Key, Side, TaskSide
from evalkit.errors import UsageError
from evalkit.types import Outcome


@dataclass(frozen=True)
class Pair:
    """One task on both sides, its samples matched by subset and id."""

    a: TaskSide
    b: TaskSide

    @property
    def sides(self) -> tuple[TaskSide, TaskSide]:
        """A and B."""
        return self.a, self.b

    @property
    def has_log(self) -> bool:
        """Whether another harness logged one side, and so did not put down all that a run does."""
        return self.a.is_log or self.b.is_log

    @cached_property
    def both(self) -> tuple[Key, ...]:
        """Samples on both sides, in the order of A."""
        return tuple(key for key in self.a.samples if key in self.b.samples)

    @cached_property
    def only_a(self) -> tuple[Key, ...]:
        """Samples of A alone."""
        return tuple(key for key in self.a.samples if key not in self.b.samples)

    @cached_property
    def only_b(self) -> tuple[Key, ...]:
        """Samples of B alone."""
        return tuple(key for key in self.b.samples if key not in self.a.samples)

    def of(self, key: Key) -> tuple[Outcome, Outcome]:
        """A shared sample in A and in B."""
        return self.a.samples[key], self.b.samples[key]


def pairs(a: Side, b: Side) -> list[Pair]:
    """Match tasks by resolved name, then by benchmark and protocol, then by benchmark.

    Raises:
        UsageError: no task, or no sample of those there are, is on both sides.
    """
    found = [Pair(*_with_the_same_ids(mine, theirs)) for mine, theirs in _matched(a, b)]
    if not found:
        raise UsageError(
            f"nothing to compare: {a.name} has {', '.join(a.tasks) or 'no task'}; "
            f"{b.name} has {', '.join(b.tasks) or 'no task'}"
        )
    if not any(pair.both for pair in found):
        first = found[0]
        raise UsageError(
            f"nothing to compare: no sample is on both sides; {a.name} has {_examples(first.a)}, "
            f"{b.name} has {_examples(first.b)}"
        )
    return found


def _matched(a: Side, b: Side) -> Iterator[tuple[TaskSide, TaskSide]]:
    rest, left = dict(a.tasks), dict(b.tasks)
    partner: dict[str, TaskSide] = {}
    for alike in _ALIKE:
        for mine in list(rest.values()):
            theirs = next((other for other in left.values() if alike(mine) == alike(other)), None)
            if theirs is not None:
                partner[mine.name] = theirs
                del rest[mine.name], left[theirs.name]
    yield from ((mine, partner[name]) for name, mine in a.tasks.items() if name in partner)


_ALIKE: tuple[Callable[[TaskSide], Any], ...] = (
    lambda side: side.name,
    lambda side: (side.benchmark, side.protocol),
    lambda side: side.benchmark,
)
"""What tasks on both sides share that belong together, strictest first."""


def _with_the_same_ids(a: TaskSide, b: TaskSide) -> tuple[TaskSide, TaskSide]:
    """Where a log numbers samples otherwise, name them as the other side names the same prompts."""
    if not a.samples.keys().isdisjoint(b.samples):
        return a, b
    if b.is_log:
        return a, _renamed(b, a)
    return (_renamed(a, b), b) if a.is_log else (a, b)


def _renamed(log: TaskSide, other: TaskSide) -> TaskSide:
    known, keys = _by_prompt(other.samples), _by_prompt(log.samples)
    names = {key: known[prompt] for prompt, key in keys.items() if prompt in known}
    return replace(log, samples={names.get(key, key): outcome for key, outcome in log.samples.items()})


def _by_prompt(samples: Mapping[Key, Outcome]) -> dict[str, Key]:
    """Samples by prompt, but for those that share one."""
    found: dict[str, list[Key]] = {}
    for key, outcome in samples.items():
        found.setdefault(outcome.prompt_sha256, []).append(key)
    return {prompt: keys[0] for prompt, keys in found.items() if len(keys) == 1}


def _examples(side: TaskSide) -> str:
    """Two of its samples by name."""
    return " and ".join("/".join(key) for key in list(side.samples)[:2]) or "none"

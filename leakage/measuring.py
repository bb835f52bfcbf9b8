"""The part of a leakage run that needs the model: all of a benchmark's items in every order, and controls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evalkit.backends.base import Backend
from evalkit.leakage.benchmark import Benchmark
from evalkit.leakage.items import Item
from evalkit.leakage.options import LeakageOptions
from evalkit.leakage.order_test import ranks
from evalkit.leakage.scores import ItemScores, PermutationScores
from evalkit.leakage.scoring import PART, Scored, item_generator, score
from evalkit.leakage.sequential import Decision, Stopping
from evalkit.leakage.source_exposure import swapped
from evalkit.runner import Progress
from evalkit.store import RunStore

SEQUENTIAL_PART = 32
"""Items between two looks at the evidence."""


@dataclass
class Measured:
    """What the model said of one benchmark."""

    scores: PermutationScores
    excluded: Counter[str] = field(default_factory=Counter)
    """Why items have no scores, and how many."""
    errors: Counter[str] = field(default_factory=Counter)
    """What failed and may be tried again."""
    tokens_logical: int = 0
    sequential: dict[str, Any] | None = None
    """Where a sequential run stopped, and why."""


class Measurer:
    """Scores benchmarks on one model, resumably."""

    def __init__(
        self,
        backend: Backend,
        store: RunStore,
        options: LeakageOptions,
        progress: Progress,
        n_hypotheses: int,
    ) -> None:
        """`store` has begun; the evidence at which scoring stops suffices among so many hypotheses."""
        self._alpha = options.alpha / n_hypotheses
        self._backend, self._store = backend, store
        self._options, self._progress = options, progress
        self._earlier = store.responses()

    def benchmark(self, benchmark: Benchmark, *, shuffled: bool) -> Measured:
        """Score a benchmark; one whose publisher shuffled options may stop early, if that is wanted."""
        items = benchmark.items
        if self._options.sequential and shuffled and self._options.wants("order"):
            return self._until_decided(benchmark)
        order = range(len(items))
        found = self._score(benchmark.name, benchmark.name, items, _parts(order, PART))
        return _collected(benchmark.name, [one for part in found for one in part])

    def controls(self, benchmark: Benchmark, measured: Measured) -> Measured:
        """Score items again with options swapped between items of their subset."""
        scored = {(item.subset, item.sample_id) for item in measured.scores.items}
        counterparts = swapped(benchmark.items, self._options.seed)
        wanted = [i for i, item in enumerate(counterparts) if (item.subset, item.sample_id) in scored]
        chosen = self._drawn(counterparts, wanted)
        found = self._score(benchmark.name, f"{benchmark.name} (swapped)", counterparts, _parts(chosen, PART))
        return _collected(benchmark.name, [one for part in found for one in part])

    def _drawn(self, items: Sequence[Item], wanted: Sequence[int]) -> list[int]:
        """Some positions, drawn by a lot of each item's own: other models' runs draw the same items."""
        lots = {i: item_generator(items[i], self._options.seed).random() for i in wanted}
        return sorted(sorted(wanted, key=lots.__getitem__)[: self._options.controls])

    def _until_decided(self, benchmark: Benchmark) -> Measured:
        """Score items in random order until the evidence suffices or futility is shown."""
        options, items = self._options, benchmark.items
        order = np.random.default_rng(options.seed).permutation(len(items)).tolist()
        stopping = Stopping(self._alpha, options.smallest)
        found: list[Scored] = []
        decision: Decision = "continue"
        parts = _parts(order, SEQUENTIAL_PART)
        for part in self._score(benchmark.name, benchmark.name, items, parts):
            found += part
            fresh = tuple(one.scores for one in part if one.scores is not None)
            decision = stopping.decide(ranks(PermutationScores(benchmark.name, fresh), seed=options.seed))
            if decision != "continue":
                break
        self._progress.finish()
        measured = _collected(benchmark.name, sorted(found, key=lambda one: one.index))
        measured.sequential = {
            "decision": decision,
            "items": len(found),
            "of_items": len(items),
            "log_e_value": stopping.process.log_value,
            "upper_fraction": stopping.upper,
        }
        return measured

    def _score(
        self, task: str, name: str, items: Sequence[Item], parts: Sequence[Sequence[int]]
    ) -> Iterator[list[Scored]]:
        earlier = self._earlier.get(name, {})
        self._progress.start(name, sum(map(len, parts)), 0)
        for part in score(
            self._backend,
            items,
            parts,
            self._options.measure,
            earlier,
            lambda index, response: self._store.append(name, index, response),
        ):
            for one in part:
                self._progress.advance(one.tokens_logical, self._backend.usage.tokens_computed)
            yield part
        self._progress.finish()


def _parts(order: Sequence[int], size: int) -> list[Sequence[int]]:
    return [order[i : i + size] for i in range(0, len(order), size)]


def _collected(task: str, found: Sequence[Scored]) -> Measured:
    kept: list[ItemScores] = [one.scores for one in found if one.scores is not None]
    problems = [one for one in found if one.problem is not None]
    return Measured(
        PermutationScores(task, tuple(kept)),
        Counter(str(one.problem) for one in problems if not one.is_error),
        Counter(str(one.problem) for one in problems if one.is_error),
        sum(one.tokens_logical for one in found),
    )

"""In which order the samples of a task are picked, so that every beginning stands for the whole."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evalkit.gate.comparison import CORPUS_METRICS, weigh_samples
from evalkit.gate.outcomes import TaskOutcomes
from evalkit.stats.intervals import Floats
from evalkit.stats.weights import kish

_LARGEST_VARIANCE = 0.25
"""Of scores in [0, 1]."""


@dataclass(frozen=True)
class Frame:
    """The samples of a task that have a score, in the order in which they are picked."""

    task: TaskOutcomes
    metric: str
    rows: NDArray[np.intp]
    """Shape (n,)."""
    variance: float
    """Of single scores."""

    @classmethod
    def of(cls, task: TaskOutcomes, metric: str) -> Frame:
        """Take the samples that have a score in a metric."""
        # A metric of all predictions together scores what has a score in any.
        scores = task.scores((task.headline or metric) if metric in CORPUS_METRICS else metric)
        rows = np.flatnonzero(~np.isnan(scores))
        weights, scores = weigh_samples(task, metric, rows), scores[rows]
        subsets, ids = task.columns["subset"], task.columns["sample_id"]
        order = pick([(subsets[row], ids[row]) for row in rows], scores, weights)
        variance = _LARGEST_VARIANCE
        if metric not in CORPUS_METRICS:
            variance = float(np.average((scores - np.average(scores, weights=weights)) ** 2, weights=weights))
        return cls(task, metric, rows[order], variance)

    @property
    def n(self) -> int:
        """Samples."""
        return self.rows.size

    @cached_property
    def subsets(self) -> list[str]:
        """Of every sample."""
        return [self.task.columns["subset"][row] for row in self.rows]

    def effective_n(self, n: int) -> float:
        """Samples of equal weight that say as much as the first `n` (Kish)."""
        return kish(weigh_samples(self.task, self.metric, self.rows[:n]))

    def first(self, n: int) -> dict[str, tuple[str, ...]]:
        """Ids of the first `n`, by subset."""
        found: dict[str, list[str]] = {}
        for row, subset in zip(self.rows[:n], self.subsets, strict=False):
            found.setdefault(subset, []).append(self.task.columns["sample_id"][row])
        return {subset: tuple(ids) for subset, ids in found.items()}


def pick(keys: Sequence[tuple[str, str]], scores: Floats, weights: Floats) -> NDArray[np.intp]:
    """Places of samples in an order in which they are picked, shape (n,).

    One sample of each subset comes first; then subsets take turns as parties do in a proportional election
    (Webster), each with its weight. Within a subset low and high scores take turns as well, from a random
    start, so that a part scores as the whole does. What is random is a hash of subset and id.

    Args:
        keys: subset and id of each sample.
        scores: of each, a fraction, shape (n,).
        weights: of each in the published average, shape (n,).
    """
    kinds = [(subset, int(2 * score)) for (subset, _), score in zip(keys, scores, strict=True)]
    sizes, taken = Counter(kinds), Counter[tuple[str, int]]()
    turns = []
    for at in sorted(range(len(keys)), key=lambda at: _hash(*keys[at])):
        kind = kinds[at]
        turns.append(((taken[kind] + _hash(*map(str, kind))) / sizes[kind], at))
        taken[kind] += 1
    weight_of, seats = Counter[str](), Counter[str]()
    for (subset, _), weight in zip(keys, weights, strict=True):
        weight_of[subset] += weight
    ranked = []
    for turn, at in sorted(turns):
        subset = keys[at][0]
        ranked.append((seats[subset] > 0, -weight_of[subset] / (seats[subset] + 0.5), turn, at))
        seats[subset] += 1
    return np.array([at for *_, at in sorted(ranked)], np.intp)


def _hash(*parts: str) -> float:
    """A number in [0, 1) that looks random."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48

"""How far apart two runs are in one metric, sample by sample."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import UsageError
from evalkit.gate.outcomes import Json
from evalkit.gate.pairing import Pair
from evalkit.metrics.classification import class_numbers, macro_f1_of
from evalkit.stats.intervals import Floats
from evalkit.stats.paired import (
    Difference,
    bootstrap_difference,
    mcnemar,
    paired_difference,
    randomisation_p,
)
from evalkit.stats.power import least_sd

CORPUS_METRICS = ("macro_f1",)
"""Metrics of all predictions together, which no score of a single sample gives."""

_REPRODUCED = 1e-9


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline in one metric, as fractions where higher is better."""

    baseline: float
    """Score on the samples compared."""
    candidate: float
    difference: Difference
    """How much better the candidate is."""
    effective_n: float
    """Samples of equal weight that would say as much (Kish)."""
    p_lower: float
    """One-sided p-value of the claim that the candidate is worse at all."""
    rows: NDArray[np.intp]
    """Places in the pair of the samples compared, shape (n,)."""
    changes: Floats
    """How much better each of them is, shape (n,)."""
    is_mcnemar: bool
    """Whether `p_lower` is of McNemar's test, whose statistic moves in steps of a whole sample."""

    @property
    def sd(self) -> float:
        """Standard deviation of the difference of one of the effective samples."""
        return self.difference.stderr * math.sqrt(self.effective_n)

    def p_worse(self, margin: float) -> float:
        """One-sided p-value of the claim that the candidate is worse by more than `margin`."""
        return self._at(margin).p_below(-margin - self._half) if margin else self.p_lower

    def p_better(self, margin: float) -> float:
        """One-sided p-value of the claim that it is better by more than `margin`, which is above 0."""
        return self._at(margin).p_above(margin + self._half)

    def p_not_worse(self, margin: float) -> float:
        """One-sided p-value of the claim that it is worse by less than `margin`, which is above 0."""
        return self._at(margin).p_above(-margin + self._half)

    def p_not_better(self, margin: float) -> float:
        """One-sided p-value of the claim that it is better by less than `margin`, which is above 0."""
        return self._at(margin).p_below(margin - self._half)

    def _at(self, margin: float) -> Difference:
        """The difference with the least spread it would have if its true size were `margin`."""
        least = least_sd(margin) / math.sqrt(self.effective_n)
        return replace(self.difference, stderr=max(self.difference.stderr, least))

    @property
    def _half(self) -> float:
        """Half of what one sample changes: a sum of so few values is not quite normal (Yates)."""
        return 0.5 / self.effective_n


def scored_in_both(pair: Pair, metric: str) -> NDArray[np.intp]:
    """Places in a pair of the samples that have a score in both runs, shape (n,).

    Raises:
        DataError: a score is no fraction.
    """
    if metric not in CORPUS_METRICS:
        a, b = pair.scores(metric)
        return np.flatnonzero(~np.isnan(a) & ~np.isnan(b))
    targets = np.array([target is not None for target in pair.columns("target")[0]], np.bool_)
    return np.flatnonzero(targets & ~pair.failed[0] & ~pair.failed[1])


def compare(pair: Pair, metric: str, rows: NDArray[np.intp], *, lower_is_better: bool) -> Comparison:
    """Compare two or more samples that have a score in both runs.

    Right-or-wrong scores of equal weight are tested by McNemar's exact test, others by exchanging the two
    runs' scores at random; a difference of means has the standard error of the paired differences, another
    one that of the bootstrap.

    Raises:
        UsageError: the metric cannot be compared, and why.
    """
    sign = -1.0 if lower_is_better else 1.0
    if metric in CORPUS_METRICS:
        return _compare_corpora(pair, rows, sign)
    _check_reproduced(pair, metric)
    a, b = (scores[rows] for scores in pair.scores(metric))
    subsets = pair.baseline.columns["subset"]
    weights = weigh(pair.baseline.entry, [subsets[row] for row in pair.rows[0][rows]])
    changes = sign * (b - a)
    total = float(weights.sum())
    return Comparison(
        baseline=float(weights @ a) / total,
        candidate=float(weights @ b) / total,
        difference=paired_difference(sign * b, sign * a, weights=weights),
        effective_n=total**2 / float(weights @ weights),
        p_lower=p_lower(changes, weights),
        rows=rows,
        changes=changes,
        is_mcnemar=are_right_or_wrong(changes, weights),
    )


def weigh(entry: Json, subsets: Sequence[str]) -> Floats:
    """Weight of every sample in the task's published average, shape (n,).

    Raises:
        UsageError: the run does not say which subsets make up a category.
    """
    sizes = Counter(subsets)
    if entry["average"] == "micro":
        shares = dict.fromkeys(sizes, 1.0)
    elif entry["average"] == "macro":
        shares = {subset: 1 / size for subset, size in sizes.items()}
    else:
        category = _categories(entry)
        members = Counter(category[subset] for subset in sizes)
        shares = {subset: 1 / size / members[category[subset]] for subset, size in sizes.items()}
    return np.array([shares[subset] for subset in subsets], np.float64)


def _categories(entry: Json) -> dict[str, str]:
    if "categories" not in entry:
        raise UsageError(
            f"{entry['task']}: its score is a mean over categories, and the run was made by an evalkit that "
            "did not put them down; score both runs again (evalkit rescore)"
        )
    return {subset: name for name, members in entry["categories"].items() for subset in members}


def _check_reproduced(pair: Pair, metric: str) -> None:
    """Both runs' published scores must be the weighted means that are compared."""
    for task in (pair.baseline, pair.candidate):
        scores = task.scores(metric)
        scored = np.flatnonzero(~np.isnan(scores))
        subsets = task.columns["subset"]
        weights = weigh(task.entry, [subsets[row] for row in scored])
        published = task.entry["metrics"][metric]["value"]
        if abs(float(weights @ scores[scored] / weights.sum()) - published) > _REPRODUCED:
            raise UsageError(
                f"{task.source}: {task.name}: {metric} is not the {task.entry['average']} average of its "
                "samples, so that it cannot be compared sample by sample; choose another metric in the policy"
            )


def p_lower(changes: Floats, weights: Floats) -> float:
    """One-sided p-value of the claim that samples became worse, by changes and weights of shape (n,)."""
    if are_right_or_wrong(changes, weights):
        return mcnemar(int((changes < 0).sum()), int((changes > 0).sum()))[0]
    parts = (weights * changes)[changes != 0]
    return randomisation_p(lambda swapped: parts.sum() - 2 * (swapped @ parts), parts.size)


def are_right_or_wrong(changes: Floats, weights: Floats) -> bool:
    """Whether samples of equal weight change by all or nothing, by arrays of shape (n,)."""
    return bool(np.all(weights == weights[0]) and np.isin(changes, (-1, 0, 1)).all())


def _compare_corpora(pair: Pair, rows: NDArray[np.intp], sign: float) -> Comparison:
    """Macro-F1 of the predictions of both runs."""
    targets = pair.columns("target")[0]
    a, b = ([column[row] for row in rows] for column in pair.columns("prediction"))
    gold, first, second = class_numbers([str(targets[row]) for row in rows], a, b)

    def gain(one: NDArray[np.intp], other: NDArray[np.intp], truth: NDArray[np.intp]) -> float:
        return sign * (macro_f1_of(other, truth) - macro_f1_of(one, truth))

    differ = np.flatnonzero(first != second)

    def swapped_gains(flips: NDArray[np.int8]) -> Floats:
        return np.array([swapped_gain(differ[swapped.astype(np.bool_)]) for swapped in flips])

    def swapped_gain(exchanged: NDArray[np.intp]) -> float:
        one, other = first.copy(), second.copy()
        one[exchanged], other[exchanged] = second[exchanged], first[exchanged]
        return gain(one, other, gold)

    return Comparison(
        baseline=macro_f1_of(first, gold),
        candidate=macro_f1_of(second, gold),
        difference=bootstrap_difference(
            lambda drawn: gain(first[drawn], second[drawn], gold[drawn]), np.arange(rows.size)
        ),
        effective_n=rows.size,
        p_lower=randomisation_p(swapped_gains, differ.size, 1_999),
        rows=rows,
        changes=sign * ((second == gold).astype(np.float64) - (first == gold)),
        is_mcnemar=False,
    )

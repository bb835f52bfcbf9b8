"""How far apart two runs are in one metric, sample by sample."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import UsageError
from evalkit.gate.outcomes import TaskOutcomes
from evalkit.gate.pairing import Pair
from evalkit.metrics.classification import class_numbers, macro_f1, macro_f1_of_counts
from evalkit.stats.intervals import Floats
from evalkit.stats.paired import (
    REPEATS,
    Difference,
    bootstrap_counts,
    mcnemar,
    paired_difference,
    randomisation_p,
)
from evalkit.stats.power import least_sd
from evalkit.stats.weights import kish, weigh

CORPUS_METRICS = ("macro_f1",)
"""Metrics of all predictions together, which no score of a single sample gives."""

_REPRODUCED = 1e-9

Counts = NDArray[np.int64]


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
    for task in (pair.baseline, pair.candidate):
        _check_reproduced(task, metric)
    if metric in CORPUS_METRICS:
        return _compare_corpora(pair, metric, rows, sign)
    a, b = (scores[rows] for scores in pair.scores(metric))
    weights = weigh_samples(pair.baseline, metric, pair.rows[0][rows])
    changes = sign * (b - a)
    return Comparison(
        baseline=float(np.average(a, weights=weights)),
        candidate=float(np.average(b, weights=weights)),
        difference=paired_difference(sign * b, sign * a, weights=weights),
        effective_n=kish(weights),
        p_lower=p_lower(changes, weights),
        rows=rows,
        changes=changes,
        is_mcnemar=are_right_or_wrong(changes, weights),
    )


def weigh_samples(task: TaskOutcomes, metric: str, rows: NDArray[np.intp]) -> Floats:
    """Weight of samples in a metric of a task, by row, shape (n,).

    Macro-F1 is no weighted mean, but rests on a class of few samples as much as on one of many.

    Raises:
        UsageError: the run does not say which subsets make up a category.
    """
    if metric in CORPUS_METRICS:
        targets = [task.columns["target"][row] for row in rows]
        sizes = Counter(targets)
        return np.array([1 / sizes[target] for target in targets], np.float64)
    return weigh(task.entry, [task.columns["subset"][row] for row in rows])


def _check_reproduced(task: TaskOutcomes, metric: str) -> None:
    """A published score must be what its samples' scores give."""
    published = task.entry["metrics"][metric]["value"]
    if abs(_recomputed(task, metric) - published) > _REPRODUCED:
        raise UsageError(
            f"{task.source}: {task.name}: {metric} is not the {task.entry['average']} average of its "
            "samples, so that it cannot be compared sample by sample; choose another metric in the policy"
        )


def _recomputed(task: TaskOutcomes, metric: str) -> float:
    columns = task.columns
    if metric in CORPUS_METRICS:
        answers = zip(columns["prediction"], columns["target"], columns["error"], strict=True)
        rows = [(said, target) for said, target, error in answers if target is not None and error is None]
        return macro_f1(*map(list, zip(*rows, strict=True)))
    scores = task.scores(metric)
    scored = np.flatnonzero(~np.isnan(scores))
    return float(np.average(scores[scored], weights=weigh_samples(task, metric, scored)))


def p_lower(changes: Floats, weights: Floats) -> float:
    """One-sided p-value of the claim that samples became worse, by changes and weights of shape (n,)."""
    if are_right_or_wrong(changes, weights):
        return mcnemar(int((changes < 0).sum()), int((changes > 0).sum()))[0]
    parts, counts = _grouped((weights * changes)[changes != 0])
    observed = float(parts @ counts)
    p = randomisation_p(lambda swapped: observed - 2 * (swapped @ parts), counts)
    difference = paired_difference(changes, np.zeros_like(changes), weights=weights)
    return _beyond_draws(p, difference, int(counts.sum()))


def _grouped(parts: Floats) -> tuple[Floats, Counts]:
    """Different values and how often each occurs, where that is much shorter."""
    values, counts = np.unique(parts, return_counts=True)
    if values.size > parts.size // 8:
        return parts, np.ones(parts.size, np.int64)
    return values, counts


def _beyond_draws(p: float, difference: Difference, changed: int) -> float:
    """The p-value of a randomisation test, where no draw was as low by the law of the difference.

    It is not taken below that of all `changed` samples having changed in one direction by luck.
    """
    if p > 1.5 / (REPEATS + 1):
        return p
    return min(p, max(0.5**changed, difference.p_below(0.0)))


def are_right_or_wrong(changes: Floats, weights: Floats) -> bool:
    """Whether samples of equal weight change by all or nothing, by arrays of shape (n,)."""
    return bool(np.all(weights == weights[0]) and np.isin(changes, (-1, 0, 1)).all())


def _compare_corpora(pair: Pair, metric: str, rows: NDArray[np.intp], sign: float) -> Comparison:
    """Macro-F1 of the predictions of both runs."""
    targets = pair.columns("target")[0]
    predictions = ([column[row] for row in rows] for column in pair.columns("prediction"))
    gold, first, second = class_numbers([str(targets[row]) for row in rows], *predictions)
    # Rows with the same answers are alike: a random draw need only say how many of each kind.
    kinds, counts = np.unique(np.column_stack((gold, first, second)), axis=0, return_counts=True)
    differ = kinds[:, 1] != kinds[:, 2]

    def gains(drawn: Counts) -> Floats:
        before, after = _macro_f1s(kinds, drawn, np.zeros_like(drawn))
        return sign * (after - before)

    def swapped_gains(swapped: Counts) -> Floats:
        exchanged = np.zeros((len(swapped), counts.size), np.int64)
        exchanged[:, differ] = swapped
        before, after = _macro_f1s(kinds, np.broadcast_to(counts, exchanged.shape), exchanged)
        return sign * (after - before)

    before, after = (float(f1[0]) for f1 in _macro_f1s(kinds, counts[None], np.zeros_like(counts[None])))
    difference = bootstrap_counts(gains, counts)
    p = randomisation_p(swapped_gains, counts[differ])
    return Comparison(
        baseline=before,
        candidate=after,
        difference=difference,
        effective_n=kish(weigh_samples(pair.baseline, metric, pair.rows[0][rows])),
        p_lower=_beyond_draws(p, difference, int(counts[differ].sum())),
        rows=rows,
        changes=sign * ((second == gold).astype(np.float64) - (first == gold)),
        is_mcnemar=False,
    )


def _macro_f1s(kinds: NDArray[np.intp], drawn: Counts, exchanged: Counts) -> tuple[Floats, Floats]:
    """Macro-F1 of two models on many draws of rows.

    Args:
        kinds: truth and the two predictions of each kind of row, shape (kinds, 3); -1 is no prediction.
        drawn: rows of each kind, shape (m, kinds).
        exchanged: of these, rows in which the models' predictions are exchanged.

    Returns:
        of the first and of the second model, shape (m,) each.
    """
    classes = np.arange(kinds.max() + 1)
    gold, first, second = ((column[:, None] == classes).astype(np.float64) for column in kinds.T)
    kept, in_gold = drawn - exchanged, drawn @ gold

    def macro_f1(own: Floats, other: Floats) -> Floats:
        hits = kept @ (own * gold) + exchanged @ (other * gold)
        return macro_f1_of_counts(hits, in_gold, kept @ own + exchanged @ other)

    return macro_f1(first, second), macro_f1(second, first)

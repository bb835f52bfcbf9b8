"""What the published rules flag when nothing leaked.

The method of arXiv 2409.01790 reports the share of items its rules flag, and nothing tells how many they flag
of a benchmark no model has seen. That share is far from zero. Rule a's is known exactly; rule b's depends on
what clean log-probabilities look like, and two answers are given: `iid_null` and `matched_null`. None of
them knows that a publisher's own order may be natural (numbers ascending, "all of the above" last): there,
rule a flags more than its floor without any leak.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evalkit.leakage.isolation import isolation_score
from evalkit.leakage.order_test import residuals
from evalkit.leakage.published import outlier_scores, scenario_a, scenario_b
from evalkit.leakage.scores import Floats, Orders, PermutationScores
from evalkit.stats.intervals import LEVEL

OutlierScore = Callable[[Floats], Floats]
"""Log-probabilities, shape (N, m), to an outlier score of each row's largest value, shape (N,)."""

Null = Mapping[int, Floats]
"""Outlier scores of many clean items, by the number of orders they are scored in."""

_DRAWN: dict[OutlierScore, int] = {outlier_scores: 240_000, isolation_score: 2_400_000}
"""Random log-probabilities drawn for one null: a few seconds of work."""


@dataclass(frozen=True, slots=True)
class Floor:
    """How many of so many items a rule flags although nothing leaked."""

    value: float
    """Expected flagged fraction."""
    low: float
    high: float
    """Between these lies the flagged fraction of 95 % of clean runs of as many items."""
    p_value: float
    """Share of clean runs that flag at least as many items as were flagged here."""


def order_floor(scores: PermutationScores) -> Floor:
    """Floor of rule a, exact where the publisher put options in random order.

    Of m orders of which t share the largest log-probability, the published one is among the t by chance with
    probability t / m: without ties 1/24 for four options. Nothing is assumed of the model.

    Raises:
        ValueError: there are no items.
    """
    flagged, chances = 0, []
    for _, logprobs in by_n_orders(scores):
        flagged += int(scenario_a(logprobs).sum())
        chances.append((logprobs == logprobs.max(axis=1, keepdims=True)).mean(axis=1))
    values, counts = np.unique(np.concatenate(chances), return_counts=True)
    return _floor(flagged, [stats.binom(n, chance) for n, chance in zip(counts, values, strict=True)], counts)


def null_floor(scores: PermutationScores, observed: Floats, threshold: float, null: Null) -> Floor:
    """Floor of rule b.

    A clean run is taken to flag items independently, with the probability that the null gives items of as
    many orders; that this probability is itself estimated from draws widens the interval (beta-binomial, with
    Jeffreys' prior). Items that are unequally prone to be flagged make the true interval a little narrower.

    Args:
        scores: the items.
        observed: their outlier scores, shape (N,), see `item_outlier_scores`.
        threshold: of rule b.
        null: outlier scores of clean items, by the same function.

    Raises:
        ValueError: there are no items.
    """
    sizes, laws = [], []
    for rows, logprobs in by_n_orders(scores):
        clean = null[logprobs.shape[1]]
        hits = int(scenario_b(clean, threshold).sum())
        sizes.append(len(rows))
        laws.append(stats.betabinom(len(rows), hits + 0.5, len(clean) - hits + 0.5))
    return _floor(int(scenario_b(observed, threshold).sum()), laws, np.array(sizes, np.int64))


def iid_null(scores: PermutationScores, score: OutlierScore) -> Null:
    """The null of pure noise: log-probabilities independent and normal over an item's orders.

    No language model is like that, but the thresholds can be read against it: 24 such numbers are flagged at
    -0.2 in 35 % of cases (infinite forest), 120 in 87 %. As outlier scores change neither with location nor
    with scale, it depends on the number of orders alone.
    """
    return {logprobs.shape[1]: iid_scores(logprobs.shape[1], score) for _, logprobs in by_n_orders(scores)}


def matched_null(scores: PermutationScores, score: OutlierScore, seed: int = 0) -> Null:
    """The null for these very items, without what makes single orders of theirs stand out.

    What is explained by which option stands in which slot and which follows which is kept; the remainder is
    turned in a random direction of its space, at the same length. It is assumed that without a leak the
    remainder has no preferred direction, as normal noise has none, whatever its size (rotation test;
    Langsrud, Statistics and Computing 15, 2005). Of three options too few degrees of freedom would be left;
    only their mean is kept.
    """
    generator = np.random.default_rng(seed)
    n_values = sum(len(item.logprobs) for item in scores.items)
    repeats = max(1, _DRAWN[score] // n_values)
    drawn: dict[int, list[Floats]] = defaultdict(list)
    for group in scores.groups():
        repeated = np.repeat(group.logprobs, repeats, axis=0)
        drawn[len(group.orders)].append(rotated(group.orders, repeated, generator))
    return {m: score(np.concatenate(rows)) for m, rows in drawn.items()}


def rotated(orders: Orders, logprobs: Floats, generator: np.random.Generator) -> Floats:
    """Log-probabilities whose residuals point in a random direction, shape (N, m).

    Args:
        orders: shape (m, n).
        logprobs: shape (N, m).
        generator: of the directions.
    """
    found = residuals(orders, logprobs)
    direction = residuals(orders, generator.standard_normal(logprobs.shape))
    length = np.linalg.norm(found, axis=1, keepdims=True) / np.linalg.norm(direction, axis=1, keepdims=True)
    return np.asarray(logprobs - found + direction * length)


def item_outlier_scores(scores: PermutationScores, score: OutlierScore) -> Floats:
    """Outlier score of every item, shape (N,)."""
    found = np.empty(len(scores))
    for rows, logprobs in by_n_orders(scores):
        found[rows] = score(logprobs)
    return found


def by_n_orders(scores: PermutationScores) -> Iterator[tuple[NDArray[np.intp], Floats]]:
    """Positions, shape (N,), and log-probabilities, shape (N, m), of the items scored in m orders each."""
    sizes = np.array([len(item.logprobs) for item in scores.items], np.intp)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        yield rows, np.stack([scores.items[row].logprobs for row in rows])


def _floor(flagged: int, laws: list[stats.rv_frozen], sizes: NDArray[np.int64]) -> Floor:
    """Floor where the count of flagged items is a sum of independent ones, each of so many items at most."""
    count = np.ones(1)
    for law, size in zip(laws, sizes, strict=True):
        count = np.convolve(count, law.pmf(np.arange(size + 1)))
    n = len(count) - 1
    tails = (1 - LEVEL) / 2
    low, high = np.searchsorted(np.cumsum(count), [tails, 1 - tails]) / n
    # Smallest first, so that nothing is lost of a tail far out.
    p_value = min(1.0, float(count[flagged:][::-1].sum()))
    return Floor(float(np.arange(n + 1) @ count / n), float(low), float(high), p_value)


@lru_cache
def iid_scores(m: int, score: OutlierScore) -> Floats:
    """Outlier scores of items whose m orders are independent and normal."""
    return score(np.random.default_rng(m).standard_normal((_DRAWN[score] // m, m)))

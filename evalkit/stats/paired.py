"""Two models on the same samples: the difference of their scores, from sample to sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from evalkit.stats.intervals import LEVEL, ROUNDING, Floats, sandwich

REPEATS = 9_999
"""Random exchanges of a randomisation test."""
_FLIPS_AT_ONCE = 2**21


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher one model scores than another on the same samples."""

    value: float
    """Weighted mean of a - b, or the difference of two statistics."""
    stderr: float
    freedom: float
    """Degrees of freedom of Student's law; infinite for the normal one."""
    n: int
    """Samples compared."""

    @property
    def ci95(self) -> tuple[float, float]:
        """Two-sided 95 % interval."""
        return self.bound(1 - (1 + LEVEL) / 2), self.bound((1 + LEVEL) / 2)

    @property
    def p(self) -> float:
        """Two-sided p-value against no difference."""
        return min(1.0, 2 * min(self.p_below(0.0), self.p_above(0.0)))

    def to_json(self) -> dict[str, Any]:
        """Value, interval and p-value, ready for JSON."""
        return {"value": self.value, "stderr": self.stderr, "ci95": list(self.ci95), "p": self.p, "n": self.n}

    def bound(self, level: float) -> float:
        """Quantile of the confidence distribution: the true difference lies below it at this confidence."""
        return self.value + float(_quantile(self.freedom, level)) * self.stderr

    def p_below(self, reference: float) -> float:
        """One-sided p-value of the claim that the true difference is below `reference`."""
        return self._tail(self.value - reference)

    def p_above(self, reference: float) -> float:
        """One-sided p-value of the claim that the true difference is above `reference`."""
        return self._tail(reference - self.value)

    def _tail(self, excess: float) -> float:
        if self.stderr <= ROUNDING:
            return 1.0 if excess > -ROUNDING else 0.0
        return float(_cdf(self.freedom, excess / self.stderr))


def paired_difference(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None, weights: ArrayLike | None = None
) -> Difference:
    """Difference of two weighted means over the same samples.

    The spread is that of the differences a_i - b_i, so that what makes a sample hard for both cancels. With C
    clusters, samples are independent between them only, and the law is Student's with C - 1 degrees of
    freedom. Where the clusters tell nothing of the spread (there is one, or all differ by the same) the
    samples are taken as independent; where those differ by the same too, the spread is taken about no
    difference, for a standard error of 0 would claim certainty after two samples.

    Source: Miller, "Adding Error Bars to Evals", arXiv:2411.00640, section 4.2.

    Args:
        a: score of each sample with one model, shape (n,).
        b: the same with the other.
        clusters: cluster of each sample, shape (n,); None takes every sample as independent.
        weights: weight of each sample, shape (n,); None weighs all alike.

    Raises:
        ValueError: the shapes differ, there are fewer than two samples, or a score is not finite.
    """
    d = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    w = np.ones_like(d) if weights is None else np.asarray(weights, np.float64)
    cluster_of = None if clusters is None else np.unique(clusters, return_inverse=True)[1]
    shapes = [one.shape for one in (d, w, cluster_of) if one is not None]
    if d.ndim != 1 or d.size < 2 or len(set(shapes)) > 1:
        raise ValueError(f"differences, weights and clusters are {shapes}: at least two, all alike")
    if not np.isfinite(d).all():
        raise ValueError("a score is not finite")
    total = float(w.sum())
    mean = float(w @ d) / total
    for residuals in _residuals(d, w, mean, cluster_of):
        stderr = sandwich(residuals, total) or 0.0
        if stderr > ROUNDING:
            return Difference(mean, stderr, residuals.size - 1, d.size)
    return Difference(0.0, 0.0, d.size - 1, d.size)


def paired_half_widths(scores: Floats, weights: Floats) -> Floats:
    """Half the widths of the intervals of `paired_difference` between every two of many models at once.

    Args:
        scores: of the same samples, which are independent, shape (models, n), n > 1.
        weights: of the samples, shape (n,).

    Returns:
        Shape (models, models).
    """
    n, total = weights.size, float(weights.sum())
    residuals = weights * (scores - (scores @ weights / total)[:, None])
    scale = math.sqrt(n / (n - 1)) / total
    stderrs = scale * np.array([np.linalg.norm(residuals - one, axis=1) for one in residuals])
    halves = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * stderrs
    for i, j in np.argwhere(np.triu(stderrs <= ROUNDING, 1)):
        low, high = paired_difference(scores[i], scores[j], weights=weights).ci95
        halves[i, j] = halves[j, i] = (high - low) / 2
    return halves


def _residuals(d: Floats, w: Floats, mean: float, cluster_of: NDArray[np.intp] | None) -> Iterator[Floats]:
    """What the spread may be taken from, best first: sums over clusters, samples, samples about 0."""
    about_mean = w * (d - mean)
    if cluster_of is not None:
        yield np.bincount(cluster_of, weights=about_mean).astype(np.float64)
    yield about_mean
    yield w * d


def mcnemar(losses: int, gains: int) -> tuple[float, float]:
    """Exact p-values of two models that are right or wrong on the same samples.

    Given the number of samples on which they differ, a loss is as likely as a gain if they are equally good.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947), in its exact binomial form.

    Args:
        losses: samples that only the first model has right.
        gains: samples that only the second has right.

    Returns:
        one-sided p-value of the claim that the second is worse, and the two-sided one.
    """
    n = losses + gains
    # At least so many losses is at most so many gains, and the other way round.
    worse, better = float(special.bdtr(gains, n, 0.5)), float(special.bdtr(losses, n, 0.5))
    return worse, min(1.0, 2 * min(worse, better))


def randomisation_p(
    statistic: Callable[[NDArray[np.int64]], Floats],
    sizes: NDArray[np.int64],
    repeats: int = REPEATS,
    seed: int = 0,
) -> float:
    """One-sided p-value that a statistic of pairs is as low as it is by luck.

    Under no difference the two outcomes of a sample can be exchanged. The statistic is compared with its
    values when each pair is exchanged by coin flip; counting the observed value among them makes the test
    exact (Phipson and Smyth, "Permutation P-values should never be zero", 2010). It is never below
    1 / (repeats + 1).

    Args:
        statistic: how many pairs of each group are exchanged, shape (m, groups), to the m statistics, for
            example differences.
        sizes: pairs that are alike, so that it does not matter which of them are exchanged, shape (groups,).
        repeats: random exchanges.
        seed: of the coin flips.
    """
    generator = np.random.default_rng(seed)
    observed = statistic(np.zeros((1, sizes.size), np.int64))[0]
    at_once = max(1, _FLIPS_AT_ONCE // max(1, sizes.size))
    low = 0
    for done in range(0, repeats, at_once):
        shape = min(at_once, repeats - done), sizes.size
        single = sizes.max(initial=1) == 1  # coin flips are faster than binomial draws
        flips = generator.integers(0, 2, shape, np.int8) if single else generator.binomial(sizes, 0.5, shape)
        low += int((statistic(flips) <= observed + ROUNDING).sum())
    return (low + 1) / (repeats + 1)


def bootstrap_difference(
    statistic: Callable[[NDArray[np.intp]], float], clusters: ArrayLike, repeats: int = 1000, seed: int = 0
) -> Difference:
    """Difference of two statistics of the same samples that are no means, such as macro-F1.

    Whole clusters are drawn with replacement, and both models are judged on the same draw; the standard
    error is the sd over the draws, with a normal law (Efron, "Bootstrap Methods: Another Look at the
    Jackknife", 1979; Field and Welsh, "Bootstrapping clustered data", JRSS B 69 (2007)).

    Args:
        statistic: row numbers to the difference of the two statistics on those rows.
        clusters: cluster of each row, shape (n,); as many as rows for independent ones.
        repeats: resamples drawn.
        seed: of the resampling.
    """
    names, cluster_of = np.unique(np.asarray(clusters), return_inverse=True)
    order = np.argsort(cluster_of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(cluster_of))[:-1])
    generator = np.random.default_rng(seed)
    draws = [
        statistic(np.concatenate([members[c] for c in generator.integers(0, names.size, names.size)]))
        for _ in range(repeats)
    ]
    return Difference(statistic(np.arange(order.size)), float(np.std(draws, ddof=1)), math.inf, order.size)


def bootstrap_counts(
    statistic: Callable[[NDArray[np.int64]], Floats],
    counts: NDArray[np.int64],
    repeats: int = 1000,
    seed: int = 0,
) -> Difference:
    """The same for independent rows of which many are alike, by how often each kind is drawn.

    Args:
        statistic: rows of each kind, shape (m, kinds), to the m differences.
        counts: rows of each kind that there are, shape (kinds,).
        repeats: resamples drawn.
        seed: of the resampling.
    """
    n = int(counts.sum())
    draws = statistic(np.random.default_rng(seed).multinomial(n, counts / n, repeats))
    return Difference(float(statistic(counts[None])[0]), float(np.std(draws, ddof=1)), math.inf, n)


def _quantile(freedom: float, level: float) -> Floats:
    return np.asarray(special.stdtrit(freedom, level) if math.isfinite(freedom) else special.ndtri(level))


def _cdf(freedom: float, value: float) -> Floats:
    return np.asarray(special.stdtr(freedom, value) if math.isfinite(freedom) else special.ndtr(value))

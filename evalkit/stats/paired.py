"""Two models on the same samples: the difference of their scores, from sample to sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from evalkit.stats.intervals import LEVEL, ROUNDING, Floats, sandwich


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher one model scores than another on the same samples."""

    value: float
    """Weighted mean of a - b."""
    stderr: float
    ci95: tuple[float, float]
    p: float
    """Two-sided."""
    n: int


def paired_difference(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None, weights: ArrayLike | None = None
) -> Difference:
    """Difference of two weighted means over the same samples, which are independent between clusters only.

    The spread is that of the differences a_i - b_i, so that what makes a sample hard for both cancels.
    With C > 1 clusters the interval is Student's with C - 1 degrees of freedom and the standard error that of
    `clustered_mean`. Where the clusters tell nothing of the spread (there is one, or all differ by the same)
    the samples are taken as independent; where those differ by the same too, the spread is taken about no
    difference, for a standard error of 0 would claim certainty after two samples.

    Source: Miller, "Adding Error Bars to Evals", arXiv:2411.00640, section 4.2.

    Args:
        a: score of each sample with one model, shape (n,).
        b: the same with the other.
        clusters: cluster of each sample, shape (n,); None takes the samples as independent.
        weights: weight of each sample, shape (n,); None weighs all alike.

    Raises:
        ValueError: the shapes differ, or there are fewer than two samples.
    """
    d = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    w = np.ones_like(d) if weights is None else np.asarray(weights, np.float64)
    cluster_of = None if clusters is None else np.unique(clusters, return_inverse=True)[1]
    shapes = [one.shape for one in (d, w, cluster_of) if one is not None]
    if d.ndim != 1 or d.size < 2 or len(set(shapes)) > 1:
        raise ValueError(f"differences, weights and clusters are {shapes}: at least two, all alike")
    total = float(w.sum())
    mean = float(w @ d) / total
    for residuals in _residuals(d, w, mean, cluster_of):
        stderr, units = sandwich(residuals, total) or 0.0, residuals.size
        if stderr > ROUNDING:
            half = float(special.stdtrit(units - 1, (1 + LEVEL) / 2)) * stderr
            p = 2 * float(special.stdtr(units - 1, -abs(mean) / stderr))
            return Difference(mean, stderr, (mean - half, mean + half), p, d.size)
    return Difference(0.0, 0.0, (0.0, 0.0), 1.0, d.size)


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

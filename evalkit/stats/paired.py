"""Two models on the same samples: the difference of their scores, from sample to sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from evalkit.stats.intervals import LEVEL, sandwich


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
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike, weights: ArrayLike | None = None
) -> Difference:
    """Difference of two weighted means over the same samples, which are independent between clusters only.

    The spread is that of the differences a_i - b_i, so that what makes a sample hard for both cancels.
    With C > 1 clusters the interval is Student's with C - 1 degrees of freedom and the standard error that of
    `clustered_mean`; with one cluster, the samples are taken as independent.

    Source: Miller, "Adding Error Bars to Evals", arXiv:2411.00640, section 4.2.

    Args:
        a: score of each sample with one model, shape (n,).
        b: the same with the other.
        clusters: cluster of each sample, shape (n,).
        weights: weight of each sample, shape (n,); None weighs all alike.

    Raises:
        ValueError: the shapes differ, or there are fewer than two samples.
    """
    d = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    w = np.ones_like(d) if weights is None else np.asarray(weights, np.float64)
    _, cluster_of = np.unique(np.asarray(clusters), return_inverse=True)
    if not d.shape == w.shape == cluster_of.shape or d.size < 2:
        raise ValueError(
            f"differences {d.shape}, weights {w.shape}, clusters {cluster_of.shape}: at least two, all alike"
        )
    mean = float(w @ d / w.sum())
    residuals = w * (d - mean)
    if cluster_of.max() > 0:
        residuals = np.bincount(cluster_of, residuals).astype(np.float64)
    stderr = sandwich(residuals, float(w.sum())) or 0.0
    freedom = residuals.size - 1
    half = float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * stderr
    if stderr:
        p = 2 * float(special.stdtr(freedom, -abs(mean) / stderr))
    else:
        p = 1.0 if math.isclose(mean, 0.0, abs_tol=1e-12) else 0.0
    return Difference(mean, stderr, (mean - half, mean + half), p, d.size)

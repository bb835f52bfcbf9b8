"""Estimates with standard errors and 95 % intervals for metrics whose values lie in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Confidence level of every interval in a result document."""

ROUNDING = 1e-12
"""A standard error below this is rounding left over from clusters that agree exactly."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric with its uncertainty."""

    value: float
    stderr: float | None
    """Standard error; None where one sample leaves it undefined."""
    ci95: tuple[float, float]
    n: int
    """Number of samples the value rests on."""

    def to_json(self) -> dict[str, Any]:
        """Return the form used in `results.json`."""
        return {"value": self.value, "stderr": self.stderr, "ci95": list(self.ci95), "n": self.n}


def wilson(successes: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson score interval of a proportion.

    With p = successes / n and z the normal quantile of (1 + level) / 2, the bounds are
    (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). `n` may be fractional (an effective sample
    size); n = 0 says nothing and gives (0, 1).

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927).

    Raises:
        ValueError: if `successes` is not between 0 and `n`, or `level` not between 0 and 1.
    """
    if not 0 <= successes <= n or not 0 < level < 1:
        raise ValueError(f"wilson needs 0 <= successes <= n and 0 < level < 1, not {successes}, {n}, {level}")
    if n == 0:
        return 0.0, 1.0
    z = float(special.ndtri((1 + level) / 2))
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    # At p = 0 and p = 1 one bound is p itself; rounding must not push it past.
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return low, high


def clopper_pearson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson, Biometrika 26 (1934))."""
    low = special.betaincinv(successes, n - successes + 1, (1 - level) / 2) if successes else 0.0
    high = special.betaincinv(successes + 1, n - successes, (1 + level) / 2) if successes < n else 1.0
    return float(low), float(high)


def independent_mean(values: ArrayLike, weights: ArrayLike | None = None) -> Estimate:
    """Weighted mean of independent samples with a Wilson interval.

    stderr = sqrt(sum_i (w_i (x_i - mean))²) / sum w · sqrt(n/(n-1)), which is sd / sqrt(n) for equal
    weights. The interval is Wilson's at Kish's effective sample size (sum w)² / sum w²; it is exact in
    form for 0/1 values and wide for fractions, whose variance is at most mean·(1-mean).

    Source: Kish, "Survey Sampling" (1965), for the effective sample size.

    Raises:
        ValueError: if there are no values, or values outside [0, 1], or weights that are not positive.
    """
    x, w = _checked(values, weights)
    mean = _weighted_mean(x, w)
    effective_n = float(w.sum() ** 2 / (w**2).sum())
    return Estimate(
        value=mean,
        stderr=sandwich(w * (x - mean), w.sum()),
        ci95=wilson(mean * effective_n, effective_n),
        n=x.size,
    )


def clustered_mean(values: ArrayLike, clusters: ArrayLike, weights: ArrayLike | None = None) -> Estimate:
    """Weighted mean whose samples are independent between clusters only.

    With C clusters, stderr = sqrt(sum_c (sum_{i in c} w_i (x_i - mean))²) / sum w · sqrt(C/(C-1)), and
    the interval is mean ± t(C-1)·stderr, cut to [0, 1]. Weights of 1 give the micro average; weights of
    1/n_cluster give the macro average, for which stderr is the sd of the cluster means / sqrt(C).

    Where the clusters tell nothing of the spread (there is one, or all deviate by nothing) the samples
    are taken as independent, see `independent_mean`: an interval of no width would claim certainty.

    Sources: Liang and Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 73
    (1986); Miller, "Adding Error Bars to Evals", arXiv:2411.00640, for its use on benchmarks.

    Args:
        values: samples, shape (n,), in [0, 1].
        clusters: cluster of each sample, shape (n,), any type that can be sorted.
        weights: weight of each sample, shape (n,); None weighs all alike.

    Raises:
        ValueError: as `independent_mean`, and if `clusters` has another length.
    """
    x, w = _checked(values, weights)
    names, cluster_of = np.unique(np.asarray(clusters), return_inverse=True)
    if cluster_of.shape != x.shape:
        raise ValueError(f"{x.size} values but clusters of shape {cluster_of.shape}")
    mean = _weighted_mean(x, w)
    residuals = np.bincount(cluster_of, weights=w * (x - mean)).astype(np.float64)
    stderr = sandwich(residuals, w.sum())
    if stderr is None or stderr < ROUNDING:
        return independent_mean(x, w)
    half = float(special.stdtrit(names.size - 1, (1 + LEVEL) / 2)) * stderr
    return Estimate(mean, stderr, (max(0.0, mean - half), min(1.0, mean + half)), x.size)


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float], n: int, repeats: int = 1000, seed: int = 0
) -> Estimate:
    """Estimate a statistic of `n` samples that is no mean of theirs, such as macro-F1.

    The standard error is the sd over `repeats` resamples of rows with replacement, the interval their
    2.5 and 97.5 percentiles (Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979).

    Args:
        statistic: row numbers, shape (n,), to the statistic of those rows.
        n: number of samples.
        repeats: resamples drawn.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    drawn = np.array([statistic(generator.integers(0, n, n)) for _ in range(repeats)])
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    stderr = float(drawn.std(ddof=1)) if n > 1 else None
    return Estimate(statistic(np.arange(n)), stderr, (float(low), float(high)), n)


def _checked(values: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats]:
    x = np.asarray(values, dtype=np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or w.shape != x.shape:
        raise ValueError(f"a mean needs one row of values and as many weights, not {x.shape} and {w.shape}")
    # Written so that NaN fails as well.
    if not (np.all((x >= 0) & (x <= 1)) and np.all((w > 0) & np.isfinite(w))):
        raise ValueError("values must lie in [0, 1] and weights be positive and finite")
    return x, w


def _weighted_mean(x: Floats, w: Floats) -> float:
    # Both sums run in the same order, so that values of all 1 give exactly 1 (a dot product may not).
    return float((w * x).sum() / w.sum())


def sandwich(residual_sums: Floats, total_weight: float) -> float | None:
    """Standard error from the independent units' weighted residual sums; None for a single unit."""
    units = residual_sums.size
    if units < 2:
        return None
    spread = math.sqrt(float((residual_sums**2).sum())) / float(total_weight)
    return spread * math.sqrt(units / (units - 1))

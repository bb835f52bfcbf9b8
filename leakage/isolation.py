"""How isolated the largest value is: an isolation forest of infinitely many trees, in closed form."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from evalkit.leakage.scores import Floats

Counts = NDArray[np.int64]


def isolation_score(logprobs: Floats) -> Floats:
    """Outlier score of each row's largest value, on the scale of scikit-learn's `decision_function`.

    A random tree cuts sorted values in the gap g_j with probability g_j / (sum of gaps), and what matters is
    the part above the cut. Of the values from the i-th on, with r cuts left, the expected path length is

        E_r(i) = 1 + sum_{j>=i} g_j E_{r-1}(j+1) / sum_{j>=i} g_j,    E_0(i) = c(m-i),

    c being `average_path_length` and r at first `max_depth(m)`; values that are all equal are not cut. The
    score is 0.5 - 2^(-E / c(m)). It does not depend on a seed, and not on the scale of the values.

    Source of the forest: Liu, Ting and Zhou, "Isolation Forest", ICDM 2008.

    Args:
        logprobs: shape (N, m), m >= 2.

    Returns:
        Shape (N,); the lower, the more of an outlier, and 0 where all values are equal.
    """
    m = logprobs.shape[1]
    leaf = average_path_length(np.arange(m, 0, -1))
    gaps = np.diff(np.sort(logprobs, axis=1))
    spans = _sums_from(gaps)
    cut = spans > 0
    lengths = np.broadcast_to(leaf, logprobs.shape).copy()
    for _ in range(max_depth(m)):
        above = _sums_from(gaps * lengths[:, 1:])
        lengths[:, :-1] = leaf[:-1]
        np.divide(above, spans, out=lengths[:, :-1], where=cut)
        lengths[:, :-1] += cut
    return 0.5 - 2 ** (-lengths[:, 0] / leaf[0])  # type: ignore[no-any-return]


def average_path_length(sizes: Counts) -> Floats:
    """c(n), the average depth of a value in a tree grown to the end on n values.

    c(n) = 2 (ln(n-1) + Euler's constant) - 2 (n-1) / n for n > 2, c(2) = 1 and c(1) = 0.
    """
    n = np.maximum(sizes, 3).astype(np.float64)
    longer = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(sizes > 2, longer, sizes - 1.0)


def max_depth(m: int) -> int:
    """Cuts after which a tree of m values ends."""
    return math.ceil(math.log2(m))


def _sums_from(values: Floats) -> Floats:
    """Sums over the last axis from each place to the end."""
    return np.cumsum(values[:, ::-1], axis=1)[:, ::-1]

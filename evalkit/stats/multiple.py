"""Many tests at once: p-values adjusted so that each can be compared with the level of all."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evalkit.stats.intervals import Floats


def holm(p_values: ArrayLike) -> Floats:
    """Adjusted p-values: rejecting those up to alpha keeps the chance of any false rejection at alpha.

    Whatever the dependence between the tests. Source: Holm, "A simple sequentially rejective multiple test
    procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    p = checked(p_values, 1.0)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(p.size)
    adjusted[order] = np.maximum.accumulate(p[order] * (p.size - np.arange(p.size)))
    return np.minimum(adjusted, 1.0)


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Adjusted p-values for independent or positively dependent tests: reject those up to the rate wanted.

    Source: Benjamini and Hochberg, "Controlling the False Discovery Rate", JRSS B 57 (1995).
    """
    p = checked(p_values, 1.0)
    order = np.argsort(-p, kind="stable")
    adjusted = np.empty(p.size)
    adjusted[order] = np.minimum.accumulate(p[order] * p.size / np.arange(p.size, 0, -1))
    return np.minimum(adjusted, 1.0)


def checked(values: ArrayLike, most: float) -> Floats:
    """Values as an array.

    Raises:
        ValueError: there are none, or one is not between 0 and `most`.
    """
    x = np.asarray(values, np.float64)
    # Written so that NaN fails as well.
    if x.size == 0 or not np.all((x >= 0) & (x <= most)):
        raise ValueError(f"need at least one value, all between 0 and {most:g}")
    return x

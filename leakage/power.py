"""What a run can detect: exact power of the order test.

A leaked item's published order is the first with probability t, its *sensitivity*, and otherwise any of the
others alike. Ranks are then independent draws of (1 - pi)·uniform + pi·G. The number of first ranks depends
on nothing but t; the sum test gains where memory also lifts orders that it does not put first, so what is
promised for it is a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import optimize

from evalkit.leakage import lattice
from evalkit.leakage.order_test import rank_scores
from evalkit.leakage.scores import Floats

Test = Literal["sum", "top"]
"""`sum`: of -log(rank / m), the `p` of `order_test`; `top`: the number of first ranks, its `p_top`."""

ONE_EXPOSURE = 0.262
"""Share of items whose published order is the first after one exposure (arXiv 2409.01790, table 1, CMMLU)."""
RECALL = (ONE_EXPOSURE - 1 / 24) / (1 - 1 / 24)
"""The same without luck: the share of items recalled, if an item that is not recalled has a random rank."""
DETECTED = 0.8
_MOST_ITEMS = 2_000_000


def power(
    n: int,
    fraction: float,
    sensitivity: float = ONE_EXPOSURE,
    alpha: float = 0.01,
    m: int = 24,
    test: Test = "top",
) -> float:
    """Probability of a p-value of at most `alpha`.

    Args:
        n: number of items.
        fraction: leaked fraction pi.
        sensitivity: t, at least 1/m.
        alpha: level of the test.
        m: orders of each item.
        test: which of the two statistics.
    """
    chance, truth = np.full(m, 1 / m), _law(fraction, sensitivity, m)
    scores = rank_scores(m)
    if test == "top":
        scores = np.array([0, 1])
        chance, truth = (np.array([1 - law[0], law[0]]) for law in (chance, truth))
    start, survival = lattice.survival([lattice.Term(scores, chance, n)])
    critical = start + int(np.searchsorted(-survival, -alpha))
    return math.exp(lattice.log_tail([lattice.Term(scores, truth, n)], critical))


def detectable_fraction(
    n: int, sensitivity: float = ONE_EXPOSURE, alpha: float = 0.01, m: int = 24, test: Test = "top"
) -> float | None:
    """Smallest leaked fraction that `n` items show with probability 0.8; None where not even 1 does."""
    if power(n, 1.0, sensitivity, alpha, m, test) < DETECTED:
        return None
    return float(
        optimize.brentq(lambda pi: power(n, pi, sensitivity, alpha, m, test) - DETECTED, 0.0, 1.0, xtol=1e-5)
    )


def items_needed(
    fraction: float, sensitivity: float = ONE_EXPOSURE, alpha: float = 0.01, m: int = 24, test: Test = "top"
) -> int | None:
    """Fewest items that show a leaked fraction with probability 0.8; None above two million.

    The number of first ranks takes so few values that its power is a saw-tooth in the number of items; for
    it the answer is *a* number of items at which the power passes 0.8, and some fewer or more may do or
    fail to.
    """
    return _first(lambda n: power(n, fraction, sensitivity, alpha, m, test) >= DETECTED)


def one_exposure(chance: float) -> float:
    """Sensitivity after one exposure, for items whose first rank has this chance: recall or luck."""
    return chance + RECALL * (1 - chance)


def _law(fraction: float, sensitivity: float, m: int) -> Floats:
    if not (0 <= fraction <= 1 and 1 / m <= sensitivity <= 1):
        raise ValueError(
            f"need a fraction in [0, 1] and a sensitivity in [1/{m}, 1]: {fraction}, {sensitivity}"
        )
    leaked = np.full(m, (1 - sensitivity) / (m - 1))
    leaked[0] = sensitivity
    law = (1 - fraction) / m + fraction * leaked
    # A score of probability zero has no logarithm; this one changes nothing.
    return np.maximum(law, 1e-300)


def _first(holds: Callable[[int], bool]) -> int | None:
    """Smallest number at which a condition holds that stays true, by doubling and halving."""
    high = 1
    while not holds(high):
        high *= 2
        if high > _MOST_ITEMS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high

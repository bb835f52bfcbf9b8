"""What a paired comparison can see, and how many samples it would take to see more."""

from __future__ import annotations

import math

from scipy import special

POWER = 0.8
"""Chance of seeing a difference that counts as enough."""


def least_sd(difference: float) -> float:
    """Smallest sd of the differences of scores in [0, 1] that need not be the same for every sample.

    Right-or-wrong scores whose mean drops by d differ in at least that share of the samples, whatever a few
    samples that agree may suggest; other scores are taken to be as uneven.
    """
    return math.sqrt(abs(difference) * (1 - abs(difference)))


def power(difference: float, sd: float, n: float, alpha: float, lost: float = 0.0) -> float:
    """Chance that a one-sided test at `alpha` sees a true difference of this size.

    Args:
        difference: of the means.
        sd: standard deviation of a sample's difference.
        n: samples.
        alpha: level.
        lost: what the steps of the statistic cost, in changes of one sample (continuity correction): 1 for
            the exact tests of right-or-wrong scores.
    """
    excess = difference - lost / n
    if sd == 0:
        return 1.0 if excess > 0 else 0.0
    return float(special.ndtr(excess * math.sqrt(n) / sd + special.ndtri(alpha)))


def smallest_difference(sd: float, n: float, alpha: float, lost: float = 0.0, wanted: float = POWER) -> float:
    """Smallest true difference that a test sees with the wanted power (arguments as for `power`).

    Where none was seen to differ, that of samples as uneven as `least_sd`.
    """
    z = _z(alpha, wanted)
    return max(z * sd / math.sqrt(n), z**2 / (n + z**2)) + lost / n


def samples_needed(
    difference: float, sd: float, alpha: float, lost: float = 0.0, wanted: float = POWER
) -> int:
    """Samples on which a test sees a true difference above 0 with the wanted power (see `power`)."""
    spread = _z(alpha, wanted) * sd
    # The root of difference · n - spread · sqrt(n) - lost = 0.
    root = (spread + math.sqrt(spread**2 + 4 * difference * lost)) / (2 * difference)
    return max(2, math.ceil(root**2))


def _z(alpha: float, wanted: float) -> float:
    return float(special.ndtri(wanted) - special.ndtri(alpha))

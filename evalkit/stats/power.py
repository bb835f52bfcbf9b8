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


def power(difference: float, stderr: float, alpha: float) -> float:
    """Chance that a one-sided test at `alpha` sees a true difference of this size."""
    if stderr == 0:
        return 1.0 if difference > 0 else 0.0
    return float(special.ndtr(difference / stderr - special.ndtri(1 - alpha)))


def smallest_difference(sd: float, n: float, alpha: float, wanted: float = POWER) -> float:
    """Smallest true difference that a one-sided test at `alpha` sees with the wanted power.

    Args:
        sd: standard deviation of a sample's difference; `least_sd` holds as well.
        n: samples.
        alpha: level.
        wanted: power.
    """
    z = _z(alpha, wanted)
    return max(z * sd / math.sqrt(n), z**2 / (n + z**2))


def samples_needed(difference: float, sd: float, alpha: float, wanted: float = POWER) -> int:
    """Samples on which a one-sided test at `alpha` sees a true difference with the wanted power.

    Args:
        difference: of the means, above 0.
        sd: standard deviation of a sample's difference.
        alpha: level.
        wanted: power.
    """
    return max(2, math.ceil((_z(alpha, wanted) * sd / difference) ** 2))


def _z(alpha: float, wanted: float) -> float:
    return float(special.ndtri(1 - alpha) + special.ndtri(wanted))

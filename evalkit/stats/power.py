"""What a paired comparison can see, and how many samples it would take to see more."""

from __future__ import annotations

import math

from scipy import special

POWER = 0.8
"""Chance of seeing a difference that counts as enough."""


def power(difference: float, stderr: float, alpha: float) -> float:
    """Chance that a one-sided test at `alpha` sees a true difference of this size."""
    if stderr == 0:
        return 1.0 if difference > 0 else 0.0
    return float(special.ndtr(difference / stderr - special.ndtri(1 - alpha)))


def smallest_difference(stderr: float, alpha: float, wanted: float = POWER) -> float:
    """Smallest true difference that a one-sided test at `alpha` sees with the wanted power."""
    return float(special.ndtri(1 - alpha) + special.ndtri(wanted)) * stderr


def samples_needed(difference: float, sd: float, alpha: float, wanted: float = POWER) -> int:
    """Samples on which a one-sided test at `alpha` sees a true difference with the wanted power.

    Args:
        difference: of the means, above 0.
        sd: standard deviation of a sample's difference.
        alpha: level.
        wanted: power.
    """
    z = float(special.ndtri(1 - alpha) + special.ndtri(wanted))
    return max(2, math.ceil((z * sd / difference) ** 2))

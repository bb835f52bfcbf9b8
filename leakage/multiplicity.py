"""Many tests at once: e-values to a list of discoveries."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from evalkit.leakage.scores import Floats
from evalkit.stats.multiple import checked

_NEAR_ONE = 1e-4
"""Distance of a p-value from 1 within which the calibrator's closed form loses its digits."""


def p_to_e(p_values: ArrayLike) -> Floats:
    """Turn p-values into e-values: the mixture over kappa in (0, 1) of kappa · p^(kappa-1).

    It is (1 - p + p ln p) / (p ln² p), infinite at p = 0 and 1/2 at p = 1; its expectation is at most 1 for
    every valid p-value. Source: Vovk and Wang, "E-values: Calibration, combination and applications",
    Annals of Statistics 49 (2021).

    Raises:
        ValueError: if a value lies outside [0, 1].
    """
    p = checked(p_values, 1.0)
    inside = (p > 0) & (p < 1 - _NEAR_ONE)
    safe = np.where(inside, p, 0.5)
    log = np.log(safe)
    with np.errstate(over="ignore"):
        closed = (1 - safe + safe * log) / (safe * log**2)
    # Around 1 the form is 0/0; its series is 1/2 + (1-p)/6 + ….
    return np.where(inside, closed, np.where(p == 0, np.inf, 0.5 + (1 - p) / 6))


def p_needed(e_value: float) -> float:
    """The p-value that `p_to_e` turns into an e-value of at least 10."""
    log_p = optimize.brentq(lambda x: float(np.log(p_to_e(math.exp(x)) / e_value)), -600.0, -1.0)
    return math.exp(log_p)


def average_e(e_values: ArrayLike) -> float:
    """Combine e-values of one hypothesis, however dependent, into one: their mean (Vovk and Wang 2021)."""
    return float(checked(e_values, np.inf).mean())


def e_bh(e_values: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Hypotheses rejected at false-discovery rate `alpha`, whatever the dependence between the e-values.

    Rejects the k largest of K, k being the largest number for which the k-th largest is at least K / (alpha
    · k). Source: Wang and Ramdas, "False discovery rate control with e-values", JRSS B 84 (2022).
    """
    e = checked(e_values, np.inf)
    descending = np.argsort(-e, kind="stable")
    enough = e[descending] * np.arange(1, e.size + 1) >= e.size / alpha
    rejected = np.zeros(e.size, np.bool_)
    if enough.any():
        rejected[descending[: np.flatnonzero(enough)[-1] + 1]] = True
    return rejected

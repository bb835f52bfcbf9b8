"""Exact laws of sums of independent integer scores: the null distributions of rank statistics.

A sum's law is the inverse Fourier transform of the product of its terms' transforms. Rounding leaves an
absolute error near 1e-16 in it, which would drown a small tail probability; so the tail is computed under
the exponentially tilted law, whose mean is the total in question, and tilted back: its *relative* error is
near 1e-12 however small it is (Wilson and Keich, "Accurate pairwise convolution of non-negative vectors
via FFT", CSDA 101 (2016), use the same shift).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize, special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_REACH = 16
"""Standard deviations, and widest single draws, away from its mean beyond which a sum's law is zero."""
_CERTAIN = 60.0
"""Log-odds at which a tilted term sits on its largest score for all that a float can tell."""


@dataclass(frozen=True, slots=True)
class Term:
    """Independent draws of one score."""

    scores: Ints
    """Values a draw takes, shape (k,), not negative."""
    probabilities: Floats
    """Their probabilities, shape (k,), positive."""
    count: int
    """Number of draws."""


def uniform(scores: Ints, count: int) -> Term:
    """`count` draws in which all of `scores` are equally likely."""
    return Term(scores, np.full(scores.size, 1 / scores.size), count)


def moments(terms: Sequence[Term], tilt: float = 0.0) -> tuple[float, float]:
    """Mean and variance of the sum, its law tilted by exp(tilt · sum)."""
    mean = variance = 0.0
    for term in terms:
        weights = special.softmax(np.log(term.probabilities) + tilt * term.scores)
        centre = float(weights @ term.scores)
        mean += term.count * centre
        variance += term.count * float(weights @ (term.scores - centre) ** 2)
    return mean, variance


def log_tail(terms: Sequence[Term], total: int) -> float:
    """Natural logarithm of P(sum >= total): -inf where the sum cannot reach `total`."""
    low, high = _support(terms)
    if total <= low:
        return 0.0
    if total > high:
        return -math.inf
    tilt = _tilt(terms, total)
    start, law = _law(terms, tilt)
    above = law[max(0, total - start) :]
    ratio = float(above @ np.exp(-tilt * np.arange(above.size)))
    cumulant = sum(
        term.count * float(special.logsumexp(tilt * term.scores, b=term.probabilities)) for term in terms
    )
    return min(0.0, cumulant - tilt * total + math.log(ratio))


def survival(terms: Sequence[Term]) -> tuple[int, Floats]:
    """`start` and P(sum >= start + k) for k = 0, 1, …, to an absolute error near 1e-12; beyond it is 0."""
    start, law = _law(terms)
    return start, np.clip(law[::-1].cumsum()[::-1], 0.0, 1.0)


def _support(terms: Sequence[Term]) -> tuple[int, int]:
    low = sum(term.count * int(term.scores.min()) for term in terms)
    return low, sum(term.count * int(term.scores.max()) for term in terms)


def _tilt(terms: Sequence[Term], total: int) -> float:
    """The tilt that makes `total` the mean; 0 below the mean, where nothing is small."""
    if total <= moments(terms)[0]:
        return 0.0
    gaps = [np.diff(np.unique(term.scores))[-1:] for term in terms]
    most = _CERTAIN / float(np.concatenate(gaps).min())
    if moments(terms, most)[0] <= total:
        return most
    return float(optimize.brentq(lambda tilt: moments(terms, tilt)[0] - total, 0.0, most))


def _law(terms: Sequence[Term], tilt: float = 0.0) -> tuple[int, Floats]:
    """Smallest sum kept, and the probabilities of it and the following sums, under a tilt."""
    low, high = _support(terms)
    mean, variance = moments(terms, tilt)
    widest = max(int(np.ptp(term.scores)) for term in terms)
    reach = math.ceil(_REACH * (math.sqrt(variance) + widest))
    start, stop = max(low, math.floor(mean) - reach), min(high, math.ceil(mean) + reach)
    size = fft.next_fast_len(stop - start + 1, real=True)
    spectrum = np.ones(size // 2 + 1, np.complex128)
    for term in terms:
        weights = special.softmax(np.log(term.probabilities) + tilt * term.scores)
        spectrum *= fft.rfft(np.bincount(term.scores % size, weights, size)) ** term.count
    # The transform is cyclic: what lies outside the window is too small to matter wherever it lands.
    law = np.roll(fft.irfft(spectrum, size), -(start % size))
    return start, law[: stop - start + 1]

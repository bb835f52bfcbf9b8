"""The exact upper tail of a sum of many independent integer scores that all have laws of their own.

`evalkit.leakage.lattice` does the same for many draws from few laws. Here laws are convolved in pairs,
pairs of pairs and so on. As there, all is done under the tilt whose mean is the total in question, so that
the relative error of the tail stays small however small the tail is.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import fft, optimize, special

from evalkit.leakage.scores import Floats

_CERTAIN = 60.0
"""Tilt, in nats per step, at which every score sits on its largest value for all that a float can tell."""
_NOTHING = 1e-19
"""Probability below which the ends of tilted laws are dropped."""


def moments(laws: Floats) -> tuple[Floats, Floats]:
    """Means and variances of scores 0, 1, …, w-1 under laws of shape (N, w); shape (N,) each."""
    scores = np.arange(laws.shape[1])
    mean = laws @ scores
    return mean, (laws * (scores - mean[:, None]) ** 2).sum(axis=1)


def log_tail(laws: Floats, total: int) -> float:
    """Natural logarithm of P(sum >= total): -inf where the sum cannot reach `total`.

    Args:
        laws: probabilities of scores 0, 1, …, w-1, shape (N, w), each row summing to 1.
        total: the sum in question.
    """
    possible = laws > 0
    low = int(possible.argmax(axis=1).sum())
    high = int((laws.shape[1] - 1 - possible[:, ::-1].argmax(axis=1)).sum())
    if total <= low:
        return 0.0
    if total > high:
        return -math.inf
    tilt = _tilt(laws, total)
    start, law = _law_of_sum(_tilted(laws, tilt))
    sums = np.arange(max(start, total), start + law.size)
    ratio = float(law[sums - start] @ np.exp(tilt * (total - sums)))
    cumulants = special.logsumexp(tilt * np.arange(laws.shape[1]), b=laws, axis=1)
    return min(0.0, float(cumulants.sum()) - tilt * total + math.log(ratio))


def _tilted(laws: Floats, tilt: float) -> Floats:
    log_laws = np.log(laws, out=np.full_like(laws, -np.inf), where=laws > 0)
    return np.asarray(special.softmax(log_laws + tilt * np.arange(laws.shape[1]), axis=1), np.float64)


def _tilt(laws: Floats, total: int) -> float:
    """The tilt that makes `total` the mean; 0 below the mean, where nothing is small."""

    def excess(tilt: float) -> float:
        return float(moments(_tilted(laws, tilt))[0].sum()) - total

    if excess(0.0) >= 0:
        return 0.0
    if excess(_CERTAIN) <= 0:
        return _CERTAIN
    return float(optimize.brentq(excess, 0.0, _CERTAIN, xtol=1e-6))


def _law_of_sum(laws: Floats) -> tuple[int, Floats]:
    """Smallest sum kept, and the probabilities of it and the following sums."""
    start, law = 0, np.ones(1)
    offset, laws = _trimmed(laws)
    while len(laws) > 1:
        if len(laws) % 2:
            start, law = start + offset, _convolved(law[None], laws[-1:])[0]
            laws = laws[:-1]
        more, laws = _trimmed(_convolved(laws[::2], laws[1::2]))
        offset = 2 * offset + more
    return start + offset, _convolved(law[None], laws)[0]


def _convolved(first: Floats, second: Floats) -> Floats:
    """Row by row."""
    width = first.shape[1] + second.shape[1] - 1
    size = fft.next_fast_len(width, real=True)
    spectrum = fft.rfft(first, size) * fft.rfft(second, size)
    return np.asarray(fft.irfft(spectrum, size)[:, :width], np.float64)


def _trimmed(laws: Floats) -> tuple[int, Floats]:
    """The scores that have some probability in some row, and the first of them."""
    kept = np.flatnonzero(laws.max(axis=0) > _NOTHING)
    return int(kept[0]), laws[:, kept[0] : kept[-1] + 1]

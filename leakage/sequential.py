"""Looking at the evidence after every item without paying for it: e-processes on ranks.

An e-process is a bettor's capital in a game that is fair under the null. Whenever one looks, and whenever one
stops, the chance under the null that it ever reached 1/alpha is at most alpha (Ville's inequality; Ramdas
et al., "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38 (2023)). Items
may come in any order that does not depend on their ranks.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import special

from evalkit.leakage.order_test import Ranks
from evalkit.leakage.power import one_exposure
from evalkit.leakage.scores import Floats

Decision = Literal["continue", "evidence", "futile"]

_STAKES = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7])
_SHRUNK = np.array([0.0, 0.25, 0.5, 0.75])
_GRID = 1000
_LARGEST = 700.0
"""Logarithm of about the largest float."""


class EProcess:
    """Evidence against chance ranks: the mean capital of bettors of two kinds and eight stakes.

    A bettor with stake s multiplies its capital by 1 + s·(g(R) - 1) at every item, where g has mean 1 over
    the ranks: one kind bets on the first rank alone (g = m·1[R=1]), the other on high ranks (g ∝ 1/R). The
    one is best where memory is all or nothing, the other where it merely raises the published order.
    """

    def __init__(self) -> None:
        self._log_capital = np.zeros(2 * _STAKES.size)
        self._path = np.zeros(0)

    def update(self, ranks: Ranks) -> None:
        """Bet on further items, one after another."""
        if not len(ranks):
            return
        growth = np.empty((len(ranks), self._log_capital.size))
        for m in np.unique(ranks.n_orders):
            rows = ranks.n_orders == m
            growth[rows] = _growth(int(m))[ranks.rank[rows] - 1]
        path = self._log_capital + growth.cumsum(axis=0)
        means = special.logsumexp(path, axis=1) - math.log(path.shape[1])
        self._path = np.concatenate([self._path, means])
        self._log_capital = path[-1]

    @property
    def log_value(self) -> float:
        """Natural logarithm of `value`."""
        return float(self._path[-1]) if self._path.size else 0.0

    @property
    def value(self) -> float:
        """The e-value now: multiply over independent data sets, average over dependent detectors."""
        return math.exp(min(self.log_value, _LARGEST))

    def stopped_at(self, alpha: float) -> int | None:
        """Number of items after which the capital first reached 1/alpha; None if it has not."""
        reached = np.flatnonzero(self._path >= -math.log(alpha))
        return int(reached[0]) + 1 if reached.size else None

    def rejects(self, alpha: float) -> bool:
        """Whether the capital has ever reached 1/alpha: evidence at level alpha."""
        return self.stopped_at(alpha) is not None


class Stopping:
    """When to stop scoring items: at evidence, or once more than a small fraction can be ruled out."""

    def __init__(
        self,
        alpha: float = 0.01,
        fraction: float = 0.05,
        sensitivity: float | None = None,
        level: float = 0.95,
    ) -> None:
        """Set the rule.

        Args:
            alpha: level of the evidence.
            fraction: leaked fraction that is small enough not to look for.
            sensitivity: probability that a leaked item's published order is the first, at the least; None
                takes that after `one_exposure`.
            level: confidence with which `fraction` is ruled out.
        """
        self.process = EProcess()
        self._alpha, self._fraction = alpha, fraction
        self._sensitivity, self._level = sensitivity, level
        self._seen: Counter[tuple[int, bool]] = Counter()

    def decide(self, ranks: Ranks) -> Decision:
        """Add newly scored items and say whether to go on."""
        self.process.update(ranks)
        self._seen.update(zip(ranks.n_orders.tolist(), ranks.top.tolist(), strict=True))
        # What is judged in the end is the value at the end, not the highest on the way.
        if self.process.log_value >= -math.log(self._alpha):
            return "evidence"
        return "futile" if self.upper < self._fraction else "continue"

    @property
    def upper(self) -> float:
        """Upper bound on the leaked fraction so far, valid at any time."""
        return _upper(self._seen, self._sensitivity, self._level)


def upper_fraction(ranks: Ranks, sensitivity: float | None = None, level: float = 0.95) -> float:
    """Upper bound on the leaked fraction that holds with probability `level` whenever one stops.

    The largest fraction, in steps of 1/1000, that no e-process against it and everything above has refuted:
    a mixture of likelihood ratios of smaller fractions, betting that the first rank is rarer than pi·t +
    (1-pi)/m.

    Args:
        ranks: the items so far.
        sensitivity: t, the probability that a leaked item's published order is the first, at the least; None
            takes that after `one_exposure`.
        level: confidence.
    """
    seen = Counter(zip(ranks.n_orders.tolist(), ranks.top.tolist(), strict=True))
    return _upper(seen, sensitivity, level)


def _upper(seen: Counter[tuple[int, bool]], sensitivity: float | None, level: float) -> float:
    fractions = np.arange(_GRID + 1) / _GRID
    log_capital = np.zeros((_SHRUNK.size, fractions.size))
    for (m, top), count in seen.items():
        trace = (one_exposure(1 / m) if sensitivity is None else sensitivity) - 1 / m
        rate = 1 / m + fractions * trace
        rarer = 1 / m + _SHRUNK[:, None] * fractions * trace
        log_capital += count * (np.log(rarer / rate) if top else np.log((1 - rarer) / (1 - rate)))
    log_value = special.logsumexp(log_capital, axis=0) - math.log(_SHRUNK.size)
    return float(fractions[log_value < -math.log(1 - level)].max())


@lru_cache
def _growth(m: int) -> Floats:
    """Log-factors of the bettors' capital at ranks 1 to m, shape (m, bettors)."""
    rank = np.arange(1, m + 1)
    top = m * (rank == 1)
    high = (1 / rank) / (1 / rank).mean()
    return np.hstack([np.log1p(_STAKES * (g[:, None] - 1)) for g in (top, high)])

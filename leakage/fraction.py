"""How many items leaked, and which ones might have.

Ranks are draws of (1 - pi)·uniform + pi·G with G, the law of a leaked item's rank, unknown. Ranks alone
bound pi from below only: any trace that is faint enough hides behind the uniform part. An upper bound needs
the sensitivity t, the probability that a leaked item's published order is the first, and is a statement
about traces of that size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from evalkit.errors import UsageError
from evalkit.leakage.order_test import Ranks, order_values
from evalkit.leakage.power import one_exposure
from evalkit.leakage.scores import Floats, Ints, PermutationScores
from evalkit.stats.intervals import LEVEL, clopper_pearson
from evalkit.stats.multiple import benjamini_hochberg

_EVENTS = (0.0, 1 / 12, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the orders that the lower band looks at; 0 stands for the first rank alone."""
_HALVINGS = 20
_REACH = 8
"""Standard deviations beyond which a binomial count does not happen."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Fraction:
    """The leaked fraction of a set of items."""

    value: float
    """Estimate, if a leaked item is ranked first with probability `typical`; cut to [0, 1]."""
    ci95: tuple[float, float]
    """Two-sided 95 % interval, valid for every sensitivity in `sensitivity`."""
    lower95: float
    """One-sided 95 % lower bound that assumes nothing of what a leak looks like."""
    sensitivity: tuple[float, float]
    typical: float
    basis: Literal["published", "planted"]
    """`published`: the upper end reads "if one exposure leaves at least the trace it left in arXiv 2409.01790
    (table 1, CMMLU: 26.2 % ranked first)", the lower end assumes nothing. `planted`: one's own control."""
    n: int


def leaked_fraction(ranks: Ranks, sensitivity: tuple[float, float] | None = None) -> Fraction:
    """Estimate the leaked fraction from how many published orders are ranked first.

    pi = (p1 - q) / (t - q), p1 being the top rate and q the one chance gives. The interval inverts exact
    binomial tests in likelihood-ratio order (Feldman and Cousins, "Unified approach to the classical
    statistical analysis of small signals", PRD 57 (1998)) with mid-p-values, so that it needs no cutting at
    0 and 1 and turns by itself from two bounds into one there. For a range of sensitivities a fraction
    stays in the interval as long as any of them is compatible with the ranks.

    Args:
        ranks: of at least one item.
        sensitivity: least and greatest probability that a leaked item is ranked first, such as the interval
            `planted_sensitivity` gives; None takes (`one_exposure`, 1), 0.262 for items in 24 orders.

    Raises:
        UsageError: if the sensitivity is not above chance.
        ValueError: if there are no items.
    """
    if not len(ranks):
        raise ValueError("a fraction needs at least one item")
    n, tops, chance = len(ranks), int(ranks.top.sum()), float((1 / ranks.n_orders).mean())
    low, high = sensitivity or (one_exposure(chance), 1.0)
    if not chance < low <= high <= 1:
        raise UsageError(
            f"a sensitivity from {low:g} to {high:g} says nothing of the leaked fraction: it must lie above "
            f"chance ({chance:.3g}) and not above 1; measure it on planted items of this task"
        )
    typical = (low + high) / 2 if sensitivity else low
    return Fraction(
        value=float(np.clip((tops / n - chance) / (typical - chance), 0, 1)),
        ci95=_interval(tops, n, chance, low, high),
        lower95=lower_bound(ranks),
        sensitivity=(low, high),
        typical=typical,
        basis="planted" if sensitivity else "published",
        n=n,
    )


def lower_bound(ranks: Ranks, level: float = LEVEL) -> float:
    """Lower bound on the leaked fraction, whatever a leak looks like.

    However often leaked items rank in the first k of m, pi >= (F(k) - k/m) / (1 - k/m). This is the largest
    such bound over the first rank and the first 1/12, 1/8, 1/4 and 1/2 of the orders, with Clopper-Pearson
    lower bounds for F that hold together (Bonferroni). Items in different numbers of orders mix: sums of
    unequal binary draws spread less than binomial ones (Hoeffding, "On the distribution of the number of
    successes in independent trials", Annals of Mathematical Statistics 27 (1956)).
    """
    n = len(ranks)
    each = 1 - (1 - level) / len(_EVENTS)
    bounds = [0.0]
    for share in _EVENTS:
        # Slack for shares of m that are whole numbers but for rounding.
        first = np.maximum(1, np.floor(share * ranks.n_orders + 1e-9))
        hits, chance = int((ranks.rank <= first).sum()), float((first / ranks.n_orders).mean())
        low = clopper_pearson(hits, n, 2 * each - 1)[0]
        bounds.append((low - chance) / (1 - chance))
    return max(bounds)


@dataclass(frozen=True, slots=True)
class Lead:
    """An item worth a look: its published order stands out, which is no proof."""

    subset: str
    sample_id: str
    rank: int
    gap: float
    """Log-probability of the published order above the mean of all, in their standard deviations."""
    p: float
    fdr: float
    """Smallest false-discovery rate at which the item is listed."""


def leads(ranks: Ranks, scores: PermutationScores, q: float) -> list[Lead]:
    """Items whose published order stands out, of which a share of at most `q` is expected not to have leaked.

    An item's rank alone gives no p-value below 1/m. The gap does: under the null each order of an item is
    as likely to be the published one as any other, so the gaps of all orders of all items are draws of its
    null law. p is the share of them that are as large, among items in as many orders, and so many of the
    items that have not leaked (or fewer) are expected at any threshold: the estimate behind Benjamini and
    Hochberg's procedure. Leaked items in the pool can thin its tail by no more than their share, which is
    the share that cannot be discovered falsely.

    Args:
        ranks: of the items.
        scores: the same items.
        q: false-discovery rate, over all items.
    """
    gap, p = _gaps(scores)
    fdr = benjamini_hochberg(p)
    rows = sorted(np.flatnonzero(fdr <= q).tolist(), key=lambda row: (p[row], -gap[row], row))
    return [
        Lead(
            subset=str(ranks.subset[row]),
            sample_id=str(ranks.sample_id[row]),
            rank=int(ranks.rank[row]),
            gap=float(gap[row]),
            p=float(p[row]),
            fdr=float(fdr[row]),
        )
        for row in rows
    ]


def _gaps(scores: PermutationScores) -> tuple[Floats, Floats]:
    """Gap of the published order and its pooled p-value, shape (N,) each."""
    gap, p = np.zeros(len(scores)), np.ones(len(scores))
    pools: dict[int, list[tuple[NDArray[np.intp], Floats]]] = {}
    for group in scores.groups():
        left = order_values(group.orders, group.logprobs)
        spread = left.std(axis=1, keepdims=True)
        # Rounded, so that orders that read the same have the same gap.
        standard = np.round(left / np.where(spread > 0, spread, 1.0), 9)
        pools.setdefault(left.shape[1], []).append((group.rows, standard))
    for parts in pools.values():
        rows = np.concatenate([rows for rows, _ in parts])
        standard = np.concatenate([values for _, values in parts])
        pool = np.sort(standard, axis=None)
        gap[rows] = standard[:, 0]
        p[rows] = 1 - np.searchsorted(pool, standard[:, 0], side="left") / pool.size
    return gap, p


@lru_cache(maxsize=4096)
def _interval(tops: int, n: int, chance: float, low: float, high: float) -> tuple[float, float]:
    """Fractions that `tops` first ranks of `n` do not refute at 5 %."""
    compatible = [float(np.clip((tops / n - chance) / (t - chance), 0, 1)) for t in (high, low)]
    ends = []
    for inside, outside in zip(compatible, (0.0, 1.0), strict=True):
        if _p_value(outside, tops, n, chance, low, high) > 1 - LEVEL:
            inside = outside
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            kept = _p_value(middle, tops, n, chance, low, high) > 1 - LEVEL
            inside, outside = (middle, outside) if kept else (inside, middle)
        ends.append(inside)
    return ends[0], ends[1]


def _p_value(pi: float, tops: int, n: int, chance: float, low: float, high: float) -> float:
    """Mid-p-value of the likelihood-ratio test of a leaked fraction, the largest over the sensitivities."""
    under = [chance + pi * (t - chance) for t in (low, high)]

    def ratio(counts: Ints) -> Floats:
        return _log_likelihood(counts, n, *under) - _log_likelihood(counts, n, chance, high)

    reach = _REACH * math.sqrt(n * under[1]) + _REACH**2
    counts = np.arange(max(0, int(n * under[0] - reach)), min(n, int(n * under[1] + reach)) + 1)
    # Ties are counts equally far from the fraction, up to rounding.
    excess = ratio(counts) - ratio(np.array([tops]))
    weight = np.where(excess < -_ROUNDING, 1.0, np.where(excess <= _ROUNDING, 0.5, 0.0))
    ways = special.gammaln(n + 1) - special.gammaln(counts + 1) - special.gammaln(n - counts + 1)
    return max(float(weight @ np.exp(ways + _log_likelihood(counts, n, rate, rate))) for rate in under)


def _log_likelihood(counts: Ints, n: int, least: float, most: float) -> Floats:
    """Largest binomial log-likelihood of a rate in a range, but for what does not depend on the rate."""
    rate = np.clip(counts / n, least, most)
    return np.asarray(special.xlogy(counts, rate) + special.xlog1py(n - counts, -rate), np.float64)

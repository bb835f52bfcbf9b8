"""What planted items say of the detectors, from saved scores alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evalkit.leakage import lattice
from evalkit.leakage.order_test import (
    Statistic,
    order_test,
    order_values,
    rank_scores,
    ranks,
    residuals,
)
from evalkit.leakage.scores import Floats, Ints, PermutationScores
from evalkit.leakage.validation.detectors import DETECTORS, curve, detect, separation
from evalkit.stats.intervals import clopper_pearson

STATISTICS: tuple[Statistic, ...] = ("raw", "residual")
FRACTIONS = (1.0, 0.5, 0.1)
SIZES = (10, 25, 50, 100, 150, 300)
ALPHA = 0.01
REPLICATES = 1000
_SET = 50
"""Items of a random set of unexposed ones."""
_MIXED = 500
"""Random mixtures of exposed and unexposed items."""
_POINTS = 25
"""Points of a curve that is stored."""


@dataclass(frozen=True, slots=True)
class Exposed:
    """Scores of items of which some were trained on."""

    scores: PermutationScores
    member: NDArray[np.bool_]
    """Shape (N,)."""


def order_tests(draws: Sequence[Exposed]) -> dict[str, Any]:
    """The order test of each draw's members and unseen half, and how often a published order is first."""
    found: dict[str, Any] = {}
    for statistic in STATISTICS:
        ranked = [(ranks(draw.scores, statistic), draw.member) for draw in draws]
        found[statistic] = {
            "p_members": [order_test(all_.only(member)).p for all_, member in ranked],
            "p_unseen": [order_test(all_.only(~member)).p for all_, member in ranked],
            "top_members": proportion(np.concatenate([all_.top[member] for all_, member in ranked])),
            "top_unseen": proportion(np.concatenate([all_.top[~member] for all_, member in ranked])),
        }
    return found


def detections(draws: Sequence[Exposed]) -> dict[str, Any]:
    """How well each detector separates members from the unseen, over all draws together."""
    return {name: separation(*_sides(draws, name)) for name in DETECTORS}


def curves(draws: Sequence[Exposed]) -> dict[str, list[float]]:
    """ROC curve of each detector: true-positive rates at 25 false-positive rates from 0 to 1."""
    grid = np.linspace(0, 1, _POINTS)
    return {name: np.interp(grid, *curve(*_sides(draws, name))).round(4).tolist() for name in DETECTORS}


def _sides(draws: Sequence[Exposed], name: str) -> tuple[Floats, Floats]:
    """A detector's scores of members and of the unseen."""
    member = np.concatenate([draw.member for draw in draws])
    values = np.concatenate([detect(draw.scores, name) for draw in draws])
    return values[member], values[~member]


def power(draws: Sequence[Exposed], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Share of random data sets with p <= 0.01, by number of items and share of members.

    Members and unseen items of a data set are drawn with replacement, all from one of the draws.
    """
    found = []
    for statistic in STATISTICS:
        ranked = [(ranks(draw.scores, statistic).rank, draw.member) for draw in draws]
        for n, fraction in itertools.product(SIZES, FRACTIONS):
            sets = [_mixed(*ranked[k % len(ranked)], n, fraction, rng) for k in range(_MIXED)]
            p = p_values(np.stack(sets))
            rate = {"power": float((p <= ALPHA).mean()), "median_p": float(np.median(p))}
            found.append({"statistic": statistic, "n": n, "fraction": fraction, **rate})
    return found


def lift_explained(draws: Sequence[Exposed]) -> float:
    """Share of what reading lifts, order by order, that slots and neighbours account for.

    The lift is the mean over members less that over unseen items, and the share one of variance over orders.
    """
    groups = [(next(draw.scores.groups()), draw.member) for draw in draws]
    lifts = [
        group.logprobs[member].mean(axis=0) - group.logprobs[~member].mean(axis=0) for group, member in groups
    ]
    lift = np.mean(lifts, axis=0, keepdims=True)
    return float(1 - residuals(groups[0][0].orders, lift).var() / lift.var())


def null(draws: Sequence[Exposed], rng: np.random.Generator) -> dict[str, Any]:
    """Whether items nobody trained on look it: their ranks, and p-values of 1000 random sets of 50 of them.

    Sets of real orders overlap, so that their p-values move together with what the pool happens to be: a test
    of their uniformity would take that for a defect. Where every set redraws which order is the published one
    (`redrawn`) they do not.
    """
    found: dict[str, Any] = {"set": _SET, "replicates": REPLICATES}
    for statistic in STATISTICS:
        unseen = [draw.scores.only(~draw.member) for draw in draws]
        rank = np.concatenate([ranks(scores, statistic).rank for scores in unseen])
        rows = np.stack(
            [rng.choice(rank.size, min(_SET, rank.size), replace=False) for _ in range(REPLICATES)]
        )
        standing = np.concatenate([_standing(scores, statistic) for scores in unseen])
        m = standing.shape[1]
        redrawn = standing[rows, rng.integers(0, m, rows.shape)]
        found[statistic] = {
            "n_items": int(rank.size),
            "p_all": float(p_values(rank[None, :])[0]),
            "chi2_p": float(stats.chisquare(np.bincount(rank - 1, minlength=m)).pvalue),
            "sets": _uniformity(p_values(rank[rows])),
            "redrawn": _uniformity(p_values(redrawn)),
        }
    return found


def _standing(scores: PermutationScores, statistic: Statistic) -> Ints:
    """The rank every order would have if it were the published one, shape (N, m)."""
    (group,) = scores.groups()
    values = order_values(group.orders, group.logprobs, statistic)
    return np.asarray(values.shape[1] - values.argsort(axis=1).argsort(axis=1), np.int64)


def _uniformity(p: Floats) -> dict[str, Any]:
    return {
        "rejected": proportion(p <= ALPHA),
        "ks_p": float(stats.kstest(p, "uniform").pvalue),
        "quantiles": np.quantile(p, np.linspace(0, 1, _POINTS)).round(4).tolist(),
    }


def p_values(rank: Ints, m: int = 24) -> Floats:
    """p-values of data sets of one size, for ranks of shape (sets, items).

    They are those of `order_test`, read off one table, to an absolute error near 1e-12.
    """
    start, survival = lattice.survival([lattice.uniform(rank_scores(m), rank.shape[1])])
    totals = rank_scores(m)[rank - 1].sum(axis=1)
    return np.asarray(np.append(survival, 0.0)[np.clip(totals - start, 0, survival.size)], np.float64)


def proportion(hits: NDArray[np.bool_]) -> dict[str, Any]:
    """A share with its exact 95 % interval."""
    n = int(hits.sum())
    return {"value": n / hits.size, "ci95": clopper_pearson(n, hits.size), "n": int(hits.size)}


def _mixed(rank: Ints, member: NDArray[np.bool_], n: int, fraction: float, rng: np.random.Generator) -> Ints:
    planted = round(fraction * n)
    return np.concatenate([rng.choice(rank[member], planted), rng.choice(rank[~member], n - planted)])

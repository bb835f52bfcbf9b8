"""The statistics on made-up scores of known truth: size, coverage, false discoveries, stopping, power."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from evalkit.leakage import lattice
from evalkit.leakage.fraction import leads, leaked_fraction
from evalkit.leakage.order_test import (
    Ranks,
    Statistic,
    rank_scores,
    ranks,
)
from evalkit.leakage.scores import Floats, Ints
from evalkit.leakage.sequential import Decision, EProcess, Stopping
from evalkit.leakage.simulate import simulate
from evalkit.stats.intervals import clopper_pearson

ALPHA = 0.01
_M = 24
_ITEMS = 150
_NEGLIGIBLE = 1e-6
_CHUNK = 200
"""Replicates simulated at a time, so that memory stays small."""
_COVERAGE_GRID = ((150, 500, 3000), (0.0, 0.02, 0.1, 0.3, 1.0), (0.262, 0.538))
_STOPPING_GRID = ((0.262, 0.538), (1.0, 0.5, 0.2, 0.1))
_MEMORIES = {"spike": {"spike": 2.0, "prefix_bump": 0.0}, "prefix": {"spike": 0.0, "prefix_bump": 0.5}}


def run(replicates: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Run every check; the result is ready for JSON.

    Args:
        replicates: simulated null data sets, of 150 items each; the other checks are smaller in proportion.
        seed: of everything random.
    """
    rng = np.random.default_rng(seed)
    return {
        "replicates": replicates,
        "items": _ITEMS,
        "alpha": ALPHA,
        "null": null(replicates, rng),
        "coverage": coverage(),
        "false_discoveries": false_discoveries(replicates // 20, rng),
        "sequential": sequential(replicates // 4, rng),
        "power": power(replicates // 20, rng),
    }


def null(replicates: int, rng: np.random.Generator) -> dict[str, Any]:
    """Rejections and p-values where nothing leaked."""
    attainable = lattice.survival([lattice.uniform(rank_scores(_M), _ITEMS)])[1]
    p = _p_values(replicates, _ITEMS, 0.0, rng, "residual", {})
    hits = int((p <= ALPHA).sum())
    return {
        "exact_size": float(attainable[attainable <= ALPHA].max()),
        "rejection_rate": hits / replicates,
        "ci95": clopper_pearson(hits, replicates),
        "ks_p": float(stats.kstest(p, "uniform").pvalue),
    }


def coverage() -> list[dict[str, float]]:
    """Probability that the 95 % interval contains the leaked fraction, the sensitivity known; exact."""
    return [
        {"n": n, "fraction": pi, "sensitivity": t, "covered": _covered(n, pi, t)}
        for n, pi, t in itertools.product(*_COVERAGE_GRID)
    ]


def false_discoveries(replicates: int, rng: np.random.Generator, q: float = 0.1) -> list[dict[str, float]]:
    """Average share of leads that had not leaked, and of leaked items that became leads."""
    found = []
    for pi in (0.0, 0.05, 0.3, 1.0):
        false, discovered = [], []
        for _ in range(replicates):
            scores, leaked = simulate(2 * _ITEMS, 4, pi, rng, spike=2.0)
            place = {(item.subset, item.sample_id): row for row, item in enumerate(scores.items)}
            listed = [place[lead.subset, lead.sample_id] for lead in leads(ranks(scores), scores, q)]
            false.append(float((~leaked[listed]).sum()) / max(1, len(listed)))
            discovered.append(float(leaked[listed].sum()) / max(1, int(leaked.sum())))
        found.append(
            {"fraction": pi, "q": q, "fdr": float(np.mean(false)), "power": float(np.mean(discovered))}
        )
    return found


def sequential(replicates: int, rng: np.random.Generator) -> dict[str, Any]:
    """Type I error of the e-process over 3,000 items, how soon it stops, and the stopping rule's answers."""
    stopped = [_stopping_time(_draw(3000, 0.0, 1.0, rng)) is not None for _ in range(replicates)]
    times = []
    for t, pi in ((t, pi) for t in _STOPPING_GRID[0] for pi in _STOPPING_GRID[1]):
        first = [_stopping_time(_draw(6000, pi, t, rng)) or np.inf for _ in range(replicates // 10)]
        times.append({"fraction": pi, "sensitivity": t, "median_items": float(np.median(first))})
    rule = {
        f"fraction {pi:g}": _shares([_decision(pi, rng) for _ in range(replicates // 10)])
        for pi in (0.0, 0.1)
    }
    return {
        "type_1": float(np.mean(stopped)),
        "type_1_ci95": clopper_pearson(sum(stopped), replicates),
        "stopping": times,
        "rule_ruling_out_0.1": rule,
    }


def power(replicates: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Share of data sets rejected, by raw log-probabilities and by residuals."""
    found = []
    for memory, strength in _MEMORIES.items():
        for n, pi in ((15, 1.0), (40, 0.5), (_ITEMS, 0.2)):
            rates = {
                statistic: float((_p_values(replicates, n, pi, rng, statistic, strength) <= ALPHA).mean())
                for statistic in ("raw", "residual")
            }
            found.append({"memory": memory, "n": n, "fraction": pi, **rates})
    return found


def _p_values(
    replicates: int,
    n: int,
    fraction: float,
    rng: np.random.Generator,
    statistic: Statistic,
    strength: Mapping[str, float],
) -> Floats:
    """p-values of so many simulated data sets of n items, shape (replicates,).

    They are those of `order_test`, read off one table since all data sets have the same null law.
    """
    start, survival = lattice.survival([lattice.uniform(rank_scores(_M), n)])
    found = []
    for first in range(0, replicates, _CHUNK):
        size = min(_CHUNK, replicates - first)
        scores = simulate(size * n, 4, fraction, rng, **strength).scores
        found.append(rank_scores(_M)[ranks(scores, statistic).rank - 1].reshape(size, n).sum(axis=1))
    totals = np.concatenate(found)
    return np.asarray(survival[np.maximum(totals - start, 0)], np.float64)


def _covered(n: int, fraction: float, sensitivity: float) -> float:
    law = stats.binom.pmf(np.arange(n + 1), n, 1 / _M + fraction * (sensitivity - 1 / _M))
    covered = 0.0
    for tops in np.flatnonzero(law > _NEGLIGIBLE):
        rank = np.where(np.arange(n) < tops, 1, 2)
        low, high = leaked_fraction(_anonymous(rank), (sensitivity, sensitivity)).ci95
        # The ends are found by halving.
        if low - 1e-5 <= fraction <= high + 1e-5:
            covered += float(law[tops])
    return covered


def _draw(n: int, fraction: float, sensitivity: float, rng: np.random.Generator) -> Ranks:
    """Ranks of which a leaked one is 1 with probability `sensitivity` and otherwise any other."""
    traced = np.where(rng.random(n) < sensitivity, 1, rng.integers(2, _M + 1, n))
    rank = np.where(rng.random(n) < fraction, traced, rng.integers(1, _M + 1, n))
    return _anonymous(rank)


def _anonymous(rank: Ints) -> Ranks:
    blank = np.full(rank.size, "")
    return Ranks(rank, np.full(rank.size, _M), blank, blank)


def _stopping_time(ranks: Ranks) -> int | None:
    process = EProcess()
    process.update(ranks)
    return process.stopped_at(ALPHA)


def _decision(fraction: float, rng: np.random.Generator, batch: int = 100) -> Decision:
    """What the rule says in the end of up to 5,000 items, looking at every hundredth."""
    rule = Stopping(ALPHA, fraction=0.1)
    for _ in range(50):
        decision = rule.decide(_draw(batch, fraction, 0.262, rng))
        if decision != "continue":
            return decision
    return "continue"


def _shares(decisions: Sequence[Decision]) -> dict[str, float]:
    kinds: tuple[Decision, ...] = ("evidence", "futile", "continue")
    return {kind: decisions.count(kind) / len(decisions) for kind in kinds}

"""CMMLU as published, scored by a model that never read it: p must be uniform over subjects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from scipy import stats

from evalkit.leakage.items import Item
from evalkit.leakage.order_test import by_subset, order_test, ranks
from evalkit.leakage.scores import PermutationScores
from evalkit.leakage.validation import matrices, planting
from evalkit.leakage.validation.analysis import ALPHA, STATISTICS
from evalkit.leakage.validation.tier2 import MODEL, load

PER_SUBJECT = 10
"""The shortest items of each subject: which they are does not depend on the order of their options."""


def shortest(pool: Sequence[Item], per_subject: int = PER_SUBJECT) -> list[Item]:
    """The items of each subject with the fewest characters, options in published order."""
    by_subject: dict[str, list[Item]] = {}
    for item in sorted(planting.eligible(pool), key=planting.length):
        by_subject.setdefault(item.subset, []).append(item)
    return [item for subject in sorted(by_subject) for item in islice(by_subject[subject], per_subject)]


def scores(
    pool: Sequence[Item], path: Path, train: bool, progress: Callable[[str], None]
) -> PermutationScores | None:
    """Scores of the shortest items, from disk if they are there; None if not and `train` is off."""

    def measured() -> PermutationScores:
        from evalkit.backends.hf.backend import HfBackend

        items = shortest(pool)
        progress(f"scoring {len(items)} items of CMMLU with the untouched model")
        return matrices.measure(HfBackend(load("bfloat16")), "untouched", items, "ni2024")

    return matrices.kept(path, measured) if train or path.is_file() else None


def analyse(scores: PermutationScores) -> dict[str, Any]:
    """How p-values of subjects are spread, ready for JSON."""
    found: dict[str, Any] = {"model": MODEL, "n_items": len(scores)}
    for statistic in STATISTICS:
        ranked = ranks(scores, statistic)
        p = [test.p for test in by_subset(ranked).values()]
        found[statistic] = {
            "p_all": order_test(ranked).p,
            "p_subjects": sorted(p),
            "ks_p": float(stats.kstest(p, "uniform").pvalue),
            "rejected": sum(one <= ALPHA for one in p),
        }
    return found

"""The table of arXiv 2409.01790 for one run, with the column it lacks: what the rules flag of clean items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evalkit.leakage.formats import DUPLICATE_OPTIONS
from evalkit.leakage.isolation import isolation_score
from evalkit.leakage.null_floor import (
    Floor,
    Null,
    OutlierScore,
    by_n_orders,
    iid_null,
    item_outlier_scores,
    matched_null,
    null_floor,
    order_floor,
)
from evalkit.leakage.published import (
    CMB_THRESHOLD,
    SCENARIO_B_THRESHOLDS,
    outlier_scores,
    scenario_a,
    scenario_b,
)
from evalkit.leakage.scores import Floats, PermutationScores
from evalkit.stats.intervals import Estimate, independent_mean

Method = Literal["a", "b", "b-exact"]
"""Rule a; rule b with the published forest; rule b with the infinite forest in its place."""

_SCORES: dict[Method, OutlierScore] = {"b": outlier_scores, "b-exact": isolation_score}


@dataclass(frozen=True, slots=True)
class Row:
    """What one rule says of the items that were scored in so many orders."""

    method: Method
    threshold: float | None
    """Of rule b."""
    n_orders: int | None
    """None for all items together, where they were scored in different numbers of orders."""
    flagged: Estimate
    """Fraction of items that the rule flags, with Wilson's interval."""
    floor: Floor
    """What it flags of clean items: of rule a `order_floor`, of rule b that of `matched_null`."""
    noise_floor: Floor | None
    """Of rule b, what it flags of pure noise (`iid_null`)."""
    tied: int
    """Items whose largest log-probability belongs to several orders."""
    duplicate_options: int
    """Items with equal options."""
    corrected: dict[str, float]
    """Estimated leaked fraction by planted test, see `corrected_fractions`."""

    @property
    def excess(self) -> float:
        """Flagged fraction beyond the floor."""
        return self.flagged.value - self.floor.value


@dataclass(frozen=True, slots=True)
class PlantedTest:
    """How often a rule flagged 500 items a model had been trained on, and 500 others, in the paper."""

    sensitivity: float
    """Flagged fraction of the trained items after ten epochs."""
    false_positives: tuple[float, ...]
    """Flagged fraction of the others after 1, 2, 3, 5 and 10 epochs, implied by what the paper prints."""


PLANTED_TESTS: dict[str, dict[float | None, PlantedTest]] = {
    "MMLU, LLaMA2-7B": {
        None: PlantedTest(0.972, (0.20, 0.18, 0.18, 0.18, 0.15)),
        -0.2: PlantedTest(0.870, (0.266, 0.240, 0.296, 0.286, 0.264)),
        -0.17: PlantedTest(0.962, (0.464, 0.442, 0.484, 0.498, 0.494)),
        -0.15: PlantedTest(0.980, (0.614, 0.586, 0.600, 0.638, 0.638)),
    },
    "CMMLU, Qwen2-7B": {
        None: PlantedTest(1.0, (0.056, 0.048, 0.048, 0.046, 0.052)),
        -0.2: PlantedTest(0.918, (0.160, 0.188, 0.186, 0.222, 0.222)),
        -0.17: PlantedTest(0.984, (0.324, 0.384, 0.392, 0.434, 0.458)),
        -0.15: PlantedTest(0.998, (0.474, 0.534, 0.566, 0.586, 0.594)),
    },
}
"""The paper's planted tests (its tables 1 and 2): threshold of rule b, None for rule a, to what was found."""

_PLANTED_ORDERS = 24


def published_table(scores: PermutationScores, seed: int = 0) -> list[Row]:
    """Apply every published rule to the items, by number of orders and, where there are several, to all.

    Args:
        scores: the scored items.
        seed: of the matched null.

    Raises:
        ValueError: there are no items.
    """
    parts: dict[int | None, NDArray[np.intp]] = {m.shape[1]: rows for rows, m in by_n_orders(scores)}
    if len(parts) != 1:
        parts[None] = np.arange(len(scores))
    judged = {method: _judge(scores, score, seed) for method, score in _SCORES.items()}
    return [row for n_orders, rows in parts.items() for row in _rows(scores, rows, n_orders, judged)]


def corrected_fractions(flagged: float, threshold: float | None) -> dict[str, float]:
    """Estimate which fraction of the items leaked, if a leak looks as in a planted test of the paper.

    (flagged - f) / (s - f), with s the sensitivity after ten epochs and f the mean false positive rate (Rogan
    and Gladen, American Journal of Epidemiology 107, 1978). Below 0 where fewer items are flagged than in the
    clean half of the test. Another model, benchmark or exposure has other rates: this shows what the
    published percentages are worth, no more.

    Args:
        flagged: flagged fraction of four-option items.
        threshold: of rule b; None for rule a.

    Returns:
        Estimates by planted test; none at a threshold that was not tested.
    """
    tests = {name: at[threshold] for name, at in PLANTED_TESTS.items() if threshold in at}
    return {name: _rogan_gladen(flagged, test) for name, test in tests.items()}


def _rogan_gladen(flagged: float, test: PlantedTest) -> float:
    false_positive = float(np.mean(test.false_positives))
    return (flagged - false_positive) / (test.sensitivity - false_positive)


@dataclass(frozen=True, slots=True)
class _Judged:
    outlier_scores: Floats
    matched: Null
    iid: Null


def _judge(scores: PermutationScores, score: OutlierScore, seed: int) -> _Judged:
    return _Judged(
        item_outlier_scores(scores, score), matched_null(scores, score, seed), iid_null(scores, score)
    )


def _rows(
    scores: PermutationScores,
    rows: NDArray[np.intp],
    n_orders: int | None,
    judged: Mapping[Method, _Judged],
) -> Iterator[Row]:
    part = scores.only(rows)
    tied = sum(int(np.sum(item.logprobs == item.logprobs.max()) > 1) for item in part.items)
    duplicate = sum(DUPLICATE_OPTIONS in item.flags for item in part.items)

    def row(
        method: Method,
        threshold: float | None,
        flags: NDArray[np.bool_],
        floor: Floor,
        noise_floor: Floor | None = None,
    ) -> Row:
        flagged = independent_mean(flags)
        corrected = corrected_fractions(flagged.value, threshold) if n_orders == _PLANTED_ORDERS else {}
        return Row(method, threshold, n_orders, flagged, floor, noise_floor, tied, duplicate, corrected)

    published_first = np.array([scenario_a(item.logprobs[None])[0] for item in part.items])
    yield row("a", None, published_first, order_floor(part))
    for method, found in judged.items():
        observed = found.outlier_scores[rows]
        for threshold in (CMB_THRESHOLD, *SCENARIO_B_THRESHOLDS):
            floors = (null_floor(part, observed, threshold, null) for null in (found.matched, found.iid))
            yield row(method, threshold, scenario_b(observed, threshold), *floors)

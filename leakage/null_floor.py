"""What the published rules flag when nothing leaked.

The method of arXiv 2409.01790 reports the share of items its rules flag, and nothing tells how many they flag of
a benchmark no model has seen. That share is far from zero: see `iid_chance` and `matched_chance` for what each
null assumes. Neither knows that a publisher's own order may be natural (numbers ascending, "all of the above"
last): there, rule a flags more than its floor without any leak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evalkit.leakage.forest import decision_of_max
from evalkit.leakage.isolation import isolation_score
from evalkit.leakage.scores import Floats, Group, Orders, PermutationScores
from evalkit.stats.intervals import LEVEL

OutlierScore = Callable[[Floats], Floats]
"""Log-probabilities, shape (N, m), to an outlier score of each row's largest, shape (N,)."""

_VALUES = {decision_of_max: 480_000, isolation_score: 2_400_000}
"""Random log-probabilities on which a floor rests: seconds of work, and a standard error below 0.4 points."""


@dataclass(frozen=True, slots=True)
class Floor:
    """How much of so many items a rule flags although nothing leaked."""

    value: float
    """Expected flagged fraction."""
    low: float
    high: float
    """Between these lies the flagged fraction of 95 % of clean runs of as many items."""
    p_value: float
    """Share of clean runs that flag at least as many items as this one did."""


def order_floor(scores: PermutationScores) -> Floor:
    """Floor of rule a, exact: the published order is one of the scored orders, drawn at random.

    Of m orders of which t share the largest log-probability, chance picks one of those with probability t / m;
    m = 24 without ties gives 1/24. Nothing is assumed of the model. The number of flagged items is a sum of
    independent draws with these probabilities, whose distribution is computed.
    """
    flagged, chances = 0, []
    for group in scores.groups():
        top = group.logprobs == group.logprobs.max(axis=1, keepdims=True)
        flagged += int(top[:, 0].sum())
        chances.append(top.mean(axis=1))
    return _floor(flagged, _sum_of_draws(np.concatenate(chances)))


def iid_floor(scores: PermutationScores, threshold: float, outlier_score: OutlierScore) -> Floor:
    """Floor of rule b if log-probabilities were noise: independent and normal over an item's orders.

    That is no model of a language model, but what the rule's threshold can be read against: 24 such numbers
    are flagged at -0.2 in 35 % of cases (infinite forest), 120 in 87 %. As outlier scores do not change with
    location and scale, it depends on the number of orders alone.
    """

    def chance(group: Group, _: np.random.Generator) -> tuple[int, int]:
        return _iid_chance(group.logprobs.shape[1], threshold, outlier_score)

    return _floor_of_b(scores, threshold, outlier_score, chance)


def matched_floor(
    scores: PermutationScores, threshold: float, outlier_score: OutlierScore, seed: int = 0
) -> Floor:
    """Floor of rule b for these very items, without what makes single orders stand out.

    The part of each item's log-probabilities that is explained by which option stands in which slot and which
    follows which is kept; what is left over is turned in a random direction of its space, at the same length.
    This assumes that without a leak the remainder has no preferred direction, as normal noise of any size has
    none (rotation test; Langsrud, Statistics and Computing 15, 2005). A leaked order adds to both
    parts, which raises the floor: with a leak, what exceeds it is a lower bound.
    """
    n_values = sum(group.logprobs.size for group in scores.groups())
    repeats = max(1, _VALUES[outlier_score] // n_values)

    def chance(group: Group, generator: np.random.Generator) -> tuple[int, int]:
        drawn = (rotated(group.orders, group.logprobs, generator) for _ in range(repeats))
        return sum(int((outlier_score(rows) < threshold).sum()) for rows in drawn), repeats * len(group.rows)

    return _floor_of_b(scores, threshold, outlier_score, chance, seed)

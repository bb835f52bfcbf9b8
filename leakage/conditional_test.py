"""The option-order test for benchmarks whose publisher did not shuffle.

The published order is compared not with all orders alike but with those the publisher might as well have
printed: its rank is judged by a law over the orders of each item (`evalkit.leakage.publisher_law`). This is
the conditional randomisation test of Candès, Fan, Janson and Lv, "Panning for Gold", JRSS B 80 (2018).

The exact test (`evalkit.leakage.order_test`) assumes nothing about the publisher but a shuffle. This one is
as valid as the estimated law is true: an inclination of the publisher that the law misses and the model
shares looks like a leak. Preferences of reference models enter the law to close that gap. One reference
closes about half of it in simulations, ten nearly all; references that have themselves seen the benchmark
make the test conservative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import UsageError
from evalkit.leakage import convolution
from evalkit.leakage.order_test import Statistic, order_values
from evalkit.leakage.publisher_law import Key, PublisherLaw, key_of, law_of
from evalkit.leakage.scores import Floats, Ints, PermutationScores

_TIE = 1e-9
_STEPS = 16
"""Steps per nat on which the scores of items lie."""


@dataclass(frozen=True, slots=True)
class ConditionalOrderTest:
    """Whether published orders stand higher than the publisher's law puts them."""

    n: int
    p: float
    """One-sided p-value, exact if the law is true; 0 where it is below the smallest float."""
    log10_p: float
    z: float
    """(sum of phi_i - its mean) / its standard deviation, both under the law."""
    information: float
    """Variance of the sum under the law, as a share of that under a shuffle."""
    keys: tuple[Key, ...]
    """Subset and id of each item."""
    item_p: Floats
    """Mid-p-value of each item's published order, shape (N,)."""
    weight: Floats
    """Share of each item in the variance of the sum, shape (N,): 0 where the law leaves one order only."""


def conditional_order_test(
    scores: PermutationScores, law: PublisherLaw, statistic: Statistic = "raw"
) -> ConditionalOrderTest:
    """Test that a model is independent of the published order beyond the publisher's law.

    With f the statistic of an order, p_i = Q_i(f > f_i) + Q_i(f = f_i) / 2 for the published order's f_i.
    The sum of phi_i = -log p_i is judged by its law under all Q_i, a convolution. A phi_i is at most log(10
    m) with m orders, lest one order that the law misjudges decides alone, and rounded to 1/16 nat; both are
    part of the statistic, so its law is exact.

    The p-value is exact if Q is the publisher's law, and wrong by as much as it is not. Check it on models
    that cannot have seen the benchmark: theirs must look uniform.

    Raises:
        UsageError: if no item of `scores` is in the law, or one was scored in other orders.
    """
    rows = [row for row, item in enumerate(scores.items) if key_of(item) in law.items]
    if not rows:
        raise UsageError(
            f"{scores.task}: none of its items is in the publisher's law; fit it on the same task"
        )
    shared = scores.only(rows)
    keys = tuple(key_of(item) for item in shared.items)
    most = max(item.orders.shape[0] for item in shared.items)
    laws, shuffled = np.zeros((2, len(rows), int(_scores(np.zeros(1), most)[0]) + 1))
    item_p, total = np.empty(len(rows)), 0
    for group in shared.groups():
        q = np.stack([law_of(law, keys[row], group.orders) for row in group.rows])
        values = order_values(group.orders, group.logprobs, statistic)
        tied = _tie_classes(values, _TIE * np.abs(group.logprobs).max(axis=1, keepdims=True))
        mid_p = _mid_p(tied, q)
        item_p[group.rows] = mid_p[:, 0]
        total += int(_scores(mid_p[:, 0], q.shape[1]).sum())
        laws[group.rows] = _law_of_score(mid_p, q, laws.shape[1])
        uniform = np.full_like(q, 1 / q.shape[1])
        shuffled[group.rows] = _law_of_score(_mid_p(tied, uniform), uniform, laws.shape[1])
    mean, variance = convolution.moments(laws)
    spread = float(variance.sum())
    most_spread = float(convolution.moments(shuffled)[1].sum())
    log_p = convolution.log_tail(laws, total)
    return ConditionalOrderTest(
        n=len(rows),
        p=math.exp(log_p),
        log10_p=log_p / math.log(10),
        z=(total - float(mean.sum())) / math.sqrt(spread) if spread else 0.0,
        information=spread / most_spread if most_spread else 0.0,
        keys=keys,
        item_p=item_p,
        weight=variance / spread if spread else variance,
    )


def _tie_classes(values: Floats, tolerance: Floats) -> NDArray[np.intp]:
    """Class of each order, 0 the highest, shape (N, m); neighbours within the tolerance share one."""
    descending = np.argsort(-values, axis=1)
    gaps = -np.diff(np.take_along_axis(values, descending, axis=1), axis=1)
    classes = np.zeros(values.shape, np.intp)
    np.put_along_axis(classes, descending[:, 1:], np.cumsum(gaps > tolerance, axis=1), axis=1)
    return classes


def _mid_p(classes: NDArray[np.intp], q: Floats) -> Floats:
    """Q(higher class) + Q(same class) / 2 of every order, shape (N, m)."""
    n, m = q.shape
    cells = classes + m * np.arange(n)[:, None]
    mass = np.bincount(cells.ravel(), q.ravel(), n * m).reshape(n, m)
    return np.take_along_axis(np.cumsum(mass, axis=1) - mass / 2, classes, axis=1)


def _scores(mid_p: Floats, m: int) -> Ints:
    """-log p in steps of 1/16 nat, at most log(10 m)."""
    return np.asarray(np.rint(-_STEPS * np.log(np.maximum(mid_p, 1 / (10 * m)))), np.int64)


def _law_of_score(mid_p: Floats, q: Floats, width: int) -> Floats:
    """Probability of each score when orders are drawn from Q, shape (N, width)."""
    n, m = q.shape
    cells = _scores(mid_p, m) + width * np.arange(n)[:, None]
    return np.bincount(cells.ravel(), q.ravel(), n * width).reshape(n, width).astype(np.float64)

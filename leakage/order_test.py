"""The exact option-order randomisation test.

A model that was trained on a benchmark's file has seen one order of each item's options. If the publisher put
them in random order and the model does not depend on it, the rank of the published order among the scored
ones, by any statistic that treats options alike, is uniform: exactly, whatever the model, independently
over items.

The statistic of an order is its log-probability (`raw`), or what is left of that after the effects of which
option stands where and which follows which (`residual`). Both are exact. Removing a model's taste in
positions and fluent neighbours promises power, but planted leaks show otherwise: reading an item lifts every
order by how much of the published one it shares, so that nearly all of what is remembered lies in those
effects (`docs/leakage-validation.md`). Ties are broken by lot, drawn from the item's identity.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evalkit.leakage import lattice
from evalkit.leakage.scores import Floats, Ints, Orders, PermutationScores
from evalkit.stats.intervals import clopper_pearson, clustered_mean

Statistic = Literal["residual", "raw"]

_TIE = 1e-9
"""Log-probabilities that differ by less, relative to the largest, are equal: orders that read the same."""
_SINGULAR = 1e-9
"""Singular values below this share of the largest are zero."""
_STEPS = 128
"""Steps per nat on which the scores of ranks lie."""
_ENUMERATED_CLUSTERS = 14
_SIGN_FLIPS = 19_999
_SIGNS_AT_ONCE = 2_000_000


def residuals(orders: Orders, logprobs: Floats) -> Floats:
    """Log-probabilities without the effects of slots and neighbours, shape (N, m), in nats.

    Projects out, by least squares over an item's orders, an indicator of each option in each slot and of each
    option directly before each other. Over all orders of n options these have rank 15 of 24 (n=4) or 28 of
    120 (n=5). An effect is removed only where at least two degrees of freedom are left: of few sampled
    orders or three options' six, only their mean is taken off, or, where that suffices, slots and mean. The
    columns span the same space whichever order was published, so ranks stay uniform under the null.

    Args:
        orders: the orders that were scored, shape (m, n).
        logprobs: shape (N, m), in nats.
    """
    basis = _nuisance(orders.shape[1], np.ascontiguousarray(orders, np.int8).tobytes())
    # Centred first: log-probabilities of long items are large and their differences small.
    centred = logprobs - logprobs.mean(axis=1, keepdims=True)
    return np.asarray(centred - (centred @ basis) @ basis.T, np.float64)


def order_values(orders: Orders, logprobs: Floats, statistic: Statistic = "raw") -> Floats:
    """What orders are compared by, shape (N, m), in nats: mean 0 over each item's orders.

    Args:
        orders: the orders that were scored, shape (m, n).
        logprobs: shape (N, m), in nats.
        statistic: `raw`, the log-probabilities themselves, or `residual`, see `residuals`.
    """
    if statistic == "residual":
        return residuals(orders, logprobs)
    return np.asarray(logprobs - logprobs.mean(axis=1, keepdims=True), np.float64)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where the published order of each item stands among its scored orders. All arrays have shape (N,)."""

    rank: Ints
    """1 to `n_orders`; 1: the published order has the highest statistic."""
    n_orders: Ints
    subset: NDArray[np.str_]
    sample_id: NDArray[np.str_]

    def __len__(self) -> int:
        return int(self.rank.size)

    @property
    def top(self) -> NDArray[np.bool_]:
        """Whether the published order is the first."""
        return np.equal(self.rank, 1)

    @property
    def u(self) -> Floats:
        """Ranks as fractions: 1 for the first, 0 for the last, 1/2 on average under the null."""
        return (self.n_orders - self.rank) / (self.n_orders - 1)

    def only(self, rows: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Ranks:
        """The items at some positions, or where a boolean array is true."""
        return Ranks(self.rank[rows], self.n_orders[rows], self.subset[rows], self.sample_id[rows])


def ranks(scores: PermutationScores, statistic: Statistic = "raw", seed: int = 0) -> Ranks:
    """Rank the published order of every item.

    Args:
        scores: the scored items; each in at least two orders.
        statistic: see `order_values`.
        seed: of the lots that break ties; they depend on nothing else but the item's subset and id.
    """
    rank, n_orders = np.empty(len(scores), np.int64), np.empty(len(scores), np.int64)
    for group in scores.groups():
        values = order_values(group.orders, group.logprobs, statistic)
        above, tied = _standing(values, _TIE * np.abs(group.logprobs).max(axis=1, keepdims=True))
        rank[group.rows] = above + 1
        n_orders[group.rows] = group.orders.shape[0]
        for row in np.flatnonzero(tied > 1):
            item = scores.items[group.rows[row]]
            rank[group.rows[row]] += _lot(f"{seed}\0{item.subset}\0{item.sample_id}", int(tied[row]))
    ids = np.array([item.sample_id for item in scores.items], np.str_)
    return Ranks(rank, n_orders, scores.subsets, ids)


@dataclass(frozen=True, slots=True)
class OrderTest:
    """Whether published orders stand higher than chance puts them."""

    n: int
    p: float
    """Exact one-sided p-value of `statistic`; 0 where it is below the smallest float."""
    log10_p: float
    statistic: float
    """T = sum of -log(rank / orders), each rounded to 1/128 nat."""
    z: float
    """T in standard deviations from its mean under the null."""
    n_top: int
    """Items whose published order is the first."""
    top_rate: float
    top_ci95: tuple[float, float]
    """Clopper-Pearson interval of the top rate."""
    expected_top_rate: float
    """Top rate under the null."""
    p_top: float
    """Exact one-sided p-value of `n_top`."""


def order_test(ranks: Ranks) -> OrderTest:
    """Test that the published order is as good as random to the model.

    T = sum_i phi(R_i) with phi = -log(R/m) rounded to 1/128 nat: the rounding is part of the statistic, so
    its null law, the convolution of the items' uniform laws, is exact. Items in any number of orders mix.
    Under the null items are independent given their subjects, so T needs no further stratification.

    Raises:
        ValueError: if there are no items.
    """
    if not len(ranks):
        raise ValueError("a test needs at least one item")
    sizes, counts = np.unique(ranks.n_orders, return_counts=True)
    scored = [(int(m), int(count)) for m, count in zip(sizes, counts, strict=True)]
    shapes = [lattice.uniform(rank_scores(m), count) for m, count in scored]
    total = sum(int(rank_scores(m)[ranks.rank[ranks.n_orders == m] - 1].sum()) for m, _ in scored)
    log_p = lattice.log_tail(shapes, total)
    mean, variance = lattice.moments(shapes)
    n, n_top = len(ranks), int(ranks.top.sum())
    hits = [lattice.Term(np.array([0, 1]), np.array([1 - 1 / m, 1 / m]), count) for m, count in scored]
    return OrderTest(
        n=n,
        p=math.exp(log_p),
        log10_p=log_p / math.log(10),
        statistic=total / _STEPS,
        z=(total - mean) / math.sqrt(variance),
        n_top=n_top,
        top_rate=n_top / n,
        top_ci95=clopper_pearson(n_top, n),
        expected_top_rate=float((1 / ranks.n_orders).mean()),
        p_top=math.exp(lattice.log_tail(hits, n_top)),
    )


def by_subset(ranks: Ranks) -> dict[str, OrderTest]:
    """The test of each subset, in order of first appearance."""
    names = dict.fromkeys(ranks.subset.tolist())
    return {name: order_test(ranks.only(ranks.subset == name)) for name in names}


@lru_cache
def rank_scores(m: int) -> Ints:
    """-log(rank / m) of ranks 1 to m in steps of 1/128 nat, shape (m,)."""
    return np.asarray(np.rint(_STEPS * np.log(m / np.arange(1, m + 1))), np.int64)


@dataclass(frozen=True, slots=True)
class RankDifference:
    """How much higher published orders stand with one model than with another."""

    value: float
    """Mean of U(target) - U(reference), in [-1, 1]."""
    ci95: tuple[float, float]
    """From the spread between subsets."""
    p: float
    """One-sided, by flipping the signs of whole subsets."""
    n: int
    """Items both models have."""
    n_subsets: int


def rank_difference(target: Ranks, reference: Ranks, seed: int = 0) -> RankDifference:
    """Compare a model with a reference on the items both have.

    Where the publisher's order is natural, ranks are not uniform with any model; what a reference does not
    show is the target's own. Signs are flipped by subset, within which items are alike: all combinations up
    to 14 subsets, else 19,999 at random with p = (1 + hits) / (1 + 19,999). The test is exact where the two
    models are exchangeable under the null, and approximate in the number of subsets otherwise.

    Raises:
        ValueError: if they have no item in common.
    """
    place = {key: row for row, key in enumerate(_keys(reference))}
    shared = [(row, place[key]) for row, key in enumerate(_keys(target)) if key in place]
    if not shared:
        raise ValueError("the two models have no item in common")
    ours, theirs = np.array(shared, np.intp).T
    difference = target.u[ours] - reference.u[theirs]
    subset = target.subset[ours]
    names, cluster = np.unique(subset, return_inverse=True)
    if names.size == 1:
        cluster = np.arange(subset.size)
    # The clustered mean is one of values in [0, 1].
    estimate = clustered_mean((difference + 1) / 2, subset)
    return RankDifference(
        value=float(difference.mean()),
        ci95=(2 * estimate.ci95[0] - 1, 2 * estimate.ci95[1] - 1),
        p=sign_flip(np.bincount(cluster, difference).astype(np.float64), seed),
        n=int(difference.size),
        n_subsets=int(names.size),
    )


@lru_cache(maxsize=64)
def _nuisance(n: int, order_bytes: bytes) -> Floats:
    """Orthonormal basis of the effects to remove, shape (m, rank)."""
    orders = np.frombuffer(order_bytes, np.int8).reshape(-1, n)
    m = len(orders)
    mean = np.ones((m, 1))
    slots = np.hstack([mean, *(orders == option for option in range(n))])
    pairs = [
        ((orders[:, :-1] == a) & (orders[:, 1:] == b)).any(axis=1)
        for a, b in itertools.permutations(range(n), 2)
    ]
    for design in (np.column_stack([slots, *pairs]), slots):
        left, singular, _ = np.linalg.svd(design.astype(np.float64), full_matrices=False)
        rank = int((singular > _SINGULAR * singular[0]).sum())
        if rank + 2 <= m:
            return np.asarray(left[:, :rank], np.float64)
    return mean / math.sqrt(m)


def _standing(values: Floats, tolerance: Floats) -> tuple[Ints, Ints]:
    """Orders above the published one, and orders tied with it (itself included), shape (N,) each.

    Ties are the classes between gaps wider than the tolerance, which do not depend on which order was
    published.
    """
    descending = np.argsort(-values, axis=1)
    gaps = -np.diff(np.take_along_axis(values, descending, axis=1), axis=1)
    classes = np.hstack([np.zeros((len(values), 1), np.int64), np.cumsum(gaps > tolerance, axis=1)])
    published = classes[descending == 0][:, None]
    return (classes < published).sum(axis=1), (classes == published).sum(axis=1)


def _lot(identity: str, size: int) -> int:
    """A number below `size` that is as good as random and always the same."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=16).digest()) % size


def _keys(ranks: Ranks) -> Sequence[tuple[str, str]]:
    return list(zip(ranks.subset.tolist(), ranks.sample_id.tolist(), strict=True))


def sign_flip(sums: Floats, seed: int) -> float:
    """One-sided p-value of the total under independent random signs of its parts."""
    # Rounding must not tell the observed signs from an equal sum.
    least = sums.sum() - 1e-9 * np.abs(sums).sum()
    if sums.size <= _ENUMERATED_CLUSTERS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=sums.size)))
        return float((signs @ sums >= least).mean())
    generator = np.random.default_rng(seed)
    step = max(1, _SIGNS_AT_ONCE // sums.size)
    hits = 0
    for done in range(0, _SIGN_FLIPS, step):
        signs = generator.choice([1.0, -1.0], (min(step, _SIGN_FLIPS - done), sums.size))
        hits += int((signs @ sums >= least).sum())
    return (1 + hits) / (1 + _SIGN_FLIPS)

"""Made-up permutation scores of which it is known who leaked: the ground truth that checks the statistics."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalkit.leakage.scores import Floats, ItemScores, Orders, PermutationScores, all_orders

_PER_SUBJECT = 50
"""Items of one subject."""


class Simulated(NamedTuple):
    """Scores and the truth behind them."""

    scores: PermutationScores
    leaked: NDArray[np.bool_]
    """Whether an item's published order is memorised, shape (N,)."""


def simulate(
    n_items: int,
    n_options: int,
    fraction: float,
    rng: np.random.Generator,
    *,
    slot_sd: float = 1.0,
    adjacency_sd: float = 1.0,
    noise_sd: float = 0.5,
    spike: float = 0.0,
    prefix_bump: float = 0.5,
) -> Simulated:
    """Draw items of which each is leaked with probability `fraction`; 50 items to a subject.

    An order's log-probability is normal noise around the sum of normal effects of each option in its slot
    and of each option directly after another. For a leaked item memory adds `spike` to the published order,
    and `prefix_bump` for every option that an order shares with the beginning of the published one: a model
    that writes left to right recalls the next option as long as all before it are in place.

    Args:
        n_items: number of items N.
        n_options: options of each, at most 5: all orders are drawn.
        fraction: probability that an item is leaked.
        rng: source of everything random.
        slot_sd: of the slot effects, in nats.
        adjacency_sd: of the adjacency effects, in nats.
        noise_sd: of each order's own noise, in nats.
        spike: in nats.
        prefix_bump: in nats per option.
    """
    orders = all_orders(n_options)
    leaked = rng.random(n_items) < fraction
    logprobs = _nuisance(orders, n_items, rng, slot_sd, adjacency_sd)
    logprobs += rng.normal(0, noise_sd, logprobs.shape)
    prefix = np.cumprod(orders == orders[0], axis=1).sum(axis=1)
    memory = prefix_bump * prefix + spike * (prefix == n_options)
    logprobs += leaked[:, None] * memory
    items = tuple(
        ItemScores(f"subject {row // _PER_SUBJECT}", str(row % _PER_SUBJECT), orders, values)
        for row, values in enumerate(logprobs)
    )
    return Simulated(PermutationScores("simulated", items), leaked)


def _nuisance(
    orders: Orders, n_items: int, rng: np.random.Generator, slot_sd: float, adjacency_sd: float
) -> Floats:
    m, n = orders.shape
    slots = np.zeros((n * n, m))
    neighbours = np.zeros((n * n, m))
    for row, order in enumerate(orders.astype(int)):
        slots[order * n + np.arange(n), row] = 1
        neighbours[order[:-1] * n + order[1:], row] = 1
    by_slot = rng.normal(0, slot_sd, (n_items, n * n)) @ slots
    return np.asarray(by_slot + rng.normal(0, adjacency_sd, (n_items, n * n)) @ neighbours, np.float64)

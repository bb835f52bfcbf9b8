"""What a model says of an item's options in every order: the one measurement most detectors read.

Row 0 is always the published order. Items of up to five options are scored in all n! orders, in the order of
`itertools.permutations`; items with more in the published order and a sample of others, drawn for each item.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Orders = NDArray[np.int8]
"""Orders of an item's options, shape (m, n): row k prints option `orders[k, j]` j-th, row 0 as published."""

MOST_PERMUTED = 5
"""Options up to which all orders are scored."""


def all_orders(n: int) -> Orders:
    """All n! orders of n options, shape (n!, n)."""
    return np.array(list(itertools.permutations(range(n))), np.int8)


def sampled_orders(n: int, m: int, generator: np.random.Generator) -> Orders:
    """The published order and m - 1 different others at random, shape (m, n)."""
    if m > math.factorial(n):
        raise ValueError(f"{n} options have fewer than {m} orders")
    found = {tuple(range(n)): None}
    while len(found) < m:
        found.setdefault(tuple(int(i) for i in generator.permutation(n)))
    return np.array(list(found), np.int8)


@dataclass(frozen=True, slots=True)
class ItemScores:
    """Log-probabilities of one item's option block in every scored order."""

    subset: str
    sample_id: str
    orders: Orders
    logprobs: Floats
    """Shape (m,), in nats; entry 0 belongs to the published order."""
    flags: tuple[str, ...] = ()
    """What a reader must know of this item, for example `duplicate_options`."""

    @property
    def n_options(self) -> int:
        """Number of options."""
        return int(self.orders.shape[1])


@dataclass(frozen=True, slots=True)
class Group:
    """Items that were scored in the same orders, as one matrix."""

    rows: NDArray[np.intp]
    """Positions of the items in `PermutationScores.items`, shape (N,)."""
    orders: Orders
    """Shape (m, n)."""
    logprobs: Floats
    """Shape (N, m)."""


@dataclass(frozen=True, slots=True)
class PermutationScores:
    """The scored items of one task, in dataset order. Every log-probability is finite."""

    task: str
    """Resolved task name, for example `cmmlu@official:test:5shot`."""
    items: tuple[ItemScores, ...]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def subsets(self) -> NDArray[np.str_]:
        """Subset of every item, shape (N,)."""
        return np.array([item.subset for item in self.items], np.str_)

    def groups(self) -> Iterator[Group]:
        """Items by the orders they were scored in."""
        alike: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        for row, item in enumerate(self.items):
            alike[item.n_options, item.orders.tobytes()].append(row)
        for rows in alike.values():
            logprobs = np.stack([self.items[row].logprobs for row in rows])
            yield Group(np.array(rows, np.intp), self.items[rows[0]].orders, logprobs)

    def only(self, rows: Sequence[int] | NDArray[Any]) -> PermutationScores:
        """The items at some positions, or where a boolean array of all items is true."""
        chosen = np.arange(len(self.items))[np.asarray(rows)]
        return PermutationScores(self.task, tuple(self.items[int(row)] for row in chosen))

"""Items that are planted in training data by coin flip, each in an option order of our own."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalkit.data.source import DataSource
from evalkit.leakage.items import Item


@dataclass(frozen=True, slots=True)
class Planted:
    """Items whose exposure is known because we drew it."""

    items: tuple[Item, ...]
    """Options in the random order we gave them, which is the one that is trained on and tested."""
    member: NDArray[np.bool_]
    """Which of them are trained on, shape (N,)."""


def read_items(source: DataSource, name: str, split: str) -> list[Item]:
    """Items of a benchmark with questions and four options, in the order of its files."""
    from evalkit.registry import get_task

    task = get_task(name)
    return [
        Item(subset, sample.id, sample.fields["question"], tuple(sample.fields[k] for k in "ABCD"))
        for subset in task.subsets
        for sample in source.load(task, split, subset)
    ]


def eligible(items: Iterable[Item], longest: float = math.inf) -> list[Item]:
    """Items with four distinct options on one line each, of at most `longest` characters in all.

    A question that occurs twice is left out: exposing one copy would expose a part of the other.
    """
    found = [item for item in items if _is_plain(item) and length(item) <= longest]
    times = Counter(item.question for item in found)
    return [item for item in found if times[item.question] == 1]


def _is_plain(item: Item) -> bool:
    texts = (item.question, *item.options)
    return item.n_distinct == len(item.options) == 4 and all(t.strip() and "\n" not in t for t in texts)


def length(item: Item) -> int:
    """Characters of question and options."""
    return len(item.question) + sum(map(len, item.options))


def shuffled(item: Item, generator: np.random.Generator) -> Item:
    """The item with its options in a uniformly random order."""
    return item.ordered([int(i) for i in generator.permutation(len(item.options))])


def plant(pool: Sequence[Item], n_pairs: int, generator: np.random.Generator) -> Planted:
    """Draw pairs of items, spread evenly over the subsets, and plant one of each pair by coin flip.

    Members and non-members differ in nothing but the coin: both halves have the same number of items in
    every subset, and every option order is redrawn.

    Raises:
        ValueError: the pool has fewer pairs within subsets.
    """
    pairs = list(_pairs(pool, n_pairs, generator))
    if len(pairs) < n_pairs:
        raise ValueError(f"only {len(pairs)} pairs of items of one subset, {n_pairs} are asked for")
    items = tuple(shuffled(item, generator) for pair in pairs for item in pair)
    heads = generator.integers(0, 2, n_pairs)
    return Planted(items, np.arange(2)[None, :].repeat(n_pairs, 0).ravel() == heads.repeat(2))


def _pairs(pool: Sequence[Item], n: int, generator: np.random.Generator) -> Iterator[tuple[Item, Item]]:
    """Up to `n` pairs, one from each subset in turn."""
    left: dict[str, list[Item]] = defaultdict(list)
    for i in generator.permutation(len(pool)):
        left[pool[i].subset].append(pool[i])
    while n and (rich := [subset for subset in sorted(left) if len(left[subset]) > 1]):
        for subset in generator.permutation(rich)[:n]:
            yield left[subset].pop(), left[subset].pop()
            n -= 1

"""How few-shot examples are chosen: the published rules, which differ more than their results suggest."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from evalkit.types import Sample

Examples = list[tuple[Sample, ...]]
"""The examples of every sample."""

FewShot = Callable[[Sequence[Sample], Sequence[Sample], int], Examples]
"""(examples to choose from, all samples of the subset, k) to k examples for every sample."""


def first_rows(pool: Sequence[Sample], samples: Sequence[Sample], k: int) -> Examples:
    """Give every sample the first `k` examples, in file order."""
    return [tuple(pool[:k])] * len(samples)


def drawn_per_sample(pool: Sequence[Sample], samples: Sequence[Sample], k: int) -> Examples:
    """Draw for every sample in turn, as lm-evaluation-harness does (4e7e0d4, seed 1234)."""
    if k == 0:
        return first_rows(pool, samples, 0)
    generator = random.Random(1234)
    return [tuple(generator.sample(list(pool), k)) for _ in samples]


def drawn_in_shuffled_order(pool: Sequence[Sample], samples: Sequence[Sample], k: int) -> Examples:
    """Shuffle the samples, then draw for each in that order, as the harness did in 2023 (b281b09, seed 42).

    What a sample gets depends on how many samples there are and on their order.
    """
    generator = random.Random(42)
    order = list(range(len(samples)))
    generator.shuffle(order)
    if k == 0:
        return first_rows(pool, samples, 0)
    drawn = {i: tuple(generator.sample(list(pool), k)) for i in order}
    return [drawn[i] for i in range(len(samples))]

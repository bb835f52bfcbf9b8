"""Has the model seen the benchmark's records in the order of the published file?

A file that was read from beginning to end makes each record likelier after the one before it. If the
publisher's order is random, a model that has not read the file knows nothing of it: cut into shards of
consecutive records, each shard's published order has a uniform rank among random orders of the same records,
exactly and independently of the other shards. A shard is to its records what an item is to its options.

Where the publisher's order is not random (records on one paragraph, or sorted by kind, stand together), a
model can prefer it without having seen it. The likeness of neighbouring texts, ranked in the model's place,
tells: where it is high in the published orders, they are recognisable, and the test proves nothing.

Source: Oren et al., "Proving Test Set Contamination in Black Box Language Models", arXiv 2310.17623, whose
t test over shards is replaced by exact ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from evalkit.backends.base import Backend
from evalkit.errors import UsageError
from evalkit.leakage.order_test import OrderTest, order_test, ranks
from evalkit.leakage.scores import Floats, ItemScores, Orders, PermutationScores, all_orders, sampled_orders
from evalkit.leakage.texts.asking import Progress, ignore, logprobs, whole
from evalkit.leakage.texts.contrast import trigrams
from evalkit.leakage.texts.records import Text

SEPARATOR = "\n\n"
N_ORDERS = 25
"""Orders scored per shard, the published one included."""
FEWEST_SHARDS = 8
_WANTED_SHARDS = 20
"""Shards to make of short files: their ranks are combined, and each can be 1/25 of evidence at best."""
_SMALLEST, _LARGEST = 4, 100
"""Records per shard: few have few orders; many are scored as well in several shards."""
_MOST_TOKENS = 2048
"""Tokens per shard: attention to more costs more than it tells."""

Shard = tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class ItemOrderTest:
    """Whether shards of a file are likelier in the published order."""

    test: OrderTest
    """Of the shards' ranks under the model."""
    blind: OrderTest
    """The same of the likeness of neighbouring texts, which knows no model."""
    n_texts: int
    """Records in the shards."""
    tokens_computed: int


def item_order_test(
    backend: Backend, texts: Sequence[Text], seed: int = 0, progress: Progress = ignore
) -> ItemOrderTest:
    """Test whether the model prefers records in the order in which they are given.

    Args:
        backend: the engine that scores.
        texts: records in the order of the published file, subset by subset.
        seed: of the random orders.
        progress: told how many of all orders are scored.

    Raises:
        UsageError: too few or too long records for `FEWEST_SHARDS` shards, or an engine that cannot score.
    """
    parts = shards(backend, texts)
    computed = backend.usage.tokens_computed
    scores = order_scores(backend, parts, seed, progress)
    return ItemOrderTest(
        test=order_test(ranks(scores, "raw", seed)),
        blind=order_test(ranks(_likeness(parts, scores), "raw", seed)),
        n_texts=sum(map(len, parts)),
        tokens_computed=backend.usage.tokens_computed - computed,
    )


def shards(backend: Backend, texts: Sequence[Text]) -> list[Shard]:
    """Consecutive records of one subset, as many as fit into the window; single ones are left out.

    Which records share a shard does not depend on their order in it, so that ranks stay uniform.

    Raises:
        UsageError: there are fewer than `FEWEST_SHARDS`.
    """
    most = min(_LARGEST, max(_SMALLEST, len(texts) // _WANTED_SHARDS))
    window = min(_MOST_TOKENS, backend.info.max_length)
    ids = backend.tokenizer.encode([text.text + SEPARATOR for text in texts])
    lengths = {text: len(own) for text, own in zip(texts, ids, strict=True)}
    found = [
        shard
        for _, members in groupby(texts, key=lambda text: text.subset)
        for shard in _packed(list(members), lengths, most, window)
        if len(shard) > 1
    ]
    if len(found) < FEWEST_SHARDS:
        needed = -(-FEWEST_SHARDS * len(texts) // len(found)) if found else FEWEST_SHARDS * _SMALLEST
        raise UsageError(
            f"the order test needs {FEWEST_SHARDS} shards of consecutive records, and these {len(texts)} "
            f"make {len(found)} in a window of {window} tokens; give about {max(needed, len(texts) + 1)}"
        )
    return found


def _packed(texts: list[Text], lengths: dict[Text, int], most: int, window: int) -> Iterator[Shard]:
    shard: list[Text] = []
    room = window
    for text in texts:
        if len(shard) == most or lengths[text] > room:
            yield tuple(shard)
            shard, room = [], window
        shard.append(text)
        room -= lengths[text]
    yield tuple(shard)


def order_scores(
    backend: Backend, parts: Sequence[Shard], seed: int = 0, progress: Progress = ignore
) -> PermutationScores:
    """Score each shard in its own order and in random others; shards are the items, records their options."""
    generator = np.random.default_rng(seed)
    orders = [_orders(len(shard), generator) for shard in parts]
    joined = [_joined(shard, order) for shard, m in zip(parts, orders, strict=True) for order in m]
    ids = backend.tokenizer.encode(joined)
    requests = [whole(backend.tokenizer, i, backend.info.max_length) for i in ids]
    values = iter(logprobs(backend, requests, progress))
    return PermutationScores(
        "",
        tuple(
            ItemScores(shard[0].subset, shard[0].id, m, np.array([next(values) for _ in m]))
            for shard, m in zip(parts, orders, strict=True)
        ),
    )


def _orders(n: int, generator: np.random.Generator) -> Orders:
    return all_orders(n) if n <= 4 else sampled_orders(n, N_ORDERS, generator)


def _joined(shard: Shard, order: Sequence[int]) -> str:
    return SEPARATOR.join(shard[i].text for i in order)


def _likeness(parts: Sequence[Shard], scores: PermutationScores) -> PermutationScores:
    """The same orders, with how alike neighbours are in the place of log-probabilities."""
    items = (
        replace(item, logprobs=_neighbours_alike(shard, item.orders))
        for shard, item in zip(parts, scores.items, strict=True)
    )
    return replace(scores, items=tuple(items))


def _neighbours_alike(shard: Shard, orders: Orders) -> Floats:
    """Sum over neighbours of the share of character trigrams both have (Jaccard), for each order."""
    found = [set(trigrams(text.text).tolist()) for text in shard]
    alike = np.array([[len(a & b) / len(a | b) for b in found] for a in found])
    return np.asarray(alike[orders[:, :-1], orders[:, 1:]].sum(axis=1), np.float64)

"""Ask a model for every item's options in every order, part by part, and never twice."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from evalkit.backends.base import Backend
from evalkit.leakage.formats import Encoded, Format, encode_items
from evalkit.leakage.items import Item
from evalkit.leakage.scores import MOST_PERMUTED, ItemScores, Orders, all_orders, sampled_orders
from evalkit.store import Answer
from evalkit.tokens import EncodedRequest
from evalkit.types import Failure, Response, ScoreResponse

PART = 64
"""Items that are encoded and planned at once: a resumed run repeats the arithmetic of each part."""

_GATE_ITEMS = 6
_GATE_ORDERS = 4

Record = Callable[[int, ScoreResponse], None]


@dataclass(frozen=True, slots=True)
class Measure:
    """How items are put to a model."""

    format: Format
    sampled: int
    """Orders of items with more than five options."""
    seed: int

    def orders(self, item: Item) -> Orders:
        """The orders an item is scored in; those that are sampled are the item's own."""
        n = len(item.options)
        if n <= MOST_PERMUTED:
            return _all_orders(n)
        return sampled_orders(n, min(self.sampled, math.factorial(n)), item_generator(item, self.seed))


_all_orders = cache(all_orders)


def item_generator(item: Item, seed: int) -> np.random.Generator:
    """Randomness of an item's own, whatever the order of items."""
    text = f"{seed}\0{item.subset}\0{item.sample_id}"
    return np.random.default_rng(
        int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
    )


@dataclass(frozen=True, slots=True)
class Scored:
    """One item's answer."""

    index: int
    """Position of the item."""
    scores: ItemScores | None
    problem: str | None = None
    """Why there are none."""
    is_error: bool = False
    """Whether the problem is a failure that may be tried again, not a reason to leave the item out."""
    tokens_logical: int = 0
    """Tokens a plain harness would have computed, one forward per order."""


def score(
    backend: Backend,
    items: Sequence[Item],
    parts: Sequence[Sequence[int]],
    measure: Measure,
    earlier: Mapping[int, Answer],
    record: Record,
) -> Iterator[list[Scored]]:
    """Score items part by part; each part is computed when it is asked for.

    Args:
        backend: the engine.
        items: all items.
        parts: positions in `items`, part by part.
        measure: how items are put.
        earlier: answers of an interrupted run, by position.
        record: told every new answer at once.
    """
    for part in parts:
        encoded = encode_items(backend.tokenizer, [items[i] for i in part], measure.format, measure.orders)
        fitting = [k for k, e in enumerate(encoded) if e.request.n_inputs <= backend.info.max_length]
        done = {place for place, k in enumerate(fitting) if part[k] in earlier}
        answers: dict[int, Response] = {k: earlier[part[k]] for k in fitting if part[k] in earlier}
        for place, response in backend.score([encoded[k].request for k in fitting], done):
            k = fitting[place]
            answers[k] = response
            # What is not finite is an error, which a resumed run tries again.
            if isinstance(response, ScoreResponse) and all(math.isfinite(s.logprob) for s in response.scores):
                record(part[k], response)
        yield [_scored(i, items[i], encoded[k], answers.get(k), measure) for k, i in enumerate(part)]


def _scored(index: int, item: Item, encoded: Encoded, answer: Response | None, measure: Measure) -> Scored:
    if answer is None:
        return Scored(index, None, "longer than the model's context")
    if isinstance(answer, Failure):
        return Scored(index, None, answer.error, is_error=True)
    assert isinstance(answer, ScoreResponse)
    logprobs = np.array([s.logprob for s in answer.scores], np.float64)
    if not np.isfinite(logprobs).all():
        return Scored(index, None, "a log-probability that is not finite", is_error=True)
    flags = [*encoded.flags]
    if "duplicate_options" not in flags and np.count_nonzero(logprobs == logprobs[0]) > 1:
        flags.append("tie")
    scores = ItemScores(item.subset, item.sample_id, measure.orders(item), logprobs, tuple(flags))
    return Scored(index, scores, tokens_logical=_flat_tokens(encoded.request))


def _flat_tokens(request: EncodedRequest) -> int:
    """Tokens of one forward per order."""
    return sum(request.length(j) for j in range(len(request.tails)))


def gate_requests(backend: Backend, items: Sequence[Item], measure: Measure) -> list[EncodedRequest]:
    """A few orders of a few items spread over all, for the equality gate."""
    step = max(1, len(items) // _GATE_ITEMS)
    chosen = items[::step][:_GATE_ITEMS]
    encoded = encode_items(backend.tokenizer, chosen, measure.format, measure.orders)
    return [_some_orders(e.request) for e in encoded if e.request.n_inputs <= backend.info.max_length]


def _some_orders(request: EncodedRequest) -> EncodedRequest:
    step = max(1, len(request.tails) // _GATE_ORDERS)
    return EncodedRequest(request.base, request.tails[::step], request.starts[::step], request.whole)

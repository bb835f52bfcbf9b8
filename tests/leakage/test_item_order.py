"""The order test fires on an order that was read, and on nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from evalkit.backends.base import Capabilities
from evalkit.backends.mock import MockBackend
from evalkit.errors import UsageError
from evalkit.leakage.texts.item_order import N_ORDERS, SEPARATOR, item_order_test, order_scores, shards
from evalkit.leakage.texts.records import Text
from evalkit.tokens import EncodedRequest
from evalkit.types import ContinuationScore, Response, ScoreResponse

WORDS = [a + b for a in ("ba", "ke", "li", "mo", "nu", "pa", "re", "si", "to") for b in ("dan", "fel", "gor")]


class Reader(MockBackend):
    """A language model that learns by counting: n-grams of up to eight tokens of what it has read."""

    def __init__(self, *documents: str, longest: int = 8) -> None:
        super().__init__("reader")
        self.capabilities = Capabilities(no_token_stats="it only counts")
        self._longest = longest
        self._counts: Counter[tuple[int, ...]] = Counter()
        self._contexts: Counter[tuple[int, ...]] = Counter()
        for ids in self.tokenizer.encode(documents):
            sequence = [0, *ids.tolist()]
            for end in range(1, len(sequence)):
                for n in range(min(end, longest) + 1):
                    context = tuple(sequence[end - n : end])
                    self._contexts[context] += 1
                    self._counts[(*context, sequence[end])] += 1

    def score(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        for i, request in enumerate(requests):
            sequence = request.sequence(0).tolist()
            self.usage.tokens_computed += len(sequence) - 1
            logprob = sum(self._logprob(sequence, end) for end in range(request.starts[0], len(sequence)))
            yield i, ScoreResponse((ContinuationScore(logprob, request.n_scored(0), is_greedy=False),))

    def _logprob(self, sequence: list[int], end: int) -> float:
        """Each longer context known takes half the weight, down to a uniform choice."""
        p = 1e-3
        for n in range(min(end, self._longest) + 1):
            context = tuple(sequence[end - n : end])
            if not (seen := self._contexts[context]):
                break
            p = (p + self._counts[(*context, sequence[end])] / seen) / 2
        return math.log(p)


def records(n: int, seed: int = 0, subset: str = "", length: int = 8) -> list[Text]:
    generator = np.random.default_rng(seed)
    return [Text(subset, str(i), " ".join(generator.choice(WORDS, length)) + ".") for i in range(n)]


def sorted_by_topic(texts: Sequence[Text]) -> list[Text]:
    topics = [WORDS[i // 4 % len(WORDS)] for i in range(len(texts))]
    return [
        replace(text, text=f"{topic * 3} {topic * 5} {text.text}")
        for topic, text in zip(topics, texts, strict=True)
    ]


def file_of(texts: Sequence[Text]) -> str:
    return SEPARATOR.join(text.text for text in texts)


def shuffled(texts: Sequence[Text], seed: int) -> list[Text]:
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]


PUBLISHED = records(160)


def test_a_file_that_was_read_is_found() -> None:
    found = item_order_test(Reader(file_of(PUBLISHED)), PUBLISHED)
    assert found.test.p < 1e-12
    assert found.test.top_rate > 0.9
    assert found.blind.p > 0.01
    assert found.n_texts == 160


def test_records_read_in_another_order_are_not() -> None:
    reader = Reader(file_of(shuffled(PUBLISHED, 1)), *(text.text for text in PUBLISHED))
    assert item_order_test(reader, PUBLISHED).test.p > 0.01


def test_a_model_that_read_nothing_gives_uniform_p_values() -> None:
    p = [item_order_test(MockBackend(f"model {k}"), PUBLISHED[:48]).test.p for k in range(50)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_recognisable_order_is_recognised_without_a_model() -> None:
    topics = sorted_by_topic(PUBLISHED)
    assert item_order_test(MockBackend(), topics).blind.p < 1e-6


def test_shards_are_consecutive_and_of_one_subset() -> None:
    texts = [*records(50, 1, "a"), *records(30, 2, "b")]
    parts = shards(MockBackend(), texts)
    assert [text for part in parts for text in part] == texts
    assert all(len({text.subset for text in part}) == 1 for part in parts)
    assert {len(part) for part in parts} == {2, 4}


def test_shards_do_not_depend_on_the_order_within_them() -> None:
    backend = MockBackend(max_length=60)
    texts = records(90, 3)
    texts[10] = Text("", "10", "long " * 80)
    parts = shards(backend, texts)
    again = list(texts)
    for part in parts:
        at = texts.index(part[0])
        again[at : at + len(part)] = shuffled(part, 7)
    assert again != texts
    assert [set(part) for part in shards(backend, again)] == [set(part) for part in parts]
    assert not any(texts[10] in part for part in parts)


def test_every_shard_is_scored_in_its_own_order_first() -> None:
    backend = Reader(file_of(PUBLISHED))
    parts = shards(backend, PUBLISHED)
    scores = order_scores(backend, parts)
    for item, part in zip(scores.items, parts, strict=True):
        assert item.orders.shape == (N_ORDERS, len(part))
        assert (item.orders[0] == np.arange(len(part))).all()
    (ids,) = backend.tokenizer.encode([file_of(parts[0])])
    alone = EncodedRequest(np.asarray([0, *ids[:-1]], np.int32), (ids[-1:],), (1,))
    ((_, response),) = backend.score([alone])
    assert isinstance(response, ScoreResponse)
    assert scores.items[0].logprobs[0] == response.scores[0].logprob


def test_the_work_is_counted_and_told() -> None:
    calls: list[tuple[int, int]] = []
    found = item_order_test(
        MockBackend(), PUBLISHED, progress=lambda done, total: calls.append((done, total))
    )
    assert found.tokens_computed > 160 * 8
    assert calls[-1] == (found.test.n * N_ORDERS, found.test.n * N_ORDERS)


def test_too_few_records_are_refused_with_a_number_that_is_enough() -> None:
    with pytest.raises(UsageError, match=r"these 20 make 5 .* give about 32"):
        item_order_test(MockBackend(), PUBLISHED[:20])
    assert item_order_test(MockBackend(), PUBLISHED[:32]).test.n == 8


def test_an_engine_that_cannot_score_is_refused() -> None:
    backend = MockBackend()
    backend.capabilities = replace(backend.capabilities, no_scores="it only chats")
    with pytest.raises(UsageError, match="it only chats"):
        item_order_test(backend, PUBLISHED)

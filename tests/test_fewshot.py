"""How examples are drawn, against the published rules written out once more."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.fewshot import drawn_in_shuffled_order, drawn_per_sample, first_rows
from evalkit.types import Sample


def samples(n: int, split: str = "train") -> list[Sample]:
    return [Sample(f"{split}-{i}", "s", {}, None) for i in range(n)]


class Sampler:
    """`ContextSampler` of lm-evaluation-harness 0.4.13 for a pool that is not the evaluated split.

    The task's sampler is seeded once (`set_fewshot_seed(1234)`) and then asked for every document in turn.
    """

    def __init__(self, pool: list[Sample]) -> None:
        self._generator = random.Random()
        self._generator = random.Random(1234)
        self._pool = pool

    def sample(self, n: int) -> list[Sample]:
        return self._generator.sample(self._pool, n) if n else []


@given(st.integers(5, 60), st.integers(0, 20), st.integers(0, 5))
def test_drawn_per_sample_is_what_the_harness_draws(pool: int, n: int, k: int) -> None:
    sampler = Sampler(samples(pool))
    expected = [tuple(sampler.sample(k)) for _ in range(n)]
    assert drawn_per_sample(samples(pool), samples(n, "test"), k) == expected


def test_drawn_per_sample_by_number() -> None:
    """Indices of the first two questions of GSM8K, 5 of 7,473 examples each."""
    generator = random.Random(1234)
    expected = [generator.sample(range(7473), 5) for _ in range(2)]
    drawn = drawn_per_sample(samples(7473), samples(2, "test"), 5)
    assert [[int(s.id.removeprefix("train-")) for s in each] for each in drawn] == expected
    assert expected[0] != expected[1]


@given(st.integers(1, 30), st.integers(0, 30))
def test_drawn_per_sample_is_the_same_for_the_first_samples_whatever_follows(n: int, limit: int) -> None:
    whole = drawn_per_sample(samples(40), samples(n, "test"), 3)
    assert drawn_per_sample(samples(40), samples(n, "test")[:limit], 3) == whole[:limit]


@given(st.integers(5, 40), st.integers(0, 25), st.integers(0, 5))
def test_drawn_in_shuffled_order_is_the_rule_of_2023(pool: int, n: int, k: int) -> None:
    """One generator, seeded 42, shuffles all documents and then draws for each in the new order."""
    documents, train = samples(n, "test"), samples(pool)
    generator = random.Random()
    generator.seed(42)
    shuffled = list(documents)
    generator.shuffle(shuffled)
    drawn = {document.id: tuple(generator.sample(train, k)) if k else () for document in shuffled}
    assert drawn_in_shuffled_order(train, documents, k) == [drawn[d.id] for d in documents]


def test_drawn_in_shuffled_order_depends_on_the_number_of_samples() -> None:
    fewer, more = (drawn_in_shuffled_order(samples(50), samples(n, "test"), 2) for n in (10, 12))
    assert fewer != more[:10]


@pytest.mark.parametrize("rule", [first_rows, drawn_per_sample, drawn_in_shuffled_order])
def test_every_sample_has_its_examples_and_none_twice(rule) -> None:  # type: ignore[no-untyped-def]
    drawn = rule(samples(8), samples(30, "test"), 8)
    assert len(drawn) == 30
    assert all(len({s.id for s in each}) == 8 for each in drawn)
    assert rule(samples(8), samples(3, "test"), 0) == [()] * 3
    assert rule(samples(8), [], 2) == []


def test_first_rows_are_in_file_order() -> None:
    assert first_rows(samples(9), samples(2, "test"), 3) == [tuple(samples(3))] * 2

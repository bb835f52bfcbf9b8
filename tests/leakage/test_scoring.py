from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from helpers import UnrulyBackend, failing

from evalkit.backends.mock import MockBackend
from evalkit.leakage.formats import FORMATS, encode_items
from evalkit.leakage.items import Item
from evalkit.leakage.scores import all_orders
from evalkit.leakage.scoring import Measure, Scored, gate_requests, score
from evalkit.types import Response, ScoreResponse

NI = Measure(FORMATS["ni2024"], sampled=30, seed=0)


def make(n: int, options: Sequence[str] = ("red", "green", "blue", "grey")) -> list[Item]:
    return [Item("colours", str(i), f"which is number {i}", tuple(options)) for i in range(n)]


def run(backend: MockBackend, items: list[Item], measure: Measure = NI, size: int = 3, **kept: Any) -> Any:
    parts = [range(i, min(i + size, len(items))) for i in range(0, len(items), size)]
    record = kept.get("record", lambda index, response: None)
    found = score(backend, items, parts, measure, kept.get("earlier", {}), record)
    return [one for part in found for one in part]


class TestScores:
    def test_every_order_gets_the_models_own_score(self) -> None:
        items, backend = make(4), MockBackend()
        for one, item in zip(run(backend, items), items, strict=True):
            (encoded,) = encode_items(backend.tokenizer, [item], NI.format, NI.orders)
            plain = backend.score_reference(encoded.request)
            assert one.scores.logprobs.tolist() == [s.logprob for s in plain.scores]
            assert np.array_equal(one.scores.orders, all_orders(4))

    def test_what_a_plain_harness_would_compute_is_every_order_whole(self) -> None:
        (one,) = run(MockBackend(), make(1))
        (encoded,) = encode_items(MockBackend().tokenizer, make(1), NI.format, NI.orders)
        assert one.tokens_logical == 24 * encoded.request.length(0)

    def test_many_options_are_scored_in_a_stated_sample_with_the_published_order_first(self) -> None:
        (one, other) = run(MockBackend(), make(2, [f"number {i}" for i in range(7)]))
        assert one.scores.orders.shape == (30, 7)
        assert one.scores.orders[0].tolist() == list(range(7))
        assert len({tuple(order) for order in one.scores.orders}) == 30
        assert not np.array_equal(one.scores.orders, other.scores.orders)

    def test_duplicate_options_are_flagged(self) -> None:
        (one,) = run(MockBackend(), make(1, ["red", "red", "blue", "grey"]))
        assert "duplicate_options" in one.scores.flags
        assert one.scores.logprobs[0] in one.scores.logprobs[1:]

    def test_a_tie_of_different_texts_is_flagged(self) -> None:
        def flat(_: int, response: Response) -> Response:
            assert isinstance(response, ScoreResponse)
            return ScoreResponse((response.scores[0],) * len(response.scores))

        backend = UnrulyBackend(flat)
        list(backend.score([]))  # its first call is left alone
        (one,) = run(backend, make(1))
        assert "tie" in one.scores.flags


class TestTrouble:
    def test_an_item_that_does_not_fit_is_a_reason_not_an_error(self) -> None:
        items = [*make(1), Item("colours", "long", "why " * 500, ("a", "b", "c", "d"))]
        fits, long = run(MockBackend(max_length=200), items)
        assert fits.scores is not None
        assert (long.scores, long.problem, long.is_error) == (None, "longer than the model's context", False)

    def test_a_failure_is_an_error_and_not_recorded(self) -> None:
        backend, kept = failing(1), {}
        list(backend.score([]))
        found: list[Scored] = run(backend, make(3), record=lambda i, r: kept.setdefault(i, r))
        assert [one.is_error for one in found] == [False, True, False]
        assert found[1].problem == "out of memory"
        assert sorted(kept) == [0, 2]

    def test_a_score_that_is_not_finite_is_an_error(self) -> None:
        from dataclasses import replace

        def poison(i: int, response: Response) -> Response:
            assert isinstance(response, ScoreResponse)
            bad = replace(response.scores[3], logprob=float("nan"))
            return ScoreResponse((*response.scores[:3], bad, *response.scores[4:]))

        backend = UnrulyBackend(poison)
        list(backend.score([]))
        assert [one.is_error for one in run(backend, make(2))] == [True, True]

    def test_what_was_answered_before_is_not_asked_again(self) -> None:
        items, kept = make(5), {}
        before = run(MockBackend(), items, record=lambda i, r: kept.setdefault(i, r))
        asked: dict[int, Response] = {}
        again = run(
            MockBackend(),
            items,
            earlier={i: kept[i] for i in (0, 2, 4)},
            record=lambda i, r: asked.setdefault(i, r),
        )
        assert sorted(asked) == [1, 3]
        for one, other in zip(before, again, strict=True):
            assert one.scores.logprobs.tolist() == other.scores.logprobs.tolist()


@pytest.mark.parametrize("n", [1, 3, 50])
def test_the_gate_looks_at_a_few_orders_of_items_everywhere(n: int) -> None:
    requests = gate_requests(MockBackend(), make(n), NI)
    assert 1 <= len(requests) <= 6
    assert all(2 <= len(r.tails) <= 6 for r in requests)
    assert isinstance(next(iter(MockBackend().score(requests)))[1], ScoreResponse)

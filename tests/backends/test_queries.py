"""One question per distinct context, and every answer back where it belongs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.backends.queries import Answers, NextTokenQuery, Query, SequenceQuery, queries
from evalkit.tokens import EncodedRequest
from evalkit.types import Failure, ScoreResponse

_token = st.integers(0, 3)


def ids(values: list[int]) -> np.ndarray:
    return np.asarray(values, np.int32)


@st.composite
def requests(draw: st.DrawFn) -> list[EncodedRequest]:
    """Requests over few tokens, so that contexts and continuations coincide often."""
    made = []
    for _ in range(draw(st.integers(0, 6))):
        base = draw(st.lists(_token, min_size=1, max_size=3))
        tails = draw(st.lists(st.lists(_token, min_size=1, max_size=3), min_size=1, max_size=4))
        starts = tuple(draw(st.integers(1, len(base) + len(tail) - 1)) for tail in tails)
        made.append(EncodedRequest(ids(base), tuple(map(ids, tails)), starts))
    return made


def scored(query: Query) -> dict[tuple[int, int], tuple[tuple[int, ...], int]]:
    """Place to the (sequence, first scored index) its answer will be of."""
    if isinstance(query, SequenceQuery):
        return dict.fromkeys(query.places, (tuple(query.ids.tolist()), query.start))
    return {
        place: ((*query.context.tolist(), token), len(query.context))
        for token, places in query.places.items()
        for place in places
    }


@given(requests(), st.sets(st.integers(0, 5)), st.integers(1, 3))
def test_every_continuation_is_asked_for_once_as_it_is(
    made: list[EncodedRequest], done: set[int], most: int
) -> None:
    asked: dict[tuple[int, int], tuple[tuple[int, ...], int]] = {}
    for query in queries(made, done, most):
        assert not isinstance(query, NextTokenQuery) or 1 <= len(query.places) <= most
        assert not asked.keys() & scored(query).keys()
        asked |= scored(query)
    assert asked == {
        (i, j): (tuple(request.sequence(j).tolist()), start)
        for i, request in enumerate(made)
        if i not in done
        for j, start in enumerate(request.starts)
    }


@given(requests())
def test_no_two_questions_of_one_base_are_alike(made: list[EncodedRequest]) -> None:
    same_base = (
        [EncodedRequest(made[0].base, r.tails, r.starts) for r in made if max(r.starts) <= len(made[0].base)]
        if made
        else []
    )
    asked = list(queries(same_base, (), 100))
    keys = [
        (q.context.tobytes(),) if isinstance(q, NextTokenQuery) else (q.ids.tobytes(), q.start) for q in asked
    ]
    assert len(keys) == len(set(keys))


@given(requests())
def test_requests_that_begin_alike_are_neighbours(made: list[EncodedRequest]) -> None:
    order = [min(scored(query))[0] for query in queries(made, (), 100)]
    bases = [made[i].base.tolist() for i in order]
    assert all(a <= b for a, b in pairwise(bases))


def letters(n: int) -> list[EncodedRequest]:
    """`n` multiple-choice questions with one-token options."""
    return [EncodedRequest(ids([7, 8, 9, i]), tuple(ids([t]) for t in range(4)), (4,) * 4) for i in range(n)]


def test_letter_options_cost_one_question_per_context() -> None:
    asked = list(queries([*letters(5), *letters(5)], (), 128))
    assert len(asked) == 5
    assert all(isinstance(q, NextTokenQuery) and len(q.places) == 4 for q in asked)


def test_answers_come_when_the_last_continuation_is_scored() -> None:
    request = EncodedRequest(ids([1]), (ids([2]), ids([3, 4])), (1, 1))
    answers = Answers([request])
    assert list(answers.add((0, 1), -2.0, is_greedy=False)) == []
    ((index, response),) = answers.add((0, 0), -1.0, is_greedy=True)
    assert index == 0
    assert isinstance(response, ScoreResponse)
    assert [(s.logprob, s.n_tokens, s.is_greedy) for s in response.scores] == [
        (-1.0, 1, True),
        (-2.0, 2, False),
    ]


@pytest.mark.parametrize("first", [True, False])
def test_one_unanswered_question_fails_the_request_and_no_other(first: bool) -> None:
    made = [EncodedRequest(ids([1]), (ids([2]), ids([3, 4])), (1, 1)), letters(1)[0]]
    asked = list(queries(made, (), 128))
    (sequence,) = (q for q in asked if isinstance(q, SequenceQuery))
    answers = Answers(made)
    found = []
    if first:
        found += answers.fail(sequence, "too long")
    found += [r for j in range(4) for r in answers.add((1, j), -1.0, is_greedy=False)]
    found += answers.add((0, 0), -1.0, is_greedy=False)
    if not first:
        found += answers.fail(sequence, "too long")
    by_index = dict(found)
    assert by_index[0] == Failure("too long")
    assert isinstance(by_index[1], ScoreResponse)

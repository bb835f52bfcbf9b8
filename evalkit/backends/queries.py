"""What to ask an engine that shares prefixes by itself: one question per distinct context.

Engines such as vLLM cache what requests have in common. To them a continuation of one token is a question
about the next token of its context, and all such questions about one context are asked at once; a longer
continuation is asked together with its context, as a sequence of which the last tokens are scored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from evalkit.tokens import EncodedRequest, Ids, sort_key
from evalkit.types import ContinuationScore, Failure, Response, ScoreResponse

Place = tuple[int, int]
"""(request, continuation) an answer belongs to."""


@dataclass(frozen=True, slots=True)
class NextTokenQuery:
    """Log-probabilities of some tokens as the one after `context`."""

    context: Ids
    places: dict[int, list[Place]] = field(default_factory=dict)
    """Token id to the continuations it is."""


@dataclass(frozen=True, slots=True)
class SequenceQuery:
    """Log-probabilities of the tokens of `ids` from index `start` on, each after all before it."""

    ids: Ids
    start: int
    places: list[Place] = field(default_factory=list)


Query = NextTokenQuery | SequenceQuery


def queries(requests: Sequence[EncodedRequest], done: Collection[int], most_tokens: int) -> Iterator[Query]:
    """Turn requests into queries, no two alike, and those that begin with the same tokens side by side.

    Args:
        requests: what is to be scored.
        done: indices of requests to leave out.
        most_tokens: how many tokens one query may ask about.
    """

    def beginning(i: int) -> bytes:
        return sort_key(requests[i].base)

    wanted = sorted((i for i in range(len(requests)) if i not in done), key=beginning)
    for _, alike in groupby(wanted, key=beginning):
        yield from _of_one_base({i: requests[i] for i in alike}, most_tokens)


def _of_one_base(requests: dict[int, EncodedRequest], most_tokens: int) -> Iterator[Query]:
    next_token: dict[bytes, NextTokenQuery] = {}
    sequences: dict[tuple[bytes, int], SequenceQuery] = {}
    for i, request in requests.items():
        for j, start in enumerate(request.starts):
            ids = request.sequence(j)
            if start < len(ids) - 1:
                key = (ids.tobytes(), start)
                sequences.setdefault(key, SequenceQuery(ids, start)).places.append((i, j))
                continue
            query = next_token.setdefault(ids[:-1].tobytes(), NextTokenQuery(ids[:-1]))
            if len(query.places) == most_tokens and int(ids[-1]) not in query.places:
                yield query
                query = next_token[ids[:-1].tobytes()] = NextTokenQuery(ids[:-1])
            query.places.setdefault(int(ids[-1]), []).append((i, j))
    yield from next_token.values()
    yield from sequences.values()


class Answers:
    """Puts the answers of queries together to responses."""

    def __init__(self, requests: Sequence[EncodedRequest]) -> None:
        """`requests` are those the queries were made of."""
        self._requests = requests
        self._open: dict[int, dict[int, ContinuationScore | str]] = {}

    def add(self, place: Place, logprob: float, *, is_greedy: bool) -> Iterator[tuple[int, Response]]:
        """Take one score; yields the response it completes, if any."""
        i, j = place
        score = ContinuationScore(logprob, self._requests[i].reported_tokens(j), is_greedy)
        yield from self._put(place, score)

    def fail(self, query: Query, error: str) -> Iterator[tuple[int, Response]]:
        """Take the news that a query cannot be answered."""
        groups = query.places.values() if isinstance(query, NextTokenQuery) else [query.places]
        for place in (place for group in groups for place in group):
            yield from self._put(place, error)

    def _put(self, place: Place, score: ContinuationScore | str) -> Iterator[tuple[int, Response]]:
        i, j = place
        scores = self._open.setdefault(i, {})
        scores[j] = score
        if len(scores) < len(self._requests[i].tails):
            return
        ordered = [scores[j] for j in sorted(scores)]
        del self._open[i]
        error = next((s for s in ordered if isinstance(s, str)), None)
        complete = tuple(s for s in ordered if isinstance(s, ContinuationScore))
        yield i, ScoreResponse(complete) if error is None else Failure(error)

"""Putting texts to an engine: every token is scored, of each text on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from evalkit.backends.base import Backend
from evalkit.errors import UntrustedResultError, UsageError
from evalkit.leakage.scores import Floats
from evalkit.tokens import EncodedRequest, Ids, Tokenizer, with_leading
from evalkit.types import Failure, ScoreResponse, TokenStats

Progress = Callable[[int, int], None]
"""Told how many of how many requests are answered."""

Answer = TypeVar("Answer")


def ignore(done: int, total: int) -> None:
    """Tell nobody."""


def whole(tokenizer: Tokenizer, ids: Ids, window: int) -> EncodedRequest:
    """Ask for all tokens of a text; those a window of so many tokens does not hold are cut off its end.

    In front stands what begins a text to the tokenizer, or else the id that stands for an empty context, so
    that the first token can be scored as well.
    """
    return after(tokenizer, np.zeros(0, np.int32), ids, window)


def after(tokenizer: Tokenizer, context: Ids, ids: Ids, window: int) -> EncodedRequest:
    """Ask for all tokens of a text that stands after a context; what does not fit is cut off its end."""
    sequence = with_leading(tokenizer, np.concatenate([context, ids]))
    if len(sequence) == len(context) + len(ids):
        sequence = np.concatenate([np.asarray([tokenizer.prefix_id], np.int32), sequence])
    start = len(sequence) - len(ids)
    sequence = sequence[: window + 1]
    return EncodedRequest(sequence[:-1], (sequence[-1:],), (start,))


def fitted(tokenizer: Tokenizer, texts: Sequence[str], window: int) -> list[str]:
    """The texts, their ends cut off where a window of so many tokens does not hold them."""
    return [_cut(tokenizer, text, window) for text in texts]


def _cut(tokenizer: Tokenizer, text: str, window: int) -> str:
    # A character takes four tokens at most, one per byte: shorter texts need no counting.
    while len(text) > window // 4 and (n := len(tokenizer.encode([text])[0])) > window - 1:
        text = text[: min(len(text) - 1, len(text) * (window - 1) // n)]
    return text


def logprobs(backend: Backend, requests: Sequence[EncodedRequest], progress: Progress = ignore) -> Floats:
    """Summed log-probability of each request's only sequence, shape (n,), in nats.

    Raises:
        UsageError: the engine cannot score.
        UntrustedResultError: it could not answer some request.
    """
    if reason := backend.capabilities.no_scores:
        raise UsageError(f"this engine cannot score texts: {reason}")
    answers = _in_order(backend.score(requests), len(requests), progress)
    return np.array([_logprob(answer) for answer in answers])


def token_stats(
    backend: Backend, requests: Sequence[EncodedRequest], progress: Progress = ignore
) -> list[TokenStats]:
    """Statistics of each request's only sequence; raises as `logprobs`, where the engine tells none."""
    if reason := backend.capabilities.no_scores or backend.capabilities.no_token_stats:
        raise UsageError(f"this engine has no statistics of single tokens: {reason}")
    return [stats for (stats,) in _in_order(backend.token_stats(requests), len(requests), progress)]


def _logprob(answer: object) -> float:
    assert isinstance(answer, ScoreResponse)
    return answer.scores[0].logprob


def _in_order(answers: Iterable[tuple[int, Answer | Failure]], n: int, progress: Progress) -> list[Answer]:
    found: dict[int, Answer] = {}
    for i, answer in answers:
        if isinstance(answer, Failure):
            raise UntrustedResultError(f"a text could not be scored: {answer.error}")
        found[i] = answer
        progress(len(found), n)
    return [found[i] for i in range(n)]

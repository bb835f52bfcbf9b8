"""A backend without a model: deterministic pseudo-random scores, for tests and overhead measurements."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from evalkit.backends.base import Capabilities, ModelInfo, Usage
from evalkit.planner import plan
from evalkit.tokens import EncodedPrompt, EncodedRequest, Ids
from evalkit.types import (
    Completion,
    ContinuationScore,
    Failure,
    GenerateResponse,
    Message,
    Response,
    ScoreResponse,
    TokenStats,
)

_BATCH_TOKENS = 16384


class WordTokenizer:
    """Words with the blank before them, and every other character on its own: about as long as BPE."""

    leading_ids: tuple[int, ...] = ()
    prefix_id = 0
    bos_id: int | None = None
    end_ids: tuple[int, ...] = ()
    has_chat_template = True
    chat_template: str | None = None

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """One id per word or character, a hash of its code points."""
        return [_word_ids(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Words made of the ids: what was encoded cannot be told from a hash."""
        return "".join(f" w{i % 1000}" for i in ids)

    def chat(self, messages: Sequence[Message]) -> str:
        """One line per turn."""
        return "".join(f"{m.role}: {m.content}\n" for m in messages) + "assistant: "


def _word_ids(text: str) -> Ids:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.int32).astype(np.int64)
    if not len(codes):
        return np.zeros(0, np.int32)
    word = _IN_WORD[np.minimum(codes, 127)]
    joins = np.zeros(len(codes), np.bool_)
    joins[1:] = word[1:] & (word[:-1] | (codes[:-1] == 32))
    starts = np.flatnonzero(~joins)
    place = np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    return (np.add.reduceat((codes + 1) * _POWERS[place % len(_POWERS)], starts) & 0x7FFFFFFF).astype(
        np.int32
    )


_IN_WORD = np.array([chr(c).isalnum() for c in range(127)] + [False])
_POWERS = np.array([pow(1_000_003, i, 1 << 31) for i in range(64)], np.int64)


class MockBackend:
    """Plans like a real backend, then draws each score from a hash of the sequence."""

    def __init__(self, name: str = "mock", max_length: int = 1 << 20) -> None:
        """`name` seeds the scores: two names are two different models."""
        self.tokenizer = WordTokenizer()
        self.usage = Usage()
        self.capabilities = Capabilities()
        self._salt = hashlib.blake2b(name.encode(), digest_size=16).digest()
        self._info = ModelInfo(name, "mock", "float64", f"mock:{name}", max_length, {"scoring_path": "mock"})

    @property
    def info(self) -> ModelInfo:
        """Identity of the mock."""
        return self._info

    def score(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        """Answer in planned order, so that the planner's cost is part of what is measured."""
        for i in self._planned(requests, done):
            yield i, self.score_reference(requests[i])

    def token_stats(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, tuple[TokenStats, ...] | Failure]]:
        """Share each score out among its tokens at random; no token is the most likely one."""
        for i in self._planned(requests, done):
            scores = self.score_reference(requests[i]).scores
            yield i, tuple(_shared_out(s, requests[i].n_scored(j)) for j, s in enumerate(scores))

    def _planned(self, requests: Sequence[EncodedRequest], done: Collection[int]) -> Iterator[int]:
        for window in plan(requests, _BATCH_TOKENS):
            for step in window.steps:
                if all(i in done for i in step.requests):
                    continue
                self.usage.tokens_computed += len(step.tokens)
                for i in step.finishes:
                    if i not in done:
                        yield i

    def score_reference(self, request: EncodedRequest) -> ScoreResponse:
        """Scores that depend on the whole sequence and on nothing else."""
        context = hashlib.blake2b(request.base.tobytes(), digest_size=8, salt=self._salt)
        scores = []
        for j, tail in enumerate(request.tails):
            digest = context.copy()
            digest.update(tail.tobytes())
            uniform = (int.from_bytes(digest.digest()) + 0.5) / 2**64
            n_tokens = request.reported_tokens(j)
            scores.append(ContinuationScore(n_tokens * (math.log(uniform) - 1), n_tokens, is_greedy=False))
        return ScoreResponse(tuple(scores))

    def generate(
        self, requests: Sequence[EncodedPrompt], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        """Answer every prompt with words drawn from a hash of it."""
        for i, request in enumerate(requests):
            if i in done:
                continue
            self.usage.tokens_computed += request.n_inputs
            yield (
                i,
                GenerateResponse(tuple(self._completion(request, k) for k in range(request.n_completions))),
            )

    def _completion(self, request: EncodedPrompt, k: int) -> Completion:
        digest = hashlib.blake2b(request.ids.tobytes(), digest_size=32, salt=self._salt)
        if request.sampling:
            digest.update((request.seed + k).to_bytes(16))
        ids = tuple(digest.digest()[: min(32, request.max_new_tokens)])
        self.usage.tokens_generated += len(ids)
        scored = self.score_reference(
            EncodedRequest(request.ids, (np.asarray(ids, np.int32),), (request.n_inputs,))
        )
        return Completion(self.tokenizer.decode(ids), "stop", len(ids), ids, scored.scores[0].logprob)

    def downgrade(self) -> None:
        """There is only one path."""
        return


def _shared_out(score: ContinuationScore, n: int) -> TokenStats:
    generator = np.random.default_rng(int(np.float64(score.logprob).view(np.uint64)))
    shares, mean, variance = generator.exponential(size=(3, n))
    return TokenStats(score.logprob * shares / shares.sum(), -mean, variance, np.zeros(n, np.bool_))

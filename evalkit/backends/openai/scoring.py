"""Log-probabilities from a server, by whichever way was proven to give true ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evalkit.backends.openai.client import GaveUp, InvalidAnswer, Refused, Unusable
from evalkit.backends.openai.completions import MOST_IDS, Completions, Scored
from evalkit.tokens import EncodedRequest, Ids
from evalkit.types import ContinuationScore, Failure, Response, ScoreResponse

BY_IDS, BY_BIAS, ECHO = "logprob_token_ids", "logit_bias", "echo"
"""Ways to a log-probability: two ask for the next token, one has the whole prompt scored."""

_LONGEST_CHAIN = 64
"""Requests that a reference may take when it goes token by token."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What a probe has proven: how single next tokens and how whole sequences are scored, if at all."""

    next_token: str | None = None
    """BY_IDS or BY_BIAS."""
    echo: bool = False

    @property
    def are_two(self) -> bool:
        """Whether one can be compared with another."""
        return self.next_token is not None and self.echo

    @property
    def names(self) -> str:
        """As it stands in the manifest, the preferred one first."""
        return " + ".join(filter(None, (self.next_token, ECHO if self.echo else None))) or "none"


@dataclass(slots=True)
class _Step:
    """Tokens of a request that follow the same ids."""

    prefix: Ids
    targets: list[int] = field(default_factory=list)


class Scorer:
    """Scores encoded requests; several of its coroutines may run side by side."""

    def __init__(self, completions: Completions, ways: Ways) -> None:
        """At least one way must be proven."""
        self._completions, self._ways = completions, ways

    async def score(self, request: EncodedRequest) -> Response:
        """One request per distinct prefix where that is one, else one per continuation."""
        return await self._answer(request, self._by_chain(request))

    async def reference(self, request: EncodedRequest) -> Response:
        """The same by another way, where a second one is proven and can be gone."""
        by_chain = not self._by_chain(request)
        if not self._ways.are_two or (by_chain and len(_steps(request)) > _LONGEST_CHAIN):
            return await self.score(request)
        response = await self._answer(request, by_chain)
        # Token by token, a server that takes only text cannot be asked for part of a character.
        return await self.score(request) if isinstance(response, Failure) else response

    def _by_chain(self, request: EncodedRequest) -> bool:
        return self._ways.next_token is not None and (not self._ways.echo or _is_one_step(request))

    async def _answer(self, request: EncodedRequest, by_chain: bool) -> Response:
        try:
            return await (self._chain(request) if by_chain else self._echo(request))
        except (Refused, Unusable, GaveUp, InvalidAnswer) as error:
            return Failure(failure_text(error))

    async def _chain(self, request: EncodedRequest) -> ScoreResponse:
        found: dict[tuple[bytes, int], Scored] = {}
        for step in _steps(request):
            for begin in range(0, len(step.targets), MOST_IDS):
                scored = await self.next_tokens(step.prefix, step.targets[begin : begin + MOST_IDS])
                found |= {(step.prefix.tobytes(), t): s for t, s in scored.items()}
        sequences = [request.sequence(j) for j in range(len(request.tails))]
        return _response(
            request,
            [
                [found[ids[:t].tobytes(), int(ids[t])] for t in range(start, len(ids))]
                for ids, start in zip(sequences, request.starts, strict=True)
            ],
        )

    async def _echo(self, request: EncodedRequest) -> ScoreResponse:
        scored = []
        for j, start in enumerate(request.starts):
            scored.append((await self._completions.echo(request.sequence(j)))[start - 1 :])
        return _response(request, scored)

    async def next_tokens(self, prefix: Ids, targets: Sequence[int]) -> dict[int, Scored]:
        """Scores of single tokens after `prefix`, by the proven way."""
        if self._ways.next_token == BY_IDS:
            return await self._completions.next_by_ids(prefix, targets)
        return await self._completions.next_by_bias(prefix, targets)


def failure_text(error: Exception) -> str:
    """Why a sample has no answer, with the remedy where it is known."""
    text = str(error)
    if isinstance(error, Refused):
        text = f"the server refused the request ({error.status}): {text}"
        if any(word in text.lower() for word in ("context", "maximum", "too long", "max_model_len")):
            text += "; keep prompts within the server's context with --max-length"
    return text


def _is_one_step(request: EncodedRequest) -> bool:
    """Whether all options are single tokens after the same ids."""
    before = request.tails[0][:-1]
    return all(
        start == request.length(j) - 1 and np.array_equal(request.tails[j][:-1], before)
        for j, start in enumerate(request.starts)
    )


def _steps(request: EncodedRequest) -> list[_Step]:
    """The distinct prefixes after which tokens are scored, each with its distinct tokens."""
    steps: dict[bytes, _Step] = {}
    for j, start in enumerate(request.starts):
        ids = request.sequence(j)
        for t in range(start, len(ids)):
            step = steps.setdefault(ids[:t].tobytes(), _Step(ids[:t]))
            if (target := int(ids[t])) not in step.targets:
                step.targets.append(target)
    return list(steps.values())


def _response(request: EncodedRequest, scored: Sequence[Sequence[Scored]]) -> ScoreResponse:
    scores = []
    for j, tokens in enumerate(scored):
        logprob = float(np.sum([s.logprob for s in tokens], dtype=np.float64))
        if math.isnan(logprob):
            raise InvalidAnswer("the server does not score the first token of a text")
        greedy = all(s.is_greedy for s in tokens)
        scores.append(ContinuationScore(logprob, request.reported_tokens(j), greedy))
    return ScoreResponse(tuple(scores))

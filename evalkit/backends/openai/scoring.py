"""Log-probabilities from a server, by whichever way was proven to give true ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evalkit.backends.openai.client import GaveUp, InvalidAnswer, Refused
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
        steps = _steps(request)
        return await self._answer(request, steps, self._by_chain(steps))

    async def reference(self, request: EncodedRequest) -> Response:
        """The same by another way, where a second one is proven and can be gone."""
        steps = _steps(request)
        by_chain = not self._by_chain(steps)
        proven = self._ways.next_token is not None if by_chain else self._ways.echo
        if not proven or (by_chain and len(steps) > _LONGEST_CHAIN):
            return await self.score(request)
        response = await self._answer(request, steps, by_chain)
        # Token by token, a server that takes only text cannot be asked for part of a character.
        return await self.score(request) if isinstance(response, Failure) else response

    def _by_chain(self, steps: Sequence[_Step]) -> bool:
        return self._ways.next_token is not None and (not self._ways.echo or len(steps) == 1)

    async def _answer(self, request: EncodedRequest, steps: list[_Step], by_chain: bool) -> Response:
        try:
            return await (self._chain(request, steps) if by_chain else self._echo(request))
        except (Refused, GaveUp, InvalidAnswer) as error:
            return Failure(failure_text(error))

    async def _chain(self, request: EncodedRequest, steps: list[_Step]) -> ScoreResponse:
        found: dict[tuple[bytes, int], Scored] = {}
        for step in steps:
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
    if isinstance(error, Refused) and error.status >= 400:
        text = f"the server refused the request ({error.status}): {text}"
        if any(word in text.lower() for word in ("context", "maximum", "too long", "max_model_len")):
            text += "; keep prompts within the server's context with --max-length"
    return text


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

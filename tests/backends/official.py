"""Official questions that every engine must score as plain transformers does."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from evalkit import spec
from evalkit.backends.base import Backend
from evalkit.data.source import open_source
from evalkit.prompts import Encoder, prepare, render
from evalkit.tokens import EncodedRequest
from evalkit.types import Response, ScoreResponse

CASES = [
    *[("mmlu@lm-eval:test:5shot", x, 4) for x in ("college_biology", "marketing", "high_school_geography")],
    *[("ceval@lm-eval:val:5shot", x, 4) for x in ("computer_network", "law", "high_school_biology")],
    *[("cmmlu@lm-eval:test:5shot", x, 4) for x in ("agronomy", "astronomy", "world_history")],
    ("kobest_hellaswag@lm-eval:test:0shot", "kobest_hellaswag", 6),
]
"""Task, subset and how many of its questions; options of one token and of many."""

ONE_OF_EACH_TASK = [CASES[0], CASES[3], CASES[6], CASES[9]]

TOLERANCE = 1e-2


def check_agreement(backend: Backend, plain: Backend, data: Path, name: str, subset: str, limit: int) -> None:
    """Log-probabilities agree, and predictions wherever no rounding could have changed them."""
    found = answers(backend, official(backend, data, name, subset, limit))
    for ours, theirs in zip(found, expected(plain, data, name, subset, limit), strict=True):
        assert logprobs(ours) == pytest.approx(logprobs(theirs), abs=TOLERANCE)
        second, first = sorted(logprobs(theirs))[-2:]
        if first - second > TOLERANCE:
            assert np.argmax(logprobs(ours)) == np.argmax(logprobs(theirs))


@cache
def expected(plain: Backend, data: Path, name: str, subset: str, limit: int) -> list[Response]:
    """What transformers says, computed once for all engines."""
    return answers(plain, official(plain, data, name, subset, limit))


def official(backend: Backend, data: Path, name: str, subset: str, limit: int) -> list[EncodedRequest]:
    """The first questions of a subset, encoded."""
    (resolved,) = spec.resolve(name)
    source = open_source(str(data), offline=True)
    samples = source.load(resolved.task, resolved.split, subset)
    shots = source.shots(resolved, subset, samples)
    rendered = render(resolved, samples[:limit], shots[:limit])
    prompts = prepare(resolved, rendered, Encoder(backend.tokenizer, 2040))
    return [p.encoded for p in prompts if isinstance(p.encoded, EncodedRequest)]


def answers(backend: Backend, requests: list[EncodedRequest]) -> list[Response]:
    """Responses in order."""
    found = dict(backend.score(requests))
    return [found[i] for i in range(len(requests))]


def logprobs(response: Response) -> list[float]:
    """Log-probability of every continuation."""
    assert isinstance(response, ScoreResponse), response
    return [score.logprob for score in response.scores]

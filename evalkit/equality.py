"""The equality gate: the fast path must say what plain forwards say, and how much rounding matters.

Before a run, a few real requests are answered by the backend's chosen path and scored by one plain
forward each; of a generated text, its first tokens. The largest difference of a log-probability decides
whether the path may be used; the largest change of a winning margin between options is the run's
numerical noise, below which an answer is a close call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from evalkit.backends.base import Backend
from evalkit.errors import UntrustedResultError
from evalkit.prompts import Encoded, Prompt
from evalkit.spec import ResolvedTask
from evalkit.tokens import EncodedPrompt, EncodedRequest
from evalkit.types import ContinuationScore, Failure, GenerateResponse, Response, ScoreResponse

TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Largest |Δ log p| per continuation; half-precision sums of many tokens drift further (see `_allowed`)."""

_PLACES = 4
_NEIGHBOURS = 2
_NEW_TOKENS = 16
"""Generated tokens that are compared."""


@dataclass(frozen=True, slots=True)
class GateReport:
    """What the gate measured, as written to the manifest."""

    passed: bool
    path: str
    requests: int
    max_difference: float
    """Largest |Δ log p| between path and plain forwards, in proportion to what it may be."""
    tolerance: float
    """What that difference may be: sums of more tokens may differ by more."""
    noise: dict[str, float]
    """Per task, the largest change of a winning margin, in the protocol's option scores."""
    rejected: tuple[str, ...] = ()
    """Faster paths that failed, in the order they were tried."""
    unchecked: str | None = None
    """Why nothing could be compared."""

    def to_json(self) -> dict[str, Any]:
        """As written to the manifest."""
        return asdict(self)


Tasks = Sequence[tuple[ResolvedTask, Sequence[Prompt]]]


@dataclass(frozen=True, slots=True)
class _Sampled:
    """The requests of one task that are compared."""

    name: str
    requests: list[Encoded]
    margin_change: Callable[[ScoreResponse, ScoreResponse], float] | None
    """How far a winning margin moved between two answers; None where nothing is won by a margin."""


def check(backend: Backend, tasks: Tasks) -> GateReport:
    """Compare path and plain forwards, taking the next simpler path as long as they disagree.

    Raises:
        UntrustedResultError: not even the simplest path agrees.
    """
    return _check(
        backend,
        [
            _Sampled(
                task.name,
                _spread([p.encoded for p in prompts]),
                partial(_margin_change, task) if task.protocol.judge is None else None,
            )
            for task, prompts in tasks
        ],
    )


def check_requests(backend: Backend, requests: Mapping[str, Sequence[EncodedRequest]]) -> GateReport:
    """Do the same for requests by name whose answers are used as they are; all of them are compared.

    Raises:
        UntrustedResultError: not even the simplest path agrees.
    """
    return _check(backend, [_Sampled(name, list(some), None) for name, some in requests.items()])


def _check(backend: Backend, chosen: Sequence[_Sampled]) -> GateReport:
    if lack := backend.capabilities.no_scores:
        path = str(backend.info.details.get("scoring_path", "backend"))
        return GateReport(True, path, 0, 0.0, _allowed(backend.info.dtype, 1), {}, unchecked=lack)
    references: _References = {}
    rejected: list[str] = []
    while True:
        report = _compare(backend, chosen, references, tuple(rejected))
        if report.passed:
            return report
        rejected.append(report.path)
        if backend.downgrade() is None:
            raise UntrustedResultError(
                f"the equality gate failed: log-probabilities differ by up to {report.max_difference:.3g} "
                f"from plain forwards (tolerance {report.tolerance:g}) on every scoring path "
                f"({', '.join(rejected)}); try --dtype float32, and report the model's architecture"
            )


_References = dict[tuple[bytes, ...], ScoreResponse]
"""Plain forwards done already, by the ids they scored."""


def _spread(requests: Sequence[Encoded]) -> list[Encoded]:
    """Neighbours, which share a prefix, at places spread evenly over the task, and its longest prompt."""
    if not requests:
        return []
    starts = {len(requests) * g // _PLACES for g in range(_PLACES)}
    places = {min(s + k, len(requests) - 1) for s in starts for k in range(_NEIGHBOURS)}
    longest = max(range(len(requests)), key=lambda i: requests[i].n_inputs)
    return [requests[i] for i in sorted(places | {longest})]


def _compare(
    backend: Backend, chosen: Sequence[_Sampled], references: _References, rejected: tuple[str, ...]
) -> GateReport:
    path = str(backend.info.details.get("scoring_path", "backend"))
    answers = _answers(backend, [request for task in chosen for request in task.requests])
    errors = [answer.error for _, answer in answers if isinstance(answer, Failure)]
    if errors and len(errors) == len(answers):  # single failures are the run's own business: it counts them
        raise UntrustedResultError(f"the equality gate could not answer a single request: {errors[0]}")
    # (difference, tolerance) of the request that comes nearest to its own tolerance, or exceeds it most.
    worst, noise, index = (0.0, _allowed(backend.info.dtype, 1)), {}, 0
    for task in chosen:
        pairs = [
            (answer, _reference(backend, request, references))
            for request, answer in answers[index : index + len(task.requests)]
            if isinstance(answer, ScoreResponse)
        ]
        index += len(task.requests)
        measured = ((_difference(a, b), _allowed(backend.info.dtype, _terms(b))) for a, b in pairs)
        worst = max([worst, *measured], key=lambda pair: pair[0] / pair[1])
        if task.margin_change is not None:
            noise[task.name] = max((task.margin_change(a, b) for a, b in pairs), default=0.0)
    difference, tolerance = worst
    return GateReport(difference <= tolerance, path, index, difference, tolerance, noise, rejected)


def _answers(backend: Backend, requests: Sequence[Encoded]) -> list[tuple[EncodedRequest, Response]]:
    """What the chosen path says, and the request a plain forward can check it by, for every request."""
    found: dict[int, tuple[EncodedRequest, Response]] = {}
    scored = {i: r for i, r in enumerate(requests) if isinstance(r, EncodedRequest)}
    for k, response in backend.score(list(scored.values())) if scored else ():
        found[list(scored)[k]] = (list(scored.values())[k], response)
    generated = {
        i: replace(r, sampling=None, max_new_tokens=min(_NEW_TOKENS, r.max_new_tokens))
        for i, r in enumerate(requests)
        if isinstance(r, EncodedPrompt)
    }
    for k, response in backend.generate(list(generated.values())) if generated else ():
        found[list(generated)[k]] = _as_scored(list(generated.values())[k], response)
    return [found[i] for i in range(len(requests))]


def _as_scored(prompt: EncodedPrompt, response: Response) -> tuple[EncodedRequest, Response]:
    """A greedy completion as the score of the text it is."""
    completion = response.completions[0] if isinstance(response, GenerateResponse) else None
    if completion is None or not completion.token_ids:  # some servers do not tell which tokens they generated
        return EncodedRequest(prompt.ids, (prompt.ids[-1:],), (len(prompt.ids),)), response
    ids = np.asarray(completion.token_ids, np.int32)
    score = ContinuationScore(completion.logprob, len(ids), is_greedy=True)
    return EncodedRequest(prompt.ids, (ids,), (len(prompt.ids),)), ScoreResponse((score,))


def _reference(backend: Backend, request: EncodedRequest, known: _References) -> ScoreResponse:
    key = tuple(ids.tobytes() for ids in (request.base, *request.tails))
    if key not in known:
        try:
            known[key] = backend.score_reference(request)
        except (RuntimeError, MemoryError) as error:
            raise UntrustedResultError(
                f"the equality gate could not run a plain forward of {request.n_inputs} tokens: {error}; "
                "use a smaller --max-length or --dtype, or a larger device"
            ) from error
    return known[key]


def _allowed(dtype: str, terms: int) -> float:
    """Rounding errors of a sum grow with the root of its terms."""
    return TOLERANCE.get(dtype, 0.5) * math.sqrt(terms)


def _terms(reference: ScoreResponse) -> int:
    return max(score.n_tokens for score in reference.scores)


def _difference(a: ScoreResponse, b: ScoreResponse) -> float:
    differences = [abs(x.logprob - y.logprob) for x, y in zip(a.scores, b.scores, strict=True)]
    # NaN compares false with everything: an unusable score must not pass as equal.
    return max((math.inf if math.isnan(d) else d) for d in differences)


def _margin_change(task: ResolvedTask, a: ScoreResponse, b: ScoreResponse) -> float:
    """How far the margin between the reference's two best options moved."""
    ours, plain = (task.protocol.choice_scores(*task.protocol.combine(r)) for r in (a, b))
    first, second = sorted(range(len(plain)), key=lambda i: -plain[i])[:2]
    change = abs((ours[first] - ours[second]) - (plain[first] - plain[second]))
    return 0.0 if math.isnan(change) else change

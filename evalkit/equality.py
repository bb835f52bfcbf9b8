"""The equality gate: the fast path must say what plain forwards say, and how much rounding matters.

Before a run, a few real requests are scored both by the backend's chosen path and by one plain
forward each. The largest difference of a log-probability decides whether the path may be used; the
largest change of a winning margin is the run's numerical noise, below which an answer is a close call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evalkit.backends.base import Backend
from evalkit.errors import UntrustedResultError
from evalkit.prompts import Prompt
from evalkit.spec import ResolvedTask
from evalkit.types import Failure, ScoreResponse

TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Largest |Δ log p| per continuation; half-precision sums of many tokens drift further (see `_allowed`)."""

_REQUESTS_PER_RUN = 12
_NEIGHBOURS = 3


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

    def to_json(self) -> dict[str, Any]:
        """As written to the manifest."""
        return asdict(self)


Tasks = Sequence[tuple[ResolvedTask, Sequence[Prompt]]]


def check(backend: Backend, tasks: Tasks) -> GateReport:
    """Compare path and plain forwards, taking the next simpler path as long as they disagree.

    Raises:
        UntrustedResultError: not even the simplest path agrees.
    """
    chosen = [
        (task, _spread(prompts, max(_NEIGHBOURS, _REQUESTS_PER_RUN // len(tasks)))) for task, prompts in tasks
    ]
    references = [[backend.score_reference(p.encoded) for p in prompts] for _, prompts in chosen]
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


def _spread(prompts: Sequence[Prompt], n: int) -> list[Prompt]:
    """About n prompts in groups of neighbours, which share a prefix, spread evenly over the task."""
    groups = max(1, n // _NEIGHBOURS)
    starts = {len(prompts) * g // groups for g in range(groups)}
    return [p for s in sorted(starts) for p in prompts[s : s + _NEIGHBOURS]]


def _compare(
    backend: Backend,
    chosen: list[tuple[ResolvedTask, list[Prompt]]],
    references: list[list[ScoreResponse]],
    rejected: tuple[str, ...],
) -> GateReport:
    path = str(backend.info.details.get("scoring_path", "backend"))
    answers = dict(backend.score([p.encoded for _, prompts in chosen for p in prompts]))
    errors = [answer.error for answer in answers.values() if isinstance(answer, Failure)]
    if errors and len(errors) == len(answers):  # single failures are the run's own business: it counts them
        raise UntrustedResultError(f"the equality gate could not score a single request: {errors[0]}")
    # (difference, tolerance) of the request that comes nearest to its own tolerance, or exceeds it most.
    worst, noise, index = (0.0, _allowed(backend.info.dtype, 1)), {}, 0
    for (task, prompts), expected in zip(chosen, references, strict=True):
        got = [answers[index + i] for i in range(len(prompts))]
        index += len(prompts)
        pairs = [(a, b) for a, b in zip(got, expected, strict=True) if isinstance(a, ScoreResponse)]
        measured = ((_difference(a, b), _allowed(backend.info.dtype, _terms(b))) for a, b in pairs)
        worst = max([worst, *measured], key=lambda pair: pair[0] / pair[1])
        noise[task.name] = max((_margin_change(task, a, b) for a, b in pairs), default=0.0)
    difference, tolerance = worst
    return GateReport(difference <= tolerance, path, index, difference, tolerance, noise, rejected)


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

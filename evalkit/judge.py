"""From log-probabilities to a judged outcome; the same code judges a run and a `rescore`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evalkit.task import Protocol
from evalkit.types import Outcome, Sample, ScoreResponse

if TYPE_CHECKING:
    from evalkit.spec import ResolvedTask


def predict(
    protocol: Protocol, labels: Sequence[str], logprobs: Sequence[float], n_tokens: Sequence[int]
) -> str | None:
    """Label of the first option with the highest score; None if any score is NaN or infinite.

    Raises:
        ValueError: if there is not one score per label.
    """
    scores = protocol.choice_scores(logprobs, n_tokens)
    if len(scores) != len(labels):
        raise ValueError(f"protocol '{protocol.name}' gave {len(scores)} scores for {len(labels)} options")
    if not all(map(math.isfinite, scores)):
        return None
    return labels[scores.index(max(scores))]


def judge(
    resolved: ResolvedTask,
    sample: Sample,
    response: ScoreResponse,
    *,
    prompt_sha256: str,
    truncated: bool = False,
    prompt: str | None = None,
) -> Outcome:
    """Judge a backend's answer to one sample."""
    logprobs, n_tokens = resolved.protocol.combine(response)
    unjudged = Outcome(
        task=resolved.name,
        subset=sample.subset,
        sample_id=sample.id,
        prompt_sha256=prompt_sha256,
        prediction=None,
        target=sample.target,
        correct=None,
        choice_logprobs=tuple(logprobs),
        choice_tokens=tuple(n_tokens),
        truncated=truncated,
        prompt=prompt,
    )
    return rejudge(resolved, unjudged)


def failed(
    resolved: ResolvedTask,
    sample: Sample,
    error: str,
    *,
    prompt_sha256: str,
    truncated: bool = False,
    prompt: str | None = None,
) -> Outcome:
    """Record a sample the backend gave no answer to."""
    return Outcome(
        task=resolved.name,
        subset=sample.subset,
        sample_id=sample.id,
        prompt_sha256=prompt_sha256,
        prediction=None,
        target=sample.target,
        correct=None,
        choice_logprobs=None,
        choice_tokens=None,
        truncated=truncated,
        error=error,
        prompt=prompt,
    )


def rejudge(resolved: ResolvedTask, outcome: Outcome) -> Outcome:
    """Judge an outcome anew from its stored log-probabilities; without any it is returned as it is.

    Scores that are not finite make the sample an error: choosing among them would be a guess.
    """
    if outcome.choice_logprobs is None or outcome.choice_tokens is None:
        return outcome
    labels = resolved.task.labels(len(outcome.choice_logprobs))
    prediction = predict(resolved.protocol, labels, outcome.choice_logprobs, outcome.choice_tokens)
    if prediction is None:
        error = f"non-finite option score (log-probabilities {_listed(outcome.choice_logprobs)})"
        return replace(outcome, prediction=None, correct=None, error=error)
    correct = None if outcome.target is None else float(prediction == outcome.target)
    return replace(outcome, prediction=prediction, correct=correct, error=None)


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)

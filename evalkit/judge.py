"""From a backend's answers to judged outcomes; the same code judges a run, a `rescore` and a `score-file`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evalkit.prompts import Prompt
from evalkit.spec import ResolvedTask
from evalkit.task import Judgement, JudgeSettings, Protocol
from evalkit.types import Failure, GenerateResponse, Outcome, Response, Sample

NORMALISED = "acc_norm"
"""Accuracy of the option with the highest log-probability per character."""


def recorded(resolved: ResolvedTask, prompt: Prompt, response: Response, *, keep_prompt: bool) -> Outcome:
    """Put down what a backend answered to one sample, not judged yet."""
    sample, protocol = prompt.sample, resolved.protocol
    outcome = Outcome(
        task=resolved.name,
        subset=sample.subset,
        sample_id=sample.id,
        prompt_sha256=prompt.sha256,
        prediction=None,
        target=sample.target,
        correct=None,
        choice_logprobs=None,
        choice_tokens=None,
        truncated=prompt.truncated,
        stratum=protocol.stratum(sample) if protocol.stratum else None,
        prompt=prompt.text if keep_prompt else None,
        prompt_token_ids=prompt.token_ids if keep_prompt else None,
    )
    if isinstance(response, Failure):
        return replace(outcome, error=response.error)
    if isinstance(response, GenerateResponse):
        thoughts = [c.reasoning for c in response.completions]
        return replace(
            outcome,
            completions=tuple(c.text for c in response.completions),
            reasonings=tuple(thoughts) if any(thoughts) else None,
            finish_reason=_reasons([c.finish_reason for c in response.completions]),
        )
    logprobs, n_tokens = protocol.combine(response)
    chars = tuple(map(len, protocol.option_texts(sample))) if protocol.option_texts else None
    return replace(outcome, choice_logprobs=logprobs, choice_tokens=n_tokens, choice_chars=chars)


def _reasons(reasons: Sequence[str]) -> str:
    """The reason of one completion; of several, how often each occurred."""
    if len(reasons) == 1:
        return reasons[0]
    return ", ".join(f"{reason} {n}" for reason, n in sorted(Counter(reasons).items()))


Samples = Mapping[tuple[str, str], Sample]
"""(subset, id) to sample."""


def judge(
    resolved: ResolvedTask,
    outcomes: Sequence[Outcome],
    samples: Samples,
    settings: JudgeSettings = JudgeSettings(),  # noqa: B008 - immutable
) -> list[Outcome]:
    """Judge recorded outcomes, for the first time or again; those with nothing to judge stay as they are.

    `samples` is read for completions only: the judge of log-probabilities needs nothing but the outcome.
    """
    judged = list(map(_storable, outcomes))
    generated = [i for i, o in enumerate(judged) if o.completions is not None]
    if generated and resolved.protocol.judge is not None:
        answered = [(_sample(judged[i], samples), judged[i].completions or ()) for i in generated]
        judgements = resolved.protocol.judge(answered, settings)
        for i, judgement in zip(generated, judgements, strict=True):
            judged[i] = _with(judged[i], judgement, resolved.protocol.headline)
    return [_judged_choice(resolved, o) if o.choice_logprobs is not None else o for o in judged]


def _storable(outcome: Outcome) -> Outcome:
    """With completions as they are stored, so that a `rescore` judges the very texts that a run did."""
    if all(map(str.isascii, outcome.completions or ())):
        return outcome
    texts = tuple(c.encode("utf-8", "replace").decode("utf-8") for c in outcome.completions or ())
    return replace(outcome, completions=texts)


def _sample(outcome: Outcome, samples: Samples) -> Sample:
    return samples[outcome.subset, outcome.sample_id]


def _with(outcome: Outcome, judgement: Judgement, headline: str) -> Outcome:
    metrics = dict(judgement.metrics)
    correct = metrics.get(headline)
    return replace(outcome, prediction=judgement.prediction, metrics=metrics, correct=correct, error=None)


def _judged_choice(resolved: ResolvedTask, outcome: Outcome) -> Outcome:
    """Scores that are not finite make the sample an error: choosing among them would be a guess."""
    logprobs, n_tokens = outcome.choice_logprobs or (), outcome.choice_tokens or ()
    labels = resolved.task.labels(len(logprobs))
    prediction = predict(resolved.protocol, labels, logprobs, n_tokens)
    if prediction is None:
        listed = ", ".join(f"{number:g}" for number in logprobs)
        error = f"non-finite option score (log-probabilities {listed})"
        return replace(outcome, prediction=None, correct=None, metrics={}, error=error)
    metrics = {}
    if outcome.target is not None:
        metrics["acc"] = float(prediction == outcome.target)
        if outcome.choice_chars is not None:
            per_character = [lp / max(1, n) for lp, n in zip(logprobs, outcome.choice_chars, strict=True)]
            metrics[NORMALISED] = float(_best(labels, per_character) == outcome.target)
    return _with(outcome, Judgement(prediction, metrics), resolved.protocol.headline)


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
    return _best(labels, scores) if all(map(math.isfinite, scores)) else None


def _best(labels: Sequence[str], scores: Sequence[float]) -> str:
    return labels[scores.index(max(scores))]

"""From judged outcomes to one task's entry in `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evalkit.stats.intervals import Estimate, bootstrap, clustered_mean, independent_mean
from evalkit.task import Average, CorpusMetric, Protocol
from evalkit.types import Outcome

if TYPE_CHECKING:
    from evalkit.spec import ResolvedTask


@dataclass(frozen=True)
class _Columns:
    """The outcomes of one task as arrays, one row per sample."""

    subset: NDArray[np.intp]
    """Position of the subset in the official order."""
    correct: NDArray[np.float64]
    """The headline metric; NaN after an error or without a target."""
    values: dict[str, NDArray[np.float64]]
    """Every metric of the samples, the headline first; NaN where a sample has none."""
    predictions: list[str | None]
    targets: list[str]
    strata: list[str | None]
    failed: NDArray[np.bool_]
    unparsed: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    unfinished: NDArray[np.bool_]
    """Completions that ended at their token limit."""
    unfinished_reasoning: NDArray[np.bool_]
    """Those of them that were still reasoning."""
    non_finite: NDArray[np.bool_]
    margin: NDArray[np.float64]
    """Best minus second best option score; NaN where there are none to compare."""
    target_gap: NDArray[np.float64]
    """Best option score minus that of the target; NaN where unknown."""

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Rows that enter a metric."""
        return ~np.isnan(self.correct)


def aggregate(resolved: ResolvedTask, outcomes: Sequence[Outcome], noise: float | None) -> dict[str, Any]:
    """Build the result entry of one task.

    Errors and samples without a target stay out of every metric, but are counted.

    Args:
        resolved: the task as it was run.
        outcomes: judged outcomes, in any order.
        noise: largest change of a margin between two option scores that rounding was seen to make, in
            units of `protocol.choice_scores`; None if it was not measured.

    Returns:
        A JSON-ready dict without NaN. `score_range` holds the lowest and highest published average that
        is possible if every close call (margin at most `noise`) may fall either way.
    """
    task, protocol = resolved.task, resolved.protocol
    rows = _columns(resolved, outcomes)
    entry: dict[str, Any] = {
        "task": task.name,
        "protocol": protocol.name,
        "split": resolved.split,
        "shots": resolved.shots,
        "average": protocol.average,
        "metrics": {},
        "groups": {},
        "subsets": {},
        "averages": {},
        "counters": _counters(rows, noise),
        **_coverage(resolved, rows),
        **_truncated(resolved, rows),
    }
    if rows.scored.any():
        entry |= _metrics(resolved, rows)
        if noise is not None and resolved.protocol.judge is None:
            entry["score_range"] = _score_range(rows, noise, _weights(resolved, rows.subset[rows.scored]))
    return entry


def _columns(resolved: ResolvedTask, outcomes: Sequence[Outcome]) -> _Columns:
    protocol = resolved.protocol
    subset_at = {name: i for i, name in enumerate(resolved.task.subsets)}
    scores = [_scores(resolved, o) for o in outcomes]
    finite = np.array([len(s) > 0 and bool(np.isfinite(s).all()) for s in scores], dtype=bool)
    failed = np.array([o.error is not None for o in outcomes], dtype=bool)
    answered = np.array([o.choice_logprobs is not None for o in outcomes], dtype=bool)
    compared = _padded(scores, finite & ~failed)
    return _Columns(
        subset=np.array([subset_at[o.subset] for o in outcomes], dtype=np.intp),
        correct=np.array([_value(o, protocol.headline) for o in outcomes], dtype=np.float64),
        values={
            name: np.array([_value(o, name) for o in outcomes], dtype=np.float64)
            for name in _metric_names(protocol, outcomes)
        },
        predictions=[o.prediction for o in outcomes],
        targets=[o.target or "" for o in outcomes],
        strata=[o.stratum for o in outcomes],
        failed=failed,
        unparsed=np.array([o.prediction is None and o.error is None for o in outcomes], dtype=bool),
        truncated=np.array([o.truncated for o in outcomes], dtype=bool),
        unfinished=np.array(["length" in (o.finish_reason or "") for o in outcomes], dtype=bool),
        unfinished_reasoning=np.array([_still_reasoning(o) for o in outcomes], dtype=bool),
        non_finite=answered & ~finite,
        margin=_margin(compared),
        target_gap=_target_gap(compared, _targets(resolved, outcomes)),
    )


def _still_reasoning(outcome: Outcome) -> bool:
    """Whether the token limit left no room for an answer."""
    pairs = zip(outcome.completions or (), outcome.reasonings or (), strict=False)
    return "length" in (outcome.finish_reason or "") and any(
        thought and not answer for answer, thought in pairs
    )


def _metric_names(protocol: Protocol, outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys([protocol.headline, *(name for o in outcomes for name in o.metrics)]))


def _value(outcome: Outcome, metric: str) -> float:
    return np.nan if outcome.error is not None else outcome.metrics.get(metric, np.nan)


def _scores(resolved: ResolvedTask, outcome: Outcome) -> list[float]:
    """Option scores of one sample; empty where it has none."""
    if outcome.choice_logprobs is None or outcome.choice_tokens is None:
        return []
    return resolved.protocol.choice_scores(outcome.choice_logprobs, outcome.choice_tokens)


def _padded(scores: Sequence[list[float]], comparable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scores as [samples, most options]: -inf where a sample has fewer, NaN rows where none compare."""
    width = max(2, max(map(len, scores), default=0))
    rows = [
        [*s, *([-np.inf] * (width - len(s)))] if ok else [np.nan] * width
        for s, ok in zip(scores, comparable, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def _targets(resolved: ResolvedTask, outcomes: Sequence[Outcome]) -> NDArray[np.intp]:
    """Position of each sample's right option; -1 where it is unknown."""
    known = {label: i for i, label in enumerate(resolved.task.choices)}
    # Tasks without fixed labels name an option by its index.
    place = known.get if known else (lambda label, _: int(label) if label.isdigit() else -1)
    return np.array(
        [-1 if o.choice_logprobs is None else place(o.target or "", -1) for o in outcomes], dtype=np.intp
    )


def _margin(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    two_best = np.sort(scores, axis=1)[:, -2:]
    return two_best[:, 1] - two_best[:, 0]


def _target_gap(scores: NDArray[np.float64], target: NDArray[np.intp]) -> NDArray[np.float64]:
    """Best score minus the target's; a target of -1 is none of the options."""
    gap = scores.max(axis=1) - scores[np.arange(len(scores)), target]
    return np.where(target < 0, np.nan, gap)


def _counters(rows: _Columns, noise: float | None) -> dict[str, int | None]:
    return {
        "samples": rows.subset.size,
        "errors": int(rows.failed.sum()),
        "truncated": int(rows.truncated.sum()),
        "unfinished": int(rows.unfinished.sum()),
        "unfinished_reasoning": int(rows.unfinished_reasoning.sum()),
        "ties": int((rows.margin == 0).sum()),
        "non_finite": int(rows.non_finite.sum()),
        "unparsed": int(rows.unparsed.sum()),
        "close_calls": None if noise is None else int((rows.margin <= noise).sum()),
    }


def _coverage(resolved: ResolvedTask, rows: _Columns) -> dict[str, int]:
    """Say how much of the benchmark was run, where that is not all of it."""
    coverage: dict[str, int] = {}
    present, total = int(np.unique(rows.subset).size), len(resolved.task.subsets)
    if present < total:
        coverage |= {"subsets_present": present, "subsets_total": total}
    official = resolved.task.sizes.get(resolved.split)
    if official is not None and official != rows.subset.size:
        coverage["samples_total"] = official
    return coverage


def _truncated(resolved: ResolvedTask, rows: _Columns) -> dict[str, dict[str, float]]:
    """Share of shortened prompts of every subset that has any."""
    names = list(resolved.task.subsets)
    shares = {names[i]: float(rows.truncated[rows.subset == i].mean()) for i in np.unique(rows.subset)}
    shortened = {name: share for name, share in shares.items() if share}
    return {"truncated_share": shortened} if shortened else {}


def _metrics(resolved: ResolvedTask, rows: _Columns) -> dict[str, Any]:
    """Every estimate of the task: overall, per category, per subset and per stratum."""
    protocol, names = resolved.protocol, list(resolved.task.subsets)
    inside = {
        group: np.isin(rows.subset, [names.index(member) for member in members])
        for group, members in protocol.groups.members.items()
    }
    everything = np.ones(rows.subset.size, np.bool_)
    averages = {average: _estimates(resolved, rows, everything, average) for average in _averages(protocol)}
    return {
        "metrics": averages[protocol.average],
        "groups": {
            group: _estimates(resolved, rows, mask, protocol.groups.average)
            for group, mask in inside.items()
            if (mask & rows.scored).any()
        },
        "subsets": {
            names[i]: _estimates(resolved, rows, rows.subset == i, None)
            for i in np.unique(rows.subset[rows.scored])
        },
        "averages": {
            average: {name: estimate["value"] for name, estimate in estimates.items()}
            for average, estimates in averages.items()
        },
        **_categories(protocol),
        **_strata(resolved, rows),
    }


def _categories(protocol: Protocol) -> dict[str, dict[str, list[str]]]:
    """Put down the members of the categories that the published score is a mean over."""
    if protocol.average != "category":
        return {}
    return {"categories": {name: list(members) for name, members in protocol.groups.members.items()}}


def _averages(protocol: Protocol) -> tuple[Average, ...]:
    return ("macro", "micro", "category") if protocol.average == "category" else ("macro", "micro")


def _estimates(
    resolved: ResolvedTask, rows: _Columns, inside: NDArray[np.bool_], average: Average | None
) -> dict[str, Any]:
    """Metric name to estimate over the rows `inside`; no average takes them as one subset."""
    found: dict[str, Any] = {}
    for name, values in rows.values.items():
        usable = inside & ~np.isnan(values)
        if usable.any():
            found[name] = _mean(resolved, values[usable], rows.subset[usable], average).to_json()
    usable = inside & rows.scored
    for name, metric in resolved.protocol.corpus_metrics.items():
        if usable.any():
            found[name] = _corpus(metric, rows, np.flatnonzero(usable)).to_json()
    return found


def _mean(
    resolved: ResolvedTask,
    values: NDArray[np.float64],
    subset: NDArray[np.intp],
    average: Average | None,
) -> Estimate:
    if average is None:
        return independent_mean(values)
    return clustered_mean(values, subset, _weights(resolved, subset, average))


def _corpus(metric: CorpusMetric, rows: _Columns, places: NDArray[np.intp]) -> Estimate:
    def statistic(drawn: NDArray[np.intp]) -> float:
        chosen = places[drawn]
        return metric([rows.predictions[i] for i in chosen], [rows.targets[i] for i in chosen])

    return bootstrap(statistic, places.size)


def _strata(resolved: ResolvedTask, rows: _Columns) -> dict[str, Any]:
    """Stratum to subset to estimates, for protocols that report classes of samples apart."""
    if resolved.protocol.stratum is None:
        return {}
    names = list(resolved.task.subsets)
    strata: dict[str, Any] = {}
    for stratum in sorted({s for s in rows.strata if s is not None}):
        inside = np.array([s == stratum for s in rows.strata])
        strata[stratum] = {
            names[i]: _estimates(resolved, rows, inside & (rows.subset == i), None)
            for i in np.unique(rows.subset[inside & rows.scored])
        }
    return {"strata": strata}


def _weights(
    resolved: ResolvedTask, subset: NDArray[np.intp], average: Average | None = None
) -> NDArray[np.float64]:
    """Weights of samples that give every sample, subset or category the same say."""
    average = average or resolved.protocol.average
    if average == "micro":
        return np.ones(subset.size)
    per_subset: NDArray[np.float64] = 1 / np.bincount(subset)[subset]
    if average == "macro":
        return per_subset
    category = _category_of(resolved.protocol.groups.members, list(resolved.task.subsets))[subset]
    subsets_in = {c: np.unique(subset[category == c]).size for c in np.unique(category)}
    shares = np.array([1 / subsets_in[c] for c in category])
    weights: NDArray[np.float64] = per_subset * shares
    return weights


def _category_of(members: Mapping[str, tuple[str, ...]], names: Sequence[str]) -> NDArray[np.intp]:
    """Position of every subset's category."""
    of = {subset: i for i, subsets in enumerate(members.values()) for subset in subsets}
    return np.array([of[name] for name in names], dtype=np.intp)


def _score_range(rows: _Columns, noise: float, weights: NDArray[np.float64]) -> dict[str, float]:
    """Published average if every close call went wrong, and if every one that can go right did."""
    correct = rows.correct[rows.scored]
    worst = np.where(rows.margin[rows.scored] <= noise, 0.0, correct)
    best = np.where(rows.target_gap[rows.scored] <= noise, 1.0, correct)
    total = weights.sum()
    return {"low": float((weights * worst).sum() / total), "high": float((weights * best).sum() / total)}

"""From judged outcomes to one task's entry in `results.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from evalkit.stats.intervals import Estimate, clustered_mean, independent_mean
from evalkit.task import Average
from evalkit.types import Outcome

if TYPE_CHECKING:
    from evalkit.spec import ResolvedTask

METRIC = "acc"
"""Headline metric of every scored multiple-choice task."""


@dataclass(frozen=True)
class _Columns:
    """The outcomes of one task as arrays, one row per sample."""

    subset: NDArray[np.intp]
    """Position of the subset in the official order."""
    correct: NDArray[np.float64]
    """NaN after an error or without a target."""
    failed: NDArray[np.bool_]
    unparsed: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
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
        noise: largest difference between two option scores that rounding alone can make, in units of
            `protocol.choice_scores`; None if it was not measured.

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
    }
    if rows.scored.any():
        entry |= _metrics(resolved, rows)
        if noise is not None:
            entry["score_range"] = _score_range(rows, noise, protocol.average)
    return entry


def _columns(resolved: ResolvedTask, outcomes: Sequence[Outcome]) -> _Columns:
    subset_at = {name: i for i, name in enumerate(resolved.task.subsets)}
    scores = [_scores(resolved, o) for o in outcomes]
    finite = np.array([len(s) > 0 and bool(np.isfinite(s).all()) for s in scores], dtype=bool)
    failed = np.array([o.error is not None for o in outcomes], dtype=bool)
    answered = np.array([o.choice_logprobs is not None for o in outcomes], dtype=bool)
    compared = _padded(scores, finite & ~failed)
    return _Columns(
        subset=np.array([subset_at[o.subset] for o in outcomes], dtype=np.intp),
        correct=np.array([_correct(o) for o in outcomes], dtype=np.float64),
        failed=failed,
        unparsed=np.array([o.prediction is None and o.error is None for o in outcomes], dtype=bool),
        truncated=np.array([o.truncated for o in outcomes], dtype=bool),
        non_finite=answered & ~finite,
        margin=_margin(compared),
        target_gap=_target_gap(compared, _targets(resolved, outcomes)),
    )


def _correct(outcome: Outcome) -> float:
    return np.nan if outcome.error is not None or outcome.correct is None else outcome.correct


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
    return np.array([place(o.target or "", -1) for o in outcomes], dtype=np.intp)


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


def _metrics(resolved: ResolvedTask, rows: _Columns) -> dict[str, Any]:
    """Every estimate of the task: overall, per category and per subset."""
    protocol, names = resolved.protocol, list(resolved.task.subsets)
    correct, subset = rows.correct[rows.scored], rows.subset[rows.scored]
    averages = {average: _average(correct, subset, average) for average in get_args(Average)}

    groups = {}
    for group, members in protocol.groups.members.items():
        inside = np.isin(subset, [names.index(member) for member in members])
        if inside.any():
            estimate = _average(correct[inside], subset[inside], protocol.groups.average)
            groups[group] = {METRIC: estimate.to_json()}

    return {
        "metrics": {METRIC: averages[protocol.average].to_json()},
        "groups": groups,
        "subsets": {
            names[i]: {METRIC: independent_mean(correct[subset == i]).to_json()} for i in np.unique(subset)
        },
        "averages": {average: {METRIC: estimate.value} for average, estimate in averages.items()},
    }


def _average(values: NDArray[np.float64], subset: NDArray[np.intp], average: Average) -> Estimate:
    return clustered_mean(values, subset, _weights(subset, average))


def _weights(subset: NDArray[np.intp], average: Average) -> NDArray[np.float64]:
    """Equal weights per sample (micro) or per subset (macro)."""
    if average == "micro":
        return np.ones(subset.size)
    return 1 / np.bincount(subset)[subset]


def _score_range(rows: _Columns, noise: float, average: Average) -> dict[str, float]:
    """Published average if every close call went wrong, and if every one that can go right did."""
    correct, subset = rows.correct[rows.scored], rows.subset[rows.scored]
    weights = _weights(subset, average)
    worst = np.where(rows.margin[rows.scored] <= noise, 0.0, correct)
    best = np.where(rows.target_gap[rows.scored] <= noise, 1.0, correct)
    total = weights.sum()
    return {"low": float((weights * worst).sum() / total), "high": float((weights * best).sum() / total)}

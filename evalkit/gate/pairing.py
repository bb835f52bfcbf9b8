"""The same samples of two runs side by side; what is not the same is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import UsageError
from evalkit.gate.outcomes import ASKED, Outcomes, TaskOutcomes

if TYPE_CHECKING:
    from evalkit.stats.intervals import Floats

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Pair:
    """One task of two runs, with the samples both have."""

    baseline: TaskOutcomes
    candidate: TaskOutcomes
    rows: tuple[Rows, Rows]
    """Where the common samples stand in the one and in the other, shape (n,) each."""

    def columns(self, name: str) -> tuple[list[str | None], list[str | None]]:
        """A column of both runs, in the order of `rows`."""
        columns = self.baseline.columns[name], self.candidate.columns[name]
        baseline, candidate = (
            [column[row] for row in rows] for column, rows in zip(columns, self.rows, strict=True)
        )
        return baseline, candidate

    def scores(self, metric: str) -> tuple[Floats, Floats]:
        """Scores of both runs, shape (n,) each; NaN where a sample has none."""
        return self.baseline.scores(metric)[self.rows[0]], self.candidate.scores(metric)[self.rows[1]]

    @cached_property
    def failed(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which samples the one and the other run could not answer, shape (n,) each."""
        baseline, candidate = (np.array([e is not None for e in c], np.bool_) for c in self.columns("error"))
        return baseline, candidate


def pair_up(baseline: Outcomes, candidate: Outcomes, *, subset: bool) -> list[Pair]:
    """Find the tasks and samples of a candidate in a baseline.

    Args:
        baseline: what is compared with.
        candidate: what is compared.
        subset: whether the candidate may have only some of the baseline's tasks and samples.

    Raises:
        UsageError: the tasks, protocols, data or samples are not the same.
        DataError: two samples share an id.
    """
    missing = [name for name in baseline.tasks if name not in candidate.tasks]
    common = [name for name in baseline.tasks if name in candidate.tasks]
    if not common or (missing and not subset):
        raise UsageError(_missing(baseline, candidate, missing))
    return [_pair(baseline.tasks[name], candidate.tasks[name], subset=subset) for name in common]


def _missing(baseline: Outcomes, candidate: Outcomes, names: Sequence[str]) -> str:
    wanted = baseline.tasks[names[0]].entry["task"] if names else None
    similar = [name for name, task in candidate.tasks.items() if task.entry["task"] == wanted]
    if similar:
        return (
            f"{candidate.name} has {similar[0]}, {baseline.name} has {names[0]}: another protocol, split or "
            "number of examples; compare like with like"
        )
    remedy = "run what the baseline has"
    if len(names) < len(baseline.tasks):
        remedy += ", or allow a part of it in the policy (subset: true)"
    return f"{candidate.name} lacks {', '.join(names) or 'every task'} of {baseline.name}; {remedy}"


def _pair(baseline: TaskOutcomes, candidate: TaskOutcomes, *, subset: bool) -> Pair:
    pair = overlap(baseline, candidate)
    n = pair.rows[0].size
    complete = n == len(baseline.row_of) == len(candidate.row_of)
    if not complete and not (subset and n == len(candidate.row_of)):
        raise UsageError(
            f"{baseline.name}: {baseline.source} has {len(baseline.row_of):,} samples and {candidate.source} "
            f"{len(candidate.row_of):,}, of which {n:,} are the same; run both on the same, or allow a part "
            "of the baseline's in the policy (subset: true)"
        )
    if complete and baseline.hashes["data"] != candidate.hashes["data"]:
        raise UsageError(
            f"{baseline.name}: {candidate.source} was run on other data than {baseline.source} (hashes "
            f"{candidate.hashes['data'][:12]} and {baseline.hashes['data'][:12]}); run both on the same files"
        )
    if complete:
        _check_prompts(baseline, candidate)
    return pair


def overlap(baseline: TaskOutcomes, candidate: TaskOutcomes) -> Pair:
    """The samples that two runs of a task have in common.

    Raises:
        UsageError: they were asked in another way, or have other right answers.
        DataError: two samples share an id.
    """
    _check_asked_alike(baseline, candidate)
    common = [key for key in baseline.row_of if key in candidate.row_of]
    rows = tuple(np.array([task.row_of[key] for key in common], np.intp) for task in (baseline, candidate))
    pair = Pair(baseline, candidate, (rows[0], rows[1]))
    targets = pair.columns("target")
    if targets[0] != targets[1]:
        raise UsageError(
            f"{baseline.name}: {candidate.source} and {baseline.source} have other right answers to the same "
            "samples; run both on the same files"
        )
    return pair


def _check_asked_alike(baseline: TaskOutcomes, candidate: TaskOutcomes) -> None:
    """Refuse scores that are made in another way, or of another question."""
    for kind, one, other in (
        ("score", baseline.entry, candidate.entry),
        ("prompts", baseline.asked, candidate.asked),
    ):
        for key in _SAME[kind]:
            if one.get(key) != other.get(key):
                raise UsageError(
                    f"{baseline.name}: the {kind} of {candidate.source} and {baseline.source} are not made "
                    f"alike: {key} is {other.get(key)!r} and {one.get(key)!r}; run both in the same way"
                )


_SAME = {
    "score": ("task", "protocol", "split", "shots", "average", "categories"),
    "prompts": ("chat_template", *ASKED),
}


def _check_prompts(baseline: TaskOutcomes, candidate: TaskOutcomes) -> None:
    """Refuse other texts, except where they follow from the model: its template, or what fits into it."""
    tasks = baseline, candidate
    hashes = {task.hashes.get("prompts") for task in tasks}
    of_model = any(task.asked["chat_template"] or task.entry["counters"]["truncated"] for task in tasks)
    if len(hashes) > 1 and None not in hashes and not of_model:
        raise UsageError(
            f"{baseline.name}: {candidate.source} asked with other texts than {baseline.source} (another "
            "version of the protocol, or other examples); evalkit diff shows where"
        )

"""The same samples of two runs side by side; what is not the same is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import UsageError
from evalkit.gate.outcomes import Outcomes, TaskOutcomes

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
    return (
        f"{candidate.name} lacks {', '.join(names) or 'every task'} of {baseline.name}; run what the "
        "baseline has, or allow a part of it in the policy (subset: true)"
    )


def _pair(baseline: TaskOutcomes, candidate: TaskOutcomes, *, subset: bool) -> Pair:
    same_data = baseline.hashes["data"] == candidate.hashes["data"]
    common = [key for key in baseline.row_of if key in candidate.row_of]
    complete = len(common) == len(baseline.row_of) == len(candidate.row_of)
    if not complete and not (subset and len(common) == len(candidate.row_of)):
        raise UsageError(
            f"{baseline.name}: {baseline.source} has {len(baseline.row_of):,} samples and {candidate.source} "
            f"{len(candidate.row_of):,}, of which {len(common):,} are the same; run both on the same, or "
            "allow a part of the baseline's in the policy (subset: true)"
        )
    if complete and not same_data:
        raise UsageError(
            f"{baseline.name}: {candidate.source} was run on other data than {baseline.source} (hashes "
            f"{candidate.hashes['data'][:12]} and {baseline.hashes['data'][:12]}); run both on the same files"
        )
    rows = tuple(np.array([task.row_of[key] for key in common], np.intp) for task in (baseline, candidate))
    pair = Pair(baseline, candidate, (rows[0], rows[1]))
    targets = pair.columns("target")
    if targets[0] != targets[1]:
        raise UsageError(
            f"{baseline.name}: {candidate.source} and {baseline.source} have other right answers to the same "
            "samples; run both on the same files"
        )
    return pair

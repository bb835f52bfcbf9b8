"""Models in the order of their scores, each with the ranks that the uncertainty of scores allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.errors import UsageError
from evalkit.reports.comparison import Scored, half_widths
from evalkit.reports.layouts import Entry, Layout
from evalkit.reports.runs import unique_names
from evalkit.reports.scores import place, refuse_mixture
from evalkit.reports.standings import Score, Standing, is_score
from evalkit.reports.table import NONE
from evalkit.stats.intervals import Floats


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model stands."""

    name: str
    """Unique on the leaderboard."""
    standing: Standing
    scores: tuple[Score | None, ...]
    """One per column."""
    mean: float | None
    """Over the columns that all models share, in the unit of the table; None if there are none."""
    rank: int | None
    first: int
    """1 + the number of models that are better beyond doubt (5 %)."""
    last: int
    """The number of models less those that are worse beyond doubt."""

    @property
    def shown_rank(self) -> str:
        """The rank with those it can have."""
        if self.rank is None:
            return NONE
        return str(self.rank) if self.first == self.last else f"{self.rank} ({self.first}–{self.last})"


@dataclass(frozen=True, slots=True)
class Board:
    """A leaderboard, best model first."""

    columns: tuple[Entry, ...]
    places: tuple[Place, ...]
    shared: tuple[int, ...]
    """Positions of the columns that decide."""
    left_out: tuple[str, ...]
    """Models without a score in these columns."""


_Line = tuple[str, Standing, tuple[Score | None, ...]]
"""Unique name, model and a score per column."""


def rank(standings: Sequence[Standing], layout: Layout, *, mixed: bool = False) -> Board:
    """Rank models by the mean of the columns that all of them share.

    Raises:
        UsageError: there is nothing to show, or results that must not be compared.
    """
    names = unique_names(
        [one.name for one in standings],
        [one.dtype for one in standings],
        [one.backend for one in standings],
        [one.fingerprint for one in standings],
    )
    entries = (
        [entry for entry in layout.entries if is_score(entry)] if layout.entries else _headlines(standings)
    )
    found = [[one.find(place(_tasks(one), entry), entry) for entry in entries] for one in standings]
    filled = [k for k in range(len(entries)) if any(its[k] for its in found)]
    if not filled:
        of = f" in the columns of layout {layout.name}" if layout.entries else ""
        raise UsageError(f"no scores to show{of}; name runs that have some")
    columns = tuple(entries[k] for k in filled)
    rows = [
        (name, one, tuple(its[k] for k in filled))
        for name, one, its in zip(names, standings, found, strict=True)
    ]
    shown = [row for row in rows if any(row[2])]
    if not mixed:
        _refuse_mixtures(columns, shown)
    shared = tuple(
        k
        for k, entry in enumerate(columns)
        if (entry.best or layout.best) == "higher" and all(scores[k] for _, _, scores in shown)
    )
    return Board(
        columns,
        _ranked(shown, columns, shared),
        shared,
        tuple(sorted(name for name, _, scores in rows if not any(scores))),
    )


def _tasks(standing: Standing) -> list[str]:
    return list(dict.fromkeys(score.task for score in standing.scores))


def _headlines(standings: Sequence[Standing]) -> list[Entry]:
    """An entry for the headline metric of every task, by name."""
    found = sorted(
        {
            (score.task, score.metric)
            for standing in standings
            for score in standing.scores
            if score.headline and score.standard and not score.category and not score.subsets
        }
    )
    short = [f"{task.partition('@')[0]} {metric}" for task, metric in found]
    return [
        Entry.model_validate(
            {
                "key": f"{task} {metric}",
                "label": label if short.count(label) == 1 else f"{task} {metric}",
                "runs": (task,),
                "metric": metric,
            }
        )
        for (task, metric), label in zip(found, short, strict=True)
    ]


def _refuse_mixtures(columns: Sequence[Entry], lines: Sequence[_Line]) -> None:
    for k, entry in enumerate(columns):
        refuse_mixture(
            entry.key,
            [
                (f"{name} (run {score.run_id})", score.task, score.data)
                for name, _, scores in lines
                if (score := scores[k])
            ],
        )


def _ranked(lines: Sequence[_Line], columns: Sequence[Entry], shared: Sequence[int]) -> tuple[Place, ...]:
    lines = sorted(lines, key=lambda line: line[0])
    if not shared:
        return tuple(Place(*line, None, None, 1, len(lines)) for line in lines)
    decisive = [(columns[k], [score for _, _, scores in lines if (score := scores[k])]) for k in shared]
    values = [[entry.scale * score.value for score in its] for entry, its in decisive]
    means = [sum(of_model) / len(shared) for of_model in zip(*values, strict=True)]
    apart = np.subtract.outer(means, means)
    is_clear = abs(apart) > _half_widths(decisive)
    better, worse = (is_clear & (apart < 0)).sum(axis=1), (is_clear & (apart > 0)).sum(axis=1)
    places = [
        Place(
            *line,
            mean,
            rank=1 + sum(other > mean for other in means),
            first=1 + int(better[i]),
            last=len(lines) - int(worse[i]),
        )
        for i, (line, mean) in enumerate(zip(lines, means, strict=True))
    ]
    return tuple(sorted(places, key=lambda one: one.rank or 0))


def _half_widths(columns: Sequence[tuple[Entry, Sequence[Score]]]) -> Floats:
    """Half the widths of the intervals of the gaps between every two models' means over columns.

    Columns of one benchmark may share samples, others are independent: half widths add up within a
    benchmark, as if its columns said the same, and in quadrature between benchmarks. Shape (models, models).
    """
    halves: dict[str, Floats] = {}
    for entry, scores in columns:
        benchmark = scores[0].task.partition("@")[0]
        of_column = abs(entry.scale) * _gaps([score.scored for score in scores])
        halves[benchmark] = halves.get(benchmark, 0.0) + of_column
    squares = sum(np.square(one) for one in halves.values())
    return np.sqrt(squares) / len(columns)


def _gaps(scores: Sequence[Scored]) -> Floats:
    """The half width that `comparison.gap` has for every two, shape (models, models)."""
    alone = np.array([score.half for score in scores])
    halves: Floats = np.hypot.outer(alone, alone)
    alike: dict[tuple[str, bytes], list[int]] = {}
    for k, score in enumerate(scores):
        if score.units:
            alike.setdefault((score.units.of, score.units.strata.tobytes()), []).append(k)
    for places in alike.values():
        halves[np.ix_(places, places)] = half_widths([one for k in places if (one := scores[k].units)])
    return halves

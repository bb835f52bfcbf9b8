"""What a leaderboard keeps of every model: its scores and what they can be compared by, as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from evalkit.errors import DataError
from evalkit.reports.comparison import Scored, Units, units
from evalkit.reports.filling import place
from evalkit.reports.layouts import Entry, Layout
from evalkit.reports.runs import Run


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(_Kept):
    """One score of a model."""

    task: str
    """Resolved name."""
    metric: str
    category: str | None = None
    subset: str | None = None
    headline: bool
    """Whether it is what the task reports first, on the whole benchmark."""
    average: str
    value: float
    """A fraction."""
    ci95: tuple[float, float] | None
    n: int
    run_id: str
    finished_at: str | None
    """UTC time at which its run was finished."""
    data: str | None
    """Hash of the samples."""
    caveats: tuple[str, ...] = ()
    contamination: str | None = None
    """Verdict on the benchmark, where it was examined."""
    units: tuple[str, str] | None = None
    """What it can be compared by, as `Units.pack` wrote it; text, for not every machine packs alike."""

    @field_validator("units")
    @classmethod
    def _can_be_unpacked(cls, packed: tuple[str, str] | None) -> tuple[str, str] | None:
        if packed:
            Units.unpack(packed)
        return packed

    @cached_property
    def scored(self) -> Scored:
        """The same, ready to be compared."""
        return Scored(self.value, self.ci95, Units.unpack(self.units) if self.units else None)

    @property
    def place(self) -> tuple[str, ...]:
        """What it is a score of."""
        return self.task, self.metric, self.category or "", self.subset or ""

    @property
    def age(self) -> tuple[str, str]:
        """Grows with the time of its run."""
        return self.finished_at or "", self.run_id


class Standing(_Kept):
    """One model with its scores."""

    name: str
    fingerprint: str | None = None
    backend: str | None = None
    dtype: str | None = None
    scores: tuple[Score, ...]

    @property
    def identity(self) -> tuple[str | None, ...]:
        """What makes it this model, as `Run.identity`."""
        return self.name, self.fingerprint, self.backend, self.dtype

    def find(self, task: str | None, entry: Entry) -> Score | None:
        """The score that an entry takes from a task."""
        wanted = (task, entry.category, entry.subset)
        for score in self.scores:
            if (score.task, score.category, score.subset) == wanted and (
                score.metric == entry.metric or (entry.metric is None and score.headline)
            ):
                return score
        return None


def merged(earlier: Iterable[Standing], runs: Sequence[Run], layout: Layout) -> list[Standing]:
    """Every model with the newest score of each kind, in an order that does not depend on who came first.

    Of a run are kept the headline metric of every task and whatever else the layout asks for.

    Raises:
        DataError: a result document is damaged.
    """
    scores: dict[tuple[str | None, ...], dict[tuple[str, ...], Score]] = {}
    for standing in earlier:
        scores.setdefault(standing.identity, {}).update({score.place: score for score in standing.scores})
    for run in runs:
        of_model = scores.setdefault(run.identity, {})
        for score in _standing(run, layout).scores:
            known = of_model.get(score.place)
            if known is None or known.age <= score.age:
                of_model[score.place] = score
    return [
        _made(identity, (its[place] for place in sorted(its)))
        for identity, its in sorted(scores.items(), key=lambda item: tuple(map(str, item[0])))
        if its
    ]


def to_line(standing: Standing) -> str:
    """One line of JSON, which ends no HTML comment."""
    text = json.dumps(standing.model_dump(exclude_defaults=True), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def from_line(line: str) -> Standing:
    """Read such a line.

    Raises:
        ValueError: it is damaged.
    """
    return Standing.model_validate_json(line)


def _made(identity: Sequence[str | None], scores: Iterable[Score]) -> Standing:
    name, fingerprint, backend, dtype = identity
    return Standing(
        name=name or "", fingerprint=fingerprint, backend=backend, dtype=dtype, scores=tuple(scores)
    )


def _standing(run: Run, layout: Layout) -> Standing:
    try:
        # Read back, so that a score is the same whether its run is named now or was named once.
        return from_line(to_line(_made(run.identity, _scores(run, layout))))
    except ValidationError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{run.root / 'results.json'}: {reason}; restore the file or run again") from error


def _scores(run: Run, layout: Layout) -> Iterator[Score]:
    """Headline scores of every task, then what else the layout asks for."""
    for name, task in run.tasks.items():
        if task["metrics"]:
            yield _score(run, name, next(iter(task["metrics"])), task["metrics"], None, None)
    for entry in layout.entries:
        found = place(run.tasks, entry) if is_score(entry) else None
        if found is None or not (entry.metric or entry.category or entry.subset):
            continue
        task = run.tasks[found]
        scores = task["metrics"]
        if entry.category:
            scores = task["groups"].get(entry.category, {})
        if entry.subset:
            scores = task["subsets"].get(entry.subset, {})
        metric = entry.metric or next(iter(task["metrics"]), None)
        if metric in scores:
            yield _score(run, found, metric, scores, entry.category, entry.subset)


def _score(run: Run, name: str, metric: str, scores: Any, category: str | None, subset: str | None) -> Score:
    estimate, verdict = scores[metric], run.verdict(name)
    its = None if category else units(run, name, metric, subset)
    return Score(
        task=name,
        metric=metric,
        category=category,
        subset=subset,
        headline=metric == next(iter(run.tasks[name]["metrics"])),
        average=run.tasks[name]["average"],
        value=estimate["value"],
        ci95=estimate.get("ci95"),
        n=estimate["n"],
        run_id=run.run_id,
        finished_at=run.finished_at,
        data=run.data_hash(name),
        caveats=tuple(run.caveats(name)),
        contamination=verdict["short"] if verdict else None,
        units=its.pack() if its else None,
    )


def is_score(entry: Entry) -> bool:
    """Whether an entry takes a score of runs."""
    return bool(entry.runs) and entry.leakage is None

"""What a leaderboard keeps of every model: its scores and what they can be compared by, as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from evalkit.errors import DataError
from evalkit.reports.comparison import Scored, Units, half_width, units
from evalkit.reports.layouts import Entry, Label, Layout
from evalkit.reports.runs import Run
from evalkit.reports.scores import estimate, place


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(_Kept):
    """One score of a model."""

    task: str
    """Resolved name."""
    metric: str
    category: str | None = None
    subsets: tuple[str, ...] = ()
    average: str
    """How subsets make up the whole."""
    headline: bool
    """Whether it is of the metric that the task reports first."""
    standard: bool = True
    """Whether the average is the protocol's."""
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
        return Scored(self.value, half_width(self.ci95), Units.unpack(self.units) if self.units else None)

    @property
    def place(self) -> tuple[str, ...]:
        """What it is a score of."""
        return self.task, self.metric, self.average, self.category or "", *self.subsets

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
        wanted = (task, entry.category, entry.subsets)
        for score in self.scores:
            if (score.task, score.category, score.subsets) == wanted and (
                (score.headline if entry.metric is None else score.metric == entry.metric)
                and (score.standard if entry.average is None else score.average == entry.average)
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
    headline = Entry(key="", label=Label(en="", zh=""))
    wanted: list[tuple[str | None, Entry]] = [(name, headline) for name in run.tasks]
    wanted += [(place(run.tasks, entry), entry) for entry in layout.entries if is_score(entry)]
    for name, entry in wanted:
        if name and (found := estimate(run.tasks[name], entry)):
            yield _score(run, name, entry, found)


def _score(run: Run, name: str, entry: Entry, found: Mapping[str, Any]) -> Score:
    task, verdict = run.tasks[name], run.verdict(name)
    first = next(iter(task["metrics"]))
    metric, average = entry.metric or first, entry.average or task["average"]
    its = None if entry.category else units(run, name, metric, entry.subsets, found["value"])
    return Score(
        task=name,
        metric=metric,
        category=entry.category,
        subsets=entry.subsets,
        average=average,
        headline=metric == first,
        standard=average == task["average"],
        value=found["value"],
        ci95=found.get("ci95"),
        n=found["n"],
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

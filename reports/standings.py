"""What a leaderboard keeps of every model: its scores and what they can be compared by, as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from evalkit.errors import DataError, UsageError
from evalkit.reports.comparison import Scored, Units, half_width, units
from evalkit.reports.layouts import Entry, Label, Layout
from evalkit.reports.runs import Run
from evalkit.reports.scores import estimate, place
from evalkit.reports.text import one_line
from evalkit.stats.intervals import ROUNDING

_Fraction = Annotated[float, Field(ge=-1 - ROUNDING, le=1 + ROUNDING, allow_inf_nan=False)]


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
    value: _Fraction
    ci95: tuple[_Fraction, _Fraction] | None
    n: Annotated[int, Field(ge=0)]
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

    @field_validator("ci95")
    @classmethod
    def _is_an_interval(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends and ends[0] > ends[1]:
            raise ValueError("the interval ends before it begins")
        return ends

    @field_validator("units")
    @classmethod
    def _can_be_compared(cls, packed: tuple[str, str] | None) -> tuple[str, str] | None:
        if packed:
            found = Units.unpack(packed)
            if not 1 < len(found.values) == len(found.weights):
                raise ValueError("too few units, or not a weight for each")
            if not (np.isfinite(found.weights) & (found.weights > 0)).all():
                raise ValueError("a weight is no positive number")
        return packed

    @cached_property
    def scored(self) -> Scored:
        """The same, ready to be compared."""
        return Scored(self.value, half_width(self.ci95), Units.unpack(self.units) if self.units else None)

    @property
    def place(self) -> tuple[str, ...]:
        """What it is a score of."""
        return self.task, self.metric, self.average, self.category or "", *self.subsets


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


def merged(
    earlier: Iterable[Standing], runs: Sequence[Run], layout: Layout, *, mixed: bool = False
) -> list[Standing]:
    """Every model with the newest score of each kind, in an order that does not depend on who came first.

    Of a run are kept the headline metric of every task and whatever else the layout asks for.

    Args:
        earlier: models that stand there already.
        runs: finished runs, in any order.
        layout: whose scores are kept of the runs.
        mixed: let a run take the place of one on other or more data.

    Raises:
        UsageError: two runs of a model of which the newer must not take the place of the older.
        DataError: a result document is damaged.
    """
    scores: dict[tuple[str | None, ...], dict[tuple[str, ...], Score]] = {}
    for standing in earlier:
        scores.setdefault(standing.identity, {}).update({score.place: score for score in standing.scores})
    for run in runs:
        of_model = scores.setdefault(run.identity, {})
        for score in _standing(run, layout).scores:
            known = of_model.get(score.place)
            if known and not mixed:
                _refuse_loss(str(run.results["model"]["name"]), *sorted((known, score), key=_age))
            if known is None or _age(known) <= _age(score):
                of_model[score.place] = score
    return [
        _made(identity, (its[place] for place in sorted(its)))
        for identity, its in sorted(scores.items(), key=lambda item: tuple(map(str, item[0])))
        if its
    ]


def _age(score: Score) -> tuple[str, str]:
    """Grows with the time of its run."""
    return score.finished_at or "", score.run_id


def _refuse_loss(model: str, older: Score, newer: Score) -> None:
    """A newer run may take the place of an older one that says no more than it."""
    if older.finished_at and _age(older) == _age(newer):
        return
    if older.data and newer.data and older.data != newer.data:
        what = f"ran {newer.task} on different data ({older.data[:12]} and {newer.data[:12]})"
    elif newer.n < older.n:
        what = f"scored {older.n:,} and {newer.n:,} samples of {newer.task}"
    elif newer.caveats and not older.caveats:
        what = f"are not alike on {newer.task} (the newer: {newer.caveats[0]})"
    else:
        return
    raise UsageError(
        f"'{model}': run {older.run_id} and the newer run {newer.run_id} {what}; leave one out, or let the "
        "newer one stand: --mixed"
    )


def to_line(kept: BaseModel) -> str:
    """One line of JSON, which ends no HTML comment."""
    text = json.dumps(kept.model_dump(exclude_defaults=True), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def from_line(line: str) -> Standing:
    """Read such a line.

    Raises:
        ValueError: it is damaged.
    """
    return Standing.model_validate_json(line)


def reason(error: ValueError) -> str:
    """What is wrong with something kept, in one line."""
    if not isinstance(error, ValidationError):
        return one_line(str(error))
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return one_line(": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"]))))


def _made(identity: Sequence[str | None], scores: Iterable[Score]) -> Standing:
    name, fingerprint, backend, dtype = identity
    return Standing(
        name=name or "", fingerprint=fingerprint, backend=backend, dtype=dtype, scores=tuple(scores)
    )


def _standing(run: Run, layout: Layout) -> Standing:
    try:
        # Read back, so that a score is the same whether its run is named now or was named once.
        return from_line(to_line(_made(run.identity, _scores(run, layout))))
    except ValueError as error:
        raise DataError(
            f"{run.root / 'results.json'}: {reason(error)}; restore the file or run again"
        ) from error


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

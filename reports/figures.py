"""Figures of runs: scores with intervals, categories, lengths, and what `evalkit leakage` found.

Every figure is drawn from result documents; colours are those of `SERIES`, which a page may replace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from evalkit.reports import leaked
from evalkit.reports.files import slug
from evalkit.reports.runs import Json, Run, entrants
from evalkit.reports.text import one_line
from evalkit.stats.intervals import LEVEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#000000"
"""Text, axes and rules."""

SERIES = ("#2f6fb4", "#c8502b", "#2b8a5a", "#8c55a8", "#b0820f", "#c2447a", "#118a99", "#6b6f76")
"""One colour per model, told apart also by those who see fewer colours."""

STYLE: Mapping[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    # A model may be called $x$.
    "text.parse_math": False,
}
"""matplotlib's settings while a figure is drawn and saved."""

_Z = float(special.ndtri((1 + LEVEL) / 2))
_MOST_BARS = 30
_WIDTH = 6.4
_LABEL = 44
_SCORE = "score × 100"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure and what is said of it."""

    name: str
    """Unique; fit for a file name."""
    title: str
    description: str
    """What it shows, for those who cannot see it and as its caption."""
    figure: Figure


@dataclass(frozen=True, slots=True)
class _Model:
    """A model, in one colour wherever it appears."""

    name: str
    colour: str
    tasks: Json


@dataclass(frozen=True, slots=True)
class _Series:
    """One model's estimates, None where it has none."""

    label: str
    colour: str
    estimates: tuple[Json | None, ...]


def drawings(runs: Sequence[Run]) -> Iterator[Drawing]:
    """Everything there is to draw of the runs. Call it, and save the figures, under `STYLE`."""
    of_models = entrants(runs)
    models = [_Model(model.name, SERIES[k % len(SERIES)], model.tasks) for k, model in enumerate(of_models)]
    tasks = list(dict.fromkeys(name for model in models for name in model.tasks))
    yield from _overview(models, tasks)
    for task in tasks:
        yield from _of_task(models, task)
    for entrant in of_models:
        for run in entrant.runs:
            for task, found in leaked.examined(run).items():
                yield from _of_leakage(entrant.name, run, task, found)


# -- scores -------------------------------------------------------------------------------------


def _overview(models: Sequence[_Model], tasks: Sequence[str]) -> Iterator[Drawing]:
    scored = [task for task in tasks if any(_headline(model, task) for model in models)]
    if not scored:
        return
    series = [_series(model, (_headline(model, task) for task in scored)) for model in models]
    yield Drawing(
        "scores",
        "Scores",
        "The first metric of every benchmark, ×100, with its 95 % interval.",
        bars(scored, series),
    )


def _of_task(models: Sequence[_Model], task: str) -> Iterator[Drawing]:
    """Categories and lengths of one benchmark."""
    having = [model for model in models if task in model.tasks and model.tasks[task]["metrics"]]
    if not having:
        return
    entry = having[0].tasks[task]
    metric = next(iter(entry["metrics"]))
    places, kind = (entry["groups"], "categories") if entry["groups"] else (entry["subsets"], "subsets")
    series = [_series(model, (_estimate(model, task, place, metric) for place in places)) for model in having]
    if 1 < len(places) <= _MOST_BARS:
        yield Drawing(
            f"{kind}-{slug(task)}",
            f"{task}: {kind}",
            f"{metric} of the {kind}, ×100, with 95 % intervals.",
            bars(list(places), series),
        )
    whole = [one for one in series if None not in one.estimates]
    if whole and 3 <= len(places) <= _MOST_BARS // 2:
        yield Drawing(
            f"radar-{slug(task)}",
            f"{task}: profile",
            f"{metric} of the {kind}, ×100; shaded, the 95 % intervals.",
            radar(list(places), whole),
        )
    if entry.get("strata"):
        yield Drawing(
            f"lengths-{slug(task)}",
            f"{task}: by class of samples",
            f"{metric} ×100, mean over the samples of each class, with 95 % intervals. "
            "The classes may hold different subsets.",
            columns(list(entry["strata"]), [_strata(model, task, metric, entry) for model in having]),
        )


def _series(model: _Model, estimates: Iterable[Json | None]) -> _Series:
    return _Series(model.name, model.colour, tuple(estimates))


def _headline(model: _Model, task: str) -> Json | None:
    metrics = model.tasks.get(task, {}).get("metrics") or {}
    return next(iter(metrics.values()), None)


def _estimate(model: _Model, task: str, place: str, metric: str) -> Json | None:
    entry = model.tasks[task]
    found: Json | None = (entry["groups"] or entry["subsets"]).get(place, {}).get(metric)
    return found


def _strata(model: _Model, task: str, metric: str, entry: Json) -> _Series:
    strata = model.tasks[task].get("strata", {})
    return _series(model, (_pooled(strata.get(name, {}), metric) for name in entry["strata"]))


def _pooled(subsets: Json, metric: str) -> Json | None:
    """Mean over the samples of several subsets, whose estimates are independent."""
    found = [one[metric] for one in subsets.values() if metric in one]
    n = sum(one["n"] for one in found)
    if not n:
        return None
    value = sum(one["n"] * one["value"] for one in found) / n
    half = _Z * float(np.sqrt(sum((one["n"] * _stderr(one)) ** 2 for one in found))) / n
    return {"value": value, "ci95": [max(0.0, value - half), min(1.0, value + half)], "n": n}


def _stderr(estimate: Json) -> float:
    """Standard error; of a single sample, which leaves it undefined, that of its interval."""
    low, high = estimate["ci95"]
    known = estimate["stderr"]
    return float(known) if known is not None else float(high - low) / (2 * _Z)


# -- leakage ------------------------------------------------------------------------------------


def _of_leakage(model: str, run: Run, task: str, found: Json) -> Iterator[Drawing]:
    name = f"{slug(model)}-{slug(task)}"
    if ranks := leaked.ranks(run, task):
        yield Drawing(
            f"leakage-ranks-{name}",
            f"{model}, {task}: rank of the published order",
            f"{ranks.items:,} items by the rank of the published order among the {ranks.orders} orders of "
            "their options. Where nothing leaked and the publisher shuffled, all ranks are alike: the line, "
            "and shaded where 95 % of the columns lie by chance.",
            rank_histogram(ranks),
        )
    flagged = {
        rule: one
        for rule, one in found["methods"].items()
        if one["flagged"] is not None and one["null_floor"] is not None
    }
    if flagged:
        yield Drawing(
            f"leakage-flagged-{name}",
            f"{model}, {task}: share flagged, and its null floor",
            "What each rule flags of the items (dots) and what it flags where nothing leaked (diamonds), "
            "in %, with 95 % intervals. Only what lies beyond the floor shows anything.",
            excess(flagged),
        )


# -- drawing ------------------------------------------------------------------------------------


def bars(places: Sequence[str], series: Sequence[_Series]) -> Figure:
    """Horizontal bars with intervals, in groups: one group per place, one bar per model."""
    height = 0.8 / len(series)
    figure, axes = _canvas(0.9 + 0.22 * len(places) * (len(series) + 0.6))
    for k, one in enumerate(series):
        at = np.arange(len(places)) + (k - (len(series) - 1) / 2) * height
        shown = [(y, e) for y, e in zip(at, one.estimates, strict=True) if e is not None]
        positions, values = [y for y, _ in shown], [100 * e["value"] for _, e in shown]
        axes.barh(positions, values, 0.85 * height, color=one.colour, label=_short(one.label))
        axes.errorbar(
            values,
            positions,
            xerr=_errors([e for _, e in shown]),
            fmt="none",
            ecolor=INK,
            elinewidth=1,
            capsize=2,
        )
    axes.set_yticks(range(len(places)), [_short(place) for place in places])
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(_SCORE)
    axes.tick_params(axis="y", length=0)
    _legend(figure, axes, series)
    return figure


def columns(places: Sequence[str], series: Sequence[_Series]) -> Figure:
    """Points with intervals, joined per model, along ordered places."""
    figure, axes = _canvas(3.2)
    for k, one in enumerate(series):
        shown = [(x, e) for x, e in enumerate(one.estimates) if e is not None]
        axes.errorbar(
            [x + 0.06 * (k - (len(series) - 1) / 2) for x, _ in shown],
            [100 * e["value"] for _, e in shown],
            yerr=_errors([e for _, e in shown]),
            color=one.colour,
            marker="o",
            capsize=3,
            label=_short(one.label),
        )
    axes.set_xticks(range(len(places)), [_short(place) for place in places])
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(_SCORE)
    axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.6)
    _legend(figure, axes, series)
    return figure


def radar(places: Sequence[str], series: Sequence[_Series]) -> Figure:
    """A closed line per model over an axis per place, its intervals shaded; nothing may be missing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 4.6), layout="constrained")
    axes = figure.add_subplot(projection="polar")
    axes.set_theta_zero_location("N")  # type: ignore[attr-defined]
    axes.set_theta_direction(-1)  # type: ignore[attr-defined]
    angles = np.linspace(0, 2 * np.pi, len(places), endpoint=False)
    around = np.append(angles, angles[0])
    for one in series:
        found = [e for e in (*one.estimates, one.estimates[0]) if e is not None]
        ends = [e["ci95"] or [e["value"]] * 2 for e in found]
        low, high = (np.array([100 * end[side] for end in ends]) for side in (0, 1))
        axes.fill_between(around, low, high, color=one.colour, alpha=0.18, linewidth=0)
        values = [100 * e["value"] for e in found]
        axes.plot(around, values, color=one.colour, marker="o", markersize=3, label=_short(one.label))
    axes.set_xticks(angles, [_short(place) for place in places])
    for angle, label in zip(angles, axes.get_xticklabels(), strict=True):
        aside = float(np.sin(angle))
        label.set_horizontalalignment("center" if abs(aside) < 0.1 else "left" if aside > 0 else "right")
    axes.set_ylim(bottom=0)
    axes.grid(color=INK, alpha=0.2, linewidth=0.6)
    axes.tick_params(axis="x", pad=4)
    _legend(figure, axes, series)
    return figure


def rank_histogram(ranks: leaked.Ranks) -> Figure:
    """Items by rank of the published order, against the uniform expectation with its band of 95 %."""
    figure, axes = _canvas(2.8)
    n, p = ranks.items, 1 / ranks.orders
    spread = _Z * float(np.sqrt(n * p * (1 - p)))
    axes.bar(range(1, ranks.orders + 1), ranks.counts, color=SERIES[0], width=0.85)
    axes.axhspan(max(0.0, n * p - spread), n * p + spread, color=INK, alpha=0.12, linewidth=0)
    axes.axhline(n * p, color=INK, linewidth=1)
    axes.set_xlabel("rank of the published order (1: the likeliest)")
    axes.set_ylabel("items")
    axes.set_xlim(0.4, ranks.orders + 0.6)
    return figure


def excess(methods: Mapping[str, Json]) -> Figure:
    """Flagged share and null floor of each rule, with their intervals."""
    figure, axes = _canvas(0.9 + 0.42 * len(methods))
    at = np.arange(len(methods))
    for offset, key, interval, marker, colour, label in (
        (-0.12, "flagged", "ci95", "o", SERIES[1], "flagged"),
        (0.12, "null_floor", "null_floor_ci95", "D", INK, "null floor"),
    ):
        estimates = [{"value": one[key], "ci95": one[interval]} for one in methods.values()]
        axes.errorbar(
            [100 * e["value"] for e in estimates],
            at + offset,
            xerr=_errors(estimates),
            fmt=marker,
            color=colour,
            markersize=4,
            capsize=2,
            label=label,
        )
    axes.set_yticks(at, [_short(name) for name in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("% of the items")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower left", ncols=2)
    return figure


def _canvas(height: float) -> tuple[Figure, Axes]:
    """An empty figure of so many inches, with its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Figure, axes: Axes, series: Sequence[_Series]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower left", ncols=min(3, len(series)))


def _errors(estimates: Sequence[Json]) -> Any:
    """Lengths of the intervals to both sides ×100, shape (2, n); 0 where there is none."""
    ends = [(e["value"], *(e["ci95"] or (e["value"], e["value"]))) for e in estimates]
    values, low, high = np.array(ends, np.float64).reshape(-1, 3).T
    return 100 * np.maximum(0, [values - low, high - values])


def _short(text: str) -> str:
    """A label that leaves room for what it labels."""
    line = one_line(text)
    return line if len(line) <= _LABEL else line[: _LABEL - 1] + "…"

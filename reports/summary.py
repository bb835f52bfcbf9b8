"""The report of one run: Markdown for `report.md` and a compact table for the terminal.

Reads result documents only; nothing here knows a task or an engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evalkit.reports.markdown import template
from evalkit.reports.table import NONE
from evalkit.reports.text import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Headline:
    """One line of the main table, formatted."""

    task: str
    protocol: str
    split: str
    shots: str
    metric: str
    score: str
    n: str
    errors: str
    truncated: str
    unfinished: str
    ties: str
    close_calls: str
    contamination: str
    """Verdict on the benchmark, where it was examined."""


@dataclass(frozen=True, slots=True)
class Score:
    """One line of a category or subset table, formatted."""

    name: str
    score: str
    n: str


def markdown(results: Json, manifest: Json | None = None) -> str:
    """Render a run as GitHub Markdown: warnings, scores, categories, subsets, model and cost.

    Args:
        results: the result document (`results.json`).
        manifest: the run's `manifest.json`; adds warnings about data and the equality gate.
    """
    tasks = [
        {
            "name": name,
            "categories": list(_scores(task["groups"])),
            "averages": list(_averages(task)),
            "subsets": list(_subsets(task)),
            "strata": list(task.get("strata", {})),
            "by_stratum": list(_strata(task.get("strata", {}), task["subsets"])),
        }
        for name, task in results["tasks"].items()
        if task["metrics"]
    ]
    return template("report.md.j2").render(
        title=results["model"]["name"],
        warnings=list(warnings(results, manifest)),
        rows=list(headlines(results)),
        notes=list(notes(results)),
        contamination=list(contamination(results)),
        tasks=tasks,
        facts=list(_facts(results)),
    )


def terminal(results: Json) -> RenderableType:
    """Render the scores as a table, with notes and one line of cost below it."""
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE)
    for heading in ("Task", "Metric"):
        table.add_column(heading, no_wrap=True)
    for heading in ("Score [95 %]", "n", "Errors", "Ties", "Close calls"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in zip(_row_names(results), headlines(results), strict=True):
        # As Text, for rich would read the brackets of an interval as markup.
        cells = (name, row.metric, row.score, row.n, row.errors, row.ties, row.close_calls)
        table.add_row(*map(Text, map(one_line, cells)))
    lines = [Text(one_line(note)) for note in notes(results)]
    return Group(table, *lines, Text(cost_line(results["cost"])))


def headlines(results: Json) -> Iterator[Headline]:
    """One line per task and metric; a task without metrics still has one."""
    verdicts = results.get("leakage", {}).get("tasks", {})
    for name, task in results["tasks"].items():
        counters = task["counters"]
        for metric, estimate in (task["metrics"] or {NONE: None}).items():
            yield Headline(
                task=task["task"],
                protocol=task["protocol"],
                split=task["split"],
                shots=str(task["shots"]),
                metric=f"{metric} ({task['average']})" if estimate else NONE,
                score=_with_interval(estimate) if estimate else NONE,
                n=_count(estimate["n"] if estimate else 0),
                errors=_count(counters["errors"]),
                truncated=_count(counters["truncated"]),
                unfinished=_count(counters.get("unfinished", 0)),
                ties=_count(counters["ties"]),
                close_calls=_close_calls(task),
                contamination=verdicts[name]["verdict"]["short"] if name in verdicts else NONE,
            )


def notes(results: Json) -> Iterator[str]:
    """Say why a task shows no score."""
    for name, task in results["tasks"].items():
        counters = task["counters"]
        if task["metrics"] or counters["samples"] == counters["errors"]:
            continue
        file = task.get("submission")
        where = f"a submission file was written to {file}" if file else "predictions are in samples.parquet"
        yield f"{name}: no score, the labels of this split are not public; {where}."


def contamination(results: Json) -> Iterator[str]:
    """The verdicts of `evalkit leakage`, where there are some, and what contamination is worth."""
    for name, task in results.get("leakage", {}).get("tasks", {}).items():
        clean = task.get("clean_score")
        if not clean or not clean["n_with_evidence"]:
            yield f"{name}: {task['verdict']['sentence']}"
            continue
        low, high = clean["inflation_points"]["ci95"]
        yield (
            f"{name}: {task['verdict']['sentence']} Without the {clean['n_with_evidence']:,} items there is "
            f"evidence against, the score is {_with_interval(clean['clean'])} instead of "
            f"{100 * clean['all']['value']:.2f}: {clean['inflation_points']['value']:+.2f} points "
            f"[{low:+.2f}, {high:+.2f}]."
        )


def warnings(results: Json, manifest: Json | None = None) -> Iterator[str]:
    """All that forbids taking the scores at face value, gravest first."""
    yield from run_warnings(results, manifest)
    for name in results["tasks"]:
        yield from (f"{name}: {text}" for text in task_warnings(results, manifest, name))


def run_warnings(results: Json, manifest: Json | None) -> Iterator[str]:
    """What forbids it for every score of the run.

    Of the manifest it reads `equality_gate` {`passed`, `max_difference`} and `model.details`
    {`random_weights`}; what is absent is taken as not checked.
    """
    manifest = manifest or {}
    if manifest.get("model", {}).get("details", {}).get("random_weights"):
        yield "random weights: results are not meaningful."
    yield from _gate_warning(manifest.get("equality_gate") or {})
    if results["status"] != "complete":
        yield f"The run is not complete (status: {results['status']}); the scores rest on what was done."


def task_warnings(results: Json, manifest: Json | None, name: str) -> Iterator[str]:
    """What forbids it for the score of one task, by resolved name.

    Of the manifest it reads `tasks[name].data` {`source`, `official`, `variant`}.
    """
    task = results["tasks"][name]
    data = (manifest or {}).get("tasks", {}).get(name, {}).get("data") or {}
    if data.get("variant"):
        yield f"the records of the data variant '{data['variant']}', not the whole benchmark."
    yield from _counter_warnings(task)
    if data.get("source") == "sample":
        # How much of the benchmark was run is beside the point: it was none of it.
        yield "made-up sample data, not the benchmark; the score says nothing about the model."
        return
    if data.get("official") is False:
        yield "the data differ from the official release."
    yield from _coverage_warnings(task)


def cost_line(cost: Json) -> str:
    """One line of cost: time, tokens a plain harness needs against tokens computed, speed, memory."""
    return " · ".join(f"{name.lower()} {value}" for name, value in _cost_facts(cost))


def model_facts(model: Json) -> Iterator[tuple[str, str]]:
    """What is known of the model, with headings."""
    yield from (
        (key.capitalize(), str(model[key])) for key in ("backend", "dtype", "fingerprint") if key in model
    )


def tokens(cost: Json) -> str:
    """Tokens a plain harness needs against tokens computed."""
    logical, computed = cost["tokens_logical"], cost["tokens_computed"]
    ratio = f" ({logical / computed:.1f}× fewer)" if logical > computed > 0 else ""
    return f"{logical:,} logical, {computed:,} computed{ratio}"


def _gate_warning(gate: Json) -> Iterator[str]:
    if gate.get("passed") is False:
        by = f" by {gate['max_difference']:.3g}" if gate.get("max_difference") is not None else ""
        yield (
            f"The equality gate failed: log-probabilities differ from plain forward passes{by}. "
            "Do not trust these scores."
        )


def _counter_warnings(task: Json) -> Iterator[str]:
    counters = task["counters"]
    if counters["errors"]:
        non_finite = f", {counters['non_finite']:,} with non-finite scores" if counters["non_finite"] else ""
        yield f"{counters['errors']:,} of {counters['samples']:,} samples failed{non_finite}."
    if counters["unparsed"]:
        yield f"{counters['unparsed']:,} answers could not be parsed."
    if unfinished := counters.get("unfinished_reasoning"):
        yield f"{unfinished:,} samples reached the token limit while the model still reasoned: no answer."


def _coverage_warnings(task: Json) -> Iterator[str]:
    parts = []
    if "samples_total" in task:
        parts.append(f"{task['counters']['samples']:,} of the official {task['samples_total']:,} samples")
    if "subsets_total" in task:
        parts.append(f"{task['subsets_present']} of {task['subsets_total']} subsets")
    if parts:
        yield f"only {', '.join(parts)}."


def _subsets(task: Json) -> Iterator[Score]:
    """Subset lines, with the share of shortened prompts where there are any."""
    for score in _scores(task["subsets"]):
        share = task.get("truncated_share", {}).get(score.name)
        yield score if share is None else replace(score, name=f"{score.name}, {100 * share:.0f} % truncated")


def _scores(entries: Json) -> Iterator[Score]:
    """Category or subset lines; the metric is named only where there are several."""
    for name, metrics in entries.items():
        for metric, estimate in metrics.items():
            label = name if len(metrics) == 1 else f"{name} ({metric})"
            yield Score(label, _with_interval(estimate), _count(estimate["n"]))


def _strata(strata: Json, subsets: Json) -> Iterator[list[str]]:
    """One row per subset: its name, then its headline score (and samples) in every stratum."""
    for subset in subsets if strata else ():
        metrics = [stratum.get(subset) for stratum in strata.values()]
        scores = [next(iter(m.values())) if m else None for m in metrics]
        yield [subset, *(f"{100 * s['value']:.2f} ({_count(s['n'])})" if s else NONE for s in scores)]


def _averages(task: Json) -> Iterator[Score]:
    if len(task["subsets"]) < 2:
        return  # all averages are the same
    for average, metrics in task["averages"].items():
        for metric, value in metrics.items():
            published = ", published" if average == task["average"] else ""
            yield Score(f"{average} {metric}{published}", f"{100 * value:.2f}", "")


def _facts(results: Json) -> Iterator[tuple[str, str]]:
    yield from model_facts(results["model"])
    yield from _cost_facts(results["cost"])
    yield "Run", f"{results['run_id']}, evalkit {results['evalkit_version']}"


def _cost_facts(cost: Json) -> Iterator[tuple[str, str]]:
    computed = cost["tokens_computed"]
    yield "Wall time", f"{_seconds(cost['wall_s'])} (loading {_seconds(cost['load_s'])})"
    yield "Tokens", tokens(cost)
    if cost["tokens_generated"]:
        yield "Generated", f"{cost['tokens_generated']:,} tokens"
    busy_s = cost.get("score_s") or cost["wall_s"] - cost["load_s"]
    if computed and busy_s > 0:
        yield "Speed", f"{computed / busy_s:,.0f} computed tokens/s"
    if cost["peak_memory_bytes"]:
        yield "Peak memory", f"{cost['peak_memory_bytes'] / 2**30:.2f} GiB"


def _with_interval(estimate: Json) -> str:
    low, high = estimate["ci95"]
    return f"{100 * estimate['value']:.2f} [{100 * low:.1f}, {100 * high:.1f}]"


def _close_calls(task: Json) -> str:
    count, score_range = task["counters"]["close_calls"], task.get("score_range")
    if not count or score_range is None:
        return _count(count)
    return f"{count:,} ({100 * score_range['low']:.2f}–{100 * score_range['high']:.2f})"


def _count(number: int | None) -> str:
    return NONE if number is None else f"{number:,}"


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _row_names(results: Json) -> Iterator[str]:
    """Resolved task name of every headline."""
    for name, task in results["tasks"].items():
        yield from [name] * max(1, len(task["metrics"]))

"""The leakage document as Markdown for `leakage.md` and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.reports.markdown import template
from evalkit.reports.summary import Json, model_facts, tokens
from evalkit.reports.table import NONE
from evalkit.reports.text import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

_PUBLISHED = "scenario b, threshold -0.2"


@dataclass(frozen=True, slots=True)
class Headline:
    """One line of the main table, formatted."""

    task: str
    items: str
    verdict: str
    p_file: str
    fraction: str
    sees: str
    flagged: str
    floor: str


def markdown(document: Json) -> str:
    """Render a leakage document as GitHub Markdown."""
    return template("leakage.md.j2").render(
        title=document["model"]["name"],
        rows=list(headlines(document)),
        multiplicity=_multiplicity(document["multiplicity"]),
        tasks=[
            {
                "name": name,
                "sentence": task["verdict"]["sentence"],
                "notes": list(_notes(task)),
                "methods": [_method(method, found) for method, found in task["methods"].items()],
            }
            for name, task in document["tasks"].items()
        ],
        facts=list(_facts(document)),
    )


def terminal(document: Json) -> RenderableType:
    """Render the verdicts as a table, with what was left out below it."""
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE)
    for heading in ("Benchmark", "Verdict"):
        table.add_column(heading)
    for heading in ("Items", "p, file", "Leaked [95 %]", "Flagged", "Null floor"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in headlines(document):
        cells = (row.task, row.verdict, row.items, row.p_file, row.fraction, row.flagged, row.floor)
        table.add_row(*map(Text, map(one_line, cells)))
    notes = [
        Text(one_line(f"{name}: {note}")) for name, task in document["tasks"].items() for note in _notes(task)
    ]
    return Group(table, *notes)


def headlines(document: Json) -> Iterator[Headline]:
    """One line per benchmark."""
    for name, task in document["tasks"].items():
        published = task["methods"].get(_PUBLISHED, {})
        fraction = task.get("fraction")
        yield Headline(
            task=name,
            items=f"{task['n_items']:,}",
            verdict=task["verdict"]["short"],
            p_file=_p(task["verdict"].get("p_file")),
            fraction=_with_interval(fraction),
            sees=_sees(task.get("power")),
            flagged=_percent(published.get("flagged")),
            floor=_percent(published.get("null_floor")),
        )


def _sees(power: Json | None) -> str:
    if power is None:
        return NONE
    detectable = power["detectable"]
    return "nothing" if detectable is None else f"≥ {100 * detectable:.1f} %"


def _multiplicity(procedure: Json) -> str:
    return (
        f"Evidence is judged over all {procedure['hypotheses']} hypotheses of this document together "
        f"(e-BH, level {procedure['alpha']:g})."
    )


def _method(name: str, found: Json) -> dict[str, str]:
    return {
        "name": name,
        "statistic": NONE if found["statistic"] is None else f"{found['statistic']:.4g}",
        "flagged": _with_interval({"value": found["flagged"], "ci95": found["ci95"]}),
        "floor": _with_interval({"value": found["null_floor"], "ci95": found["null_floor_ci95"]}),
        "p": _p(found["p_value"]),
        "e": NONE if found["e_value"] is None else f"{found['e_value']:.3g}",
        "verdict": found["verdict"],
    }


def _notes(task: Json) -> Iterator[str]:
    if task["excluded"]:
        why = "; ".join(f"{n:,} {reason}" for reason, n in task["excluded"].items())
        yield f"Left out: {why}."
    if task["n_errors"]:
        yield f"{task['n_errors']:,} items could not be scored: {next(iter(task['errors']))}"
    if task.get("flags"):
        yield "Flags: " + "; ".join(f"{n:,} {flag}" for flag, n in task["flags"].items()) + "."
    for name, why in (task.get("texts") or {}).get("not_run", {}).items():
        yield f"Not run: {name} ({why})."
    if order := task.get("publisher_order"):
        yield order["sentence"]
    if stopped := task.get("sequential"):
        share = 100 * stopped["items"] / stopped["of_items"]
        of = f"{stopped['items']:,} of {stopped['of_items']:,} items ({share:.1f} %)"
        yield f"Stopped after {of}: {stopped['decision']}."


def _facts(document: Json) -> Iterator[tuple[str, str]]:
    yield from model_facts(document["model"])
    yield "Tokens", tokens(document["cost"])
    yield "Wall time", f"{document['cost']['wall_s']:.1f} s"
    yield "Run", f"{document['run_id']}, evalkit {document['evalkit_version']}"


def _with_interval(estimate: Json | None) -> str:
    if estimate is None or estimate["value"] is None:
        return NONE
    if not estimate["ci95"]:
        return _percent(estimate["value"])
    low, high = estimate["ci95"]
    return f"{100 * estimate['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}] %"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"


def _p(value: float | None) -> str:
    return NONE if value is None else f"{value:.2g}"

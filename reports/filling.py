"""From a layout, runs and published numbers to a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from evalkit.errors import UsageError
from evalkit.reports import best, published
from evalkit.reports.comparison import Json
from evalkit.reports.layouts import Entry, Label, Language, Layout
from evalkit.reports.published import Published
from evalkit.reports.runs import Entrant, Run, entrants
from evalkit.reports.scores import estimate, place, refuse_mixture
from evalkit.reports.table import MISSING, Cell, Heading, Row, Table, transposed

_SCENARIO_B = "scenario b, threshold -{:g}"
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Model:
    """One line of a table: a model, with what fills its cells."""

    heading: Heading
    cells: tuple[Cell, ...]
    """One per entry."""
    entrant: Entrant | None = None
    """None for published numbers."""


def fill(
    layout: Layout,
    runs: Sequence[Run],
    *,
    language: Language = "en",
    with_published: bool = False,
    mixed: bool = False,
    ties: bool = False,
) -> Table:
    """Fill a layout.

    Args:
        layout: what stands where.
        runs: finished runs; those of one model on different tasks share a line.
        language: of headings.
        with_published: whether the published models stand before the runs.
        mixed: show results of different protocols or data beside each other, with footnotes.
        ties: emphasise every value that cannot be told from the best, not the best alone.

    Raises:
        UsageError: there is nothing to show, or runs that must not be compared.
    """
    of_models = entrants(runs)
    entries = layout.entries or tuple(_every_metric(runs))
    card = published.load(layout.published) if layout.published and with_published else None
    if not runs and card is None:
        instead = ", or add --published to show the model card alone" if layout.published else ""
        raise UsageError(f"layout {layout.name}: no runs to show; name some{instead}")
    if not entries:
        raise UsageError("the runs have no scores to show")
    places = [[place(one.tasks, entry) for entry in entries] for one in of_models]
    if not mixed:
        _refuse_mixtures(entries, of_models, places)
    models = [
        *(_printed(card, entries, layout, language) if card else ()),
        *(_measured(one, entries, its, layout) for one, its in zip(of_models, places, strict=True)),
    ]
    headings = tuple(_heading(entry, language) for entry in entries)
    if not mixed:
        headings = tuple(_with_protocol(heading, k, places) for k, heading in enumerate(headings))
    else:
        models = [_with_protocols(model) for model in models]
    emphasised = best.emphasise(entries, layout, models, ties=ties)
    table = Table(
        name=layout.name,
        title=layout.title.text(language),
        corner=layout.corner.text(language),
        columns=headings,
        rows=tuple(Row(model.heading, model.cells) for model in emphasised),
        notes=tuple(_notes(layout, card, of_models, language, ties)),
    )
    return table if layout.models == "rows" else transposed(table)


# -- runs ---------------------------------------------------------------------------------------


def _every_metric(runs: Sequence[Run]) -> Iterator[Entry]:
    """An entry for every task and metric there is, in order of first appearance."""
    shown: dict[tuple[str, str], None] = {}
    for run in runs:
        for name, task in run.tasks.items():
            shown.update({(name, metric): None for metric in task["metrics"] or {"": None}})
    several = {
        name for (name, _), (next_name, _) in zip(shown, list(shown)[1:], strict=False) if name == next_name
    }
    for name, metric in shown:
        label = f"{name} {metric}" if name in several else name
        yield Entry(
            key=f"{name} {metric}", label=Label(en=label, zh=label), runs=(name,), metric=metric or None
        )


def _refuse_mixtures(
    entries: Sequence[Entry], of_models: Sequence[Entrant], places: Sequence[Sequence[str | None]]
) -> None:
    for k, entry in enumerate(entries):
        refuse_mixture(
            entry.key,
            [
                (str(run.root), name, run.data_hash(name))
                for entrant, its in zip(of_models, places, strict=True)
                if (name := its[k]) and (run := entrant.find(name))
            ],
        )


def _measured(
    entrant: Entrant, entries: Sequence[Entry], places: Sequence[str | None], layout: Layout
) -> Model:
    cells = {
        entry.key: _cell(entrant, entry, name, _digits(entry, layout))
        for entry, name in zip(entries, places, strict=True)
    }
    for entry in entries:
        if entry.mean_of:
            cells[entry.key] = _mean([cells[key] for key in entry.mean_of], _digits(entry, layout))
    notes = dict.fromkeys(warning for run in entrant.runs for warning in run.warnings)
    return Model(
        Heading(entrant.name, notes=tuple(notes)), tuple(cells[entry.key] for entry in entries), entrant
    )


def _cell(entrant: Entrant, entry: Entry, name: str | None, digits: int) -> Cell:
    if entry.model:
        return _model_fact(entrant.runs[0], entry.model, digits)
    run = entrant.find(name) if name else None
    if name is None or run is None:
        return MISSING
    if entry.leakage is not None:
        return _flagged(run, entry, name, digits)
    found = estimate(run.tasks[name], entry)
    if found is None:
        return replace(MISSING, notes=(f"{name} has no score here",))
    return _score(run, name, found, entry.scale, digits, tuple(_caveats(run, name)))


def _score(run: Run, name: str, estimate: Json, scale: float, digits: int, notes: tuple[str, ...]) -> Cell:
    value = scale * estimate["value"]
    ends = estimate.get("ci95")
    return Cell(
        text=f"{value:.{digits}f}",
        origin="run",
        value=value,
        ci95=(scale * ends[0], scale * ends[1]) if ends else None,
        n=estimate["n"],
        protocol=name,
        source=run.run_id,
        notes=notes,
    )


def _caveats(run: Run, name: str) -> Iterator[str]:
    yield from run.task_warnings(name)
    if verdict := run.verdict(name):
        yield f"contamination: {verdict['short']}"


def _flagged(run: Run, entry: Entry, name: str, digits: int) -> Cell:
    """Share of items that the published leakage rule flags."""
    methods = run.results.get("leakage", {}).get("tasks", {}).get(name, {}).get("methods", {})
    found = methods.get(_SCENARIO_B.format(entry.leakage))
    if found is None or found["flagged"] is None or found["null_floor"] is None:
        return replace(MISSING, notes=("not examined: evalkit leakage run --into",))
    estimate = {"value": found["flagged"], "ci95": found["ci95"], "n": None}
    floor = f"null floor {found['null_floor']:.2f}: what the rule flags where nothing leaked"
    return _score(run, name, estimate, entry.scale, digits, (floor,))


def _model_fact(run: Run, fact: str, digits: int) -> Cell:
    if fact == "memory_gb":
        size = run.results["cost"].get("peak_memory_bytes")
        return Cell(f"{size / _GIB:.{digits}f}", "run", size / _GIB, source=run.run_id) if size else MISSING
    text = run.results["model"].get(fact)
    return Cell(str(text), "label") if text else MISSING


def _mean(cells: Sequence[Cell], digits: int) -> Cell:
    """The mean of cells; no interval, for they may share samples."""
    values = [cell.value for cell in cells if cell.value is not None]
    if len(values) < len(cells):
        return MISSING
    value = sum(values) / len(values)
    return Cell(f"{value:.{digits}f}", "computed", value)


# -- published numbers --------------------------------------------------------------------------


def _printed(
    card: Published, entries: Sequence[Entry], layout: Layout, language: Language
) -> Iterator[Model]:
    """Models of a published table, and what was added to them; an entry that it lacks stays empty."""
    by_model = card.rows if layout.models == "rows" else _columns(card)
    names = card.columns if layout.models == "rows" else tuple(card.rows)
    for model, texts in by_model.items():
        printed = dict(zip(names, texts, strict=True))
        yield Model(
            Heading(card.names.get(model, model)),
            tuple(_printed_cell(printed.get(entry.key), entry, card, language) for entry in entries),
        )
    for line in card.added:
        yield Model(
            Heading(line.label.text(language), notes=(line.note.text(language),)),
            tuple(_added_cell(line.cells.get(entry.key)) for entry in entries),
        )


def _columns(card: Published) -> dict[str, tuple[str, ...]]:
    return {column: tuple(cells[j] for cells in card.rows.values()) for j, column in enumerate(card.columns)}


def _printed_cell(text: str | None, entry: Entry, card: Published, language: Language) -> Cell:
    if text is None or text in ("", "-"):
        return MISSING
    if entry.text:
        return Cell(text, "label")
    marks = "".join(mark for mark in card.marks if text.endswith(mark))
    number = text.removesuffix(marks)
    notes = tuple(card.marks[mark].text(language) for mark in marks)
    return Cell(number, "published", float(number), source=card.source, notes=notes)


def _added_cell(text: str | None) -> Cell:
    return Cell(text, "computed", float(text)) if text else MISSING


# -- headings and notes -------------------------------------------------------------------------


def _heading(entry: Entry, language: Language) -> Heading:
    return Heading(
        entry.label.text(language),
        entry.group.text(language) if entry.group else None,
        tuple(note.text(language) for note in entry.notes),
    )


def _with_protocol(heading: Heading, k: int, places: Sequence[Sequence[str | None]]) -> Heading:
    """What the runs did for an entry, where it is the same."""
    name = next((of_run[k] for of_run in places if of_run[k]), None)
    if name is None or name in heading.label:
        return heading
    return replace(heading, notes=(*heading.notes, f"runs: {name}"))


def _with_protocols(model: Model) -> Model:
    """What a run did for each entry, and on which data."""
    if model.entrant is None:
        return model
    cells = []
    for cell in model.cells:
        run = model.entrant.find(cell.protocol) if cell.protocol else None
        data = run.data_hash(cell.protocol) if run and cell.protocol else None
        what = f"{cell.protocol}, data {data[:12]}" if data else cell.protocol
        cells.append(replace(cell, notes=(*cell.notes, what)) if what else cell)
    return replace(model, cells=tuple(cells))


def _notes(
    layout: Layout,
    card: Published | None,
    of_models: Sequence[Entrant],
    language: Language,
    ties: bool,
) -> Iterator[str]:
    yield from (note.text(language) for note in layout.notes)
    if card:
        yield f"Published: {card.card}, {card.where}, {card.source}"
        yield from (note.text(language) for note in card.notes)
    if of_models:
        ids = (f"{one.name} = {', '.join(run.run_id for run in one.runs)}" for one in of_models)
        yield f"Runs: {'; '.join(ids)}. Intervals are 95 %."
    if ties and layout.best != "none":
        yield (
            "Bold: all values that cannot be told from the best (5 %; paired where both are runs on the same "
            "samples; a published value counts as known without error)."
        )


def _digits(entry: Entry, layout: Layout) -> int:
    return layout.digits if entry.digits is None else entry.digits

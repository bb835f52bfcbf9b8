"""Which values of a table are the best, and which cannot be told from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evalkit.reports.comparison import Scored, gap, half_width, units
from evalkit.reports.layouts import Entry, Layout
from evalkit.reports.table import Cell

if TYPE_CHECKING:
    from evalkit.reports.filling import Model


@dataclass(frozen=True, slots=True)
class _Competitor:
    """One model's value of an entry."""

    model: Model
    cell: Cell
    value: float


def emphasise(
    entries: Sequence[Entry], layout: Layout, models: Sequence[Model], *, ties: bool
) -> list[Model]:
    """Mark the best value of every entry; with `ties` also those that cannot be told from it.

    Two runs are compared sample by sample or subset by subset, other values by their intervals; a published
    value counts as known without error. Where fewer than two models have a value nothing is marked.
    """
    columns = [
        _emphasised(entry, entry.best or layout.best, models, k, ties) for k, entry in enumerate(entries)
    ]
    return [replace(model, cells=tuple(column[i] for column in columns)) for i, model in enumerate(models)]


def _emphasised(entry: Entry, direction: str, models: Sequence[Model], k: int, ties: bool) -> list[Cell]:
    cells = [model.cells[k] for model in models]
    found = [
        _Competitor(model, cell, cell.value)
        for cell, model in zip(cells, models, strict=True)
        if cell.value is not None
    ]
    if direction == "none" or len(found) < 2:
        return cells
    winner = (max if direction == "higher" else min)(found, key=lambda one: one.value)
    best = {id(one.cell) for one in found if one.cell.text == winner.cell.text}
    if ties:
        first = _scored(winner, entry)
        best |= {id(one.cell) for one in found if not gap(first, _scored(one, entry)).is_clear}
    return [replace(cell, best=id(cell) in best) for cell in cells]


def _scored(one: _Competitor, entry: Entry) -> Scored:
    cell, value = one.cell, one.value / entry.scale
    run = one.model.entrant.find(cell.protocol) if one.model.entrant and cell.protocol else None
    if run is None or cell.protocol is None:
        return Scored(value, 0.0)
    half = half_width(cell.ci95) / entry.scale
    if entry.category or entry.leakage is not None:
        return Scored(value, half)
    metric = entry.metric or next(iter(run.tasks[cell.protocol]["metrics"]))
    return Scored(value, half, units(run, cell.protocol, metric, entry.subsets, value))

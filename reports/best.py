"""Which values of a table are the best, and which cannot be told from them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from evalkit.reports.layouts import Entry, Layout
from evalkit.reports.runs import Run
from evalkit.reports.table import Cell
from evalkit.stats.intervals import LEVEL
from evalkit.stats.paired import paired_difference

if TYPE_CHECKING:
    from evalkit.reports.filling import Model

_Z = float(special.ndtri((1 + LEVEL) / 2))
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class _Competitor:
    """One model's value of an entry."""

    cell: Cell
    value: float
    run: Run | None
    """Where it was measured; None for a published or computed value."""


def emphasise(
    entries: Sequence[Entry], layout: Layout, models: Sequence[Model], *, ties: bool
) -> list[Model]:
    """Mark the best value of every entry; with `ties` also those that cannot be told from it.

    Two runs with their samples are compared sample by sample, other values by their intervals; a published
    value counts as known without error. Where fewer than two models have a value nothing is marked.
    """
    columns = [
        _emphasised(entry, entry.best or layout.best, models, k, ties) for k, entry in enumerate(entries)
    ]
    return [replace(model, cells=tuple(column[i] for column in columns)) for i, model in enumerate(models)]


def _emphasised(entry: Entry, direction: str, models: Sequence[Model], k: int, ties: bool) -> list[Cell]:
    cells = [model.cells[k] for model in models]
    found = [
        _Competitor(cell, cell.value, _run(model, cell))
        for cell, model in zip(cells, models, strict=True)
        if cell.value is not None
    ]
    if direction == "none" or len(found) < 2:
        return cells
    winner = (max if direction == "higher" else min)(found, key=lambda one: one.value)
    best = {id(one.cell) for one in found if one.cell.text == winner.cell.text}
    if ties:
        best |= {id(one.cell) for one in found if _indistinguishable(winner, one, entry)}
    return [replace(cell, best=id(cell) in best) for cell in cells]


def _run(model: Model, cell: Cell) -> Run | None:
    return model.entrant.find(cell.protocol) if model.entrant and cell.protocol else None


def _indistinguishable(a: _Competitor, b: _Competitor, entry: Entry) -> bool:
    if a.run and b.run and a.cell.protocol == b.cell.protocol:
        pairs = _pairs(a, b, entry)
        if pairs is not None:
            return paired_difference(*pairs).p > 1 - LEVEL
    spread = math.hypot(_stderr(a.cell), _stderr(b.cell))
    return spread > 0 and abs(a.value - b.value) <= _Z * spread


def _stderr(cell: Cell) -> float:
    return (cell.ci95[1] - cell.ci95[0]) / (2 * _Z) if cell.ci95 else 0.0


def _pairs(a: _Competitor, b: _Competitor, entry: Entry) -> tuple[Any, Any, Any, Any] | None:
    """Scores of both, subsets and weights of the samples; None where they do not make up the cells."""
    mine, theirs = _scores(a, entry), _scores(b, entry)
    if mine is None or theirs is None or mine.keys() != theirs.keys():
        return None
    keys = list(mine)
    subsets = [subset for subset, _ in keys]
    x, y = (np.array([scores[key] for key in keys]) for scores in (mine, theirs))
    for weights in (np.ones(len(keys)), _macro_weights(subsets)):
        reproduced = [entry.scale * float(weights @ values / weights.sum()) for values in (x, y)]
        if np.allclose(reproduced, [a.value, b.value], atol=entry.scale * _ROUNDING, rtol=0):
            return x, y, subsets, weights
    return None


def _scores(one: _Competitor, entry: Entry) -> dict[tuple[str, str], float] | None:
    """Score of each sample in the entry's metric, by subset and id."""
    run, task = one.run, one.cell.protocol
    if run is None or task is None or run.samples is None or entry.category:
        return None
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = run.samples.filter(pc.equal(run.samples["task"], task))
    if entry.subsets:
        rows = rows.filter(pc.is_in(rows["subset"], pa.array(entry.subsets)))
    metric = entry.metric or next(iter(run.tasks[task]["metrics"]))
    columns = [rows[name].to_pylist() for name in ("subset", "sample_id", "metrics")]
    found = {(subset, id_): json.loads(text).get(metric) for subset, id_, text in zip(*columns, strict=True)}
    return found if found and None not in found.values() else None


def _macro_weights(subsets: Sequence[str]) -> Any:
    """Weights under which every subset counts alike, shape (n,)."""
    _, of, sizes = np.unique(subsets, return_inverse=True, return_counts=True)
    return 1 / sizes[of]

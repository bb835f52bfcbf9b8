"""What every report shows: a table of cells that know their value, its uncertainty and where it is from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

NONE = "–"
"""Stands where there is no value. A missing value is never 0."""

Origin = Literal["run", "published", "computed", "label", "missing"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of a table."""

    text: str
    """As shown, without interval, emphasis or footnote marks."""
    origin: Origin
    value: float | None = None
    """In the unit of the table, for example percent; None for text and where there is none."""
    ci95: tuple[float, float] | None = None
    """In the same unit."""
    n: int | None = None
    """Samples behind it."""
    protocol: str | None = None
    """Resolved name of the task, for example `cmmlu@official:test:5shot`."""
    source: str | None = None
    """Run id, or the address of the publication."""
    notes: tuple[str, ...] = ()
    """Footnotes."""
    best: bool = False
    """Whether it is emphasised."""

    @property
    def shown_ci95(self) -> str:
        """The interval with as many decimal places as the text; empty if there is none."""
        digits = len(self.text.partition(".")[2])
        return ", ".join(f"{end:.{digits}f}" for end in self.ci95 or ())


MISSING = Cell(NONE, "missing")


@dataclass(frozen=True, slots=True)
class Heading:
    """The head of a column or of a row."""

    label: str
    group: str | None = None
    """A label above this one, which neighbouring columns may share."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One line: its head and a cell for every column."""

    heading: Heading
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table as every renderer takes it."""

    name: str
    title: str
    corner: str
    """Head of the column of row heads."""
    columns: tuple[Heading, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """Notes on the whole table."""

    @property
    def groups(self) -> list[tuple[str | None, int]]:
        """Labels above the columns, each with the number of columns it spans; empty if there are none."""
        spans: list[tuple[str | None, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(group for group, _ in spans) else []

    @cached_property
    def footnotes(self) -> tuple[str, ...]:
        """Every footnote of a head or cell once, in reading order: the n-th has mark n."""
        return tuple(self._numbers)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        found = dict.fromkeys(note for column in self.columns for note in column.notes)
        for row in self.rows:
            found.update(dict.fromkeys(row.heading.notes))
            found.update(dict.fromkeys(note for cell in row.cells for note in cell.notes))
        return {note: number for number, note in enumerate(found, 1)}

    def marks(self, notes: Sequence[str]) -> tuple[int, ...]:
        """Numbers of footnotes."""
        return tuple(self._numbers[note] for note in notes)


def transposed(table: Table) -> Table:
    """The same cells with rows as columns."""
    rows = tuple(
        Row(_beside(column), tuple(row.cells[j] for row in table.rows))
        for j, column in enumerate(table.columns)
    )
    return replace(table, columns=tuple(row.heading for row in table.rows), rows=rows)


def _beside(column: Heading) -> Heading:
    """A column's head as that of a row, where no label spans several."""
    label = f"{column.group} · {column.label}" if column.group else column.label
    return replace(column, label=label, group=None)

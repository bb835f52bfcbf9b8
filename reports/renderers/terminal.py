"""The table on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.reports.table import Cell, Heading, Table
from evalkit.reports.text import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text


def render(table: Table) -> RenderableType:
    """The table with its footnotes and notes; nothing in it is read as markup."""
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=SIMPLE, title=Text(one_line(table.title)))
    grid.add_column(Text(one_line(table.corner)))
    for column in table.columns:
        grid.add_column(Text(_heading(table, column)), justify="right")
    for row in table.rows:
        grid.add_row(Text(_heading(table, row.heading)), *(_cell(table, cell) for cell in row.cells))
    footnotes = (f"({number}) {note}" for number, note in enumerate(table.footnotes, 1))
    return Group(grid, *(Text(one_line(note)) for note in (*footnotes, *table.notes)))


def _heading(table: Table, heading: Heading) -> str:
    text = f"{heading.group}\n{heading.label}" if heading.group else heading.label
    return "\n".join(map(one_line, text.split("\n"))) + _marks(table, heading.notes)


def _cell(table: Table, cell: Cell) -> Text:
    from rich.text import Text

    interval = f" [{cell.shown_ci95}]" if cell.ci95 else ""
    found = Text(one_line(cell.text), style="bold" if cell.best else "")
    return found.append(interval).append(_marks(table, cell.notes))


def _marks(table: Table, notes: tuple[str, ...]) -> str:
    numbers = table.marks(notes)
    return f" ({','.join(map(str, numbers))})" if numbers else ""

"""GitHub Markdown: a pipe table without HTML; two-level heads become one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evalkit.reports.table import Cell, Heading, Table
from evalkit.reports.text import markdown as escape

_SUPERSCRIPT = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")


def render(tables: Sequence[Table]) -> str:
    """Each table with its title, footnotes and notes."""
    return "\n".join("\n".join(_lines(table)) + "\n" for table in tables)


def _lines(table: Table) -> Iterator[str]:
    yield f"### {escape(table.title)}"
    yield ""
    yield f"| {escape(table.corner)} | {' | '.join(_heading(table, column) for column in table.columns)} |"
    yield f"|:--|{''.join(_alignment(table, j) for j in range(len(table.columns)))}"
    for row in table.rows:
        yield f"| {_heading(table, row.heading)} | {' | '.join(_cell(table, cell) for cell in row.cells)} |"
    if table.footnotes or table.notes:
        yield ""
    # Each in a paragraph of its own: a list would number them anew.
    for number, note in enumerate(table.footnotes, 1):
        yield f"{str(number).translate(_SUPERSCRIPT)} {escape(note, links=True)}  "
    yield from (f"{escape(note, links=True)}  " for note in table.notes)


def _heading(table: Table, heading: Heading) -> str:
    parts = (heading.group, heading.label) if heading.group else (heading.label,)
    return " · ".join(escape(part) for part in parts) + _marks(table, heading.notes)


def _cell(table: Table, cell: Cell) -> str:
    text = escape(cell.text)
    if cell.ci95:
        text = f"{text} [{cell.shown_ci95}]"
    return (f"**{text}**" if cell.best else text) + _marks(table, cell.notes)


def _marks(table: Table, notes: tuple[str, ...]) -> str:
    return ",".join(map(str, table.marks(notes))).translate(_SUPERSCRIPT)


def _alignment(table: Table, column: int) -> str:
    numeric = all(row.cells[column].origin != "label" for row in table.rows)
    return "--:|" if numeric else ":-:|"

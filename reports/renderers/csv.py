"""CSV, one line per row: plain values; intervals and sources are in the JSON form."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from evalkit.reports.table import MISSING, Cell, Heading, Table
from evalkit.reports.text import one_line

_FORMULA = ("=", "+", "-", "@")


def render(tables: Sequence[Table]) -> str:
    """Heads, then rows; an empty line between tables. Missing values are empty."""
    return "\n".join(map(_one, tables))


def _one(table: Table) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_text(table.corner), *(_heading(column) for column in table.columns)])
    for row in table.rows:
        writer.writerow([_heading(row.heading), *map(_cell, row.cells)])
    return file.getvalue()


def _heading(heading: Heading) -> str:
    return _text(f"{heading.group} {heading.label}" if heading.group else heading.label)


def _cell(cell: Cell) -> str:
    if cell.origin == MISSING.origin:
        return ""
    return cell.text if cell.value is not None else _text(cell.text)


def _text(text: str) -> str:
    """One line that no spreadsheet takes for a formula."""
    line = one_line(text)
    return f"'{line}" if line.startswith(_FORMULA) else line

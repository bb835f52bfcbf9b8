"""LaTeX with booktabs; `\\usepackage{booktabs}` is all it needs, and CJK or Arabic heads a fitting font."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evalkit.reports.table import Cell, Heading, Table
from evalkit.reports.text import latex as escape


def render(tables: Sequence[Table]) -> str:
    """A `table` environment each."""
    return "\n".join("\n".join(_lines(table)) + "\n" for table in tables)


def _lines(table: Table) -> Iterator[str]:
    yield r"\begin{table}"
    yield r"\centering"
    yield rf"\caption{{{escape(table.title)}}}"
    yield rf"\begin{{tabular}}{{l{''.join(_alignment(table, j) for j in range(len(table.columns)))}}}"
    yield r"\toprule"
    yield from _groups(table)
    yield _line([escape(table.corner), *(_heading(table, column) for column in table.columns)])
    yield r"\midrule"
    for row in table.rows:
        yield _line([_heading(table, row.heading), *(_cell(table, cell) for cell in row.cells)])
    yield r"\bottomrule"
    yield r"\end{tabular}"
    for number, note in enumerate(table.footnotes, 1):
        yield rf"\par\footnotesize\textsuperscript{{{number}}} {escape(note)}"
    yield from (rf"\par\footnotesize {escape(note)}" for note in table.notes)
    yield r"\end{table}"


def _groups(table: Table) -> Iterator[str]:
    """A line of heads that span columns, ruled below."""
    if not table.groups:
        return
    yield _line(["", *(rf"\multicolumn{{{n}}}{{c}}{{{escape(group or '')}}}" for group, n in table.groups)])
    first = 2
    rules = []
    for group, n in table.groups:
        if group:
            rules.append(rf"\cmidrule(lr){{{first}-{first + n - 1}}}")
        first += n
    yield "".join(rules)


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _heading(table: Table, heading: Heading) -> str:
    return escape(heading.label) + _marks(table, heading.notes)


def _cell(table: Table, cell: Cell) -> str:
    text = escape(cell.text)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    if cell.ci95:
        text += rf" {{\scriptsize [{cell.shown_ci95}]}}"
    return text + _marks(table, cell.notes)


def _marks(table: Table, notes: tuple[str, ...]) -> str:
    numbers = ",".join(map(str, table.marks(notes)))
    return rf"\textsuperscript{{{numbers}}}" if numbers else ""


def _alignment(table: Table, column: int) -> str:
    return "r" if all(row.cells[column].origin != "label" for row in table.rows) else "l"

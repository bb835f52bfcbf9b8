"""Strict reading of official CSV files: every cell stays text, every defect names file and line.

Readers that guess turn cells such as `None`, `NA` or `0.50` into other values and so change prompts;
readers that forgive turn a truncated file into a smaller benchmark.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a CSV file."""

    path: Path
    line: int
    """1-based line on which the record starts."""
    cells: Mapping[str, str]
    """Column name to text, exactly as in the file."""

    def corrupt(self, problem: str) -> DataError:
        """Build the error for a defect of this record."""
        return corrupt(self.path, self.line, problem)

    def label(self, column: str, labels: Sequence[str]) -> str:
        """Return the cell of `column`, which must be one of `labels`; raises DataError otherwise."""
        text = self.cells[column]
        if text not in labels:
            raise self.corrupt(f"answer {text!r} is not one of {', '.join(labels)}")
        return text


def corrupt(path: Path, line: int, problem: str) -> DataError:
    """Build the error for a defect of a data file."""
    return DataError(
        f"{path}:{line}: {problem}; put the official file back in its place "
        "(`evalkit data fetch` downloads official data, `evalkit data verify` checks it)"
    )


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte-order mark; raises DataError for any other content."""
    try:
        raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return decode(path, raw)


def decode(path: Path, raw: bytes) -> str:
    """Decode the UTF-8 content of `path`; raises DataError for any other."""
    if (position := raw.find(b"\0")) >= 0:
        raise corrupt(path, _line_at(raw, position), "NUL byte: the file is damaged or not text")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise corrupt(path, _line_at(raw, error.start), "not UTF-8 text") from None


def read_csv(
    path: Path, columns: Sequence[str], *, header: bool = True, optional: Sequence[str] = ()
) -> list[Row]:
    """Read a CSV file that has exactly `columns`, perhaps followed by some of the `optional` ones.

    Without a header the first line is a record already. Blank lines are skipped, as the readers of the
    official tools do. Raises DataError naming file and line.
    """
    records = _records(path)
    names = list(columns)
    if header:
        line, names = next(records)
        _check_header(path, line, names, columns, optional)
    return [_row(path, line, names, cells) for line, cells in records]


def read_tsv(path: Path, columns: Sequence[str]) -> list[Row]:
    """Read a tab-separated file with a header and no quoting; raises DataError naming file and line."""
    first, *lines = read_text(path).replace("\r\n", "\n").removesuffix("\n").split("\n")
    names = first.split("\t")
    _check_header(path, 1, names, columns, ())
    return [_row(path, number, names, line.split("\t")) for number, line in enumerate(lines, start=2) if line]


def read_table(path: Path) -> list[Row]:
    """Read a CSV file whose header may name any distinct columns."""
    records = _records(path)
    line, names = next(records)
    if len(set(names)) < len(names) or "" in names:
        raise corrupt(path, line, f"the header needs distinct, non-empty names, found {', '.join(names)}")
    return [_row(path, line, names, cells) for line, cells in records]


def unique_ids(rows: Sequence[Row], column: str) -> list[str]:
    """Return the ids in `column`, which must not repeat: results are matched by them."""
    seen: set[str] = set()
    for row in rows:
        if (text := row.cells[column]) in seen or not text:
            raise row.corrupt(f"{'repeated' if text else 'empty'} id {text!r}")
        seen.add(text)
    return [row.cells[column] for row in rows]


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line the record starts on, cells); at least one record."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    line, empty = 1, True
    try:
        for cells in reader:
            if cells:
                yield line, cells
                empty = False
            line = reader.line_num + 1
    except csv.Error as error:
        raise corrupt(path, line, f"broken CSV record ({error}): unclosed quote or truncated file") from None
    if empty:
        raise corrupt(path, 1, "the file is empty")


def _check_header(
    path: Path, line: int, found: list[str], columns: Sequence[str], optional: Sequence[str]
) -> None:
    allowed = [*columns, *optional]
    if len(found) < len(columns) or found != allowed[: len(found)]:
        raise corrupt(path, line, f"expected the columns {_listed(allowed)}, found {_listed(found)}")


def _row(path: Path, line: int, names: Sequence[str], cells: list[str]) -> Row:
    if len(cells) != len(names):
        raise corrupt(path, line, f"{len(cells)} columns instead of {len(names)}")
    return Row(path, line, dict(zip(names, cells, strict=True)))


def _listed(names: Sequence[str]) -> str:
    return ",".join(names)


def _line_at(raw: bytes, position: int) -> int:
    return raw.count(b"\n", 0, position) + 1

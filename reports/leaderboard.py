"""A leaderboard between two markers of a Markdown file, which also keeps all it was made of.

Below the table, in an HTML comment, stands a line of JSON per model (`standings.Standing`). What is shown is
a function of these lines alone, so that it does not matter which runs are named together, and no run
directory is needed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from evalkit.errors import DataError, UsageError
from evalkit.reports.files import write
from evalkit.reports.layouts import DEFAULT, Entry, Layout
from evalkit.reports.ranking import Board, Place, rank
from evalkit.reports.renderers import markdown
from evalkit.reports.runs import Run
from evalkit.reports.standings import Score, Standing, from_line, merged, reason, to_line
from evalkit.reports.table import MISSING, NONE, Cell, Heading, Row, Table

BEGIN = "<!-- evalkit:leaderboard:begin -->"
END = "<!-- evalkit:leaderboard:end -->"

_OURS = b"<!-- evalkit:leaderboard:"
_STATE = "<!-- evalkit:leaderboard:state"
_STATE_END = "-->"
_BOM = b"\xef\xbb\xbf"
_FENCE = re.compile(rb" {0,3}(`{3,}(?=[^`]*$)|~{3,})")


class _View(BaseModel):
    """How a leaderboard is shown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    layout: Layout = DEFAULT
    mixed: bool = False


def update(
    file: Path, runs: Sequence[Run], layout: Layout | None = None, *, mixed: bool | None = None
) -> tuple[Board, bool]:
    """Put runs on the leaderboard of a file; what is not between its markers stays byte for byte.

    A file without markers gets the leaderboard at its end. Scores of newer runs take the place of older
    ones of the same model; what is there already and not named again stays. The file is replaced in one
    piece, and not touched at all where nothing changes.

    Args:
        file: Markdown file; it need not exist.
        runs: finished runs, in any order.
        layout: which columns there are; `layouts.DEFAULT` takes the headline metric of every task. None
            takes those that the leaderboard was last written with.
        mixed: let results of different protocols or data stand in one column, with footnotes, and a run take
            the place of one on other or more data. None lets them stand if it was last written so.

    Returns:
        The leaderboard, and whether the file changed.

    Raises:
        UsageError: the markers are damaged, the file cannot be written, there is nothing to show, or
            results that must not be compared.
        DataError: what the file keeps of earlier runs is damaged.
    """
    content = _content(file)
    line_end = b"\r\n" if content.partition(b"\n")[0].endswith(b"\r") else b"\n"
    before, block, after = _split(content, file, line_end)
    last, earlier = _kept(block, file)
    view = _View(
        schema_version=1,
        layout=layout or last.layout,
        mixed=last.mixed if mixed is None else mixed,
    )
    state = to_line(view)
    standings = merged(earlier, runs, view.layout, mixed=bool(mixed))
    _check_units(standings, file)
    board = rank(standings, view.layout, mixed=view.mixed)
    shown = markdown.render([table(board, view.layout, mixed=view.mixed)])
    text = "\n".join([BEGIN, "", shown, _STATE, state, *map(to_line, standings), _STATE_END, END])
    return board, write(file, before + text.encode().replace(b"\n", line_end) + after)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; name a Markdown file") from error


def _split(content: bytes, file: Path, line_end: bytes) -> tuple[bytes, bytes, bytes]:
    """What stands before, between and behind the markers."""
    ours, fence = _our_lines(content)
    if not ours and fence:
        raise UsageError(
            f"{file}: the code fence of line {fence} is never closed, so that a leaderboard below it would "
            "be code; close it. Nothing was changed"
        )
    if not ours:
        return content + _gap_after(content, line_end), b"", line_end
    markers = [line for line in ours if line.text != _STATE.encode()]
    if [line.text for line in markers] != [BEGIN.encode(), END.encode()]:
        lines = (str(line.number) for line in ours)
        raise UsageError(
            f"{file}: a leaderboard stands between one line '{BEGIN}' and one line '{END}' below it, "
            f"and that is not so here (line {', '.join(lines)}); restore these two lines, or remove what is "
            "left of the leaderboard. Nothing was changed"
        )
    begin, end = (line.start for line in markers)
    return content[:begin], content[begin + len(BEGIN) : end], content[end + len(END) :]


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    start: int
    """Its place among the bytes of the file."""
    text: bytes


def _our_lines(content: bytes) -> tuple[list[_Line], int | None]:
    """Lines that begin as ours do, outside code fences; and the number of a line whose fence is never closed.

    What a fence is: CommonMark 0.31, section 4.5.
    """
    found: list[_Line] = []
    fence, opened, start = b"", 0, 0
    for number, line in enumerate(content.split(b"\n"), 1):
        text = line.removeprefix(_BOM) if number == 1 else line
        bare = text.strip(b" \t\r")
        if fence:
            if bare.startswith(fence) and not bare.strip(fence[:1]) and not text.startswith(b"    "):
                fence = b""
        elif opening := _FENCE.match(text):
            fence, opened = opening[1], number
        elif text.startswith(_OURS):
            found.append(_Line(number, start + len(line) - len(text), bare))
        start += len(line) + 1
    return found, opened if fence else None


def _gap_after(content: bytes, line_end: bytes) -> bytes:
    """What is lacking for an empty line at the end."""
    if not content or content.endswith(2 * line_end):
        return b""
    return line_end if content.endswith(line_end) else 2 * line_end


def _kept(block: bytes, file: Path) -> tuple[_View, list[Standing]]:
    """How the leaderboard between the markers is shown, and its models."""
    if not block.strip():
        return _View(schema_version=1), []
    try:
        lines = [line.strip() for line in block.decode().splitlines()]
        begin = lines.index(_STATE)
        first, *kept = lines[begin + 1 : lines.index(_STATE_END, begin)]
        return _View.model_validate_json(first), [from_line(line) for line in kept]
    except ValueError as error:
        raise _damaged(file, reason(error)) from error


def _damaged(file: Path, what: str) -> DataError:
    return DataError(
        f"{file}: the comment that keeps what the leaderboard is made of is damaged ({what}); restore "
        "the file, or remove all between the markers and name every run again. Nothing was changed"
    )


def _check_units(standings: Sequence[Standing], file: Path) -> None:
    """What is compared unit by unit must have the same units."""
    sizes: dict[str, int] = {}
    for units in (score.scored.units for standing in standings for score in standing.scores):
        if units and sizes.setdefault(units.of, len(units.values)) != len(units.values):
            raise _damaged(file, f"different numbers of units {units.of}")


# -- the table ----------------------------------------------------------------------------------


def table(board: Board, layout: Layout, *, mixed: bool = False) -> Table:
    """The leaderboard as every renderer takes it: a line per model."""
    complete = len(board.shared) == len(board.columns)
    examined = any(score and score.contamination for one in board.places for score in one.scores)
    averaged = len(board.columns) > 1 and bool(board.shared)
    headings = [
        Heading("Model"),
        *([Heading("Average" if complete else "Ranking score")] if averaged else ()),
        *(_heading(entry, k, board, mixed) for k, entry in enumerate(board.columns)),
        *([Heading("Contamination")] if examined else ()),
        Heading("Date"),
        Heading("Run"),
    ]
    rows = []
    for one in board.places:
        cells = [
            Cell(one.name, "label"),
            *([_mean_cell(one, layout)] if averaged else ()),
            *(_cell(s, entry, layout, mixed) for s, entry in zip(one.scores, board.columns, strict=True)),
            *([Cell(_contamination(one), "label")] if examined else ()),
            Cell(_date(one), "label"),
            Cell(", ".join(sorted({score.run_id for score in one.scores if score})), "label"),
        ]
        rows.append(Row(Heading(one.shown_rank), tuple(cells)))
    return Table(
        name="leaderboard",
        title="Leaderboard" if not layout.entries else f"Leaderboard: {layout.title.en}",
        corner="Rank",
        columns=tuple(headings),
        rows=tuple(rows),
        notes=tuple(_notes(board, layout, complete)),
    )


def _heading(entry: Entry, k: int, board: Board, mixed: bool) -> Heading:
    """With the protocol, where all models have the same."""
    score = next(score for one in board.places if (score := one.scores[k]))
    part = "".join(f"{name}, " for name in (score.category, *score.subsets) if name)
    what = f"{score.task}: {part}{score.metric}, {score.average} average"
    return Heading(entry.label.en, entry.group.en if entry.group else None, () if mixed else (what,))


def _cell(score: Score | None, entry: Entry, layout: Layout, mixed: bool) -> Cell:
    if score is None:
        return MISSING
    value = entry.scale * score.value
    digits = layout.digits if entry.digits is None else entry.digits
    protocol = f"{score.task}, data {score.data[:12]}" if score.data else score.task
    return Cell(
        text=f"{value:.{digits}f}",
        origin="run",
        value=value,
        ci95=(entry.scale * score.ci95[0], entry.scale * score.ci95[1]) if score.ci95 else None,
        n=score.n,
        protocol=score.task,
        source=score.run_id,
        notes=(*score.caveats, *((protocol,) if mixed else ())),
    )


def _mean_cell(one: Place, layout: Layout) -> Cell:
    return MISSING if one.mean is None else Cell(f"{one.mean:.{layout.digits}f}", "computed", one.mean)


def _contamination(one: Place) -> str:
    verdicts = {s.task.partition("@")[0]: s.contamination for s in one.scores if s and s.contamination}
    return "; ".join(f"{task}: {short}" for task, short in sorted(verdicts.items())) or NONE


def _date(one: Place) -> str:
    """UTC day of the newest run."""
    return max((score.finished_at or "" for score in one.scores if score), default="")[:10] or NONE


def _notes(board: Board, layout: Layout, complete: bool) -> Iterator[str]:
    shared = ", ".join(board.columns[k].label.en for k in board.shared)
    if not board.shared:
        yield "Not ranked: no column is shared by all models."
    elif not complete:
        yield (
            "No average: not every model has every column. Ranked by the mean of the columns that all share: "
            f"{shared}."
        )
    else:
        yield f"Ranked by {'the average of all columns' if len(board.columns) > 1 else shared}."
    if board.shared:
        yield (
            "Rank 2 (1–3) is second by score, and first to third where only models count that differ at the "
            "5 % level: each pair by itself, subset by subset or sample by sample where both ran on the same "
            "samples, else by their intervals."
        )
    yield "Intervals are 95 %. Dates are the UTC day of the newest run."
    if board.left_out:
        yield f"Without a score in these columns: {', '.join(board.left_out)}."
    yield from (note.en for note in layout.notes)

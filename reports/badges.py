"""A badge for every model of a leaderboard, in the format of shields.io endpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evalkit.reports.files import slug, write
from evalkit.reports.ranking import Board, Place
from evalkit.reports.text import one_line


def write_badges(board: Board, folder: Path) -> list[Path]:
    """Write a badge of every model into a folder.

    A file is called after its model's name and a hash of name, fingerprint, engine and precision, so that
    it stays the same as long as these do, and no two models share one.

    Raises:
        UsageError: the folder cannot be written.
    """
    written = []
    for one in board.places:
        path = folder / f"{slug(one.standing.name, one.standing.identity)}.json"
        write(
            path, (json.dumps(_badge(one, len(board.places)), ensure_ascii=False, indent=1) + "\n").encode()
        )
        written.append(path)
    return written


def _badge(one: Place, models: int) -> dict[str, Any]:
    """See https://shields.io/badges/endpoint-badge."""
    message = "not ranked" if one.mean is None else f"rank {one.shown_rank} of {models}, {one.mean:.1f}"
    color = "lightgrey" if one.rank is None else "brightgreen" if one.first == 1 else "blue"
    return {"schemaVersion": 1, "label": one_line(one.name), "message": message, "color": color}

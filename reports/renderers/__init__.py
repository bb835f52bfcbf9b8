"""Tables in the formats they are wanted in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evalkit.reports.renderers import csv, json, latex, markdown
from evalkit.reports.table import Table

FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "md": markdown.render,
    "latex": latex.render,
    "csv": csv.render,
    "json": json.render,
}
"""What turns tables into text, by name of the format."""

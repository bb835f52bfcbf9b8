"""One self-contained page in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from evalkit.reports.runs import Run
from evalkit.reports.table import Table
from evalkit.reports.text import visible


def render(tables: Sequence[Table], runs: Sequence[Run]) -> str:
    """The page: it needs no network and no other file.

    Args:
        tables: shown at the top.
        runs: whose samples can be browsed.
    """
    return _environment().get_template("page.html.j2").render(tables=tables, runs=runs)


@cache
def _environment() -> Environment:
    """The templates of this package: every value appears as text, whatever it holds."""
    return Environment(
        loader=PackageLoader("evalkit.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )


def _shown(value: object) -> object:
    """Text whose control characters are pictures; markup of ours stays as it is."""
    return value if isinstance(value, Markup) else escape(visible(str(value)))

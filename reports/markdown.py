"""Markdown from templates: every value appears as text, whatever it holds."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template


@cache
def template(name: str) -> Template:
    """Load a template of this package by its file name."""
    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=_escape,
        # The product is Markdown; `_escape` does what HTML escaping would do there.
        autoescape=False,
    )
    source = resources.files("evalkit.reports").joinpath("templates", name)
    return environment.from_string(source.read_text(encoding="utf-8"))


def _escape(value: object) -> str:
    """Keep a value from ending a table cell or starting emphasis, code or HTML of its own."""
    one_line = " ".join(str(value).split())
    return re.sub(r"([\\`*|<])", r"\\\1", one_line)

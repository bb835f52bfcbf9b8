"""Markdown from templates: every value appears as text, whatever it holds."""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template

from evalkit.reports.text import markdown


@cache
def template(name: str) -> Template:
    """Load a template of this package by its file name."""
    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=lambda value: markdown(str(value)),
        # The product is Markdown; `finalize` does what HTML escaping would do there.
        autoescape=False,
    )
    source = resources.files("evalkit.reports").joinpath("templates", name)
    return environment.from_string(source.read_text(encoding="utf-8"))

"""`evalkit report`: tables and pages from finished runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from evalkit.cli.options import names, one_of
from evalkit.errors import UsageError

if TYPE_CHECKING:
    from evalkit.reports.runs import Run
    from evalkit.reports.table import Table

_SUFFIXES = {".md": "md", ".html": "html", ".tex": "latex", ".csv": "csv", ".json": "json"}
_FORMATS = tuple(_SUFFIXES.values())

RUNS = typer.Argument(None, metavar="RUN…", help="Directories of finished runs.")


def report(
    runs: list[Path] = RUNS,
    layout: str = typer.Option(
        "scores",
        help="Which tables, comma-separated: names that --layouts lists, or YAML files of your own. "
        "'scores' shows every task and metric of the runs.",
    ),
    published: bool = typer.Option(
        False, "--published", help="Put the numbers printed in public model cards beside the runs."
    ),
    format: str = typer.Option(
        "", help="md, html, latex, csv or json; by default what --output is called, else md."
    ),
    output: Path | None = typer.Option(None, "--output", "-o", help="Write here instead of to stdout."),
    language: str = typer.Option("en", "--language", help="Language of headings: en or zh."),
    ties: bool = typer.Option(
        False, "--ties", help="Emphasise every value that cannot be told from the best, not the best alone."
    ),
    mixed: bool = typer.Option(
        False,
        "--mixed",
        help="Show results of different protocols or data beside each other, with footnotes.",
    ),
    plots: str | None = typer.Option(
        None, metavar="DIR", help="Also draw the scores as PNG and SVG into this folder."
    ),
    layouts: bool = typer.Option(False, "--layouts", help="List the layouts and exit."),
) -> None:
    """Show runs as tables, alone or beside published numbers, or as one page in HTML.

    Examples:

      evalkit report runs/A runs/B

      evalkit report runs/A --layout orion-base --published -o table.md

      evalkit report runs/A runs/B -o report.html
    """
    if layouts:
        _list_layouts()
        return
    from evalkit.reports.runs import open_runs

    name, pictures = _format(format, output), folder("--plots", plots)
    found = open_runs(runs or [])
    tables = _tables(found, layout, published, language, mixed=mixed, ties=ties)
    if pictures:
        from evalkit.reports.plots import draw

        for path in draw(found, pictures):
            typer.echo(f"wrote {path}", err=True)
    if output is None and not format and sys.stdout.isatty():
        _print(tables)
        return
    _write(_rendered(name, tables, found), output)


def _list_layouts() -> None:
    from evalkit.reports.layouts import layouts

    for layout in layouts().values():
        typer.echo(f"{layout.name:<28} {layout.title.en}")


def folder(option: str, name: str | None) -> Path | None:
    """The folder that an option names; None where it is not given.

    Raises:
        UsageError: its name is empty, as of an unset variable in a script.
    """
    if name == "":
        raise UsageError(f"{option} names no folder; '.' is this one")
    return Path(name) if name else None


def _format(asked: str, output: Path | None) -> str:
    """The format that --format and the file's name ask for.

    Raises:
        UsageError: they ask for different ones or for none.
    """
    named = _SUFFIXES.get(output.suffix.lower()) if output else "md"
    if not asked and named is None:
        raise UsageError(
            f"--output {output}: which format? Call it *{', *'.join(_SUFFIXES)}, or add --format"
        )
    if asked and one_of("--format", asked, _FORMATS) != named and output and named:
        raise UsageError(f"--format {asked} contradicts --output {output}; leave one out or let them agree")
    return asked or named or "md"


def _tables(
    runs: list[Run], layout: str, published: bool, language: str, *, mixed: bool, ties: bool
) -> list[Table]:
    from evalkit.reports.filling import fill
    from evalkit.reports.layouts import LANGUAGES, load

    one_of("--language", language, LANGUAGES)
    chosen = [load(name) for name in names(layout)]
    if not chosen:
        raise UsageError("--layout names no layout; see evalkit report --layouts")
    if published and not any(one.published for one in chosen):
        raise UsageError(
            f"--published: layout {layout} repeats no published table; name one that does, such as "
            "--layout orion-base (see evalkit report --layouts)"
        )
    return [
        fill(
            one,
            runs,
            language="zh" if language == "zh" else "en",
            with_published=published,
            mixed=mixed,
            ties=ties,
        )
        for one in chosen
    ]


def _print(tables: list[Table]) -> None:
    from rich.console import Console

    from evalkit.reports.renderers import terminal

    for table in tables:
        Console().print(terminal.render(table))


def _rendered(name: str, tables: list[Table], runs: list[Run]) -> str:
    if name == "html":
        from evalkit.reports.html.page import render

        return render(tables, runs)
    from evalkit.reports.renderers import FORMATS

    return FORMATS[name](tables)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    from evalkit.reports.files import write

    write(output, text.encode())
    typer.echo(f"wrote {output}", err=True)

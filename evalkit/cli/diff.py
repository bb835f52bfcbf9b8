"""`evalkit diff`: why two runs differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from evalkit.cli.report import folder
from evalkit.errors import UsageError

if TYPE_CHECKING:
    from evalkit.diff.sides import Side


def diff(
    a: Path = typer.Argument(..., metavar="A", help="Directory of a run, or of lm-eval's --log_samples."),
    b: Path = typer.Argument(..., metavar="B", help="The other one."),
    examples: int = typer.Option(3, help="Differing samples to show of each task."),
    plots: str | None = typer.Option(
        None, metavar="DIR", help="Also draw the log-probabilities of both as PNG and SVG into this folder."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the comparison as JSON."),
) -> None:
    """Say on which rung from data to scores two runs part, why, and how much it is worth.

    The rungs: data, prompts, token ids, responses, outcomes. A or B may be what lm-evaluation-harness wrote
    with --log_samples. Run with --log-prompts to see where prompts and their token ids differ.

    Examples:

      evalkit diff runs/A runs/B

      evalkit diff runs/A lm-eval-output/model --examples 10

      evalkit diff runs/A runs/B --plots figures
    """
    from evalkit.diff.document import compare
    from evalkit.diff.sides import read
    from evalkit.diff.text import render

    if examples < 0:
        raise UsageError(f"--examples {examples}: at least 0")
    pictures = folder("--plots", plots)
    sides = read(a), read(b)
    document = compare(*sides, examples)
    if pictures:
        _draw(*sides, pictures)
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False))
    else:
        typer.echo(render(document), nl=False)


def _draw(a: Side, b: Side, pictures: Path) -> None:
    from evalkit.diff.figures import drawings
    from evalkit.reports.plots import write

    found = write(drawings(a, b), pictures)
    for path in found:
        typer.echo(f"wrote {path}", err=True)
    if not found:
        typer.echo("--plots: no task has log-probabilities on both sides; nothing was drawn", err=True)

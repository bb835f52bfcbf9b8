"""`evalkit diff`: why two runs differ."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from evalkit.errors import UsageError


def diff(
    a: Path = typer.Argument(..., metavar="A", help="Directory of a run, or of lm-eval's --log_samples."),
    b: Path = typer.Argument(..., metavar="B", help="The other one."),
    examples: int = typer.Option(3, help="Differing samples to show of each task."),
    as_json: bool = typer.Option(False, "--json", help="Print the comparison as JSON."),
) -> None:
    """Say on which rung from data to scores two runs part, why, and how much it is worth.

    The rungs: data, prompts, token ids, responses, outcomes. B may be what lm-evaluation-harness wrote with
    --log_samples. Run with --log-prompts to see where prompts differ.

    Examples:

      evalkit diff runs/A runs/B

      evalkit diff runs/A lm-eval-output/model --examples 10
    """
    from evalkit.diff.document import compare
    from evalkit.diff.sides import read
    from evalkit.diff.text import render

    if examples < 0:
        raise UsageError(f"--examples {examples}: at least 0")
    document = compare(read(a), read(b), examples)
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False))
    else:
        typer.echo(render(document), nl=False)

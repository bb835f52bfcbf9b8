"""`evalkit leaderboard`: finished runs on a Markdown leaderboard."""

from __future__ import annotations

from pathlib import Path

import typer

from evalkit.cli.report import RUNS, folder
from evalkit.errors import UsageError


def leaderboard(
    runs: list[Path] = RUNS,
    output: Path = typer.Option(
        ..., "--output", "-o", help="Markdown file; what is not between its two markers is left alone."
    ),
    layout: str | None = typer.Option(
        None,
        help="Which columns: a name that `evalkit report --layouts` lists, or a YAML file of your own. "
        "'scores' takes the headline metric of every task. By default as last time, first 'scores'.",
    ),
    mixed: bool | None = typer.Option(
        None,
        "--mixed/--no-mixed",
        help="Let results of different protocols or data share a column, with footnotes (by default as last "
        "time), and a run replace one of the same model on other or more data.",
    ),
    badges: str | None = typer.Option(
        None, metavar="DIR", help="Also write a shields.io badge (JSON) per model into this folder."
    ),
) -> None:
    """Put runs on a leaderboard; models that are on it already stay, their newer runs replace older ones.

    With no run, the leaderboard is written again from what it keeps of earlier ones.

    Examples:

      evalkit leaderboard runs/A runs/B -o LEADERBOARD.md

      evalkit leaderboard runs/C -o LEADERBOARD.md --badges badges
    """
    from evalkit.reports.badges import write_badges
    from evalkit.reports.layouts import load
    from evalkit.reports.leaderboard import update
    from evalkit.reports.runs import open_runs

    if output.suffix.lower() not in (".md", ".markdown"):
        raise UsageError(f"--output {output}: a leaderboard stands in a Markdown file; call it *.md")
    into = folder("--badges", badges)
    chosen = None if layout is None else load(layout)
    board, changed = update(output, open_runs(runs or []), chosen, mixed=mixed)
    typer.echo(f"{'wrote' if changed else 'nothing new for'} {output}", err=True)
    if into:
        paths = write_badges(board, into)
        typer.echo(f"{len(paths)} badges in {into}", err=True)

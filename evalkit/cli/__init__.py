"""The command line. Every command is a thin layer over the library; heavy imports wait until needed."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Any

import typer
import typer.core

from evalkit._version import __version__
from evalkit.cli import data, diff, doctor, gate, leaderboard, leakage, models, report, run, tasks
from evalkit.errors import EvalkitError
from evalkit.reports.text import visible


class _Commands(typer.core.TyperGroup):
    """The commands; that the reader of our output went away (`evalkit tasks | head`) is no error."""

    def invoke(self, ctx: Any) -> Any:
        """Run one command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None


app = typer.Typer(
    name="evalkit",
    cls=_Commands,
    help="Evaluate language models exactly and fast.\n\n"
    "Try it:  evalkit run --model demo --tasks cmmlu --data sample",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.run)
app.command("rescore")(run.rescore)
app.command("score-file")(run.score_file)
app.add_typer(tasks.app, name="tasks")
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
app.add_typer(leakage.app, name="leakage")
app.command("report")(report.report)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("diff")(diff.diff)
app.command("gate")(gate.gate)
app.add_typer(gate.app)
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say more on stderr."),
) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        format="%(levelname)s %(message)s",
        level=logging.INFO if verbose else logging.WARNING,
    )
    if version:
        typer.echo(f"evalkit {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; expected errors become one clear line and their exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 must not stop a command
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="evalkit")
    except EvalkitError as error:
        typer.echo(f"error: {visible(str(error))}", err=True)
        sys.exit(error.exit_code)

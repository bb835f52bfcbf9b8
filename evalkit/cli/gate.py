"""`evalkit gate` and `evalkit baseline`: the verdict a pipeline acts on, and what it compares with."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from evalkit.errors import EvalkitError, UsageError

if TYPE_CHECKING:
    from evalkit.gate.verdict import Verdict

BASELINE = typer.Option(
    None, help="Run directory, or a file of `evalkit baseline save` (default: what the policy names)."
)
POLICY = typer.Option(
    "default", help="A policy of your own (YAML), or one that ships: default, strict, quick."
)

app = typer.Typer(
    name="baseline", help="Keep a run's outcomes to compare later runs with.", no_args_is_help=True
)


def gate(
    baseline: Path = BASELINE,
    candidate: Path = typer.Option(..., help="Run directory of what is to be judged."),
    policy: str = POLICY,
    junit: Path | None = typer.Option(None, help="Write JUnit XML here, a test case per task."),
    summary: Path | None = typer.Option(
        None, help="Append a summary in Markdown to this file, such as $GITHUB_STEP_SUMMARY."
    ),
    as_json: bool = typer.Option(False, "--json", help="The verdict as JSON on stdout, nothing else there."),
    annotate: bool = typer.Option(
        False,
        "--annotate",
        help="Also print GitHub annotations: tasks that failed, samples that became worse.",
    ),
) -> None:
    """Compare a run with a baseline, sample by sample, and exit with 0 (pass) or 1 (fail).

    Example:

      evalkit gate --baseline main.baseline.parquet --candidate runs/new --junit gate.xml
    """
    from evalkit.gate import outputs

    places = _Places(junit, summary, as_json=as_json, annotate=annotate)
    try:
        places.prepare()
        verdict = _judge(baseline, candidate, policy)
        places.put(verdict)
    except EvalkitError as error:
        places.put_error(str(error))
        raise type(error)(outputs.plain(str(error))) from error
    raise typer.Exit(verdict.exit_code)


def _judge(baseline: Path | None, candidate: Path, policy: str) -> Verdict:
    from evalkit.gate import baseline as baselines
    from evalkit.gate.outcomes import read_run
    from evalkit.gate.policy import load
    from evalkit.gate.verdict import judge

    rules = load(policy)
    return judge(baselines.chosen(baseline, rules), read_run(candidate), rules)


@dataclass(frozen=True)
class _Places:
    """Where a verdict goes, or why there is none."""

    junit: Path | None
    summary: Path | None
    as_json: bool
    annotate: bool

    def prepare(self) -> None:
        """Make sure that all files can be written, and that a gate that crashes leaves no earlier verdict."""
        from evalkit.gate import outputs

        self._put_junit(outputs.junit_of_error("the gate came to no end"))
        self._put_summary("")

    def put(self, verdict: Verdict) -> None:
        from evalkit.gate import outputs

        _say(outputs.as_json(verdict) if self.as_json else outputs.text(verdict))
        self._put_junit(outputs.junit(verdict))
        self._put_summary(outputs.summary(verdict))
        self._put_annotations(outputs.github_annotations(verdict))

    def put_error(self, message: str) -> None:
        """Put it wherever that is possible."""
        from evalkit.gate import outputs

        with suppress(UsageError):
            self._put_junit(outputs.junit_of_error(message))
        with suppress(UsageError):
            self._put_summary(outputs.summary_of_error(message))
        with suppress(UsageError):
            self._put_annotations(outputs.annotation_of_error(message))

    def _put_junit(self, text: str) -> None:
        if self.junit:
            _write("--junit", self.junit, text, "w")

    def _put_summary(self, text: str) -> None:
        if self.summary:
            _write("--summary", self.summary, text, "a")

    def _put_annotations(self, text: str) -> None:
        if self.annotate:
            _say(text, err=self.as_json)


def _write(option: str, path: Path, text: str, mode: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}; name another file") from error


def _say(text: str, *, err: bool = False) -> None:
    """Print; that nobody reads it changes no verdict.

    Raises:
        UsageError: it cannot be printed for another reason.
    """
    stream = sys.stderr if err else sys.stdout
    try:
        typer.echo(text, nl=False, err=err)
    except OSError as error:
        # What is left in the buffer would fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            name = "standard error" if err else "standard output"
            raise UsageError(f"{name}: {error.strerror}; print to another place") from error


@app.command("save")
def save(
    run: Path = typer.Argument(..., metavar="RUN", help="Directory of a finished run."),
    name: str = typer.Argument(..., metavar="NAME", help="A file, or a name: NAME.baseline.parquet."),
    previous: Path = typer.Option(
        None,
        help="An earlier run or baseline: how much answers changed since tells `evalkit run --plan` how few "
        "samples suffice.",
    ),
) -> None:
    """Write the outcomes of a run into one small file that can be committed."""
    from evalkit.gate.baseline import save as write

    path = _baseline_file(name)
    size_bytes = write(run, path, previous)
    typer.echo(f"wrote {path} ({size_bytes / 1000:,.0f} kB)", err=True)


def _baseline_file(name: str) -> Path:
    from evalkit.gate.baseline import SUFFIX

    stem = name.removesuffix(".parquet").removesuffix(".baseline")
    if stem.rpartition("/")[2] in ("", ".", ".."):
        raise UsageError(f"'{name}' names no file; give a name such as {Path(stem) / 'main'}")
    return Path(name if name.endswith(".parquet") else f"{stem}{SUFFIX}")


@app.command("show")
def show(file: Path = typer.Argument(..., metavar="FILE", help="A file of `evalkit baseline save`.")) -> None:
    """Say which run and which tasks a baseline holds."""
    from evalkit.gate.baseline import read
    from evalkit.gate.outputs import plain

    found = read(file)
    typer.echo(plain(f"{found.run_id}, {found.model.get('name')}"))
    for name, task in found.tasks.items():
        typer.echo(plain(f"{name}: {len(task.columns['task']):,} samples, {_scores(task.entry['metrics'])}"))


def _scores(metrics: dict[str, Any]) -> str:
    scores = (f"{name} {100 * estimate['value']:.2f}" for name, estimate in metrics.items())
    return ", ".join(scores) or "no score"

"""`evalkit gate` and `evalkit baseline`: the verdict a pipeline acts on, and what it compares with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from evalkit.errors import UsageError

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
    from evalkit.gate import baseline as baselines
    from evalkit.gate import outputs
    from evalkit.gate.outcomes import read_run
    from evalkit.gate.policy import load
    from evalkit.gate.verdict import judge

    rules = load(policy)
    verdict = judge(baselines.chosen(baseline, rules), read_run(candidate), rules)
    if junit:
        _write("--junit", junit, outputs.junit(verdict), "w")
    if summary:
        _write("--summary", summary, outputs.summary(verdict), "a")
    if as_json:
        typer.echo(json.dumps(verdict.to_json(), ensure_ascii=False, allow_nan=False, indent=1))
    else:
        typer.echo(outputs.text(verdict), nl=False)
    if annotate:
        typer.echo(outputs.github_annotations(verdict), nl=False, err=as_json)
    raise typer.Exit(verdict.exit_code)


def _write(option: str, path: Path, text: str, mode: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}; name another file") from error


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
    from evalkit.gate.baseline import SUFFIX
    from evalkit.gate.baseline import save as write

    path = Path(name if name.endswith(".parquet") else f"{name}{SUFFIX}")
    size_bytes = write(run, path, previous)
    typer.echo(f"wrote {path} ({size_bytes / 1000:,.0f} kB)", err=True)


@app.command("show")
def show(file: Path = typer.Argument(..., metavar="FILE", help="A file of `evalkit baseline save`.")) -> None:
    """Say which run and which tasks a baseline holds."""
    from evalkit.gate.baseline import read
    from evalkit.reports.text import one_line

    found = read(file)
    typer.echo(one_line(f"{found.run_id}, {found.model.get('name')}"))
    for name, task in found.tasks.items():
        typer.echo(
            one_line(f"{name}: {len(task.columns['task']):,} samples, {_scores(task.entry['metrics'])}")
        )


def _scores(metrics: dict[str, Any]) -> str:
    scores = (f"{name} {100 * estimate['value']:.2f}" for name, estimate in metrics.items())
    return ", ".join(scores) or "no score"

"""`evalkit data`: what benchmark data is there, fetching it, and checking that it is the official release."""

from __future__ import annotations

import typer

from evalkit.cli.options import DATA, OFFLINE
from evalkit.errors import DataError

app = typer.Typer(help="Look for, fetch and verify benchmark data.")


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        status("auto")


@app.command("status")
def status(data: str = DATA) -> None:
    """Say which benchmarks have their files, and where they are looked for."""
    from evalkit import registry
    from evalkit.data import source as sources

    opened = sources.open_source(data, offline=True)
    typer.echo(f"data directory: {opened.root} ({opened.kind})")
    for found in sources.status(map(registry.get_task, registry.task_names()), opened):
        files = ", ".join(f"{split} {n}/{found.expected_files}" for split, n in found.files.items())
        typer.echo(f"{found.task:16} {found.state:9} {files}")
        if found.state == "missing":
            typer.echo(f"{'':16} {found.remedy}")


@app.command("fetch")
def fetch(
    names: list[str] = typer.Argument(..., help="Tasks whose official archives to fetch.", metavar="NAME…"),
    force: bool = typer.Option(False, "--force", help="Fetch again even if the files are there."),
    unverified: bool = typer.Option(
        False, "--unverified", help="Keep an archive whose records differ from the release evalkit knows."
    ),
    offline: bool = OFFLINE,
) -> None:
    """Download official archives from the hub, verify them and unpack them into the user's cache."""
    from evalkit import registry
    from evalkit.data import hub

    for name in names:
        task = registry.get_task(name)
        typer.echo(f"{name}: fetching …", err=True)
        typer.echo(f"{name}: {hub.fetch(task, offline=offline, verify=not unverified, force=force)}")


@app.command("verify")
def verify(
    names: list[str] = typer.Argument(..., help="Tasks whose data to check.", metavar="NAME…"),
    data: str = DATA,
    offline: bool = OFFLINE,
) -> None:
    """Read every record and compare it with the official release."""
    from evalkit import registry
    from evalkit.data import source as sources

    opened = sources.open_source(data, offline=offline)
    problems = []
    for name in names:
        for check in sources.verify(registry.get_task(name), opened):
            typer.echo(f"{name}:{check.split:5} {check.samples:6} samples  {check.problem or 'official'}")
            if check.problem:
                problems.append(f"{name}:{check.split}: {check.problem}")
    if problems:
        raise DataError(f"not the official release: {'; '.join(problems)}")

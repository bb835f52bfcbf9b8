"""`evalkit tasks`: what can be run, and exactly what it asks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from evalkit.cli.options import DATA, DATA_VARIANT, OFFLINE
from evalkit.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from evalkit.task import Protocol, Task

app = typer.Typer(help="List benchmarks, show their protocols, render their prompts.")


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_tasks()


@app.command("list")
def list_tasks() -> None:
    """List tasks and suites."""
    from evalkit import registry

    for name in registry.task_names():
        task = registry.get_task(name)
        protocols = ", ".join(f"{p}*" if p == task.default_protocol else p for p in task.protocols)
        typer.echo(f"{name:16} {task.description}\n{'':16} protocols: {protocols}")
    typer.echo("\nsuites:")
    for suite in registry.suites().values():
        typer.echo(f"{suite.name:16} {suite.description} ({', '.join(suite.tasks)})")
    typer.echo("\n* default. `evalkit tasks show TASK` says more.")


@app.command("show")
def show(spec: str = typer.Argument(..., help="A task spec, for example cmmlu or cmmlu@lm-eval.")) -> None:
    """Show a task: licence, subsets, and how each protocol asks and averages."""
    from evalkit.spec import resolve

    for resolved in resolve(spec):
        task = resolved.task
        typer.echo(f"{task.title}: {task.description}")
        typer.echo(f"  resolves to  {resolved.name}")
        typer.echo(f"  licence      {task.licence}")
        typer.echo(f"  homepage     {task.homepage}")
        sizes = ", ".join(f"{split} {task.sizes[split]:,}" for split in task.splits if split in task.sizes)
        typer.echo(f"  splits       {sizes or ', '.join(task.splits)}")
        typer.echo("  protocols")
        for protocol in task.protocols.values():
            mark = "*" if protocol is resolved.protocol else " "
            typer.echo(
                f"  {mark} {protocol.name:16} {protocol.summary}\n{'':21}default {protocol.default_split}, "
                f"{protocol.default_shots} shots{_examples(task, protocol)}; {protocol.headline}, average: "
                f"{protocol.average}; overlong prompts: {protocol.overlong.policy}\n{'':21}"
                f"source: {protocol.source}"
            )
        if resolved.protocol.groups.members:
            typer.echo("  categories")
        for group, members in resolved.protocol.groups.members.items():
            typer.echo(f"    {group} ({len(members)}): {', '.join(members)}")


def _examples(task: Task, protocol: Protocol) -> str:
    return f" from {protocol.shots_split or task.shots_split}" if protocol.max_shots else ""


@app.command("render")
def render_prompt(
    spec: str = typer.Argument(..., help="A task spec, for example cmmlu@lm-eval:test:5shot."),
    subset: str = typer.Option(None, help="Subset (default: the first one there is)."),
    index: int = typer.Option(0, help="0-based row of the sample in its file."),
    shots: int = typer.Option(None, help="Few-shot examples."),
    split: str = typer.Option(None, help="Split."),
    data: str = DATA,
    data_variant: str = DATA_VARIANT,
    offline: bool = OFFLINE,
) -> None:
    """Print one prompt exactly, byte for byte, with no newline added."""
    from evalkit.data.source import open_source
    from evalkit.preparation import check_variant
    from evalkit.prompts import prompt_text, render
    from evalkit.spec import resolve

    resolved = resolve(spec, shots=shots, split=split)
    if len(resolved) > 1 and subset is not None:  # of a suite, the task that has it
        resolved = [r for r in resolved if subset in r.task.subsets] or resolved
    if len(resolved) > 1:
        raise UsageError(f"'{spec}' is a suite; render one of {', '.join(r.name for r in resolved)}")
    (one,) = resolved
    source = open_source(data, offline=offline, variant=data_variant)
    check_variant([one], source)
    available = source.available(one.task, one.split)
    chosen = subset or available[0]
    if chosen not in one.task.subsets:
        raise unknown_name(f"subset of {one.task.name}", chosen, one.task.subsets)
    samples = source.load(one.task, one.split, chosen)
    if not 0 <= index < len(samples):
        raise UsageError(f"--index {index}: {chosen} ({one.split}) has samples 0 to {len(samples) - 1}")
    examples = source.shots(one, chosen, samples)
    ((_, request),) = render(one, [samples[index]], [examples[index]])
    sys.stdout.buffer.write(prompt_text(request).encode())
    sys.stdout.buffer.flush()

"""`evalkit models`: the models known by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from evalkit.errors import unknown_name

if TYPE_CHECKING:
    from evalkit.presets import Preset

app = typer.Typer(help="List the models known by name.")


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models() -> None:
    """List model names; any folder in transformers format, GGUF file and hub id works as well."""
    from rich.console import Console
    from rich.table import Table

    from evalkit.presets import presets

    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("name", "left"), ("parameters", "right"), ("active", "right"), ("context", "right"),
        ("memory in bfloat16", "right"), ("kind", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for preset in presets().values():
        table.add_row(
            preset.name,
            _count(preset.parameters),
            _count(preset.active_parameters),
            f"{preset.context:,}",
            _gb(preset.memory_bytes("bfloat16")),
            preset.kind,
        )
    # A file or a pipe has no width of its own: give the table what it needs.
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    typer.echo("\n`evalkit models show NAME` says more.")
    typer.echo("A folder in transformers format, a GGUF file or a hub id (org/name) works as --model, too.")


@app.command("show")
def show(name: str = typer.Argument(..., help="A model of `evalkit models list`.")) -> None:
    """Show what is known of a model, the memory it needs, and how to run it."""
    from evalkit.presets import presets

    known = presets()
    if name not in known:
        raise unknown_name("model", name, known)
    for key, value in _facts(known[name]):
        first, *rest = value.splitlines()
        typer.echo(f"{key:20} {first}")
        for line in rest:
            typer.echo(f"{'':20} {line}")


def _facts(preset: Preset) -> Iterator[tuple[str, str]]:
    for key, value in preset.model_dump().items():
        if key == "shape":
            yield "shape", "\n".join(f"{k} = {v}" for k, v in value.items())
        elif isinstance(value, bool):
            yield key, "yes" if value else "no"
        elif isinstance(value, int):
            yield key, f"{value:,}"
        elif value:
            yield key, " ".join(value) if isinstance(value, tuple) else str(value)
    for precision in ("float32", "bfloat16", "int8", "int4"):
        yield f"memory {precision}", _memory(preset, precision)
    yield "tensor_parallel_size", f"{preset.tensor_parallel_size} (GPUs of 80 GB, in {preset.dtype})"
    yield "run it", _command(preset)


def _memory(preset: Preset, precision: str) -> str:
    from evalkit.backends.fits import size_of

    size = size_of(preset, preset.dtype)
    text = f"{_gb(size.needed_bytes(precision))} = {size.arithmetic(precision)}"
    if preset.is_mixture and precision in ("int8", "int4"):
        text += "\n(with engines that quantise experts; --backend hf does not)"
    return text


def _command(preset: Preset) -> str:
    command = f"evalkit run --model {preset.name} --tasks mmlu,ceval,cmmlu"
    if preset.needs_remote_code:
        command += " --trust-remote-code"
    if preset.tensor_parallel_size > 1:
        command += f" --backend vllm --engine-arg tensor_parallel_size={preset.tensor_parallel_size}"
    return command


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f} GB"

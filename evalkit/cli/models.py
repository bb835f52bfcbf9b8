"""`evalkit models`: the models known by name."""

from __future__ import annotations

import typer

from evalkit.errors import unknown_name

app = typer.Typer(help="List the models known by name.")


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models() -> None:
    """List model names; any folder in transformers format and any hub id works as well."""
    from evalkit import presets

    for preset in presets.presets().values():
        typer.echo(f"{preset.name:10} {preset.description}")
    typer.echo("\nA folder in transformers format or a hub id (org/name) works as --model, too.")


@app.command("show")
def show(name: str = typer.Argument(..., help="A model of `evalkit models list`.")) -> None:
    """Show what is known of a model."""
    from evalkit import presets

    known = presets.presets()
    if name not in known:
        raise unknown_name("model", name, known)
    for key, value in known[name].model_dump().items():
        typer.echo(f"{key:14} {value}")

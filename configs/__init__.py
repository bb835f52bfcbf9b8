"""What ships with evalkit as YAML: model presets, suites, table layouts, gate policies, published numbers."""

from __future__ import annotations

from importlib import resources


def shipped(folder: str) -> dict[str, str]:
    """Text of every YAML file in a folder of this package, by its name without the ending, in order."""
    files = [
        file for file in resources.files(__name__).joinpath(folder).iterdir() if file.name.endswith(".yaml")
    ]
    return {
        file.name.removesuffix(".yaml"): file.read_text("utf-8")
        for file in sorted(files, key=lambda f: f.name)
    }

"""Models known by name, from `configs/models/*.yaml`."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict


class Preset(BaseModel):
    """What is known of a model before it is loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    architecture: str
    parameters: int
    context: int
    """Longest input in tokens."""
    licence: str
    source: str
    """Where the weights come from."""


@cache
def presets() -> dict[str, Preset]:
    """All presets by name."""
    folder = resources.files("evalkit.configs") / "models"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    loaded = [Preset.model_validate(yaml.safe_load(f.read_text("utf-8"))) for f in files]
    return {preset.name: preset for preset in loaded}

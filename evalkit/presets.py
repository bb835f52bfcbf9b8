"""Models known by name, from `configs/models/*.yaml`, and what any value of --model stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evalkit.configs import shipped
from evalkit.errors import UsageError

OVERHEAD = 0.1
"""Memory beside the weights as a part of them: activations, keys and values, the engine itself.

XVERSE's README measured 16.2 GB in bfloat16 for 14.6 GB of weights: 0.11.
"""

BYTES_PER_PARAMETER: Mapping[str, float] = {
    "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int4": 0.5,
}  # fmt: skip

_GPU_BYTES = 80e9
_HIDDEN_SIZE = ("hidden_size", "d_model")
_HEADS = ("num_attention_heads", "n_heads")
_EXPERTS = ("num_local_experts", "num_experts")


class Preset(BaseModel):
    """What is known of a model before it is loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """What stands after --model."""
    description: str
    """One line for people."""
    kind: Literal["base", "chat"]
    """Whether it was trained to answer turns of a conversation."""
    hub_id: str | None = None
    """Its name on the Hugging Face hub; None where the weights come from elsewhere, see `source`."""
    revision: str = "main"
    """Branch, tag or commit of the hub model; `main` moves when its authors change it."""
    source: str
    """Where the weights and the facts below come from."""
    licence: str
    """Of the weights."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """Precision the weights are published in."""
    context: int = Field(gt=0)
    """Longest input in tokens."""
    parameters: int = Field(gt=0)
    """All weights."""
    active_parameters: int = Field(gt=0)
    """Weights that one token goes through, embeddings included; fewer than all in a mixture of experts."""
    architecture: str
    """Class name in the model's own configuration."""
    shape: Mapping[str, Any]
    """Settings of transformers that build this architecture with random weights: model_type and sizes."""
    stand_in: str | None = None
    """How `shape` differs from the model where its own code is not part of transformers."""
    needs_remote_code: bool = False
    """Whether it runs only with code of its authors, which needs --trust-remote-code; never set by itself."""
    chat_template: str | None = None
    """Jinja2 text of the conversation format, used where the tokenizer brings none."""
    stop: tuple[str, ...] = ()
    """Texts of the special tokens that end a turn."""
    system_prompt: str | None = None
    """The authors' system turn; their published evaluations left it out, so it is only shown."""

    def memory_bytes(self, precision: str) -> float:
        """Memory to run it in, with the overhead; `precision` is a key of `BYTES_PER_PARAMETER`."""
        return memory_bytes(self.parameters, self.kept_parameters, precision)

    @property
    def kept_parameters(self) -> int:
        """Embeddings and output layer, which int8 and int4 leave in 16 bits."""
        tables = 1 if self.shape.get("tie_word_embeddings") else 2
        return int(tables * self.shape["vocab_size"] * self._size(_HIDDEN_SIZE))

    @property
    def is_mixture(self) -> bool:
        """Whether it is a mixture of experts."""
        return any(key in self.shape for key in _EXPERTS)

    @property
    def tensor_parallel_size(self) -> int:
        """Fewest GPUs of 80 GB that hold it in its own dtype: a power of two that divides the heads."""
        size, heads = 1, self._size(_HEADS)
        while size * _GPU_BYTES < self.memory_bytes(self.dtype) and heads % (2 * size) == 0:
            size *= 2
        return size

    def _size(self, keys: tuple[str, ...]) -> int:
        return int(next(self.shape[key] for key in keys if key in self.shape))


def memory_bytes(parameters: int, kept: int, precision: str) -> float:
    """Memory to run a model in, with the overhead.

    Args:
        parameters: number of all weights.
        kept: those among them that int8 and int4 leave in 16 bits.
        precision: a key of `BYTES_PER_PARAMETER`.
    """
    width = BYTES_PER_PARAMETER[precision]
    weights = parameters * width + (kept * (2 - width) if width < 2 else 0)
    return weights * (1 + OVERHEAD)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a value of --model stands for, the same for every engine."""

    name: str
    """As given: how the model is called in results."""
    location: str
    """Folder, GGUF file or hub id; a demo model's own name, see `path`."""
    revision: str | None
    """Branch, tag or commit of a hub model; None is the hub's default."""
    dtype: str
    """`auto` only where nothing but the checkpoint tells."""
    preset: Preset | None = None
    """What is known of the model, where the name is a preset's."""

    def path(self) -> str:
        """Folder, GGUF file or hub id to load from; a demo model is built on first use.

        Raises:
            UsageError: what the demo models are made of is not installed.
        """
        from evalkit import demo_models

        return str(demo_models.ensure(self.name)) if self.name in demo_models.NAMES else self.location

    @property
    def is_gguf(self) -> bool:
        """Whether it is a file in llama.cpp's format."""
        return self.location.endswith(".gguf")

    @property
    def chat_template(self) -> str | None:
        """The preset's conversation format."""
        return self.preset.chat_template if self.preset else None

    @property
    def stop(self) -> tuple[str, ...]:
        """The preset's ends of a turn."""
        return self.preset.stop if self.preset else ()


def resolve(name: str, *, revision: str | None = None, dtype: str = "auto") -> ModelSource:
    """Find out what a value of --model stands for; nothing is downloaded or checked.

    Args:
        name: a preset, folder, GGUF file or hub id; a preset goes before a folder of the same name.
        revision: what the user asked for; None takes the preset's.
        dtype: what the user asked for; `auto` takes the preset's.
    """
    preset = presets().get(name)
    if preset is None:
        return ModelSource(name, name, revision, dtype)
    return ModelSource(
        name,
        location=preset.hub_id or name,
        revision=(revision or preset.revision) if preset.hub_id else revision,
        dtype=preset.dtype if dtype == "auto" else dtype,
        preset=preset,
    )


@cache
def presets() -> dict[str, Preset]:
    """All presets by name."""
    loaded = [parse(text, f"{name}.yaml") for name, text in shipped("models").items()]
    return {preset.name: preset for preset in sorted(loaded, key=lambda p: p.name)}


def parse(text: str, file: str) -> Preset:
    """Read one preset.

    Args:
        text: its YAML.
        file: its file name, which must be the preset's name.

    Raises:
        UsageError: a field is missing, unknown or wrong.
    """
    try:
        preset = Preset.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: not a model preset: {error}") from error
    if Path(file).stem != preset.name:
        raise UsageError(f"{file}: the preset in it is called '{preset.name}'; name the file after it")
    return preset

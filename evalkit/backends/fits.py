"""Does a model fit into memory? Answered with the arithmetic, before anything is downloaded or loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.backends import gguf_file
from evalkit.errors import UsageError
from evalkit.presets import BYTES_PER_PARAMETER, OVERHEAD, ModelSource, Preset, memory_bytes

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class Size:
    """What decides how much memory a model needs."""

    parameters: int
    kept: int
    """Those that int8 and int4 leave in 16 bits."""
    precision: str
    """Of the weights as they are loaded, unless they are quantised."""
    quantizable: bool
    """Whether bitsandbytes can narrow most of it while loading."""

    def needed_bytes(self, precision: str) -> float:
        """Memory to run it in `precision`, with the overhead."""
        return memory_bytes(self.parameters, self.kept, precision)

    def arithmetic(self, precision: str) -> str:
        """How that number comes about."""
        width = BYTES_PER_PARAMETER[precision]
        kept = f", {_billions(self.kept)} of them x 2," if width < 2 else ""
        plural = "byte" if width == 1 else "bytes"
        return (
            f"{_billions(self.parameters)} parameters x {width:g} {plural}{kept} "
            f"+ {100 * OVERHEAD:.0f} % for activations and cache"
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """Where a model would be held."""

    size_bytes: int
    description: str
    gpus: tuple[int, ...] = ()
    """Bytes of every GPU of this machine."""


def check_fits(
    model: ModelSource,
    *,
    device: str = "auto",
    quantization: str | None = None,
    n_gpus: int = 1,
    dummy: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Refuse a model that this machine cannot hold.

    Presets, folders and GGUF files are checked; of other hub models the size is not known beforehand.

    Args:
        model: what --model stands for.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        quantization: `int8` or `int4`, where the weights are quantised while loading.
        n_gpus: over how many GPUs the engine spreads one model.
        dummy: whether the weights are made up, so that a configuration is enough.
        trust_remote_code: whether code that comes with the model may run to count such weights.

    Raises:
        UsageError: it does not fit; with the arithmetic and what to do instead.
    """
    size = model_size(model, dummy=dummy, trust_remote_code=trust_remote_code)
    memory = machine_memory(device, n_gpus) if size else None
    if size is None or memory is None:
        return
    precision = quantization or size.precision
    needed = size.needed_bytes(precision)
    if needed <= memory.size_bytes:
        return
    raise UsageError(
        f"{model.name} needs {_gb(needed)} in {precision} ({size.arithmetic(precision)}), "
        f"{memory.description}; use {_remedies(size, precision, memory, size.quantizable and not dummy)}"
    )


def _remedies(size: Size, precision: str, memory: Memory, quantizable: bool) -> str:
    found = ["--backend openai with a server that holds it"]
    needed = size.needed_bytes(precision)
    if memory.size_bytes < needed <= sum(memory.gpus):
        n = next(n for n in range(2, len(memory.gpus) + 1) if needed <= sum(memory.gpus[:n]))
        found.append(f"--backend vllm --engine-arg tensor_parallel_size={n}")
    if BYTES_PER_PARAMETER[precision] > 2:
        found.append(f"--dtype bfloat16 ({_gb(size.needed_bytes('bfloat16'))})")
    if precision != "int4" and quantizable:
        found.append(f"--quantization int4 ({_gb(size.needed_bytes('int4'))}, needs a GPU)")
    return ", ".join([*found, "or a larger machine"])


def machine_memory(device: str, n_gpus: int = 1) -> Memory | None:
    """Memory of the device, or of the first `n_gpus` GPUs together; None if there is no such device."""
    import psutil

    gpus = () if device == "cpu" else gpu_bytes()
    if device == "cpu" or (device == "auto" and not gpus):
        total = psutil.virtual_memory().total
        lacking = "" if device == "cpu" else " and no GPU"
        return Memory(total, f"this machine has {_gb(total)} of memory{lacking}")
    first = int(device.partition(":")[2] or 0) if n_gpus == 1 and device[-1].isdigit() else 0
    chosen = gpus[first : first + n_gpus]
    if len(chosen) < n_gpus:
        return None
    what = "the GPU has" if n_gpus == 1 else f"{n_gpus} GPUs have"
    return Memory(sum(chosen), f"{what} {_gb(sum(chosen))} of memory", gpus)


def gpu_bytes() -> tuple[int, ...]:
    """Memory of every GPU that torch can use."""
    try:
        import torch
    except ImportError:  # without torch no engine of this machine runs a model
        return ()
    devices = range(torch.cuda.device_count())
    return tuple(torch.cuda.get_device_properties(i).total_memory for i in devices)


def model_size(model: ModelSource, *, dummy: bool = False, trust_remote_code: bool = False) -> Size | None:
    """Size of a preset, a folder in transformers format or a GGUF file; None where it cannot be told."""
    if model.preset is not None:
        return size_of(model.preset, model.dtype)
    path = Path(model.location)
    if model.is_gguf and path.is_file():
        facts = gguf_file.read(path)
        # Transformers turns the weights back into numbers of full width.
        dtype = "float32" if model.dtype == "auto" else model.dtype
        return Size(facts.parameters, 0, dtype, quantizable=False)
    config_file = path / "config.json"
    if not config_file.is_file():
        return None
    config = json.loads(config_file.read_text("utf-8"))
    precision = model.dtype if model.dtype != "auto" else config.get("dtype") or config.get("torch_dtype")
    # The tensors of a quantised checkpoint are packed: their shapes do not count weights.
    if precision not in BYTES_PER_PARAMETER or "quantization_config" in config:
        return None
    shapes = _meta_shapes(model, trust_remote_code) if dummy else list(_stored_shapes(path))
    return _counted(shapes, config, precision) if shapes else None


def size_of(preset: Preset, dtype: str) -> Size:
    """Size of a preset whose weights are loaded in `dtype`."""
    return Size(preset.parameters, preset.kept_parameters, dtype, quantizable=not preset.is_mixture)


def _counted(shapes: Sequence[Sequence[int]], config: Mapping[str, Any], precision: str) -> Size:
    vocabulary = config.get("vocab_size")
    kept = sum(math.prod(shape) for shape in shapes if shape and shape[0] == vocabulary)
    # Transformers keeps all experts of a layer in one tensor, which bitsandbytes does not quantise.
    mixture = any(config.get(key) for key in _EXPERTS)
    return Size(sum(map(math.prod, shapes)), kept, precision, quantizable=not mixture)


def _stored_shapes(folder: Path) -> Iterator[list[int]]:
    """Shapes of all tensors, from the headers of the safetensors files."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        yield from (entry["shape"] for name, entry in header.items() if name != "__metadata__")


def _meta_shapes(model: ModelSource, trust_remote_code: bool) -> list[list[int]]:
    from evalkit.backends.dummy import shapes

    return shapes(model, trust_remote_code=trust_remote_code)


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.0f} GB" if size_bytes >= 10e9 else f"{size_bytes / 1e9:.1f} GB"


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count < 10e9 else f"{count / 1e9:.1f} billion"

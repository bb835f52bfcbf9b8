"""Linear layers in 8 or 4 bits, quantised by bitsandbytes while a model is loaded.

In int4 only the weights are narrow. In int8 activations are too, and which of them stay wide as outliers
depends on everything in the batch, so that int8 scores differ between batches; the equality gate measures
by how much and refuses the run where it is too much.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from evalkit.backends.fits import gpu_bytes
from evalkit.errors import UsageError, unknown_name
from evalkit.presets import ModelSource

KINDS = {"int8": "LLM.int8", "int4": "NF4"}
"""Precision to bitsandbytes' name of it."""


def check(source: ModelSource, precision: str, *, device: str, dummy: bool) -> None:
    """Refuse what cannot be quantised, before anything is downloaded.

    Raises:
        UsageError: an unknown precision, no GPU, no bitsandbytes, or a model of another kind.
    """
    if precision not in KINDS:
        raise unknown_name("value for --quantization", precision, KINDS)
    asked = f"--quantization {precision}"
    if dummy:
        raise UsageError(f"{asked}: random weights are not quantised; leave one of the two options out")
    if source.is_gguf:
        raise UsageError(f"{asked}: {source.name} is quantised already; leave the option out")
    if source.preset is not None and source.preset.is_mixture:
        raise UsageError(_experts(source.name, asked))
    if device == "cpu" or not gpu_bytes():
        where = "--device is cpu" if device == "cpu" else "this machine has none that torch can use"
        raise UsageError(f"{asked} needs an NVIDIA GPU, and {where}; leave the option out")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"{asked} needs bitsandbytes: pip install 'evalkit[quantization]'")


def arguments(precision: str, dtype: Any, device: Any) -> dict[str, Any]:
    """What `from_pretrained` needs to quantise; `dtype` is what layers compute in, or `auto`."""
    import torch
    from transformers import BitsAndBytesConfig

    # It says for every layer and call that int8 is multiplied in float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    compute = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if precision == "int8"
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    )
    return {"quantization_config": config, "device_map": {"": device}}


def check_done(name: str, model: Any) -> None:
    """Refuse a model that stayed as wide as it was.

    Raises:
        UsageError: most of its weights are not in layers that bitsandbytes replaces.
    """
    import torch

    narrow = sum(p.numel() for p in model.parameters() if p.dtype in (torch.int8, torch.uint8))
    wide = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n and p.is_floating_point())
    if wide > narrow:
        raise UsageError(_experts(name, "--quantization"))


def describe(precision: str, model: Any) -> str:
    """For the manifest: which layers have which precision."""
    rest = str(model.dtype).removeprefix("torch.")
    return f"linear layers in {precision} (bitsandbytes {KINDS[precision]}), all else in {rest}"


def _experts(name: str, asked: str) -> str:
    return (
        f"{asked}: {name} is a mixture of experts, whose experts transformers keeps in one tensor per layer "
        "that bitsandbytes does not quantise; name a GGUF file of it, or use --backend openai or vllm with "
        "a quantised checkpoint"
    )

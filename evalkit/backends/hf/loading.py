"""Load a transformers model by preset, folder, GGUF file or hub id, and fingerprint it."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from evalkit._version import __version__
from evalkit.backends import dummy, gguf_file
from evalkit.backends.base import ModelInfo
from evalkit.backends.hf import quantized
from evalkit.backends.identity import fingerprint, weights_id
from evalkit.backends.tokenizer import HfTokenizer, load_tokenizer, pretrained, reason
from evalkit.errors import UsageError
from evalkit.presets import ModelSource, resolve

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer and identity."""

    model: Any
    tokenizer: HfTokenizer
    info: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is loaded."""

    dtype: str = "auto"
    """One of `DTYPES`, or `auto`: the preset's or the checkpoint's own; float32 for a GGUF file."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, or `auto` (a GPU where there is one)."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; None takes the preset's."""
    offline: bool = False
    """Use only what is already on this machine."""
    load_format: str = "auto"
    """`dummy` builds the model's shape with random weights."""
    quantization: str | None = None
    """`int8` or `int4`: quantise the linear layers with bitsandbytes while loading."""


def load(name: str, options: LoadOptions) -> LoadedModel:
    """Load model and tokenizer.

    Args:
        name: a preset, a folder in transformers format, a GGUF file, or a hub id.
        options: how.

    Raises:
        UsageError: no such model, no tokenizer, device not there, or the model cannot be quantised.
    """
    where = _device(options.device)
    source = resolve(name, revision=options.revision, dtype=options.dtype)
    made_up = options.load_format == "dummy"
    if options.quantization:
        quantized.check(source, options.quantization, device=options.device, dummy=made_up)
    if made_up:
        return _build(source, where, options)
    path = source.path()
    common = {
        "trust_remote_code": options.trust_remote_code,
        "revision": source.revision,
        "local_files_only": options.offline,
    }
    tokenizer = load_tokenizer(path, chat_template=source.chat_template, stop=source.stop, **common)
    dtype = DTYPES.get(source.dtype, torch.float32 if source.is_gguf else "auto")
    if options.quantization:
        common |= quantized.arguments(options.quantization, dtype, where)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(**pretrained(path), dtype=dtype, **common)
        # Quantised weights are where they belong already, and some kinds refuse to be moved.
        model = (model if options.quantization else model.to(where)).eval()
    except Exception as error:  # a damaged file, a missing library, a full device: each its own type
        raise UsageError(f"cannot load the model '{name}': {reason(name, error)}") from error
    if options.quantization:
        quantized.check_done(name, model)
    weights = weights_id(path, getattr(model.config, "_commit_hash", None))
    weights = " ".join(filter(None, [weights, options.quantization]))
    shown = _shown_name(source, path, options.quantization)
    details = _origin(source, path, model, options.quantization)
    return LoadedModel(model, tokenizer, _info(shown, weights, model, tokenizer, details))


def _origin(source: ModelSource, path: str, model: Any, quantization: str | None) -> dict[str, Any]:
    """For the manifest: where the weights are from and what was done to them."""
    details = {}
    if source.preset and source.preset.hub_id:
        details["source"] = f"{source.location}@{source.revision}"
    if quantization:
        details["quantization"] = quantized.describe(quantization, model)
    elif source.is_gguf:
        precision = gguf_file.read(Path(path)).precision
        details["quantization"] = f"{precision} (GGUF), widened to {_dtype_name(model)} while loading"
    return details


def _build(source: ModelSource, where: torch.device, options: LoadOptions) -> LoadedModel:
    """The model's shape with random weights."""
    trust = options.trust_remote_code
    config, tokenizer, origin = dummy.configure(source, trust_remote_code=trust, offline=options.offline)
    dtype = DTYPES.get(source.dtype) or config.dtype or torch.float32
    try:
        model = dummy.build(config, dtype=dtype, device=where, trust_remote_code=trust)
    except Exception as error:  # sizes that do not go together, a full device
        raise UsageError(f"cannot build '{source.name}': {reason(source.name, error)}") from error
    details = {"random_weights": True, "tokenizer": origin}
    if source.preset and source.preset.stand_in:
        details["stand_in"] = source.preset.stand_in
    shown = f"{_shown_name(source, source.location, None)} (random weights)"
    weights = f"random {dummy.SEED} {config.to_json_string()}"
    return LoadedModel(model, tokenizer, _info(shown, weights, model, tokenizer, details))


def _shown_name(source: ModelSource, path: str, quantization: str | None) -> str:
    """The model's name in results, with its precision where that is not a plain checkpoint's."""
    if source.is_gguf:
        precision = gguf_file.read(Path(path)).precision
        stem = Path(path).stem
        return f"{stem.removesuffix(f'.{precision}').removesuffix(f'-{precision}')} ({precision} gguf)"
    is_folder = source.preset is None and Path(path).is_dir()
    name = Path(path).name if is_folder else source.name
    return f"{name} ({quantization})" if quantization else name


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{device}'; use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device '{device}' is not there: torch sees {torch.cuda.device_count()} CUDA devices"
        )
    return chosen


def _dtype_name(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def _info(name: str, weights: str, model: Any, tokenizer: HfTokenizer, extra: dict[str, Any]) -> ModelInfo:
    dtype = _dtype_name(model)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "evalkit": __version__}
    details = {
        "architecture": model.config.architectures[0] if model.config.architectures else type(model).__name__,
        "parameters": model.num_parameters(),
        "device": str(model.device),
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "leading_ids": list(tokenizer.leading_ids),
        "weights": weights,
        "tokenizer": _tokenizer_id(tokenizer.tokenizer),
    }
    if model.device.type == "cuda":
        details["gpu"] = torch.cuda.get_device_name(model.device)
    return ModelInfo(
        name=name,
        backend="hf",
        dtype=dtype,
        fingerprint=fingerprint(weights, dtype, type(tokenizer.tokenizer).__name__, *versions.values()),
        max_length=_max_length(model.config.get_text_config(), tokenizer.tokenizer),
        details=details | extra,
    )


def _tokenizer_id(tokenizer: Any) -> str:
    """Content hash of everything that decides how text becomes ids."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    text = fast.to_str() if fast is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _max_length(config: Any, tokenizer: Any) -> int:
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        if isinstance(value := getattr(config, key, None), int):
            return value
    # Tokenizers without a limit report an absurdly large one.
    return int(tokenizer.model_max_length) if tokenizer.model_max_length < 1 << 24 else 2048

"""Load a transformers model by demo name, local folder or hub id, and fingerprint it."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from evalkit import demo_models
from evalkit._version import __version__
from evalkit.backends.base import ModelInfo
from evalkit.backends.tokenizer import HfTokenizer, load_tokenizer, reason
from evalkit.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer and identity."""

    model: Any
    tokenizer: HfTokenizer
    info: ModelInfo


def load(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    offline: bool = False,
) -> LoadedModel:
    """Load model and tokenizer.

    Args:
        name: `demo`, `demo-moe`, a local folder in transformers format, or a hub id.
        dtype: one of `DTYPES`, or `auto` for the checkpoint's own.
        device: `cpu`, `cuda`, `cuda:N`, or `auto` (a GPU where there is one).
        trust_remote_code: whether code that comes with the model may run.
        revision: branch, tag or commit of a hub model.
        offline: use only what is already on this machine.

    Raises:
        UsageError: no such model, no tokenizer, device not there.
    """
    where = _device(device)
    source = str(demo_models.ensure(name)) if name in demo_models.NAMES else name
    common = {"trust_remote_code": trust_remote_code, "revision": revision, "local_files_only": offline}
    tokenizer = load_tokenizer(source, **common)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=DTYPES.get(dtype, "auto"), **common
        )
        model = model.to(where).eval()
    except Exception as error:  # a damaged file, a missing library, a full device: each its own type
        raise UsageError(f"cannot load the model '{name}': {reason(name, error)}") from error
    return LoadedModel(model, tokenizer, _info(name, source, model, tokenizer))


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


def _info(name: str, source: str, model: Any, tokenizer: HfTokenizer) -> ModelInfo:
    dtype = str(model.dtype).removeprefix("torch.")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "evalkit": __version__}
    digest = hashlib.sha256()
    for part in (_weights_id(source, model), dtype, type(tokenizer.tokenizer).__name__, *versions.values()):
        digest.update(part.encode() + b"\0")
    details = {
        "architecture": model.config.architectures[0] if model.config.architectures else type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": str(model.device),
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "leading_ids": list(tokenizer.leading_ids),
    }
    if model.device.type == "cuda":
        details["gpu"] = torch.cuda.get_device_name(model.device)
    return ModelInfo(
        name=name if name in demo_models.NAMES else Path(name).name if Path(name).is_dir() else name,
        backend="hf",
        dtype=dtype,
        fingerprint=f"sha256:{digest.hexdigest()}",
        max_length=_max_length(model.config.get_text_config(), tokenizer.tokenizer),
        details=details,
    )


def _weights_id(source: str, model: Any) -> str:
    """The hub commit, or the content hash of every file of a local folder."""
    folder = Path(source)
    if not folder.is_dir():
        return f"{source}@{getattr(model.config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _max_length(config: Any, tokenizer: Any) -> int:
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        if isinstance(value := getattr(config, key, None), int):
            return value
    # Tokenizers without a limit report an absurdly large one.
    return int(tokenizer.model_max_length) if tokenizer.model_max_length < 1 << 24 else 2048

"""Load a transformers model by demo name, local folder or hub id, and fingerprint it."""

from __future__ import annotations

import difflib
import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from evalkit import demo_models
from evalkit._version import __version__
from evalkit.backends.base import ModelInfo
from evalkit.errors import UsageError
from evalkit.tokens import Ids
from evalkit.types import Message

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
    tokenizer = _load_tokenizer(source, common)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=DTYPES.get(dtype, "auto"), **common
        )
        model = model.to(where).eval()
    except Exception as error:  # a damaged file, a missing library, a full device: each its own type
        raise UsageError(f"cannot load the model '{name}': {_reason(name, error)}") from error
    return LoadedModel(model, HfTokenizer(tokenizer), _info(name, source, model, tokenizer))


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


def _load_tokenizer(source: str, common: dict[str, Any]) -> Any:
    if (folder := Path(source)).is_dir() and not (folder / "config.json").is_file():
        raise UsageError(f"the folder '{source}' holds no model (no config.json in it)")
    try:
        return transformers.AutoTokenizer.from_pretrained(source, **common)
    except Exception as error:
        raise UsageError(
            f"cannot load a tokenizer for '{source}': {_reason(source, error)}; a model needs its tokenizer "
            "files (tokenizer.json or tokenizer.model) beside its weights"
        ) from error


def _reason(name: str, error: Exception) -> str:
    """One line on what went wrong, with the remedy where it is known."""
    message = str(error).strip() or type(error).__name__
    if "trust_remote_code" in message:
        return "it needs Python code of its own; --trust-remote-code lets it run, if you trust its authors"
    near = difflib.get_close_matches(name, demo_models.NAMES)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{message.splitlines()[0]}{hint}"


def _info(name: str, source: str, model: Any, tokenizer: Any) -> ModelInfo:
    dtype = str(model.dtype).removeprefix("torch.")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "evalkit": __version__}
    digest = hashlib.sha256()
    for part in (_weights_id(source, model), dtype, tokenizer.__class__.__name__, *versions.values()):
        digest.update(part.encode() + b"\0")
    details = {
        "architecture": model.config.architectures[0] if model.config.architectures else type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": str(model.device),
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "leading_ids": list(HfTokenizer(tokenizer).leading_ids),
    }
    if model.device.type == "cuda":
        details["gpu"] = torch.cuda.get_device_name(model.device)
    return ModelInfo(
        name=name if name in demo_models.NAMES else Path(name).name if Path(name).is_dir() else name,
        backend="hf",
        dtype=dtype,
        fingerprint=f"sha256:{digest.hexdigest()}",
        max_length=_max_length(model.config.get_text_config(), tokenizer),
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


class HfTokenizer:
    """A transformers tokenizer as the encoder wants it."""

    def __init__(self, tokenizer: Any) -> None:
        """Work out what the tokenizer puts in front of a text of its own accord."""
        self.tokenizer = tokenizer
        plain = tokenizer.encode("a", add_special_tokens=False)
        full = tokenizer.encode("a")
        lead = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
        self.leading_ids: tuple[int, ...] = tuple(full[:lead])
        self.prefix_id: int = _first_of(tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
        self.end_ids: tuple[int, ...] = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.has_chat_template = bool(tokenizer.chat_template)
        self._rust = getattr(tokenizer, "_tokenizer", None)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, without special tokens added."""
        if self._rust is not None:
            batch = self._rust.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.asarray(encoding.ids, np.int32) for encoding in batch]
        return [np.asarray(self.tokenizer.encode(t, add_special_tokens=False), np.int32) for t in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out and blanks exactly as generated."""
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def chat(self, messages: Sequence[Message]) -> str:
        """Text of a conversation up to where the assistant's next turn begins.

        Raises:
            UsageError: the template refuses the conversation.
        """
        turns = [{"role": m.role, "content": m.content} for m in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program and fails as it likes
            raise UsageError(
                f"the model's chat template refuses the prompt: {error}; --no-chat sends it as plain text"
            ) from error
        return text


def _first_of(*ids: int | None) -> int:
    return next(i for i in ids if i is not None)

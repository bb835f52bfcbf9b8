"""Starting vLLM: its settings from ours, and what it says of itself."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from evalkit._version import __version__
from evalkit.backends import dummy
from evalkit.backends.base import ModelInfo
from evalkit.backends.identity import VLLM, fingerprint, version, weights_id
from evalkit.backends.opening import EngineOptions
from evalkit.backends.tokenizer import HfTokenizer, end_ids, load_tokenizer
from evalkit.errors import UsageError, unknown_name
from evalkit.presets import ModelSource, resolve

_log = logging.getLogger(__name__)

_CPU_CACHE_BYTES = 4 << 30
_CPU_BLOCK_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Started:
    """A running engine with its tokenizer and identity."""

    engine: Any
    """`vllm.LLMEngine`."""
    tokenizer: HfTokenizer
    end_ids: frozenset[int]
    """Tokens with which the model ends its answer."""
    info: ModelInfo


def start(options: EngineOptions) -> Started:
    """Load a model into an engine of this process.

    Raises:
        UsageError: no such model or setting, or the engine cannot hold it.
    """
    _quieten()
    from vllm import EngineArgs, LLMEngine

    model = resolve(options.model, revision=options.revision, dtype=options.dtype)
    extra = _extra(options.engine_args, EngineArgs)
    with tempfile.TemporaryDirectory() as scratch:
        details: dict[str, Any] = {}
        if options.load_format == "dummy":
            path = scratch
            details["random_weights"] = True
            details["tokenizer"] = dummy.write_folder(
                model, Path(scratch), trust_remote_code=options.trust_remote_code, offline=options.offline
            )
        else:
            path = model.path()
        tokenizer = load_tokenizer(
            path,
            chat_template=model.chat_template,
            stop=model.stop,
            revision=model.revision,
            trust_remote_code=options.trust_remote_code,
            local_files_only=options.offline,
        )
        try:
            engine = LLMEngine.from_engine_args(EngineArgs(**_arguments(path, model, options) | extra))
        except Exception as error:  # a missing file, a full device, an unsupported model: each its own type
            raise UsageError(
                f"vLLM cannot start '{options.model}': {_first_line(error)} (its own log is above); where "
                "memory is short, --engine-arg max_model_len=… or gpu_memory_utilization=… help"
            ) from error
        info = _info(options, path, engine, tokenizer, details)
        settings = engine.vllm_config.model_config.try_get_generation_config()
        ends = end_ids(settings.get("eos_token_id"), tokenizer)
    return Started(engine, tokenizer, ends, info)


def _quieten() -> None:
    """Settings vLLM reads from the environment; what the user has set stays."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def _arguments(path: str, model: ModelSource, options: EngineOptions) -> dict[str, Any]:
    from vllm.platforms import current_platform

    device = options.device.partition(":")[0]
    if device == "cuda" and not current_platform.is_cuda_alike():
        raise UsageError("--device cuda: this vLLM was built for another device; use --device auto")
    arguments: dict[str, Any] = {
        "model": path,
        "dtype": model.dtype,
        "revision": model.revision,
        "trust_remote_code": options.trust_remote_code,
        "load_format": options.load_format,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        # Logits rounded to half precision make options tie that are not equal.
        "hf_overrides": {"head_dtype": "float32"},
        "seed": 0,
    }
    if current_platform.is_cpu():
        # Compiling takes minutes there and gains little; only whole blocks of a prefix are cached, so that
        # the platform's own 128 tokens leave much to be computed again.
        arguments |= {"enforce_eager": True, "block_size": _CPU_BLOCK_TOKENS}
        # Not by the environment, which would win over what the user asks for.
        arguments["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    if options.batch_tokens is not None:
        arguments["max_num_batched_tokens"] = options.batch_tokens
    return arguments


def _extra(given: Mapping[str, str], known_by: type) -> dict[str, Any]:
    """`--engine-arg` settings, by vLLM's own names; their values are read as YAML."""
    known = {f.name for f in dataclasses.fields(known_by)}
    for name in given:
        if name not in known:
            raise unknown_name("--engine-arg of vLLM", name, known)
    return {name: yaml.safe_load(value) for name, value in given.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _info(
    options: EngineOptions, path: str, engine: Any, tokenizer: HfTokenizer, extra: dict[str, Any]
) -> ModelInfo:
    config = engine.vllm_config
    dtype = str(config.model_config.dtype).removeprefix("torch.")
    versions = {
        "torch": torch.__version__,
        "vllm": str(version(*VLLM)),
        "transformers": str(version("transformers")),
        "evalkit": __version__,
    }
    parallel = config.parallel_config
    commit = getattr(config.model_config.hf_config, "_commit_hash", None) or config.model_config.revision
    identity = weights_id(path, commit)
    settings = {name: str(value) for name, value in sorted(options.engine_args.items())}
    details = {
        "architecture": config.model_config.architecture,
        "device": config.device_config.device_type,
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "parallel": {
            "tensor": parallel.tensor_parallel_size,
            "pipeline": parallel.pipeline_parallel_size,
            "data": parallel.data_parallel_size,
        },
        "engine_args": settings,
        "versions": versions,
        "leading_ids": list(tokenizer.leading_ids),
    }
    parts = (identity, dtype, str(config.model_config.quantization), type(tokenizer.tokenizer).__name__)
    name = Path(options.model).name if Path(options.model).exists() else options.model
    return ModelInfo(
        name=f"{name} (random weights)" if "random_weights" in extra else name,
        backend="vllm",
        dtype=dtype,
        fingerprint=fingerprint(*parts, repr(settings), *versions.values()),
        # Of a scored sequence the last token is sent as well, and one more is always generated.
        max_length=config.model_config.max_model_len - 2,
        details=details | extra,
    )

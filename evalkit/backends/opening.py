"""From what a user asks for on the command line to a backend; engines are imported only when chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from evalkit.backends.base import Backend
from evalkit.backends.openai.address import clean_url, find_address
from evalkit.errors import UsageError, unknown_name
from evalkit.presets import resolve


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What decides which engine answers, and how."""

    model: str
    """Name of a preset, folder in transformers format, GGUF file, or hub id; a server's name of the model."""
    backend: str = "hf"
    dtype: str = "auto"
    device: str = "auto"
    batch_tokens: int | None = None
    """Token budget of one forward pass; None leaves it to the engine."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    offline: bool = False
    base_url: str | None = None
    """Of an OpenAI-compatible server."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer, where the engine cannot tell it."""
    load_format: str = "auto"
    """`dummy` builds the model's shape with random weights."""
    quantization: str | None = None
    """`int8` or `int4` while loading; None keeps the checkpoint's own precision."""
    engine_args: dict[str, str] = field(default_factory=dict)
    """Further settings of the engine by its own names."""

    def to_json(self) -> dict[str, Any]:
        """What tells runs apart, as written to the manifest; what is at its default says nothing."""
        defaults = EngineOptions(self.model)
        always = {"backend", "dtype", "device", "revision", "batch_tokens"}
        described = {k: v for k, v in asdict(self).items() if k in always or v != getattr(defaults, k)}
        for name in ("model", "trust_remote_code", "offline"):
            described.pop(name, None)
        if self.base_url:
            described["base_url"] = clean_url(self.base_url)
        return described


def _mock(options: EngineOptions) -> Backend:
    from evalkit.backends.mock import MockBackend

    return MockBackend(options.model)


def _hf(options: EngineOptions) -> Backend:
    try:
        from evalkit.backends.hf.backend import HfBackend
    except ImportError as error:
        raise UsageError(
            f"the hf backend needs {error.name or error}: pip install 'evalkit[hf]' "
            "(on a machine without a GPU, install torch's CPU build first)"
        ) from error
    return HfBackend.from_name(
        options.model,
        dtype=options.dtype,
        device=options.device,
        batch_tokens=options.batch_tokens,
        trust_remote_code=options.trust_remote_code,
        revision=options.revision,
        offline=options.offline,
        load_format=options.load_format,
        quantization=options.quantization,
    )


def _check_hf(options: EngineOptions) -> None:
    from evalkit.backends.hf import quantized

    if options.quantization:
        model = resolve(options.model, revision=options.revision, dtype=options.dtype)
        dummy = options.load_format == "dummy"
        quantized.check(model, options.quantization, device=options.device, dummy=dummy)
    _check_model(options)


def _vllm(options: EngineOptions) -> Backend:
    try:
        from evalkit.backends.vllm.backend import VllmBackend
    except ImportError as error:
        raise UsageError(
            f"the vllm backend needs {error.name or error}: pip install 'evalkit[vllm]' "
            "(on a machine without a GPU, see the README)"
        ) from error
    return VllmBackend.open(replace(options, engine_args=_spread(options) | options.engine_args))


def _check_vllm(options: EngineOptions) -> None:
    # How much smaller vLLM's own quantisation makes a model is not known here.
    sized = "quantization" not in options.engine_args
    _check_model(options, sized=sized, n_gpus=_parallel(_spread(options) | options.engine_args))


def _spread(options: EngineOptions) -> dict[str, str]:
    """Over how many GPUs the preset of a model wants it spread, where there are as many."""
    from evalkit.backends.fits import gpu_bytes

    preset = resolve(options.model).preset
    if preset is None or not 1 < preset.tensor_parallel_size <= len(gpu_bytes()):
        return {}
    return {"tensor_parallel_size": str(preset.tensor_parallel_size)}


def _parallel(engine_args: Mapping[str, str]) -> int:
    """GPUs over which vLLM spreads one copy of the model."""
    sizes = (engine_args.get(f"{kind}_parallel_size", "1") for kind in ("tensor", "pipeline"))
    return math.prod(int(size) if size.isdigit() else 1 for size in sizes)


def _check_model(options: EngineOptions, *, sized: bool = True, n_gpus: int = 1) -> None:
    """Is there such a model, and does this machine hold it?"""
    from evalkit.backends.fits import check_fits
    from evalkit.backends.model_name import check_model

    model = resolve(options.model, revision=options.revision, dtype=options.dtype)
    dummy = options.load_format == "dummy"
    if sized:
        check_fits(
            model,
            device=options.device,
            quantization=options.quantization,
            n_gpus=n_gpus,
            dummy=dummy,
            trust_remote_code=options.trust_remote_code,
        )
    if not (dummy and model.preset):  # whose shape is known here
        check_model(options.model, revision=options.revision, offline=options.offline)


def _openai(options: EngineOptions) -> Backend:
    from evalkit.backends.openai.backend import OpenAiBackend

    return OpenAiBackend.connect(
        options.model,
        base_url=options.base_url,
        tokenizer=options.tokenizer,
        trust_remote_code=options.trust_remote_code,
        offline=options.offline,
        engine_args=options.engine_args,
    )


def _check_openai(options: EngineOptions) -> None:
    find_address(options.base_url)


def _nothing_to_check(options: EngineOptions) -> None:
    """Nothing can be said without asking the engine itself."""


@dataclass(frozen=True, slots=True)
class _Engine:
    open: Callable[[EngineOptions], Backend]
    check: Callable[[EngineOptions], None]
    takes: frozenset[str]
    """Fields of `EngineOptions` that mean something to it."""


_LOADING = frozenset(
    {"dtype", "device", "batch_tokens", "revision", "trust_remote_code", "offline", "load_format"}
)
_SERVER = frozenset({"base_url", "tokenizer", "trust_remote_code", "offline", "engine_args"})

BACKENDS = {
    "hf": _Engine(_hf, _check_hf, _LOADING | {"quantization"}),
    "vllm": _Engine(_vllm, _check_vllm, _LOADING | {"engine_args"}),
    "openai": _Engine(_openai, _check_openai, _SERVER),
    "mock": _Engine(_mock, _nothing_to_check, _LOADING - {"load_format"}),
}
"""Backends by name."""


def check(options: EngineOptions) -> None:
    """Find out what can be known to go wrong before an engine is imported or data are read.

    Raises:
        UsageError: no such backend or model, an option it does not take, or this machine cannot hold it.
    """
    engine = _engine(options)
    defaults = EngineOptions(options.model, options.backend)
    for name, value in asdict(options).items():
        if value != getattr(defaults, name) and name not in {"model", "backend", *engine.takes}:
            takers = [other for other, known in BACKENDS.items() if name in known.takes]
            option = "--" + name.replace("_args", "_arg").replace("_", "-")
            raise UsageError(f"{option} is for --backend {' or '.join(takers)}, not for {options.backend}")
    engine.check(options)


def open_backend(options: EngineOptions) -> Backend:
    """Load the model, or connect to its server.

    Raises:
        UsageError: no such backend or model, or a library or device it needs is not there.
        UntrustedResultError: the engine cannot give numbers that can be believed.
    """
    check(options)
    return _engine(options).open(options)


def _engine(options: EngineOptions) -> _Engine:
    if options.backend not in BACKENDS:
        raise unknown_name("value for --backend", options.backend, BACKENDS)
    return BACKENDS[options.backend]

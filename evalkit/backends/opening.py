"""From what a user asks for on the command line to a backend; engines are imported only when chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from evalkit.backends.base import Backend
from evalkit.backends.openai.address import clean_url
from evalkit.errors import UsageError, unknown_name


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
    engine_args: Mapping[str, str] = field(default_factory=dict)
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
    from evalkit.backends.model_name import check_model

    check_model(options.model, revision=options.revision, offline=options.offline)
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
    )


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


BACKENDS: dict[str, Callable[[EngineOptions], Backend]] = {"hf": _hf, "mock": _mock, "openai": _openai}
"""Name of a backend to what opens it."""


def open_backend(options: EngineOptions) -> Backend:
    """Load the model, or connect to its server.

    Raises:
        UsageError: no such backend or model, or a library or device it needs is not there.
        UntrustedResultError: the engine cannot give numbers that can be believed.
    """
    if options.backend not in BACKENDS:
        raise unknown_name("value for --backend", options.backend, BACKENDS)
    return BACKENDS[options.backend](options)

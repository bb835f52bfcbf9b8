"""Values the options of several commands accept."""

from __future__ import annotations

import re

import typer

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
OFFLINE = typer.Option(False, "--offline", help="Never open a network connection.")


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

"""Every error a user can meet, each with the exit code the command line returns for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EvalkitError(Exception):
    """Base of all expected errors: the message names the thing, the place and the remedy."""

    exit_code = 1


class UsageError(EvalkitError):
    """An unknown name, a bad option or a bad configuration."""

    exit_code = 2


class UntrustedResultError(EvalkitError):
    """The run finished, or could finish, but its numbers must not be believed."""

    exit_code = 3


class ServerLost(UntrustedResultError):
    """A model's server or engine went away in mid-run; `--resume` continues when it is back."""


class DataError(EvalkitError):
    """Benchmark data is missing or corrupt."""

    exit_code = 4


class RunInterrupted(EvalkitError):
    """The user or the system stopped a run that `--resume` can continue."""

    exit_code = 130


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that does not exist, offering the nearest ones that do."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif len(names) <= 12:
        hint = f"known: {', '.join(names)}"
    else:
        hint = f"known: {', '.join(names[:8])}, … ({len(names)} in all)"
    return UsageError(f"unknown {kind} '{name}'; {hint}")

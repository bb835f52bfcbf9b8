"""What goes into the sandbox and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evalkit.errors import UntrustedResultError

MEBIBYTE = 1 << 20


class SandboxUnavailable(UntrustedResultError):
    """Programs cannot be run safely on this machine."""


@dataclass(frozen=True, slots=True)
class Program:
    """One Python text, run as a whole; it passes if it reaches its very end without an exception."""

    source: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one program."""

    status: Literal["passed", "failed", "timeout"]
    detail: str
    """Why it did not pass, in the program's own words: never to be believed, only shown."""
    seconds: float
    retried: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use up; threads are the only tasks it can start."""

    timeout_s: float = 3.0
    """Wall clock, counted from the first line of the program."""
    memory_bytes: int = 1024 * MEBIBYTE
    disk_bytes: int = 32 * MEBIBYTE
    """Of its private temporary folder, which lives in memory."""
    open_files: int = 64
    threads: int = 64

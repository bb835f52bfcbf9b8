"""What a command that can be continued needs: a polite end, and the command line that goes on."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.backends.openai.address import clean_url
from evalkit.errors import RunInterrupted, ServerLost

if TYPE_CHECKING:
    from evalkit.runner import Progress


@contextlib.contextmanager
def resumable(root: Path, progress: Progress) -> Iterator[None]:
    """Turn what stops a run into an error that says how to go on; a polite request to end is like Ctrl-C."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except (KeyboardInterrupt, RunInterrupted, ServerLost) as error:
        what = str(error) or "interrupted"  # a KeyboardInterrupt says nothing
        kind = ServerLost if isinstance(error, ServerLost) else RunInterrupted
        raise kind(f"{what}; continue with: {resume_command(root)}") from None
    finally:
        progress.finish()


def _stop(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def resume_command(output: Path) -> str:
    """Return the command line that continues this run."""
    arguments = [_without_secrets(a) for a in sys.argv[1:] if a != "--resume"]
    if not any(a == "--output" or a.startswith("--output=") for a in arguments):
        arguments += ["--output", str(output)]
    return shlex.join(["evalkit", *arguments, "--resume"])


def _without_secrets(argument: str) -> str:
    """A server's address without what may be secret in it."""
    option, equals, value = argument.partition("=")
    if option == "--base-url":
        return f"{option}{equals}{clean_url(value)}" if equals else option
    return clean_url(argument) if argument.startswith(("http://", "https://")) else argument

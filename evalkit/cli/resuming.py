"""What a command that can be continued needs: a polite end, and the command line that goes on."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

from evalkit.backends.openai.address import clean_url


def stop_on_sigterm() -> None:
    """Treat a polite request to end like Ctrl-C, so that the message says how to go on."""
    signal.signal(signal.SIGTERM, _stop)


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

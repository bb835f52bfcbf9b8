"""Naming the rule that was broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named(rule: str) -> Iterator[None]:
    """Name the rule in whatever goes wrong below it."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{rule}: {error}") from error

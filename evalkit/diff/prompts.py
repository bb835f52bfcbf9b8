"""What differs in the texts of two prompts."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

_CONTEXT = 2
"""Lines shown on both sides of a change."""
_MOST_LINES = 200
_MOST_CHARACTERS = 2000
"""Of a line."""
_AROUND = 40
"""Characters shown on both sides of where two prompts part."""


@dataclass(frozen=True, slots=True)
class PromptDiff:
    """What turns the prompt of A into that of B, as far as it has room."""

    lines: list[str]
    """As `diff -u` writes them; where only white space differs, the lines are Python literals."""
    more: int
    """Lines that are left out."""
    position: int
    """First character that differs, counted from 0."""
    a: str
    """What stands there in A, with a little around it."""
    b: str


def prompt_diff(a: str, b: str) -> PromptDiff:
    """Compare two prompts that differ."""
    mine, theirs = a.splitlines(), b.splitlines()
    if only_white_space(a, b):
        mine, theirs = ([repr(line) for line in text.splitlines(keepends=True)] for text in (a, b))
    found = list(difflib.unified_diff(mine, theirs, "A", "B", n=_CONTEXT, lineterm=""))
    shown = [
        line if len(line) <= _MOST_CHARACTERS else line[:_MOST_CHARACTERS] + "…"
        for line in found[:_MOST_LINES]
    ]
    return PromptDiff(shown, len(found) - len(shown), *parting(a, b, _AROUND))


def parting(a: str, b: str, around: int) -> tuple[int, str, str]:
    """The first character that differs, and what stands there, with so many characters on both sides."""
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    near = slice(max(0, at - around), at + around)
    return at, a[near], b[near]


def only_white_space(a: str, b: str) -> bool:
    """Whether two prompts are the same but for how their lines and they themselves end."""
    return _bare(a) == _bare(b)


def _bare(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def same_pieces(a: str, b: str) -> bool:
    """Whether two prompts consist of the same paragraphs, more than two, in another order."""
    mine, theirs = (sorted(piece for piece in text.split("\n\n") if piece.strip()) for text in (a, b))
    return len(mine) > 2 and mine == theirs

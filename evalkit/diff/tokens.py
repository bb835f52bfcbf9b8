"""Where the token ids of two prompts part, and how they differ."""

from __future__ import annotations

import difflib
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evalkit.diff.pairing import Pair
from evalkit.diff.sides import Key
from evalkit.tokens import Ids, common_prefix
from evalkit.types import Outcome

_CONTEXT = 4
"""Ids shown on both sides of a change, and at both ends of a long one."""
_CHANGES = 3
"""Changes shown."""
_WINDOW = 400
"""Ids in which changes are looked for: the matcher takes the square of it."""


def kept(pair: Pair, keys: Iterable[Key]) -> Iterator[tuple[Ids, Ids]]:
    """The ids in front of the answer of those samples that have them on both sides."""
    for a, b in map(pair.of, keys):
        if a.prompt_token_ids is not None and b.prompt_token_ids is not None:
            yield a.prompt_token_ids, b.prompt_token_ids


def differ(a: Outcome, b: Outcome) -> bool | None:
    """Whether the ids in front of an answer differ; None where a side did not keep them."""
    mine, theirs = a.prompt_token_ids, b.prompt_token_ids
    return None if mine is None or theirs is None else not np.array_equal(mine, theirs)


@dataclass(frozen=True, slots=True)
class Positions:
    """Where the ids of samples part, counted from 0."""

    differing: int
    """Samples whose ids differ."""
    compared: int
    """Samples whose ids both sides kept."""
    earliest: int | None
    """First differing position of the sample that parts first; None where none does."""
    median: int | None


def positions(compared: Sequence[tuple[Ids, Ids]]) -> Positions | None:
    """First differing positions of samples; None without any."""
    found = [common_prefix(a, b) for a, b in compared if not np.array_equal(a, b)]
    median = statistics.median_low(found) if found else None
    return Positions(len(found), len(compared), min(found, default=None), median) if compared else None


def surplus(a: Ids, b: Ids) -> tuple[Literal["A", "B"], tuple[int, ...]] | None:
    """The side that has more in front, and what; None unless the ids are the same behind it."""
    side: Literal["A", "B"] = "A" if len(a) > len(b) else "B"
    longer, shorter = (a, b) if side == "A" else (b, a)
    more = len(longer) - len(shorter)
    return (side, tuple(longer[:more].tolist())) if more and np.array_equal(longer[more:], shorter) else None


@dataclass(frozen=True, slots=True)
class Part:
    """Ids that stand on both sides, in A only (delete) or in B only (insert)."""

    op: Literal["equal", "delete", "insert"]
    n: int
    ids: list[int | None]
    """Some of them in order; None stands for those between that are left out."""


@dataclass(frozen=True, slots=True)
class TokenDiff:
    """What turns the ids of A into those of B, as far as the first few changes."""

    a: int
    """Ids in A."""
    b: int
    position: int
    """The first that differs, counted from 0."""
    parts: list[Part]
    more: bool
    """Whether there are further changes, behind the last part shown."""


def token_diff(a: Ids, b: Ids) -> TokenDiff:
    """Compare the ids of two prompts that differ."""
    begin = common_prefix(a, b)
    end = _common_suffix(a[begin:], b[begin:])
    mine, theirs = a[begin : len(a) - end], b[begin : len(b) - end]
    changed, more = _changed(mine, theirs)
    shown = list(_parts(mine, theirs, changed))
    if begin:
        shown.insert(0, _part("equal", a[:begin], head=0))
    _, _, end_a, _, end_b = changed[-1]
    behind = a[begin + end_a :]
    if n := common_prefix(behind, b[begin + end_b :]):
        shown.append(_part("equal", behind[:n], tail=0))
    return TokenDiff(len(a), len(b), begin, shown, more)


_Opcode = tuple[str, int, int, int, int]


def _changed(a: Ids, b: Ids) -> tuple[list[_Opcode], bool]:
    """The first changes, as difflib's opcodes, and whether there are more."""
    if not len(a) or not len(b):
        return [("replace", 0, len(a), 0, len(b))], False
    cut = max(len(a), len(b)) > _WINDOW
    mine, theirs = a[:_WINDOW].tolist(), b[:_WINDOW].tolist()
    matcher = difflib.SequenceMatcher(None, mine, theirs, autojunk=False)
    changes: list[_Opcode] = [opcode for opcode in matcher.get_opcodes() if opcode[0] != "equal"]
    if cut and (changes[-1][2] == len(mine) or changes[-1][4] == len(theirs)):
        # What reaches the end of the window ends nobody knows where.
        if len(changes) == 1:
            return [("replace", 0, len(a), 0, len(b))], False
        changes.pop()
    return changes[:_CHANGES], cut or len(changes) > _CHANGES


def _parts(a: Ids, b: Ids, changed: Sequence[_Opcode]) -> Iterator[Part]:
    at = 0
    for _, begin, end, b_begin, b_end in changed:
        if begin > at:
            yield _part("equal", a[at:begin])
        if end > begin:
            yield _part("delete", a[begin:end])
        if b_end > b_begin:
            yield _part("insert", b[b_begin:b_end])
        at = end


def _part(
    op: Literal["equal", "delete", "insert"], ids: Ids, head: int = _CONTEXT, tail: int = _CONTEXT
) -> Part:
    if len(ids) <= head + tail:
        return Part(op, len(ids), ids.tolist())
    return Part(op, len(ids), [*ids[:head].tolist(), None, *ids[len(ids) - tail :].tolist()])


def _common_suffix(a: Ids, b: Ids) -> int:
    return common_prefix(a[::-1], b[::-1])

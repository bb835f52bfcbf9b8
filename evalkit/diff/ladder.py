"""The rungs from data to outcomes, and on which of them two sides of a task part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evalkit.diff import tokens
from evalkit.diff.pairing import Pair
from evalkit.diff.sides import Key

Rung = Literal["data", "prompts", "token_ids", "responses", "outcomes"]

Status = Literal["equal", "differs", "unknown"]

_HELD: dict[Rung, tuple[str, ...]] = {
    "data": ("target",),
    "prompts": ("prompt_sha256",),
    "token_ids": ("prompt_token_ids",),
    "responses": ("choice_logprobs", "choice_tokens", "completions", "reasonings"),
    "outcomes": ("prediction", "correct", "metrics"),
}
"""What samples hold of each rung: what its hash covers, but for the wording of errors."""
_MORE_IN_HASH: tuple[Rung, ...] = ("data", "token_ids")
"""Rungs of which samples hold only a part."""


@dataclass(frozen=True, slots=True)
class Step:
    """One rung of one task."""

    rung: Rung
    status: Status
    keys: tuple[Key, ...]
    """Samples that differ, where that can be said of samples."""
    n: int
    """Samples of which it can be said."""


def differs(pair: Pair, rung: Rung, key: Key) -> bool | None:
    """Whether a shared sample differs on a rung; None where that cannot be said."""
    a, b = pair.of(key)
    if rung == "token_ids":
        return tokens.differ(a, b)
    held = [(getattr(a, name), getattr(b, name)) for name in _HELD[rung]]
    # In a run, nothing is a value: no answer was found, or the sample failed. A log may just not say.
    known = [both for both in held if not pair.has_log or all(value not in (None, {}) for value in both)]
    # As text, in which what is not a number equals itself.
    return any(repr(x) != repr(y) for x, y in known) if known else None


def climb(pair: Pair) -> list[Step]:
    """Compare rung by rung: samples with each other, and by its hash what samples do not hold."""
    return [_step(pair, rung) for rung in _HELD]


def _step(pair: Pair, rung: Rung) -> Step:
    found = {key: differs(pair, rung, key) for key in pair.both}
    keys = tuple(key for key, differ in found.items() if differ)
    n = sum(differ is not None for differ in found.values())
    status = _status(pair, rung, keys, n)
    return Step(rung, status, () if status == "equal" else keys, n)


def _status(pair: Pair, rung: Rung, keys: Sequence[Key], n: int) -> Status:
    if rung in _MORE_IN_HASH and (agree := _hashes_agree(pair, rung)) is not None:
        return "equal" if agree else "differs"
    if keys:
        return "differs"
    return "unknown" if rung in _MORE_IN_HASH or not n else "equal"


def _hashes_agree(pair: Pair, rung: Rung) -> bool | None:
    """Whether the hashes of the whole task are the same; None unless they are of the same samples."""
    a, b = (side.hashes.get(rung) for side in pair.sides)
    return a == b if a and b and pair.both and not pair.only_a and not pair.only_b else None


def independent(pair: Pair, steps: Sequence[Step]) -> list[Step]:
    """The lowest rung that differs, then what it cannot explain.

    That is, of each higher rung, the samples that differ there and are equal on all lower ones; `n` of such a
    step counts the latter.
    """
    found: list[Step] = []
    equal = set(pair.both)
    for step in steps:
        if step.status != "differs":
            continue
        keys = tuple(key for key in step.keys if key in equal)
        if not found:
            found.append(step)
        elif keys:
            found.append(Step(step.rung, "differs", keys, len(equal)))
        if step.rung == "token_ids" and not step.keys and found == [step]:
            break  # nobody knows which samples these are
        equal.difference_update(keys)
        if step.rung == "data":
            # The text of a record shows in its prompt only.
            equal -= {key for key in equal if differs(pair, "prompts", key)}
    return found

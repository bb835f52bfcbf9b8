"""A made-up model whose tokens are characters.

Of what may come next one letter, drawn from a hash of the text so far, has log-probability -0.25; every
other character has one between -2 and -12.
"""

from __future__ import annotations

LETTERS = "abcdefghijklmnopqrstuvwxyz .,\n"
BOS = 1


def states(ids: list[int]) -> list[int]:
    """A hash of every beginning of `ids`, the empty one first."""
    found = [17]
    for token in ids:
        found.append(next_state(found[-1], token))
    return found


def next_state(state: int, token: int) -> int:
    return (state * 1_000_003 + token * 7919 + 12345) & 0xFFFFFFFF


def logprob(state: int, token: int) -> float:
    if token == greedy(state):
        return -0.25
    return -2.0 - 10.0 * ((state * 31 + token * 0x9E3779B1) & 0xFFFFFFFF) / 2**32


def greedy(state: int) -> int:
    return ord(LETTERS[(state >> 7) % len(LETTERS)])


def text_of(ids: list[int]) -> str:
    return "".join(chr(i) for i in ids if i != BOS)


def label(token: int, named: bool) -> str:
    return f"token_id:{token}" if named else chr(token)

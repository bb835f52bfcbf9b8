"""The log-probabilities that two sides give the same options."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evalkit.diff.pairing import Pair
from evalkit.diff.sides import Key

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """Every option with a finite log-probability on both sides: arrays of an entry per option, in nats."""

    a: Floats
    b: Floats
    gain: Floats
    """Correctness of its sample in B less that in A; 0 where either has none."""
    keys: list[Key]
    """Its sample."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the log-probabilities of the same options lie apart: absolute differences, in nats."""

    n: int
    """Options compared."""
    median: float
    p99: float
    """The 99 % quantile: one option in a hundred differs by more."""
    largest: float
    key: Key
    """Sample of the largest difference."""


def options(pair: Pair) -> Options | None:
    """Options of samples that have as many on both sides; None without any."""
    rows: list[tuple[float, float, float]] = []
    keys: list[Key] = []
    for key in pair.both:
        one, other = pair.of(key)
        mine, theirs = one.choice_logprobs or (), other.choice_logprobs or ()
        if len(mine) == len(theirs):
            judged = one.correct is not None and other.correct is not None
            gain = (other.correct or 0.0) - (one.correct or 0.0) if judged else 0.0
            rows += [(x, y, gain) for x, y in zip(mine, theirs, strict=True)]
            keys += [key] * len(mine)
    table = np.array(rows, np.float64).reshape(-1, 3)
    finite = [all(map(math.isfinite, row)) for row in rows]
    if not any(finite):
        return None
    left, right, gains = table[finite].T
    return Options(left, right, gains, [key for key, kept in zip(keys, finite, strict=True) if kept])


def spread(found: Options) -> Spread:
    """Quantiles of the differences."""
    gaps = np.abs(found.b - found.a)
    median, p99 = (float(q) for q in np.quantile(gaps, (0.5, 0.99)))
    largest = int(gaps.argmax())
    return Spread(len(gaps), median, p99, float(gaps[largest]), found.keys[largest])

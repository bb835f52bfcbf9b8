"""How far apart two scores are: unit by unit where both are of the same samples, else by their intervals."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evalkit.reports.runs import Run
from evalkit.stats.paired import paired_difference, paired_half_widths
from evalkit.store import digest

Json = Mapping[str, Any]

_REPRODUCED = 1e-9
_STEPS = 65535


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What a score is the weighted mean of: the subsets of its task, or samples where its subsets are fixed.

    A whole task speaks for other subsets of its kind: what differs from subset to subset is chance. Between
    subsets samples are independent, so the subsets' scores are all that a paired comparison of two models
    needs (the clusters of `paired_difference`). One subset, or several that are named, speak for themselves:
    chance is only which samples they have (they are strata).
    """

    of: str
    """Equal for two scores whose units are the same samples under the same weights."""
    values: NDArray[np.float64]
    """Score of each unit, a fraction, shape (n,)."""
    weights: NDArray[np.float64]
    """Shape (n,)."""
    strata: NDArray[np.int64]
    """Number of the stratum that each unit is in, shape (n,); at least two units are in each."""

    def pack(self) -> tuple[str, str]:
        """Short text to keep; values are rounded to 1/65535, far below what any comparison could see."""
        values = np.rint(self.values * _STEPS).astype("<u2")
        weights, strata = self.weights.astype("<f4"), self.strata.astype("<u2")
        packed = zlib.compress(values.tobytes() + weights.tobytes() + strata.tobytes(), 9)
        return self.of, base64.b64encode(packed).decode()

    @classmethod
    def unpack(cls, kept: Sequence[str]) -> Self:
        """Read such a text.

        Raises:
            ValueError: it is damaged.
        """
        of, text = kept
        try:
            raw = zlib.decompress(base64.b64decode(text, validate=True))
        except zlib.error as error:
            raise ValueError(str(error)) from error
        n, rest = divmod(len(raw), 8)
        values = np.frombuffer(raw[: 2 * n], "<u2") / _STEPS
        weights = np.frombuffer(raw[2 * n : 6 * n], "<f4").astype(np.float64)
        strata = np.frombuffer(raw[6 * n : 8 * n], "<u2").astype(np.int64)
        if rest or n == 0 or np.unique(strata, return_counts=True)[1].min() < 2:
            raise ValueError("a comparison needs two units in each stratum")
        if not (np.isfinite(weights) & (weights > 0)).all():
            raise ValueError("weights must be positive and finite")
        return cls(of, values, weights, strata)

    def matches(self, other: Units) -> bool:
        """Whether two models can be compared unit by unit."""
        return self.of == other.of and np.array_equal(self.strata, other.strata)


@dataclass(frozen=True, slots=True)
class Scored:
    """A score with what is known of its uncertainty."""

    value: float
    """A fraction, like all of this."""
    half: float
    """Half the width of its 95 % interval: 0 for a value known without error, infinite where unknown."""
    units: Units | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """How much higher one score is than another."""

    value: float
    half: float
    """Half the width of its 95 % interval."""

    @property
    def is_clear(self) -> bool:
        """Whether the scores can be told apart at the 5 % level."""
        return abs(self.value) > self.half


def gap(a: Scored, b: Scored) -> Gap:
    """Compare two scores: paired where both have the same units, else as independent ones."""
    if a.units and b.units and a.units.matches(b.units):
        return _paired(a.units, b.units)
    return Gap(a.value - b.value, math.hypot(a.half, b.half))


def _paired(a: Units, b: Units) -> Gap:
    """Value and interval of the same units: a score may be known more exactly than what was kept of it."""
    value, halves = 0.0, []
    for stratum in np.unique(a.strata):
        inside = a.strata == stratum
        share = float(a.weights[inside].sum() / a.weights.sum())
        found = paired_difference(a.values[inside], b.values[inside], weights=a.weights[inside])
        value += share * found.value
        halves.append(share * (found.ci95[1] - found.ci95[0]) / 2)
    return Gap(value, math.hypot(*halves))


def half_widths(units: Sequence[Units]) -> NDArray[np.float64]:
    """Half the widths of the intervals between every two of several models with the same units.

    The same as `gap` has for each pair, all at once; shape (models, models).
    """
    first, values = units[0], np.array([one.values for one in units])
    squares = np.zeros((len(units), len(units)))
    for stratum in np.unique(first.strata):
        inside = first.strata == stratum
        share = float(first.weights[inside].sum() / first.weights.sum())
        squares += (share * paired_half_widths(values[:, inside], first.weights[inside])) ** 2
    return np.sqrt(squares)


def half_width(interval: Sequence[float] | None) -> float:
    """Half the width of an interval; infinite where there is none."""
    return (interval[1] - interval[0]) / 2 if interval else math.inf


def units(run: Run, task: str, metric: str, subsets: Sequence[str], value: float) -> Units | None:
    """What a run's score in a metric is made of.

    None where that was not kept, and where the score is no weighted mean of what was (macro-F1, averages
    of categories).

    Args:
        run: the run.
        task: resolved name.
        metric: name of the metric.
        subsets: names of the subsets it is the mean of, which are strata then; none for the whole task.
        value: the score, a fraction.
    """
    known = run.tasks[task]["subsets"]
    fixed = subsets or (tuple(known) if len(known) == 1 else ())
    found = _samples(run, task, metric, fixed) if fixed else _subsets(known, metric)
    if found is None or len(found.values) < 2 or not found.is_plain:
        return None
    for weights in (found.weights, np.ones(len(found.weights))):
        if _reproduces(found.values, weights, value):
            return Units(_digest(run, task, metric, found, weights), found.values, weights, found.strata)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Units while it is not known whether a score is their mean."""

    names: list[Any]
    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    strata: NDArray[np.int64]

    @property
    def is_plain(self) -> bool:
        """Whether all are fractions that count for something."""
        return bool(((self.values >= 0) & (self.values <= 1) & (self.weights > 0)).all())


def _subsets(entries: Json, metric: str) -> _Parts:
    """Subsets by size."""
    found = {name: its[metric] for name, its in entries.items() if metric in its}
    values, sizes = (np.array([one[key] for one in found.values()], np.float64) for key in ("value", "n"))
    return _Parts(list(found), values, sizes, np.zeros(len(found), np.int64))


def _samples(run: Run, task: str, metric: str, subsets: Sequence[str]) -> _Parts | None:
    """Samples of subsets that weigh alike; None unless each has at least two and all are scored."""
    import pyarrow.compute as pc

    if run.sample_scores is None:
        return None
    rows = run.sample_scores.filter(pc.equal(run.sample_scores["task"], task))
    is_first = metric == next(iter(run.tasks[task]["metrics"]), None)
    names, scores, sizes = [], [], []
    for subset in subsets:
        its = rows.filter(pc.equal(rows["subset"], subset))
        if is_first:
            scores += its["correct"].to_pylist()
        else:
            scores += [json.loads(text).get(metric) for text in its["metrics"].to_pylist()]
        names += [(subset, id_) for id_ in its["sample_id"].to_pylist()]
        sizes.append(len(its))
    if None in scores or min(sizes) < 2:
        return None
    weights = np.repeat(1 / np.array(sizes, np.float64), sizes)
    return _Parts(names, np.array(scores, np.float64), weights, np.repeat(np.arange(len(sizes)), sizes))


def _reproduces(values: NDArray[np.float64], weights: NDArray[np.float64], score: float) -> bool:
    return abs(float(weights @ values / weights.sum()) - score) <= _REPRODUCED


def _digest(run: Run, task: str, metric: str, found: _Parts, weights: NDArray[np.float64]) -> str:
    what = json.dumps([task, metric, run.data_hash(task), found.names]).encode()
    return digest([what, found.weights.tobytes(), weights.tobytes()])[:16]

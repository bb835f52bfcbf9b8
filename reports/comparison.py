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
from evalkit.stats.paired import paired_difference
from evalkit.store import digest

Json = Mapping[str, Any]

_REPRODUCED = 1e-9
_STEPS = 65535


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What a score is the weighted mean of: the subsets of its task, or the samples where there is one.

    Between subsets samples are independent, so the subsets' scores are all that a paired comparison of two
    models needs (the clusters of `paired_difference`).
    """

    of: str
    """Equal for two scores whose units are the same samples under the same weights."""
    values: NDArray[np.float64]
    """Score of each unit, a fraction, shape (n,)."""
    weights: NDArray[np.float64]
    """Shape (n,)."""

    def pack(self) -> tuple[str, str]:
        """Short text to keep; values are rounded to 1/65535, far below what any comparison could see."""
        values = np.rint(self.values * _STEPS).astype("<u2")
        packed = zlib.compress(values.tobytes() + self.weights.astype("<f4").tobytes(), 9)
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
        n = len(raw) // 6
        values = np.frombuffer(raw[: 2 * n], "<u2") / _STEPS
        return cls(of, values, np.frombuffer(raw[2 * n :], "<f4").astype(np.float64))


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
    if a.units and b.units and a.units.of == b.units.of:
        found = paired_difference(a.units.values, b.units.values, weights=a.units.weights)
        return Gap(a.value - b.value, (found.ci95[1] - found.ci95[0]) / 2)
    return Gap(a.value - b.value, math.hypot(a.half, b.half))


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
        subsets: names of the subsets it is a score of; none for all.
        value: the score, a fraction.
    """
    chosen = subsets or tuple(run.tasks[task]["subsets"])
    if len(chosen) == 1:
        names, values, sizes = _samples(run, task, metric, chosen[0])
    else:
        names, values, sizes = _subsets(run.tasks[task]["subsets"], metric, chosen)
    for weights in (sizes, np.ones(len(sizes))):
        if len(values) > 1 and _reproduces(values, weights, value):
            return Units(_digest(run, task, metric, names, sizes, weights), values, weights)
    return None


_Parts = tuple[list[str], NDArray[np.float64], NDArray[np.float64]]
_NOTHING: _Parts = ([], np.empty(0), np.empty(0))


def _subsets(entries: Json, metric: str, chosen: Sequence[str]) -> _Parts:
    """Names, scores and sizes."""
    found = {name: entries[name][metric] for name in chosen if metric in entries.get(name, {})}
    values = np.array([one["value"] for one in found.values()], np.float64)
    return list(found), values, np.array([one["n"] for one in found.values()], np.float64)


def _samples(run: Run, task: str, metric: str, subset: str) -> _Parts:
    """Ids, scores and a size of 1 each."""
    import pyarrow.compute as pc

    if run.sample_scores is None:
        return _NOTHING
    rows = run.sample_scores.filter(pc.equal(run.sample_scores["task"], task))
    rows = rows.filter(pc.equal(rows["subset"], subset))
    if metric == next(iter(run.tasks[task]["metrics"])):
        scores = rows["correct"].to_pylist()
    else:
        scores = [json.loads(text).get(metric) for text in rows["metrics"].to_pylist()]
    if None in scores:
        return _NOTHING
    return rows["sample_id"].to_pylist(), np.array(scores, np.float64), np.ones(len(scores))


def _reproduces(values: NDArray[np.float64], weights: NDArray[np.float64], score: float) -> bool:
    return abs(float(weights @ values / weights.sum()) - score) <= _REPRODUCED


def _digest(run: Run, task: str, metric: str, names: Sequence[str], *numbers: NDArray[np.float64]) -> str:
    what = json.dumps([task, metric, run.data_hash(task), names]).encode()
    return digest([what, *(n.tobytes() for n in numbers)])[:16]

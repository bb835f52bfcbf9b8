"""Two models on the same samples: who was right where, and the difference of their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalkit.reports.runs import Entrant, Run
from evalkit.stats.paired import Difference, paired_difference

MOST_MODELS = 10
"""Models of which every two are compared: the number of pairs grows with its square."""

RIGHT = 0.5
"""A sample counts as right from this score on; what is right or wrong outright scores 1 or 0."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Model a against model b on the samples of one task, or of one subset of it."""

    subset: str | None
    """None for the whole task."""
    both_right: int
    """Samples with equal scores of at least `RIGHT`."""
    only_a: int
    """Samples that a scores higher; where scores are 0 or 1, those that only a got right."""
    only_b: int
    both_wrong: int
    difference: Difference | None
    """Of the scores, a - b; None for a single sample."""

    @property
    def n(self) -> int:
        """Samples compared."""
        return self.both_right + self.only_a + self.only_b + self.both_wrong

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self) | {"difference": self.difference.to_json() if self.difference else None}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on one task."""

    a: int
    """Place of the model among the entrants."""
    b: int
    task: str
    average: str
    """What the difference on the whole task is a mean over: `macro` subsets or `micro` samples."""
    same_data: bool
    """Whether, as far as the manifests tell, both read the same records."""
    whole: Comparison
    subsets: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        parts = {"whole": self.whole.to_json(), "subsets": [one.to_json() for one in self.subsets]}
        return asdict(self) | parts


def pairs(entrants: Sequence[Entrant]) -> Iterator[Pair]:
    """Every two models on every task whose samples were kept of both; of many models, all with the first."""
    scores = [{task: _scores(run, task) for task in one.tasks if (run := one.find(task))} for one in entrants]
    for (a, one), (b, other) in combinations(enumerate(entrants), 2):
        if a and len(entrants) > MOST_MODELS:
            return
        for task in one.tasks:
            mine, theirs = one.find(task), other.find(task)
            if (
                mine
                and theirs
                and (found := _pair(a, b, task, mine, theirs, scores[a][task], scores[b][task]))
            ):
                yield found


def _pair(a: int, b: int, task: str, mine: Run, theirs: Run, first: _Scores, second: _Scores) -> Pair | None:
    keys = [key for key in first if key in second]
    if not keys:
        return None
    x, y = (np.array([scores[key] for key in keys]) for scores in (first, second))
    names, subset_of = np.unique([subset for subset, _ in keys], return_inverse=True)
    average = "macro" if mine.tasks[task]["average"] == "macro" else "micro"
    weights = (1 / np.bincount(subset_of))[subset_of] if average == "macro" else np.ones(len(keys))
    hashes = {mine.data_hash(task), theirs.data_hash(task)} - {None}
    return Pair(
        a,
        b,
        task,
        average,
        same_data=len(hashes) < 2,
        whole=_compared(None, x, y, subset_of, weights),
        subsets=tuple(
            _compared(str(name), x[inside], y[inside], subset_of[inside], weights[inside])
            for k, name in enumerate(names)
            if (inside := subset_of == k).any()
        ),
    )


_Scores = dict[tuple[str, str], float]


def _scores(run: Run, task: str) -> _Scores:
    """Score of each judged sample by subset and id; empty where samples were not kept."""
    if run.sample_scores is None:
        return {}
    import pyarrow.compute as pc

    rows = run.sample_scores.filter(pc.equal(run.sample_scores["task"], task))
    rows = rows.filter(pc.is_valid(rows["correct"]))
    columns = (rows[name].to_pylist() for name in ("subset", "sample_id", "correct"))
    return {(subset, id_): correct for subset, id_, correct in zip(*columns, strict=True)}


def _compared(
    subset: str | None,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    clusters: NDArray[Any],
    weights: NDArray[np.float64],
) -> Comparison:
    equal = x == y
    return Comparison(
        subset,
        both_right=int((equal & (x >= RIGHT)).sum()),
        only_a=int((x > y).sum()),
        only_b=int((y > x).sum()),
        both_wrong=int((equal & (x < RIGHT)).sum()),
        difference=paired_difference(x, y, clusters, weights) if x.size > 1 else None,
    )

"""A target set against a declared control set: how far apart are they, and would anyone tell without a model?

What a model says of a text is evidence of nothing by itself: texts differ. Even a contrast is evidence only
as far as the two sets are alike in everything but exposure, which a classifier that has never seen the model
puts to the test (Das, Zhang and Tramèr, "Blind Baselines Beat Membership Inference Attacks for Foundation
Models", arXiv 2406.16201).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, sparse, special, stats

from evalkit.errors import UsageError
from evalkit.leakage.scores import Floats
from evalkit.stats.intervals import LEVEL, Estimate

FEWEST = 10
"""Texts that each of two sets needs at least."""

_RESAMPLES = 2000
_FEATURES = 1 << 14
_GRAM = 3
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Contrast:
    """A statistic that is high for texts a model knows, compared between two sets."""

    n_target: int
    n_control: int
    mean_target: float
    mean_control: float
    difference: Estimate
    """Of the means, target minus control; interval by the bootstrap."""
    auc: Estimate
    """Chance that a text of the target stands higher than one of the control, ties counted half."""
    p: float
    """One-sided, of the Mann-Whitney test that the target does not stand higher."""

    def to_json(self) -> dict[str, Any]:
        """As written to `leakage.json`."""
        return asdict(self) | {"difference": self.difference.to_json(), "auc": self.auc.to_json()}


def contrast(target: ArrayLike, control: ArrayLike, seed: int = 0) -> Contrast:
    """Compare a statistic of the target's texts, shape (m,), with one of the control's, shape (n,).

    Raises:
        UsageError: a set has fewer than `FEWEST` texts.
    """
    x, y = np.asarray(target, np.float64), np.asarray(control, np.float64)
    if min(x.size, y.size) < FEWEST:
        raise UsageError(
            f"a contrast of {x.size} texts with {y.size} says nothing: give at least {FEWEST} of each"
        )
    same = bool(np.ptp(np.concatenate([x, y])) == 0)
    p = 1.0 if same else float(stats.mannwhitneyu(x, y, alternative="greater").pvalue)
    return Contrast(
        n_target=x.size,
        n_control=y.size,
        mean_target=float(x.mean()),
        mean_control=float(y.mean()),
        difference=_difference(x, y, seed),
        auc=auc(x, y),
        p=p,
    )


def _difference(x: Floats, y: Floats, seed: int) -> Estimate:
    generator = np.random.default_rng(seed)
    drawn = _resampled_means(x, generator) - _resampled_means(y, generator)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(
        float(x.mean() - y.mean()), float(drawn.std(ddof=1)), (float(low), float(high)), x.size + y.size
    )


def _resampled_means(values: Floats, generator: np.random.Generator) -> Floats:
    return np.array(
        [values[generator.integers(0, values.size, values.size)].mean() for _ in range(_RESAMPLES)]
    )


def auc(target: ArrayLike, control: ArrayLike) -> Estimate:
    """Area under the ROC curve of a statistic that should be higher for the target.

    The interval holds the areas A whose distance from the estimate is at most z·sqrt(V(A)), with
    V(A) = A(1-A)/(mn) · (1 + (N-1)((1-A)/(2-A) + A/(1+A))) and N = (m+n)/2; like Wilson's interval it is
    of positive width even where the sets do not overlap.

    Sources: Hanley and McNeil, Radiology 143 (1982), for V; Newcombe, Statistics in Medicine 25 (2006),
    method 5, for the interval.
    """
    x, y = np.asarray(target, np.float64), np.asarray(control, np.float64)
    ranks = stats.rankdata(np.concatenate([x, y]))
    value = float((ranks[: x.size].sum() - x.size * (x.size + 1) / 2) / (x.size * y.size))
    z = float(special.ndtri((1 + LEVEL) / 2))

    def variance(a: float) -> float:
        pairs = ((x.size + y.size) / 2 - 1) * ((1 - a) / (2 - a) + a / (1 + a))
        return a * (1 - a) / (x.size * y.size) * (1 + pairs)

    def excess(a: float) -> float:
        return (value - a) ** 2 - z * z * variance(a)

    # At 0 and 1, where the variance is 0, the estimate is itself a root, and not the one looked for.
    inside = min(max(value, 1e-9), 1 - 1e-9)
    low = 0.0 if value == 0 else optimize.brentq(excess, 0.0, inside)
    high = 1.0 if value == 1 else optimize.brentq(excess, inside, 1.0)
    return Estimate(value, math.sqrt(variance(value)), (float(low), float(high)), x.size + y.size)


@dataclass(frozen=True, slots=True)
class Blind:
    """How well two sets are told apart without the model."""

    characters: Estimate
    """Cross-validated AUC of a naive Bayes classifier of character trigrams."""
    length: Estimate
    """AUC of the number of characters."""

    @property
    def confounded(self) -> bool:
        """Whether the sets clearly differ in their texts alone."""
        low, high = self.length.ci95
        return self.characters.ci95[0] > 0.5 or low > 0.5 or high < 0.5

    def to_json(self) -> dict[str, Any]:
        """As written to `leakage.json`."""
        return {
            "characters": self.characters.to_json(),
            "length": self.length.to_json(),
            "confounded": self.confounded,
        }


def blind(target: Sequence[str], control: Sequence[str], seed: int = 0) -> Blind:
    """Try to tell the sets apart by their texts alone."""
    texts = [*target, *control]
    is_target = np.arange(len(texts)) < len(target)
    scores = _cross_validated(_presence(texts), is_target, seed)
    lengths = np.array([len(text) for text in texts])
    return Blind(auc(scores[is_target], scores[~is_target]), auc(lengths[is_target], lengths[~is_target]))


def _presence(texts: Sequence[str]) -> Any:
    """Which hashed character trigrams occur in each text, sparse 0/1 of shape (texts, features)."""
    rows = [trigrams(text) for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate(rows)
    return sparse.csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(texts), _FEATURES))


def trigrams(text: str) -> NDArray[np.int64]:
    """Hashes of the character trigrams that occur in a text, its beginning and end marked."""
    padded = f"\0{text}\0".encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(padded, np.uint32).astype(np.int64)
    hashed = np.zeros(len(codes) - _GRAM + 1, np.int64)
    for k in range(_GRAM):
        hashed = (hashed * 1_000_003 + codes[k : len(codes) - _GRAM + 1 + k]) & 0x7FFFFFFF
    return np.unique((hashed ^ hashed >> 14) % _FEATURES)


def _cross_validated(presence: Any, is_target: NDArray[np.bool_], seed: int) -> Floats:
    """Mean log-odds per trigram of each text, from classifiers that have not seen it."""
    generator = np.random.default_rng(seed)
    fold = np.empty(len(is_target), np.int64)
    for members in (np.flatnonzero(is_target), np.flatnonzero(~is_target)):
        fold[members] = generator.permutation(np.arange(len(members)) % _FOLDS)
    scores = np.empty(len(is_target))
    for held_out in (fold == k for k in range(_FOLDS)):
        a, b = (_rates(presence[~held_out & side]) for side in (is_target, ~is_target))
        texts = presence[held_out]
        scores[held_out] = (texts @ np.log(a / b)) / texts.sum(axis=1).A1
    return scores


def _rates(presence: Any) -> Floats:
    """Share of texts that hold each trigram, with half a text added to either side."""
    return np.asarray((presence.sum(axis=0).A1 + 0.5) / (presence.shape[0] + 1), np.float64)

"""Per-item scores of exposure, and how well they tell exposed items from others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from evalkit.leakage.isolation import isolation_score
from evalkit.leakage.items import Item
from evalkit.leakage.order_test import residuals
from evalkit.leakage.published import outlier_scores
from evalkit.leakage.scores import Floats, Group, PermutationScores
from evalkit.stats.intervals import clopper_pearson

FALSE_POSITIVES = 0.01


def _residual_gap(group: Group) -> Floats:
    left = residuals(group.orders, group.logprobs)
    return np.asarray(left[:, 0] / left.std(axis=1), np.float64)


def _raw_gap(group: Group) -> Floats:
    return np.asarray(group.logprobs[:, 0] - group.logprobs[:, 1:].max(axis=1), np.float64)


DETECTORS: Mapping[str, Callable[[Group], Floats]] = {
    "residual gap": _residual_gap,
    "raw gap": _raw_gap,
    "scenario b": lambda group: -outlier_scores(group.logprobs),
    "scenario b, exact": lambda group: -isolation_score(group.logprobs),
    "likelihood": lambda group: group.logprobs[:, 0],
}
"""Scores of shape (N,) that are higher for exposed items.

`residual gap` is the published order's residual in standard deviations of the item's residuals, `raw gap`
its log-probability above the best of the others in nats (scenario a asks whether that is positive),
`scenario b` the outlier score of the best order, whichever that is, and `likelihood` the log-probability of
the published text: the membership test by loss.
"""


def detect(scores: PermutationScores, name: str) -> Floats:
    """One detector's score of every item, shape (N,)."""
    found = np.empty(len(scores))
    for group in scores.groups():
        found[group.rows] = DETECTORS[name](group)
    return found


def separation(exposed: Floats, unexposed: Floats) -> dict[str, Any]:
    """ROC-AUC, and the true-positive rate at 1 % false positives with its exact 95 % interval.

    The threshold is the lowest that at most 1 % of the unexposed items reach.
    """
    allowed = int(FALSE_POSITIVES * unexposed.size)
    threshold = np.sort(unexposed)[::-1][allowed]
    hits = int((exposed > threshold).sum())
    return {
        "auc": auc(exposed, unexposed),
        "tpr": hits / exposed.size,
        "tpr_ci95": clopper_pearson(hits, exposed.size),
    }


def auc(exposed: Floats, unexposed: Floats) -> float:
    """Probability that an exposed item's score is the higher one, ties counting half."""
    u = stats.mannwhitneyu(exposed, unexposed).statistic
    return float(u / (exposed.size * unexposed.size))


def curve(exposed: Floats, unexposed: Floats) -> tuple[Floats, Floats]:
    """False- and true-positive rates at every threshold, from 0 to 1."""
    thresholds = np.unique(np.concatenate([exposed, unexposed]))[::-1]
    rates = [
        np.concatenate([[0.0], 1 - np.searchsorted(np.sort(values), thresholds, side="left") / values.size])
        for values in (unexposed, exposed)
    ]
    return rates[0], rates[1]


def blind_auc(items: Sequence[Item], member: Any, seed: int = 0) -> float:
    """AUC of a classifier that sees the words of the items and no model: 0.5 where the split is fair.

    Logistic regression on word counts, out of fold in five stratified folds.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    texts = [" ".join((item.question, *item.options)) for item in items]
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    classifier = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
    blind = cross_val_predict(classifier, texts, member, cv=folds, method="decision_function")
    return auc(blind[member], blind[~member])

"""Metrics of whole sets of class predictions."""

from __future__ import annotations

from collections.abc import Sequence


def macro_f1(predictions: Sequence[str | None], targets: Sequence[str]) -> float:
    """Unweighted mean in [0, 1] of the F1 of every class that occurs as target or prediction.

    A prediction of None is wrong for its target and no class of its own.

    Source: `f1_score(average="macro")` of scikit-learn, as the KoBEST tasks of
    EleutherAI/lm-evaluation-harness@4e7e0d4 call it.

    Raises:
        ValueError: if there are no targets, or not one prediction per target.
    """
    if not targets or len(predictions) != len(targets):
        raise ValueError(f"macro-F1 needs one prediction per target, not {len(predictions)}, {len(targets)}")
    # Imported here, so that listing tasks need not load it.
    import numpy as np

    classes = sorted({*targets, *(p for p in predictions if p is not None)})
    number = {name: i for i, name in enumerate(classes)}
    gold = np.array([number[target] for target in targets])
    predicted = np.array([-1 if p is None else number[p] for p in predictions])
    hits, in_gold, in_predicted = (
        np.bincount(rows, minlength=len(classes))
        for rows in (gold[gold == predicted], gold, predicted[predicted >= 0])
    )
    # Harmonic mean of precision and recall; every class occurs, so that no denominator is 0.
    return float(np.mean(2 * hits / (in_gold + in_predicted)))

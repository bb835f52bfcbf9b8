"""Metrics of whole sets of class predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    gold, predicted = class_numbers(targets, predictions)
    return macro_f1_of(predicted, gold)


def class_numbers(*columns: Sequence[str | None]) -> list[NDArray[np.intp]]:
    """Number the classes that occur in any of the columns, each of shape (n,); None becomes -1."""
    # Imported here, so that listing tasks need not load it.
    import numpy as np

    classes = sorted({name for column in columns for name in column if name is not None})
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)} | {None: -1}
    return [np.array([number[name] for name in column], np.intp) for column in columns]


def macro_f1_of(predicted: NDArray[np.intp], gold: NDArray[np.intp]) -> float:
    """Return the same of class numbers, shape (n,) each, where a prediction of -1 is none."""
    import numpy as np

    hits, in_gold, in_predicted = (
        np.bincount(rows, minlength=1 + max(gold.max(), predicted.max()))
        for rows in (gold[gold == predicted], gold, predicted[predicted >= 0])
    )
    return float(macro_f1_of_counts(hits, in_gold, in_predicted))


def macro_f1_of_counts(
    hits: NDArray[Any], in_gold: NDArray[Any], in_predicted: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the same of the numbers of samples of each class, shape (..., classes) each.

    Args:
        hits: predicted as what they are.
        in_gold: in truth.
        in_predicted: by prediction.
    """
    import numpy as np

    both = in_gold + in_predicted
    # Harmonic mean of precision and recall; a class that does not occur is none.
    f1 = 2 * hits / np.maximum(both, 1)
    return np.asarray(f1.sum(axis=-1) / (both > 0).sum(axis=-1))

"""What each sample weighs in the published average of a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from evalkit.errors import UsageError
from evalkit.stats.intervals import Floats


def weigh(entry: Mapping[str, Any], subsets: Sequence[str]) -> Floats:
    """Weight of every sample in the task's published average, by its subset, shape (n,).

    Args:
        entry: of the task in the result document, of which `average` and `categories` are read.
        subsets: of the samples.

    Raises:
        UsageError: the run does not say which subsets make up a category.
    """
    sizes = Counter(subsets)
    if entry["average"] == "micro":
        shares = dict.fromkeys(sizes, 1.0)
    elif entry["average"] == "macro":
        shares = {subset: 1 / size for subset, size in sizes.items()}
    else:
        category = _categories(entry, sizes)
        members = Counter(category[subset] for subset in sizes)
        shares = {subset: 1 / size / members[category[subset]] for subset, size in sizes.items()}
    return np.array([shares[subset] for subset in subsets], np.float64)


def kish(weights: Floats) -> float:
    """Samples of equal weight that would say as much as samples of these weights, shape (n,).

    Source: Kish, "Survey Sampling" (1965).
    """
    return float(weights.sum() ** 2 / (weights @ weights))


def _categories(entry: Mapping[str, Any], subsets: Collection[str]) -> dict[str, str]:
    found = {subset: name for name, members in entry.get("categories", {}).items() for subset in members}
    if any(subset not in found for subset in subsets):
        raise UsageError(
            f"{entry['task']}: its score is a mean over categories, and the run was made by an evalkit that "
            "did not put them down; score both runs again (evalkit rescore)"
        )
    return found

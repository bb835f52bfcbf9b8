"""The published leak rules: is the published order the likeliest one, and is the likeliest one an outlier?

Source: Ni et al., "Training on the Benchmark Is Not All You Need", arXiv 2409.01790 (AAAI 2025), as its
released code decides. The rules are reproduced with their weaknesses; `evalkit.leakage.null_floor` says what
they flag when nothing leaked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evalkit.leakage.forest import decision_of_max
from evalkit.leakage.scores import Floats

SCENARIO_B_THRESHOLDS = (-0.2, -0.17, -0.15)
"""Thresholds of rule b in the released code; the paper's tables on MMLU, CMMLU and C-Eval take the first."""
CMB_THRESHOLD = -0.25
"""What the paper takes for CMB, whose items have five options."""


def scenario_a(logprobs: Floats) -> NDArray[np.bool_]:
    """Rule a, for publishers that shuffled options: no other order is likelier than the published one.

    An order as likely as the published one does not clear an item: items with equal options can be flagged by
    a tie.

    Args:
        logprobs: shape (N, m), the published order first.

    Returns:
        Whether each item counts as leaked, shape (N,).
    """
    return np.asarray(logprobs[:, 0] >= logprobs.max(axis=1))


def outlier_scores(logprobs: Floats) -> Floats:
    """Score that rule b compares with its threshold, bit for bit what scikit-learn gives.

    It is `decision_function` of the likeliest order in `IsolationForest(n_estimators=100, random_state=42)`
    grown on all orders of the item.

    Args:
        logprobs: shape (N, m), with 2 <= m <= 256.

    Returns:
        Shape (N,); the lower, the more of an outlier.

    Raises:
        ValueError: for another number of orders.
    """
    return decision_of_max(logprobs)


def scenario_b(outlier_scores: Floats, threshold: float) -> NDArray[np.bool_]:
    """Rule b, for models that saw the options in some other order: the likeliest order is an outlier.

    Args:
        outlier_scores: of `outlier_scores`, or of `evalkit.leakage.isolation.isolation_score`, shape (N,).
        threshold: items strictly below count as leaked.
    """
    return np.asarray(outlier_scores < threshold)

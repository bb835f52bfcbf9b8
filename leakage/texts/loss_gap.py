"""Does a model know a benchmark's own texts better than others that say the same?

Sources: Wei et al., "Skywork", arXiv 2310.19341 (a set of the same kind written anew), and Xu et al.,
arXiv 2404.18824 (each text rephrased).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from evalkit.errors import UsageError
from evalkit.leakage.scores import Floats
from evalkit.leakage.texts.contrast import FEWEST, contrast
from evalkit.stats.intervals import Estimate, bootstrap


@dataclass(frozen=True, slots=True)
class LossGap:
    """How much more a reference set costs than the benchmark, in nats per token."""

    paired: bool
    """Whether texts of equal id were compared with each other."""
    n_target: int
    n_reference: int
    loss_target: float
    loss_reference: float
    gap: Estimate
    """Reference minus target: positive where the benchmark's own texts are the better known."""
    p: float
    """One-sided: of the paired t test, or of the Mann-Whitney test of two independent sets."""

    def to_json(self) -> dict[str, Any]:
        """As written to `leakage.json`."""
        return asdict(self) | {"gap": self.gap.to_json()}


def loss_gap(
    target: Sequence[float],
    reference: Sequence[float],
    target_ids: Sequence[str],
    reference_ids: Sequence[str],
    seed: int = 0,
) -> LossGap:
    """Compare losses, in nats per token, of the benchmark's texts and of reference texts.

    They are compared in pairs where reference texts have ids of the benchmark's; several texts of one id (a
    text rephrased in several ways) count as their mean, and what has no partner is left out.

    Raises:
        UsageError: there are fewer than `FEWEST` pairs, or texts in either set.
    """
    rephrased: dict[str, list[float]] = defaultdict(list)
    for identifier, loss in zip(reference_ids, reference, strict=True):
        rephrased[identifier].append(loss)
    pairs = [
        (loss, float(np.mean(rephrased[i])))
        for i, loss in zip(target_ids, target, strict=True)
        if i in rephrased
    ]
    return _paired(np.array(pairs), seed) if pairs else _independent(target, reference, seed)


def _paired(losses: Floats, seed: int) -> LossGap:
    n = len(losses)
    if n < FEWEST:
        raise UsageError(f"only {n} reference texts have an id of the benchmark's: give at least {FEWEST}")
    target, reference = losses.T
    difference = reference - target
    spread = np.ptp(difference) > 0
    p = float(stats.ttest_1samp(difference, 0, alternative="greater").pvalue) if spread else 1.0
    gap = bootstrap(lambda rows: float(difference[rows].mean()), n, seed=seed)
    return LossGap(True, n, n, float(target.mean()), float(reference.mean()), gap, p)


def _independent(target: Sequence[float], reference: Sequence[float], seed: int) -> LossGap:
    # The negative loss is what is higher for texts the model knows.
    compared = contrast(-np.asarray(target), -np.asarray(reference), seed)
    return LossGap(
        False,
        compared.n_target,
        compared.n_control,
        -compared.mean_target,
        -compared.mean_control,
        compared.difference,
        compared.p,
    )

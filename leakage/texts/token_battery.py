"""Statistics of a text's tokens that tend to be higher for texts a model was trained on.

Of benchmarks they tell little by themselves (Duan et al., arXiv 2402.07841: barely better than guessing), so
they are only ever reported as a contrast with a control set.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evalkit.leakage.scores import Floats
from evalkit.types import TokenStats

LOWEST = 0.2
"""Share of a text's tokens that Min-K % looks at."""


def mean_logprob(stats: TokenStats, text: str) -> float:
    """Mean log-probability of the tokens, the negative loss, in nats per token."""
    return float(stats.logprob.mean())


def zlib_ratio(stats: TokenStats, text: str) -> float:
    """Log-probability in nats per byte of the compressed text (Carlini et al., arXiv 2012.07805)."""
    return float(stats.logprob.sum() / len(zlib.compress(text.encode("utf-8", "surrogatepass"))))


def min_k(stats: TokenStats, text: str) -> float:
    """Mean of the lowest 20 % of the tokens' log-probabilities (Min-K %; Shi et al., arXiv 2310.16789)."""
    return _mean_of_lowest(stats.logprob)


def min_k_plus_plus(stats: TokenStats, text: str) -> float:
    """Min-K % of log-probabilities standardised by their mean and variance under the model.

    Where the model leaves no other token a chance the variance is 0, and so is the standardised value.
    Source: Zhang et al., arXiv 2404.02936 (Min-K %++).
    """
    deviation = np.sqrt(stats.variance)
    centred = stats.logprob - stats.mean
    return _mean_of_lowest(np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0))


STATISTICS: Mapping[str, Callable[[TokenStats, str], float]] = {
    "mean_logprob": mean_logprob,
    "zlib_ratio": zlib_ratio,
    "min_k": min_k,
    "min_k_plus_plus": min_k_plus_plus,
}
"""All are higher for texts the model knows."""


def battery(stats: Sequence[TokenStats], texts: Sequence[str]) -> dict[str, Floats]:
    """Every statistic of every text, shape (n,) each."""
    return {
        name: np.array([statistic(s, text) for s, text in zip(stats, texts, strict=True)])
        for name, statistic in STATISTICS.items()
    }


def _mean_of_lowest(values: Floats) -> float:
    k = max(1, int(LOWEST * len(values)))
    return float(np.partition(values, k - 1)[:k].mean())

"""How often would the model have written on exactly as the text does?

A greedy continuation of n tokens reproduces the text if and only if each of the n tokens is the most likely
one after the text itself: one forward over the text tells of all starting points, and nothing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evalkit.leakage.scores import Floats
from evalkit.types import TokenStats

LENGTH = 5
"""Tokens to reproduce."""
STARTS = 5
"""Starting points per text."""
_FIRST = 2
"""Tokens that stand before the first starting point."""


def hit_rates(stats: Sequence[TokenStats]) -> Floats:
    """Share of each text's starting points after which it is reproduced, shape (n,); NaN for too short texts.

    Five starting points are spread evenly over the text, and five tokens are to be reproduced, as in Xu et
    al., "Benchmarking Benchmark Leakage in Large Language Models", arXiv 2404.18824. Texts with fewer than
    five places to start from have none.
    """
    return np.array([_hit_rate(s) for s in stats])


def _hit_rate(stats: TokenStats) -> float:
    last = len(stats) - LENGTH
    if last - _FIRST + 1 < STARTS:
        return float("nan")
    starts = np.linspace(_FIRST, last, STARTS).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(stats.greedy, LENGTH)
    return float(windows[starts].all(axis=1).mean())

"""Metrics of generated programs."""

from __future__ import annotations

from math import comb


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability in [0, 1] that `k` samples drawn from `n` hold one of the `correct` ones.

    The unbiased estimate 1 - C(n-correct, k) / C(n, k), rounded once.

    Source: human_eval/evaluation.py (openai/human-eval@6d43fb9), which multiplies the same fraction out.

    Raises:
        ValueError: unless 0 <= correct <= n and 1 <= k <= n.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= correct <= n and 1 <= k <= n, not {correct=}, {n=}, {k=}")
    draws = comb(n, k)
    return (draws - comb(n - correct, k)) / draws

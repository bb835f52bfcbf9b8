"""What is read off greedy hits is what greedy decoding would write."""

from __future__ import annotations

import numpy as np

from evalkit.leakage.texts.completion import LENGTH, STARTS, hit_rates
from evalkit.types import TokenStats


def token_stats(greedy: str) -> TokenStats:
    """One character per token, x where it is the most likely one."""
    hits = np.array([c == "x" for c in greedy])
    return TokenStats(np.zeros(len(hits)), np.zeros(len(hits)), np.zeros(len(hits)), hits)


def test_a_start_counts_where_all_tokens_after_it_are_hits() -> None:
    # Starts are 2, 7, 12, 17, 22: of these runs the first and the last but one are whole.
    (rate,) = hit_rates([token_stats("..xxxxx" + "xxxx." + ".xxxx" + "xxxxx" + "xx.xx")])
    assert rate == 2 / STARTS


def test_a_text_known_by_heart_is_hit_everywhere() -> None:
    np.testing.assert_array_equal(hit_rates([token_stats("x" * 50), token_stats("." * 50)]), [1, 0])


def test_texts_too_short_for_five_starts_have_no_rate() -> None:
    shortest = 2 + STARTS - 1 + LENGTH
    np.testing.assert_array_equal(
        hit_rates([token_stats("x" * (shortest - 1)), token_stats("x" * shortest)]), [np.nan, 1]
    )

"""The battery's statistics, and contrasts with their blind baseline."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evalkit.errors import UsageError
from evalkit.leakage.texts.contrast import auc, blind, contrast
from evalkit.leakage.texts.token_battery import battery, min_k, min_k_plus_plus, zlib_ratio
from evalkit.types import TokenStats

GENERATOR = np.random.default_rng(0)


def token_stats(*logprobs: float, mean: float = -2.0, variance: float = 1.0) -> TokenStats:
    n = len(logprobs)
    return TokenStats(np.array(logprobs), np.full(n, mean), np.full(n, variance), np.zeros(n, np.bool_))


# -- statistics ---------------------------------------------------------------------------------------


def test_min_k_is_the_mean_of_the_lowest_fifth() -> None:
    assert min_k(token_stats(-1, -9, -2, -7, -1, -1, -1, -1, -1, -1, -1), "") == -8
    assert min_k(token_stats(-1, -3), "") == -3


def test_min_k_plus_plus_standardises_under_the_model() -> None:
    stats_ = TokenStats(
        np.array([-1.0, -3, -5, -2, -2]),
        np.full(5, -2.0),
        np.array([1.0, 0.25, 9, 1, 1]),
        np.zeros(5, np.bool_),
    )
    assert min_k_plus_plus(stats_, "") == -2.0  # (-3 + 2) / 0.5 is lower than (-5 + 2) / 3


def test_a_certain_token_is_neither_likely_nor_unlikely() -> None:
    assert min_k_plus_plus(token_stats(0.0, 0.0, mean=0.0, variance=0.0), "") == 0


def test_zlib_counts_bytes_of_the_compressed_text() -> None:
    text = "題目 " * 30
    assert zlib_ratio(token_stats(-6, -4), text) == -10 / len(zlib.compress(text.encode()))


def test_the_battery_measures_every_text() -> None:
    measured = battery([token_stats(-1, -3), token_stats(-4)], ["ab", "c"])
    assert list(measured) == ["mean_logprob", "zlib_ratio", "min_k", "min_k_plus_plus"]
    np.testing.assert_allclose(measured["mean_logprob"], [-2, -4])


# -- contrast -----------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=20), st.lists(st.integers(0, 4), min_size=1, max_size=20)
)
def test_the_auc_is_the_share_of_pairs_in_order(x: list[int], y: list[int]) -> None:
    pairs = [(a > b) + 0.5 * (a == b) for a in x for b in y]
    found = auc(x, y)
    assert found.value == pytest.approx(np.mean(pairs))
    low, high = found.ci95
    assert 0 <= low <= found.value <= high <= 1
    assert low < high


@pytest.mark.parametrize("shift", [0.0, 0.8, 2.5])
def test_the_interval_of_the_auc_covers_the_truth(shift: float) -> None:
    truth = stats.norm.cdf(shift / np.sqrt(2))
    generator = np.random.default_rng(1)
    intervals = [auc(generator.normal(shift, size=30), generator.normal(size=40)).ci95 for _ in range(400)]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.92 <= covered <= 0.99


def test_sets_that_do_not_overlap_still_have_an_interval() -> None:
    low, high = auc(np.arange(20) + 100, np.arange(20)).ci95
    assert 0.75 < low < 0.95
    assert high == 1


def test_a_contrast_compares_two_sets() -> None:
    x, y = GENERATOR.normal(1, 1, 60), GENERATOR.normal(0, 1, 80)
    found = contrast(x, y)
    assert found.difference.value == pytest.approx(x.mean() - y.mean())
    welch = stats.ttest_ind(x, y, equal_var=False).confidence_interval()
    np.testing.assert_allclose(found.difference.ci95, (welch.low, welch.high), atol=0.06)
    assert found.p == stats.mannwhitneyu(x, y, alternative="greater").pvalue
    assert contrast(y, x).p > 0.99
    assert contrast(x, y) == found


def test_equal_values_are_no_difference() -> None:
    found = contrast(np.zeros(15), np.zeros(12))
    assert (found.p, found.auc.value, found.difference.value) == (1, 0.5, 0)


def test_few_texts_are_refused() -> None:
    with pytest.raises(UsageError, match="9 texts with 50"):
        contrast(np.zeros(9), np.zeros(50))


# -- blind baseline -----------------------------------------------------------------------------------


def sentences(
    n: int, seed: int, words: str = "one two three four five six seven", length: int = 12
) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(words.split(), length)) for _ in range(n)]


def test_sets_of_one_kind_are_not_told_apart_without_a_model() -> None:
    assert not any(blind(sentences(60, k), sentences(80, k + 100)).confounded for k in range(3))


def test_other_words_are_noticed() -> None:
    found = blind(sentences(60, 0), sentences(60, 1, "one two three four five six eight"))
    assert found.characters.value > 0.8
    assert found.confounded


def test_other_lengths_are_noticed() -> None:
    found = blind(sentences(60, 0), sentences(60, 1, length=20))
    assert found.length.value < 0.1
    assert found.confounded

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.weightstats import ttost_paired

from evalkit.stats.intervals import clustered_mean
from evalkit.stats.paired import (
    bootstrap_counts,
    bootstrap_difference,
    mcnemar,
    paired_difference,
    randomisation_p,
)

RNG = np.random.default_rng(0)
A, B = RNG.random(80), RNG.random(80)


def test_independent_samples_are_students_paired_test():
    found, expected = paired_difference(A, B), stats.ttest_rel(A, B)
    assert found.value == pytest.approx((A - B).mean())
    assert found.p == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p_below(0.0) == pytest.approx(stats.ttest_rel(A, B, alternative="less").pvalue)
    assert found.p_above(0.0) == pytest.approx(stats.ttest_rel(A, B, alternative="greater").pvalue)


@pytest.mark.parametrize("margin", [0.02, 0.1, 0.3])
def test_two_one_sided_tests_are_statsmodels(margin):
    found = paired_difference(A, B)
    p, (_, low, _), (_, high, _) = ttost_paired(A, B, -margin, margin)
    assert found.p_above(-margin) == pytest.approx(low)
    assert found.p_below(margin) == pytest.approx(high)
    assert max(found.p_above(-margin), found.p_below(margin)) == pytest.approx(p)


def test_clusters_and_weights_give_the_error_of_the_macro_average():
    subset = np.repeat(["a", "b", "c", "d"], 20)
    weights = np.where(subset == "a", 2.0, 1.0)
    # Moved into [0, 1], where `clustered_mean` is defined.
    expected = clustered_mean((A - B + 1) / 2, subset, weights)
    found = paired_difference(A, B, subset, weights)
    assert found.value == pytest.approx(2 * expected.value - 1)
    assert found.stderr == pytest.approx(2 * expected.stderr)
    assert found.freedom == 3


def test_models_that_never_differ_are_equal_for_sure():
    found = paired_difference(A, A)
    assert (found.value, found.p, found.ci95) == (0.0, 1.0, (0.0, 0.0))
    assert found.p_below(0.01) == 0.0
    assert found.p_above(-0.01) == 0.0
    assert found.p_below(0.0) == found.p_above(0.0) == 1.0


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        paired_difference([0.0, math.nan], [0.0, 0.0])


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_statsmodels_exact_one(losses, gains):
    worse, two_sided = mcnemar(losses, gains)
    table = [[7, losses], [gains, 9]]
    assert two_sided == pytest.approx(reference_mcnemar(table, exact=True).pvalue)
    if losses + gains:
        one_sided = stats.binomtest(losses, losses + gains, alternative="greater")
        assert worse == pytest.approx(one_sided.pvalue)


def test_randomisation_of_right_and_wrong_is_mcnemar():
    a = np.array([1] * 12 + [0] * 3 + [1] * 20)
    b = np.array([0] * 12 + [1] * 3 + [1] * 20)
    d = b - a
    ones = np.ones(d.size, np.int64)
    found = randomisation_p(lambda swapped: np.where(swapped, -d, d).mean(1), ones, 4_999)
    assert found == pytest.approx(mcnemar(12, 3)[0], abs=0.01)


def test_randomisation_of_pairs_that_are_alike_is_that_of_each():
    values, counts = np.array([-1.0, 0.25]), np.array([12, 30])
    grouped = randomisation_p(lambda swapped: (counts - 2 * swapped) @ values, counts, 20_000)
    d = np.repeat(values, counts)
    ones = np.ones(d.size, np.int64)
    each = randomisation_p(lambda swapped: np.where(swapped, -d, d).sum(1), ones, 20_000)
    assert grouped == pytest.approx(each, abs=0.01)


def test_randomisation_is_exact_over_all_exchanges():
    d = np.array([0.5, -0.2, -0.9, -0.4, -0.3])
    every = [np.dot(signs, d) for signs in itertools.product((1, -1), repeat=5)]
    exact = np.mean(np.array(every) <= d.sum() + 1e-12)
    found = randomisation_p(lambda swapped: np.where(swapped, -d, d).sum(1), np.ones(5, np.int64), 4_999)
    assert found == pytest.approx(exact, abs=0.02)


def test_bootstrap_of_counts_is_that_of_rows():
    values, counts = np.array([-1.0, 0.0, 1.0]), np.array([40, 300, 25])
    d = np.repeat(values, counts)
    rows = bootstrap_difference(lambda rows: float(d[rows].mean()), np.arange(d.size), 2_000)
    kinds = bootstrap_counts(lambda drawn: drawn @ values / d.size, counts, 2_000)
    assert (kinds.value, kinds.n) == (pytest.approx(rows.value), rows.n)
    assert kinds.stderr == pytest.approx(rows.stderr, rel=0.08)


def test_bootstrap_of_a_mean_agrees_with_the_formula():
    a, b = RNG.random((2, 400))
    found = bootstrap_difference(lambda rows: float((a - b)[rows].mean()), np.arange(400))
    expected = paired_difference(a, b)
    assert found.value == pytest.approx(expected.value)
    assert found.stderr == pytest.approx(expected.stderr, rel=0.1)


def test_bootstrap_draws_whole_clusters():
    cluster = np.repeat(np.arange(40), 10)
    d = np.repeat(RNG.normal(0, 1, 40), 10)
    found = bootstrap_difference(lambda rows: float(d[rows].mean()), cluster)
    assert found.stderr == pytest.approx(paired_difference(d, 0 * d, cluster).stderr, rel=0.15)

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from evalkit.leakage import lattice
from evalkit.leakage.order_test import (
    Ranks,
    by_subset,
    order_test,
    rank_difference,
    rank_scores,
    ranks,
    residuals,
)
from evalkit.leakage.scores import ItemScores, PermutationScores, all_orders, sampled_orders
from evalkit.leakage.simulate import simulate
from evalkit.stats.intervals import clopper_pearson


def made(rank, n_orders=24, subset="s"):
    rank = np.atleast_1d(np.asarray(rank, np.int64))
    n = rank.size
    return Ranks(
        rank,
        np.broadcast_to(np.asarray(n_orders, np.int64), (n,)).copy(),
        np.broadcast_to(np.asarray(subset, np.str_), (n,)).copy(),
        np.arange(n).astype(np.str_),
    )


def scored(logprobs, orders, ids=None):
    ids = [str(i) for i in range(len(logprobs))] if ids is None else ids
    pairs = zip(ids, logprobs, strict=True)
    return PermutationScores("t", tuple(ItemScores("s", i, orders, np.asarray(x, float)) for i, x in pairs))


# Residuals


@pytest.mark.parametrize(("n", "left"), [(4, 9), (5, 92)])
def test_residuals_remove_slots_and_neighbours_and_nothing_else(n, left):
    orders = all_orders(n)
    m = len(orders)
    projection = residuals(orders, np.eye(m))
    assert np.trace(projection) == pytest.approx(left)
    np.testing.assert_allclose(projection @ projection, projection, atol=1e-12)
    rng = np.random.default_rng(0)
    slot, adjacent = rng.normal(size=(n, n)), rng.normal(size=(n, n))
    effects = [
        slot[order, np.arange(n)].sum() + adjacent[order[:-1], order[1:]].sum()
        for order in orders.astype(int)
    ]
    np.testing.assert_allclose(residuals(orders, np.array([effects]) - 300), 0, atol=1e-10)


def test_a_spike_keeps_nine_of_its_24_parts():
    assert residuals(all_orders(4), np.eye(24))[0, 0] == pytest.approx(9 / 24)


@pytest.mark.parametrize("n", [2, 3])
def test_few_options_are_only_centred(n):
    logprobs = np.random.default_rng(0).normal(size=(5, math.factorial(n)))
    expected = logprobs - logprobs.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(residuals(all_orders(n), logprobs), expected, atol=1e-12)


@pytest.mark.parametrize(("m", "df"), [(120, 75), (40, 14), (20, 19)])
def test_sampled_orders_lose_what_they_can_bear(m, df):
    orders = sampled_orders(6, m, np.random.default_rng(0))
    assert np.trace(residuals(orders, np.eye(m))) == pytest.approx(df)


def test_which_order_is_published_changes_no_residual():
    orders = all_orders(4)
    logprobs = np.random.default_rng(0).normal(size=(1, 24))
    # The same model, had the publisher printed order 17: its options are then called 0, 1, 2, 3.
    names = np.argsort(orders[17])
    seen = {tuple(names[order]): value for order, value in zip(orders, logprobs[0], strict=True)}
    renamed = np.array([[seen[tuple(order)] for order in orders]])
    assert residuals(orders, renamed)[0, 0] == pytest.approx(residuals(orders, logprobs)[0, 17])


# Ranks


def test_the_highest_published_order_is_first():
    logprobs = np.zeros((2, 24))
    logprobs[0, 0], logprobs[1, 0] = 1, -1
    for statistic in ("residual", "raw"):
        assert ranks(scored(logprobs, all_orders(4)), statistic).rank.tolist() == [1, 24]


@pytest.mark.parametrize("statistic", ["raw", "residual"])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_duplicate_options_leave_ranks_uniform(n, statistic):
    # The publisher put two options that read the same anywhere. Rounding that favours some orders by their
    # place in the list must not decide between the equal ones.
    orders = all_orders(n)
    rng = np.random.default_rng(0)
    logprobs = []
    for a, b in itertools.combinations(range(n), 2):
        _, text = np.unique(np.where(orders == b, a, orders), axis=0, return_inverse=True)
        logprobs.append(-500 + rng.normal(size=(1000, text.max() + 1))[:, text.ravel()])
    logprobs = np.concatenate(logprobs) + np.linspace(3e-12, 0, len(orders))
    rank = ranks(scored(logprobs, orders), statistic).rank
    assert stats.chisquare(np.bincount(rank, minlength=len(orders) + 1)[1:]).pvalue > 0.001


def test_a_model_without_opinion_ranks_by_lot():
    rank = ranks(scored(np.zeros((4800, 24)), all_orders(4))).rank
    assert stats.chisquare(np.bincount(rank)[1:]).pvalue > 0.001


def test_lots_belong_to_items_and_not_to_places():
    ids = [str(i) for i in range(50)]
    forward = ranks(scored(np.zeros((50, 24)), all_orders(4), ids))
    backward = ranks(scored(np.zeros((50, 24)), all_orders(4), ids[::-1]))
    assert forward.rank.tolist() == backward.rank.tolist()[::-1]
    reseeded = ranks(scored(np.zeros((50, 24)), all_orders(4), ids), seed=1)
    assert forward.rank.tolist() != reseeded.rank.tolist()


@pytest.mark.parametrize("statistic", ["raw", "residual"])
def test_ranks_of_sampled_orders_are_uniform(statistic):
    rng = np.random.default_rng(0)
    slot = rng.normal(0, 2, (6, 6))
    items = []
    for i in range(800):
        orders = sampled_orders(6, 20, rng)
        printed = rng.permutation(6)[orders]
        logprobs = slot[printed, np.arange(6)].sum(axis=1) + rng.normal(0, 0.1, 20)
        items.append(ItemScores("s", str(i), orders, logprobs))
    rank = ranks(PermutationScores("t", tuple(items)), statistic).rank
    assert stats.chisquare(np.bincount(rank, minlength=21)[1:]).pvalue > 0.001


def test_residuals_find_a_single_raised_order_that_raw_scores_miss():
    scores = simulate(4000, 4, 1.0, np.random.default_rng(0), spike=2.0, prefix_bump=0.0).scores
    assert ranks(scores, "raw").top.mean() < 0.22
    assert ranks(scores, "residual").top.mean() > 0.6


# The exact law


def brute(scores, total):
    return np.mean([sum(draw) >= total for draw in itertools.product(*scores)])


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=6), min_size=1, max_size=4), st.integers(-2, 40)
)
@settings(max_examples=60, deadline=None)
def test_tails_equal_enumeration(scores, total):
    terms = [lattice.uniform(np.array(s), 1) for s in scores if len(set(s)) > 1]
    scores = [s for s in scores if len(set(s)) > 1]
    if terms:
        exact = brute(scores, total)
        assert math.exp(lattice.log_tail(terms, total)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("total", [0, 417, 480, 600, 900, 2000, 11582])
def test_top_counts_follow_the_binomial_into_the_smallest_tails(total):
    term = lattice.Term(np.array([0, 1]), np.array([23 / 24, 1 / 24]), 11582)
    expected = special.logsumexp(stats.binom.logpmf(np.arange(total, 11583), 11582, 1 / 24))
    assert lattice.log_tail([term], total) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_extreme_of_mixed_items():
    mixed = made(np.ones(9), [2, 2, 6, 6, 24, 24, 24, 120, 120])
    log10 = -np.log10(mixed.n_orders).sum()
    assert order_test(mixed).log10_p == pytest.approx(log10, rel=1e-12)
    assert order_test(mixed).p_top == pytest.approx(10**log10, rel=1e-9)


def test_beyond_the_smallest_float_the_logarithm_remains():
    found = order_test(made(np.ones(1000)))
    assert found.p == 0
    assert found.log10_p == pytest.approx(-1000 * math.log10(24), rel=1e-12)


@pytest.mark.parametrize("n_orders", [[2, 6, 24], [6, 6, 6], [24, 24]])
def test_p_is_the_share_of_all_outcomes_as_extreme(n_orders):
    scores = [rank_scores(m) for m in n_orders]
    for rank in itertools.islice(itertools.product(*(range(1, m + 1) for m in n_orders)), 0, None, 7):
        total = sum(s[r - 1] for s, r in zip(scores, rank, strict=True))
        assert order_test(made(rank, n_orders)).p == pytest.approx(brute(scores, total), rel=1e-9)


def test_p_of_moderate_size_agrees_with_simulation():
    rng = np.random.default_rng(1)
    sums = rank_scores(24)[rng.integers(0, 24, (20000, 40))].sum(axis=1)
    p = np.array([math.exp(lattice.log_tail([lattice.uniform(rank_scores(24), 40)], s)) for s in sums[:300]])
    simulated = (sums[None, :] >= sums[:300, None]).mean(axis=1)
    np.testing.assert_allclose(p, simulated, atol=0.015)


def test_survival_and_tail_are_one_law():
    terms = [lattice.uniform(rank_scores(24), 150), lattice.uniform(rank_scores(6), 7)]
    start, survival = lattice.survival(terms)
    for total in range(start, start + survival.size, 997):
        assert math.exp(lattice.log_tail(terms, total)) == pytest.approx(survival[total - start], abs=1e-11)


def test_z_and_rates():
    found = order_test(made([1] * 30 + [12] * 70))
    low, high = stats.binomtest(30, 100).proportion_ci(method="exact")
    assert (found.n, found.n_top, found.top_rate) == (100, 30, 0.3)
    assert found.top_ci95 == pytest.approx((low, high))
    assert found.expected_top_rate == pytest.approx(1 / 24)
    phi = -np.log(np.arange(1, 25) / 24)
    observed = 30 * phi[0] + 70 * phi[11]
    assert found.statistic == pytest.approx(observed, abs=100 / 256)
    assert found.z == pytest.approx((observed - 100 * phi.mean()) / (10 * phi.std()), abs=0.05)


def test_clopper_pearson_at_the_ends():
    assert clopper_pearson(0, 5)[0] == 0
    assert clopper_pearson(5, 5)[1] == 1


def test_a_test_needs_items():
    with pytest.raises(ValueError, match="at least one item"):
        order_test(made(np.array([], int)))


def test_a_whole_benchmark_takes_less_than_two_seconds():
    scores = simulate(11582, 4, 0.1, np.random.default_rng(0)).scores
    start = time.process_time()
    assert order_test(ranks(scores)).p < 1e-10
    assert time.process_time() - start < 2


def test_subsets_are_tested_apart():
    both = made([1, 1, 1, 24, 24], subset=["a", "a", "a", "b", "b"])
    found = by_subset(both)
    assert list(found) == ["a", "b"]
    assert found["a"].p == pytest.approx(24.0**-3)
    assert found["b"].p == pytest.approx(1)


# Differences between models


def test_rank_difference_enumerates_the_signs_of_subsets():
    subset = np.repeat(["a", "b", "c"], 4)
    found = rank_difference(made(np.ones(12), subset=subset), made(np.full(12, 24), subset=subset))
    assert found.value == 1
    assert found.p == 1 / 8
    assert (found.n, found.n_subsets) == (12, 3)


def test_rank_difference_uses_common_items_only():
    target = made([1, 2, 3])
    reference = target.only(np.array([2, 0]))
    found = rank_difference(target, reference)
    assert (found.n, found.value, found.p) == (2, 0.0, 1.0)
    with pytest.raises(ValueError, match="no item in common"):
        rank_difference(target, made([1], subset="other"))


def test_rank_difference_of_equal_models_is_level():
    rng = np.random.default_rng(0)
    subset = np.repeat([f"s{i}" for i in range(20)], 10)
    p = [
        rank_difference(*(made(rng.integers(1, 25, 200), subset=subset) for _ in range(2)), seed=i).p
        for i in range(60)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.001

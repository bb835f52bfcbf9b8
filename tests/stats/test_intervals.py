import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evalkit.stats.intervals import Estimate, clustered_mean, independent_mean, wilson

FRACTIONS = st.floats(0, 1)
CLUSTERED = st.lists(st.tuples(FRACTIONS, st.integers(0, 4)), min_size=1, max_size=40)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (169, 11582)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_equals_scipy(successes, n, level):
    expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson(successes, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_one_success_in_one():
    z2 = stats.norm.ppf(0.975) ** 2
    low, high = wilson(1, 1)
    assert low == pytest.approx(1 / (1 + z2))
    assert high == 1.0


def test_wilson_of_nothing_is_the_whole_range():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("arguments", [(-1, 5), (6, 5), (math.nan, 5), (1, 5, 1.0), (1, 5, 0.0)])
def test_wilson_refuses_the_impossible(arguments):
    with pytest.raises(ValueError, match="wilson needs"):
        wilson(*arguments)


@given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_encloses_the_proportion_and_is_symmetric(counts):
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low < high <= 1
    if n:
        assert low <= successes / n <= high
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_independent_mean_of_equal_weights_is_the_textbook_one():
    values = [1, 1, 0, 1, 0, 0, 0, 1, 1, 1]
    estimate = independent_mean(values)
    assert estimate.value == 0.6
    assert estimate.stderr == pytest.approx(stats.sem(values))
    assert estimate.ci95 == pytest.approx(wilson(6, 10))
    assert estimate.n == 10


def test_one_sample_has_an_interval_but_no_stderr():
    for estimate in (independent_mean([1.0]), clustered_mean([1.0], [0])):
        assert estimate == Estimate(1.0, None, wilson(1, 1), 1)


def test_clusters_of_one_sample_give_the_t_interval_of_a_mean():
    values = [0.2, 0.9, 0.4, 0.6, 0.7]
    estimate = clustered_mean(values, range(5))
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert estimate.stderr == pytest.approx(stats.sem(values))
    assert estimate.ci95 == pytest.approx(expected)


def test_micro_average_by_hand():
    # Mean 3/6; residual sums of the clusters: a = 1.0, b = -0.5, c = -0.5.
    estimate = clustered_mean([1, 1, 1, 0, 0, 0], ["a", "a", "b", "b", "b", "c"])
    assert estimate.value == 0.5
    assert estimate.stderr == pytest.approx(math.sqrt(1.5) / 6 * math.sqrt(3 / 2))
    assert estimate.n == 6


def test_macro_weights_give_the_sd_of_the_cluster_means():
    clusters = np.repeat([0, 1, 2], [2, 5, 10])
    values = np.array([1, 0] + [1, 1, 1, 0, 0] + [1] * 2 + [0] * 8)
    estimate = clustered_mean(values, clusters, 1 / np.bincount(clusters)[clusters])
    means = [0.5, 0.6, 0.2]
    assert estimate.value == pytest.approx(np.mean(means))
    assert estimate.stderr == pytest.approx(stats.sem(means))
    half = stats.t.ppf(0.975, 2) * stats.sem(means)
    assert estimate.ci95 == pytest.approx((max(0, np.mean(means) - half), np.mean(means) + half))


def test_duplicated_samples_add_no_certainty():
    values, clusters = np.array([1, 0, 1, 1, 0]), np.arange(5)
    once = clustered_mean(values, clusters)
    tenfold = clustered_mean(np.repeat(values, 10), np.repeat(clusters, 10))
    assert tenfold.ci95 == pytest.approx(once.ci95)
    assert tenfold.n == 50


def test_one_cluster_falls_back_to_independent_samples():
    values = [1, 0, 1, 1]
    assert clustered_mean(values, [7] * 4) == independent_mean(values)


@pytest.mark.parametrize("values", [[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 0, 1]])
def test_agreeing_clusters_do_not_claim_certainty(values):
    estimate = clustered_mean(values, [0, 0, 1, 1, 2, 2], [0.3] * 6)
    assert estimate.ci95 == pytest.approx(wilson(sum(values), 6))


def test_all_right_is_exactly_one_under_any_weights():
    clusters = np.repeat(np.arange(57), np.arange(57) % 7 + 1)
    estimate = clustered_mean(np.ones(clusters.size), clusters, 1 / np.bincount(clusters)[clusters])
    assert estimate.value == 1.0
    assert estimate.ci95[1] == 1.0
    assert estimate.ci95[0] < 1.0


@pytest.mark.parametrize(
    ("values", "clusters", "weights"),
    [
        ([], [], None),
        ([math.nan], [0], None),
        ([1.5, 0], [0, 1], None),
        ([1, 0], [0], None),
        ([1, 0], [0, 1], [1]),
        ([1, 0], [0, 1], [1, 0]),
        ([1, 0], [0, 1], [1, math.inf]),
    ],
)
def test_bad_input_is_refused(values, clusters, weights):
    with pytest.raises(ValueError, match=r"values|weights"):
        clustered_mean(values, clusters, weights)


@given(CLUSTERED, st.booleans())
def test_clustered_mean_is_sound(rows, macro):
    values, clusters = np.array([v for v, _ in rows]), np.array([c for _, c in rows])
    weights = 1 / np.bincount(clusters)[clusters] if macro else None
    estimate = clustered_mean(values, clusters, weights)
    low, high = estimate.ci95
    assert 0 <= low <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= high <= 1
    assert low < high
    assert estimate.value == pytest.approx(np.average(values, weights=weights))
    json.dumps(estimate.to_json(), allow_nan=False)


@given(CLUSTERED, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    once, again = (clustered_mean(*zip(*order, strict=True)) for order in (rows, shuffled))
    assert again.value == pytest.approx(once.value)
    assert again.ci95 == pytest.approx(once.ci95, abs=1e-6)


@pytest.mark.parametrize("macro", [False, True])
def test_coverage_on_clustered_data(macro):
    """Over 1000 simulated benchmarks the interval holds the true mean about 95 % of the time."""
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(20), rng.integers(5, 20, 20))
    weights = 1 / np.bincount(clusters)[clusters] if macro else None
    hits = naive_hits = 0
    for _ in range(1000):
        accuracy = rng.beta(3, 3, 20)
        values = (rng.random(clusters.size) < accuracy[clusters]).astype(float)
        low, high = clustered_mean(values, clusters, weights).ci95
        hits += low <= 0.5 <= high
        low, high = independent_mean(values, weights).ci95
        naive_hits += low <= 0.5 <= high
    assert 930 <= hits <= 975
    assert naive_hits < 900

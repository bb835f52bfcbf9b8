import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evalkit.stats.intervals import clustered_mean
from evalkit.stats.paired import paired_difference, paired_half_widths

SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=2, max_size=40)


def test_of_independent_samples_is_the_paired_t_test():
    generator = np.random.default_rng(1)
    a, b = generator.random((2, 57))
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    found = paired_difference(a, b)
    assert (found.value, found.n) == (pytest.approx(np.mean(a - b)), 57)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx((interval.low, interval.high))
    assert found.stderr == pytest.approx(stats.sem(a - b))
    assert paired_difference(a, b, np.zeros(57)) == found
    assert paired_difference(a, b, np.arange(57)).ci95 == pytest.approx(found.ci95)


def test_of_equal_clusters_is_the_paired_t_test_of_their_means():
    generator = np.random.default_rng(2)
    a, b = generator.random((2, 8, 5))
    clusters = np.repeat(list("abcdefgh"), 5)
    expected = stats.ttest_rel(a.mean(axis=1), b.mean(axis=1))
    found = paired_difference(a.ravel(), b.ravel(), clusters)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.stderr == pytest.approx(stats.sem(a.mean(axis=1) - b.mean(axis=1)))


def test_by_hand_with_weights_and_unequal_clusters():
    a, b = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5]
    weights, clusters = [2.0, 1.0, 1.0, 1.0], [0, 0, 1, 2]
    # d = 1, 0, 0, ½; mean = 2.5 / 5; residual sums: 2·½ − ½, −½, 0; stderr = √(½) / 5 · √(3/2)
    found = paired_difference(a, b, clusters, weights)
    assert found.value == pytest.approx(0.5)
    assert found.stderr == pytest.approx(np.sqrt(0.5) / 5 * np.sqrt(1.5))
    assert found.p == pytest.approx(2 * stats.t.sf(0.5 / found.stderr, 2))


def test_of_clusters_needs_their_means_only():
    """Subset scores under subset weights say all that the samples say."""
    generator = np.random.default_rng(3)
    clusters = generator.integers(0, 9, 200)
    a, b = generator.random((2, 200))
    sizes = np.bincount(clusters)
    means = [np.bincount(clusters, weights=x) / sizes for x in (a, b)]
    for of_sample, of_cluster in ((np.ones(200), sizes), (1 / sizes[clusters], np.ones(9))):
        samples = paired_difference(a, b, clusters, of_sample)
        subsets = paired_difference(*means, weights=of_cluster)
        assert (subsets.value, subsets.stderr) == pytest.approx((samples.value, samples.stderr))
        assert subsets.p == pytest.approx(samples.p)


@given(SCORES)
def test_against_nothing_is_the_spread_of_one_mean(rows):
    a, _, clusters = zip(*rows, strict=True)
    found = paired_difference(a, np.zeros(len(a)), clusters)
    alone = clustered_mean(a, clusters)
    assert found.value == pytest.approx(alone.value)
    if len(set(clusters)) > 1 and found.stderr > 1e-6 and np.ptp(a) > 1e-3:
        assert found.stderr == pytest.approx(alone.stderr, rel=1e-3)


@given(SCORES)
def test_is_antisymmetric_and_agrees_with_itself(rows):
    a, b, clusters = zip(*rows, strict=True)
    found, back = paired_difference(a, b, clusters), paired_difference(b, a, clusters)
    assert back.value == pytest.approx(-found.value)
    assert back.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]))
    assert found.ci95[0] <= found.value <= found.ci95[1]
    if not 0.0499 < found.p < 0.0501:
        assert (found.p < 0.05) == (not found.ci95[0] <= 0 <= found.ci95[1])


def test_equal_answers_are_no_difference():
    found = paired_difference([1, 0, 1], [1, 0, 1], [0, 0, 1])
    assert (found.value, found.stderr, found.p) == (0, 0, 1)


@pytest.mark.parametrize("clusters", [[0, 0], [0, 1], None])
def test_two_samples_that_agree_are_no_certainty(clusters):
    found = paired_difference([1, 1], [0, 0], clusters)
    assert found.value == 1
    assert found.p > 0.3
    assert found.ci95[0] < 0


def test_many_samples_that_agree_are_evidence():
    assert paired_difference(np.ones(20), np.zeros(20)).p < 0.001


def test_clusters_that_agree_leave_the_spread_to_the_samples():
    a, clusters = [1, 0, 0, 0] * 2, [0] * 4 + [1] * 4
    assert paired_difference(a, np.zeros(8), clusters) == paired_difference(a, np.zeros(8))


@pytest.mark.parametrize(
    "arguments",
    [
        ([1], [0], [0]),
        ([], [], []),
        ([1, 0], [0, 0], [0]),
        ([1, 0], [0, 0], [0, 1], [1]),
        ([[1, 0]], [[0, 0]]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments):
    with pytest.raises(ValueError, match="at least two"):
        paired_difference(*arguments)


@pytest.mark.parametrize("clustered", [False, True])
def test_a_difference_that_is_none_is_found_in_one_of_twenty(clustered):
    """Size of the test on 0/1 scores of two equally able models that find the same questions hard."""
    generator = np.random.default_rng(4)
    n, repeats = 300, 1000
    clusters = np.arange(n) % 15 if clustered else None
    rejected = 0
    for _ in range(repeats):
        hard = generator.random(n)
        edges = generator.normal(scale=0.15, size=15)[clusters] if clustered else 0.0
        a, b = ((generator.random(n) < hard + shift).astype(float) for shift in (edges / 2, -edges / 2))
        rejected += paired_difference(a, b, clusters).p < 0.05
    assert 0.03 < rejected / repeats < 0.07


def test_of_many_at_once_is_that_of_every_two():
    generator = np.random.default_rng(8)
    scores, weights = generator.random((4, 23)), generator.integers(1, 9, 23).astype(float)
    # Alike, and differing by the same throughout.
    scores = np.vstack([scores, scores[0], scores[1] + 0.25])
    found = paired_half_widths(scores, weights)
    for a, b in np.ndindex(found.shape):
        low, high = paired_difference(scores[a], scores[b], weights=weights).ci95
        assert found[a, b] == pytest.approx((high - low) / 2)

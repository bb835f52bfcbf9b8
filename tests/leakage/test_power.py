import numpy as np
import pytest
from scipy import stats

from evalkit.leakage.order_test import Ranks, order_test
from evalkit.leakage.power import detectable_fraction, items_needed, power


@pytest.mark.parametrize(("n", "fraction"), [(20, 1.0), (150, 0.3), (3000, 0.05)])
def test_power_of_top_counts_is_binomial(n, fraction):
    critical = stats.binom.isf(0.01, n, 1 / 24)
    rate = (1 - fraction) / 24 + fraction * 0.262
    assert power(n, fraction) == pytest.approx(stats.binom.sf(critical, n, rate), rel=1e-9)


@pytest.mark.parametrize("test", ["top", "sum"])
def test_without_leaks_power_is_the_size(test):
    assert 0.004 < power(500, 0.0, test=test) <= 0.01
    assert power(500, 0.7, sensitivity=1 / 24, test=test) == pytest.approx(power(500, 0.0, test=test))


def test_power_of_the_sum_agrees_with_simulation():
    rng = np.random.default_rng(0)
    n, pi, t = 60, 0.5, 0.5
    hits = 0
    for _ in range(200):
        leaked = np.where(rng.random(n) < t, 1, rng.integers(2, 25, n))
        rank = np.where(rng.random(n) < pi, leaked, rng.integers(1, 25, n))
        names = np.full(n, "")
        hits += order_test(Ranks(rank, np.full(n, 24), names, names)).p <= 0.01
    expected = power(n, pi, t, test="sum")
    assert hits / 200 == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 200))


@pytest.mark.parametrize(
    ("sensitivity", "approximate"),
    [
        (0.262, {1: 14, 0.5: 48, 0.2: 253, 0.1: 926, 0.05: 3511, 0.02: 21174}),
        (0.538, {1: 3, 0.5: 12, 0.2: 58, 0.1: 203, 0.05: 739, 0.02: 4300}),
    ],
)
def test_items_needed_and_the_normal_approximation(sensitivity, approximate):
    z_size, z_power = stats.norm.isf([0.01, 0.2])
    for fraction, normal in approximate.items():
        p0, p1 = 1 / 24, 1 / 24 + fraction * (sensitivity - 1 / 24)
        root = z_size * np.sqrt(p0 * (1 - p0)) + z_power * np.sqrt(p1 * (1 - p1))
        assert normal == pytest.approx((root / (p1 - p0)) ** 2, rel=1e-3, abs=1)
        # The normal law has too light a tail: the exact test needs more.
        assert normal < items_needed(fraction, sensitivity) < 1.3 * normal + 30


@pytest.mark.parametrize("test", ["top", "sum"])
def test_items_needed_reach_the_power_and_not_before(test):
    n = items_needed(0.3, 0.4, test=test)
    assert power(n, 0.3, 0.4, test=test) >= 0.8 > power(n - 1, 0.3, 0.4, test=test)


def test_detectable_fraction_is_where_power_reaches_80_percent():
    found = detectable_fraction(1000)
    assert power(1000, found) == pytest.approx(0.8, abs=1e-3)
    assert detectable_fraction(11582) < 0.03
    assert detectable_fraction(5) is None
    assert items_needed(0.3, 1 / 24) is None


def test_a_sensitivity_below_chance_is_refused():
    with pytest.raises(ValueError, match="sensitivity"):
        power(10, 0.5, 0.01)

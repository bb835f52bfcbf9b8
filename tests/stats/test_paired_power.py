from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import NormalIndPower

from evalkit.stats.power import power, samples_needed, smallest_difference


@pytest.mark.parametrize("alpha", [0.01, 0.05])
@pytest.mark.parametrize("wanted", [0.8, 0.95])
def test_power_size_and_samples_are_each_others_inverses(alpha, wanted):
    sd, n = 0.4, 900
    for lost in (0, 1):
        seen = smallest_difference(sd, n, alpha, lost, wanted)
        assert power(seen, sd, n, alpha, lost) == pytest.approx(wanted)
        assert samples_needed(seen, sd, alpha, lost, wanted) in (n, n + 1)


def test_power_is_statsmodels():
    expected = NormalIndPower(ddof=0).power(0.1, 500, 0.05, ratio=0, alternative="larger")
    assert power(0.1, 1.0, 500, 0.05) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n", "worse", "better"), [(2000, 0.06, 0.03), (1000, 0.03, 0.02), (14_042, 0.1, 0.09)]
)
def test_power_of_mcnemars_test_by_simulation(n, worse, better):
    alpha = 0.05
    rng = np.random.default_rng(1)
    losses, gains, _ = rng.multinomial(n, [worse, better, 1 - worse - better], 4000).T
    seen = stats.binom.sf(losses - 1, losses + gains, 0.5) <= alpha
    sd = (worse + better - (worse - better) ** 2) ** 0.5
    assert seen.mean() == pytest.approx(power(worse - better, sd, n, alpha, lost=1), abs=0.03)


def test_models_that_never_differ_show_any_difference():
    assert power(0.01, 0.0, 100, 0.05) == 1.0
    assert power(0.0, 0.0, 100, 0.05) == 0.0


def test_no_spread_seen_is_no_proof_of_none():
    """Five losses and no gain are what an exact test at 0.05 needs; so few are not quite normal."""
    n = 700
    seen = smallest_difference(0.0, n, 0.05, lost=1)
    assert stats.binom.sf(4, n, seen) == pytest.approx(0.8, abs=0.08)


def test_tiny_levels_need_more_samples_rather_than_overflow():
    needed = [samples_needed(0.02, 0.4, alpha) for alpha in (1e-6, 1e-17, 1e-300)]
    assert needed == sorted(needed)
    assert power(0.02, 0.4, needed[1], 1e-17) == pytest.approx(0.8, abs=0.01)

import numpy as np
import pytest
from scipy import integrate, stats

from evalkit.leakage.multiplicity import average_e, e_bh, p_to_e


@pytest.mark.parametrize("p", [1e-200, 1e-6, 0.01, 0.3, 0.9, 0.9995, 0.99995])
def test_calibrator_is_the_mixture_it_says(p):
    expected, _ = integrate.quad(lambda kappa: kappa * p ** (kappa - 1), 0, 1, points=[1e-3, 0.01, 0.1])
    assert float(p_to_e(p)) == pytest.approx(expected, rel=1e-6)


def test_calibrated_values_average_at_most_one():
    assert float(p_to_e(1)) == 0.5
    assert float(p_to_e(0)) == np.inf
    u = (np.arange(1_000_000) + 0.5) / 1_000_000
    assert 0.9 < p_to_e(u).mean() <= 1


def test_e_bh_by_hand():
    # Of four at 0.05 the k-th largest must reach 80 / k.
    assert e_bh([100, 41, 1, 27], 0.05).tolist() == [True, True, False, True]
    assert e_bh([79, 39, 26, 19], 0.05).tolist() == [False] * 4
    assert e_bh([20, 20, 20, 20], 0.05).tolist() == [True] * 4
    assert e_bh([np.inf], 0.01).tolist() == [True]


def test_e_bh_controls_false_discoveries_of_dependent_values():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        common = rng.normal()
        z = 0.9 * common + np.sqrt(1 - 0.81) * rng.normal(size=20)
        z[:4] += 3
        rejected = e_bh(p_to_e(stats.norm.sf(z)), 0.1)
        shares.append(rejected[4:].sum() / max(1, rejected.sum()))
    assert np.mean(shares) <= 0.1


def test_average():
    assert average_e([1, 2, 6]) == 3


@pytest.mark.parametrize("function", [p_to_e, average_e, lambda e: e_bh(e, 0.1)])
@pytest.mark.parametrize("values", [[], [-0.1], [np.nan]])
def test_the_impossible_is_refused(function, values):
    with pytest.raises(ValueError, match="at least one value"):
        function(values)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evalkit.leakage.forest import N_TREES, decision_of_max
from evalkit.leakage.isolation import average_path_length, isolation_score, max_depth
from evalkit.leakage.scores import Floats


def c(n: int) -> float:
    return float(average_path_length(np.array([n]))[0])


def expected_length(values: Sequence[float], cuts_left: int) -> float:
    """Expected path length of the largest of some sorted values, straight from what a random tree does."""
    span = values[-1] - values[0]
    if len(values) == 1 or cuts_left == 0 or span == 0:
        return c(len(values))
    chances = np.diff(values) / span
    return 1 + sum(
        chance * expected_length(values[cut + 1 :], cuts_left - 1) for cut, chance in enumerate(chances)
    )


def path_length(score: Floats, m: int) -> Floats:
    """Expected path length behind a score."""
    return -c(m) * np.log2(0.5 - score)


@pytest.mark.parametrize("m", [2, 3, 5, 6, 9])
def test_the_closed_form_is_what_the_trees_do_on_average(m: int) -> None:
    rows = np.random.default_rng(m).standard_normal((6, m))
    rows[4] = np.round(rows[4])
    rows[5] = 1.5
    expected = [expected_length(sorted(row), max_depth(m)) for row in rows]
    np.testing.assert_allclose(path_length(isolation_score(rows), m), expected, rtol=1e-12)


@pytest.mark.parametrize("m", [24, 120])
def test_forests_of_many_seeds_come_to_the_closed_form(m: int) -> None:
    rows = -70 + np.random.default_rng(m).standard_normal((3, m))
    rows[1, 0] += 4
    lengths = np.array([path_length(decision_of_max(rows, seed), m) for seed in range(30)])
    error = lengths.std(axis=0, ddof=1) / np.sqrt(len(lengths))
    assert np.all(np.abs(lengths.mean(axis=0) - path_length(isolation_score(rows), m)) < 4 * error)
    assert len(lengths) * N_TREES == 3000


def test_a_threshold_is_an_expected_path_length() -> None:
    assert c(24) == pytest.approx(5.509, abs=5e-4)
    assert path_length(np.array(-0.2), 24) == pytest.approx(2.835, abs=5e-4)
    # The surest outlier is cut off at once.
    far = np.append(np.zeros(23), 1.0)[None]
    assert isolation_score(far)[0] == pytest.approx(-0.382, abs=5e-4)


def test_pure_noise_is_called_leaked_in_a_third_of_cases() -> None:
    of_four, of_five = (
        isolation_score(np.random.default_rng(0).standard_normal((n, m)))
        for n, m in ((20_000, 24), (4000, 120))
    )
    assert np.mean(of_four < -0.2) == pytest.approx(0.35, abs=0.01)
    assert np.mean(of_four < -0.17) == pytest.approx(0.57, abs=0.01)
    assert np.mean(of_five < -0.2) == pytest.approx(0.88, abs=0.015)
    assert np.mean(of_five < -0.25) == pytest.approx(0.48, abs=0.02)


_ROWS = hnp.arrays(np.float64, (2, 7), elements=st.floats(-50, 50).map(lambda x: round(x, 2)))


@given(_ROWS, st.floats(-400, 0), st.floats(0.1, 10))
@settings(deadline=None)
def test_location_scale_and_the_order_of_values_do_not_matter(
    rows: Floats, shift: float, scale: float
) -> None:
    score = isolation_score(rows)
    np.testing.assert_allclose(isolation_score(rows[:, ::-1]), score, atol=1e-12)
    np.testing.assert_allclose(isolation_score(scale * rows + shift), score, atol=1e-6)
    assert np.all(score[np.ptp(rows, axis=1) == 0] == 0)

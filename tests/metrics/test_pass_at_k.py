import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.metrics.code import pass_at_k

COUNTS = st.integers(1, 300).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)),
)


@pytest.mark.parametrize(
    ("n", "correct", "k", "value"),
    [
        (200, 10, 1, 0.05),
        (200, 10, 10, 0.408548),
        (200, 10, 100, 0.999229),
        (200, 1, 100, 0.5),
        (1, 1, 1, 1.0),
        (5, 0, 1, 0.0),
        (5, 0, 5, 0.0),
    ],
)
def test_golden_values(n, correct, k, value):
    assert pass_at_k(n, correct, k) == pytest.approx(value, abs=5e-7)


@given(COUNTS)
def test_equals_the_published_product(counts):
    n, correct, k = counts
    failing = n - correct
    product = math.prod(1 - k / i for i in range(failing + 1, n + 1))
    assert pass_at_k(n, correct, k) == pytest.approx(1.0 if failing < k else 1 - product, abs=1e-12)


@given(COUNTS)
def test_lies_in_range_and_grows_with_k(counts):
    n, correct, k = counts
    value = pass_at_k(n, correct, k)
    assert 0 <= value <= 1
    assert value >= pass_at_k(n, correct, 1) == correct / n
    assert pass_at_k(n, correct, n) == float(correct > 0)


def test_huge_numbers_stay_exact():
    assert pass_at_k(100_000, 1, 50_000) == 0.5


@pytest.mark.parametrize(
    ("n", "correct", "k"), [(5, 3, 6), (5, 3, 0), (5, 6, 1), (5, -1, 1), (0, 0, 1), (-1, 0, 1)]
)
def test_refuses_the_impossible(n, correct, k):
    with pytest.raises(ValueError, match=r"pass@k needs"):
        pass_at_k(n, correct, k)

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.metrics.classification import macro_f1

CLASSES = st.sampled_from(["예", "아니오", "0", "1", ""])
PAIRS = st.lists(st.tuples(st.one_of(st.none(), CLASSES), CLASSES), min_size=1, max_size=30)


def counted(pairs):
    """Macro-F1 by counting pairs, class by class, in exact arithmetic."""
    names = {name for pair in pairs for name in pair} - {None}
    total = Fraction(0)
    for name in names:
        true_positive = pairs.count((name, name))
        if true_positive:
            precision = Fraction(true_positive, sum(p == name for p, _ in pairs))
            recall = Fraction(true_positive, sum(t == name for _, t in pairs))
            total += 2 / (1 / precision + 1 / recall)
    return total / len(names)


@given(PAIRS)
def test_equals_an_independent_count(pairs):
    assert macro_f1(*zip(*pairs, strict=True)) == pytest.approx(float(counted(pairs)), abs=1e-12)


@given(PAIRS)
def test_lies_in_range_whatever_the_order(pairs):
    value = macro_f1(*zip(*pairs, strict=True))
    assert 0 <= value <= 1
    assert macro_f1(*zip(*sorted(pairs, key=str), strict=True)) == value


@given(st.lists(CLASSES, min_size=1))
def test_is_one_for_what_is_right(targets):
    assert macro_f1(targets, targets) == 1


@given(st.lists(st.tuples(CLASSES, CLASSES), min_size=1))
def test_is_symmetric_without_missing_predictions(pairs):
    predictions, targets = zip(*pairs, strict=True)
    assert macro_f1(predictions, targets) == pytest.approx(macro_f1(targets, predictions), abs=1e-12)


def test_a_missing_prediction_is_wrong_but_no_class():
    assert macro_f1([None], ["a"]) == 0
    assert macro_f1(["a", None], ["a", "a"]) == pytest.approx(2 / 3)
    assert macro_f1(["a", "b"], ["a", "a"]) == pytest.approx(1 / 3)


def test_constant_answers_to_kobest_boolq_give_the_collapse_in_published_tables():
    targets = ["예"] * 705 + ["아니오"] * 699
    assert round(100 * macro_f1(["예"] * 1404, targets), 1) == 33.4


def test_a_hundred_thousand_samples():
    targets = [str(i % 7) for i in range(100_000)]
    assert macro_f1([str(i % 7 if i % 2 else 0) for i in range(100_000)], targets) == pytest.approx(
        0.63, abs=0.05
    )


@pytest.mark.parametrize(("predictions", "targets"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_refuses_what_does_not_match(predictions, targets):
    with pytest.raises(ValueError, match="one prediction per target"):
        macro_f1(predictions, targets)

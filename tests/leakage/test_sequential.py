import math

import numpy as np
import pytest

from evalkit.leakage.order_test import Ranks
from evalkit.leakage.sequential import EProcess, Stopping, upper_fraction


def made(rank, n_orders=24):
    rank = np.asarray(rank, np.int64)
    names = np.full(rank.size, "")
    return Ranks(rank, np.broadcast_to(np.asarray(n_orders, np.int64), rank.shape).copy(), names, names)


def drawn(n, pi, t, rng):
    leaked = np.where(rng.random(n) < t, 1, rng.integers(2, 25, n))
    return made(np.where(rng.random(n) < pi, leaked, rng.integers(1, 25, n)))


def process(ranks):
    found = EProcess()
    found.update(ranks)
    return found


@pytest.mark.parametrize("m", [2, 6, 24, 120])
def test_the_bet_is_fair(m):
    assert np.mean([process(made([r], m)).value for r in range(1, m + 1)]) == pytest.approx(1)


def test_capital_by_hand():
    stakes = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7])
    high = 1 / np.arange(1, 25) / np.mean(1 / np.arange(1, 25))
    top = (1 + 23 * stakes) * (1 - stakes)
    smooth = (1 + stakes * (high[0] - 1)) * (1 + stakes * (high[4] - 1))
    assert process(made([1, 5])).value == pytest.approx((top.mean() + smooth.mean()) / 2)


def test_batches_change_nothing():
    ranks = drawn(200, 0.5, 0.5, np.random.default_rng(0))
    pieces = EProcess()
    for start in range(0, 200, 7):
        pieces.update(ranks.only(slice(start, start + 7)))
    pieces.update(made([]))
    whole = process(ranks)
    assert pieces.log_value == pytest.approx(whole.log_value)
    assert pieces.stopped_at(0.01) == whole.stopped_at(0.01)


def test_evidence_once_reached_stays():
    found = process(made([1] * 5))
    first = found.stopped_at(0.01)
    assert first is not None
    assert first <= 5
    found.update(made([24] * 500))
    assert found.value < 1
    assert found.rejects(0.01)
    assert found.stopped_at(0.01) == first


def test_nothing_seen_is_no_evidence():
    empty = EProcess()
    assert (empty.value, empty.log_value, empty.rejects(0.05)) == (1.0, 0.0, False)


def test_endless_evidence_is_still_a_number():
    assert math.isfinite(process(made([1] * 1000)).value)


def test_type_one_error_over_3000_looks():
    rng = np.random.default_rng(0)
    hits = sum(process(drawn(3000, 0.0, 1.0, rng)).rejects(0.01) for _ in range(600))
    # Ville: at most 1 %, for six expected; 15 or more have a chance below 0.2 %.
    assert hits < 15


@pytest.mark.parametrize(("pi", "t", "most"), [(1.0, 0.262, 26), (0.5, 0.262, 80), (0.2, 0.538, 110)])
def test_leaks_are_found_soon(pi, t, most):
    rng = np.random.default_rng(0)
    stopped = [process(drawn(1500, pi, t, rng)).stopped_at(0.01) or math.inf for _ in range(150)]
    assert np.median(stopped) < most


def test_upper_fraction_holds_at_every_look():
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(100):
        ranks = drawn(1000, 0.2, 0.262, rng)
        missed += any(upper_fraction(ranks.only(slice(0, n))) < 0.2 for n in range(50, 1001, 50))
    assert missed < 13


def test_upper_fraction_narrows():
    rng = np.random.default_rng(0)
    assert upper_fraction(made([])) == 1
    assert upper_fraction(drawn(11582, 0.0, 1.0, rng)) < 0.05
    assert upper_fraction(drawn(2000, 1.0, 0.262, rng)) == 1


def test_the_rule_answers():
    rng = np.random.default_rng(0)
    rule = Stopping(alpha=0.01, fraction=0.3)
    assert rule.decide(made([5, 9])) == "continue"
    assert rule.decide(drawn(300, 1.0, 0.6, rng)) == "evidence"
    clean = Stopping(alpha=0.01, fraction=0.3)
    assert clean.decide(drawn(1500, 0.0, 1.0, rng)) == "futile"
    assert clean.upper < 0.3

import itertools

import numpy as np
import pytest
from scipy import stats

from evalkit.errors import UsageError
from evalkit.leakage.fraction import leads, leaked_fraction, lower_bound
from evalkit.leakage.order_test import Ranks, ranks
from evalkit.leakage.scores import ItemScores, PermutationScores, all_orders
from evalkit.leakage.simulate import simulate
from evalkit.stats.intervals import clopper_pearson


def made(rank, n_orders=24):
    rank = np.asarray(rank, np.int64)
    names = np.arange(rank.size).astype(np.str_)
    return Ranks(rank, np.broadcast_to(np.asarray(n_orders, np.int64), rank.shape).copy(), names, names)


def with_tops(tops, n):
    return made(np.where(np.arange(n) < tops, 1, 13))


def drawn(n, pi, rng, t=0.262, n_orders=24):
    n_orders = np.broadcast_to(n_orders, n)
    leaked = np.where(rng.random(n) < t, 1, rng.integers(2, n_orders + 1))
    return made(np.where(rng.random(n) < pi, leaked, rng.integers(1, n_orders + 1)), n_orders)


# The interval


@pytest.mark.parametrize(
    ("n", "t"), [(150, 0.262), (150, 0.538), (150, 0.9), (500, 0.262), (500, 0.9), (3000, 0.262)]
)
def test_intervals_cover_in_93_to_97_of_100(n, t):
    # Coverage is a sum over all counts of first ranks, so nothing here is left to chance.
    for pi in (0.0, 0.02, 0.1, 0.3, 1.0):
        law = stats.binom.pmf(np.arange(n + 1), n, 1 / 24 + pi * (t - 1 / 24))
        covered = 0.0
        for tops in np.flatnonzero(law > 1e-4):
            low, high = leaked_fraction(with_tops(tops, n), (t, t)).ci95
            covered += law[tops] * (low - 1e-5 <= pi <= high + 1e-5)
        assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("t", [0.262, 0.6, 1.0])
def test_the_published_interval_holds_for_every_stronger_trace(t):
    for n, pi in itertools.product((150, 500), (0.0, 0.02, 0.3, 1.0)):
        law = stats.binom.pmf(np.arange(n + 1), n, 1 / 24 + pi * (t - 1 / 24))
        covered = 0.0
        for tops in np.flatnonzero(law > 1e-4):
            low, high = leaked_fraction(with_tops(tops, n)).ci95
            covered += law[tops] * (low - 1e-5 <= pi <= high + 1e-5)
        assert covered >= 0.93


def test_published_rates_of_cmmlu_bound_the_fraction():
    found = leaked_fraction(with_tops(round(0.042 * 11582), 11582))
    assert found.ci95[0] == 0
    assert 0.015 < found.ci95[1] < 0.022
    assert found.lower95 == 0
    assert (found.basis, found.sensitivity, found.typical) == ("published", (0.262, 1.0), 0.262)


def test_a_planted_control_replaces_the_published_sensitivity():
    low, high = clopper_pearson(81, 150)
    found = leaked_fraction(with_tops(300, 1000), (low, high))
    assert found.basis == "planted"
    assert found.value == pytest.approx((0.3 - 1 / 24) / ((low + high) / 2 - 1 / 24))
    assert found.ci95[0] < found.value < found.ci95[1]
    # What is not known of the sensitivity widens the interval.
    sure = leaked_fraction(with_tops(300, 1000), ((low + high) / 2,) * 2)
    assert found.ci95[0] < sure.ci95[0] < sure.ci95[1] < found.ci95[1]


def test_intervals_move_with_the_count_and_stay_in_range():
    ends = np.array([leaked_fraction(with_tops(tops, 150), (0.5, 0.5)).ci95 for tops in range(0, 151, 5)])
    assert (np.diff(ends, axis=0) >= -1e-5).all()
    assert ends[0] == pytest.approx([0, 0], abs=0.02)
    assert ends[-1] == pytest.approx([1, 1], abs=0.02)


@pytest.mark.parametrize("sensitivity", [(0.01, 0.5), (0.5, 0.4), (0.5, 1.5)])
def test_a_sensitivity_must_lie_above_chance(sensitivity):
    with pytest.raises(UsageError, match="above chance"):
        leaked_fraction(with_tops(10, 100), sensitivity)


def test_of_two_options_the_same_share_is_taken_to_be_recalled():
    """23 of 100 items recalled, and half of the others by luck."""
    found = leaked_fraction(made(np.where(np.arange(1000) < 615, 1, 2), 2))
    assert found.sensitivity[0] == pytest.approx(0.615, abs=0.001)
    assert found.value == pytest.approx(1.0, abs=0.01)


def test_a_fraction_needs_items():
    with pytest.raises(ValueError, match="at least one item"):
        leaked_fraction(made([]))


# The bound that assumes nothing


@pytest.mark.parametrize(("pi", "t"), [(0.0, 0.5), (0.1, 1.0), (0.3, 1.0), (0.3, 0.3)])
@pytest.mark.parametrize("n_orders", [24, np.tile([2, 6, 24, 120], 100)])
def test_lower_bound_stays_below(pi, t, n_orders):
    rng = np.random.default_rng(0)
    bounds = [lower_bound(drawn(400, pi, rng, t, n_orders)) for _ in range(150)]
    # 5 % of misses are allowed; four standard errors above that.
    assert np.mean(np.array(bounds) > pi) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 150)


def test_lower_bound_uses_more_than_the_first_rank():
    # Leaked items rank second or third: no first rank tells of them.
    rng = np.random.default_rng(0)
    rank = np.where(rng.random(1000) < 0.5, rng.integers(2, 4, 1000), rng.integers(1, 25, 1000))
    assert 0.4 < lower_bound(made(rank)) < 0.5


# Which items


@pytest.mark.parametrize("q", [0.1, 0.2])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_false_leads_are_no_more_than_said(q, fraction):
    rng = np.random.default_rng(0)
    false, found = [], []
    for _ in range(60):
        scores, leaked = simulate(200, 4, fraction, rng, slot_sd=0.3, adjacency_sd=0.3, spike=2.0)
        place = {(item.subset, item.sample_id): row for row, item in enumerate(scores.items)}
        listed = [place[lead.subset, lead.sample_id] for lead in leads(ranks(scores), scores, q)]
        false.append((~leaked[listed]).sum() / max(1, len(listed)))
        found.append(leaked[listed].sum() / max(1, leaked.sum()))
    assert np.mean(false) < q + 3 * np.sqrt(q * (1 - q) / 60)
    assert np.mean(found) > 0.5 or not fraction


def test_leads_stand_out_and_come_in_order():
    scores, _ = simulate(300, 4, 0.3, np.random.default_rng(0), slot_sd=0.3, adjacency_sd=0.3, spike=3.0)
    found = leads(ranks(scores), scores, 0.1)
    assert len(found) > 50
    assert np.mean([lead.rank == 1 for lead in found]) > 0.9
    assert all(lead.gap > 1.5 and lead.fdr <= 0.1 for lead in found)
    assert [lead.p for lead in found] == sorted(lead.p for lead in found)


def test_items_of_two_options_never_become_leads():
    items = [ItemScores("s", str(i), all_orders(2), np.array([5.0, 0.0])) for i in range(50)]
    scores = PermutationScores("t", tuple(items))
    assert leads(ranks(scores), scores, 0.4) == []

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evalkit.leakage.isolation import isolation_score
from evalkit.leakage.null_floor import (
    Floor,
    iid_null,
    item_outlier_scores,
    matched_null,
    null_floor,
    order_floor,
    rotated,
)
from evalkit.leakage.published import outlier_scores
from evalkit.leakage.scores import Floats, ItemScores, PermutationScores, all_orders, sampled_orders


def scored(*logprobs: Floats) -> PermutationScores:
    n_options = {2: 2, 6: 3, 24: 4, 120: 5}
    items = (
        ItemScores("s", str(i), all_orders(n_options[len(row)]), np.asarray(row, np.float64))
        for i, row in enumerate(logprobs)
    )
    return PermutationScores("t", tuple(items))


def structured(n_items: int, generator: np.random.Generator, nuisance: float = 1.0) -> Floats:
    """Log-probabilities, shape (n_items, 24), with effects of slots and neighbours and normal noise."""
    orders = all_orders(4)
    slots, pairs = nuisance * generator.standard_normal((2, n_items, 4, 4))
    effects = slots[:, np.arange(4), orders].sum(axis=2) + pairs[:, orders[:, :-1], orders[:, 1:]].sum(axis=2)
    return -100 + effects + generator.standard_normal((n_items, 24))


def floor_of_b(scores: PermutationScores, threshold: float, seed: int = 0) -> tuple[float, Floor]:
    observed = item_outlier_scores(scores, isolation_score)
    floor = null_floor(scores, observed, threshold, matched_null(scores, isolation_score, seed))
    return float(np.mean(observed < threshold)), floor


class TestRuleA:
    def test_chance_puts_the_published_order_first_as_often_as_any(self) -> None:
        scores = scored(*structured(240, np.random.default_rng(0)))
        floor = order_floor(scores)
        assert floor.value == pytest.approx(1 / 24)
        assert (floor.low, floor.high) == (4 / 240, 17 / 240)  # quantiles of Binomial(240, 1/24)

    def test_the_distribution_is_that_of_all_publishers(self) -> None:
        rows = [
            np.array(row, np.float64)
            for row in ([-3, -1, -1, -2, -5, -4], [-1, -2, -3, -4, -5, -6], [-2, -7])
        ]
        counts = [
            sum(row[place] == row.max() for row, place in zip(rows, places, strict=True))
            for places in itertools.product(*(range(len(row)) for row in rows))
        ]
        published = sum(row[0] == row.max() for row in rows)
        floor = order_floor(scored(*rows))
        assert floor.value == pytest.approx(np.mean(counts) / 3)
        assert floor.p_value == pytest.approx(np.mean(np.array(counts) >= published))

    def test_items_whose_orders_all_tie_are_always_flagged(self) -> None:
        floor = order_floor(scored(np.zeros(24), np.zeros(24)))
        assert floor == Floor(1.0, 1.0, 1.0, 1.0)

    def test_a_small_p_value_keeps_its_digits(self) -> None:
        first = np.zeros(24)
        first[0] = 1
        assert order_floor(scored(*[first] * 50)).p_value == pytest.approx(24.0**-50, rel=1e-9)


class TestRuleB:
    def test_noise_has_the_floor_of_noise(self) -> None:
        scores = scored(*np.random.default_rng(1).standard_normal((200, 24)), np.arange(120.0))
        null = iid_null(scores, isolation_score)
        assert null.keys() == {24, 120}
        assert np.mean(null[24] < -0.2) == pytest.approx(0.35, abs=0.01)
        assert np.mean(null[120] < -0.2) == pytest.approx(0.88, abs=0.01)

    def test_the_published_seed_has_a_floor_of_its_own(self) -> None:
        null = iid_null(scored(np.zeros(24)), outlier_scores)
        assert np.mean(null[24] < -0.2) == pytest.approx(0.30, abs=0.015)

    @pytest.mark.parametrize("nuisance", [0.0, 0.5, 2.0])
    @pytest.mark.parametrize("threshold", [-0.2, -0.15])
    def test_clean_items_are_flagged_as_often_as_their_floor_says(
        self, nuisance: float, threshold: float
    ) -> None:
        rate, floor = floor_of_b(scored(*structured(3000, np.random.default_rng(7), nuisance)), threshold)
        assert floor.low <= rate <= floor.high
        assert 0.025 < floor.p_value < 0.975
        assert floor.high - floor.low < 0.04

    def test_an_order_that_stands_out_lies_above_the_floor(self) -> None:
        rows = structured(1000, np.random.default_rng(2), nuisance=0.3)
        rows[np.arange(1000), np.random.default_rng(3).integers(24, size=1000)] += 6
        rate, floor = floor_of_b(scored(*rows), -0.2)
        assert rate > floor.high
        assert floor.p_value < 1e-9

    def test_floors_of_a_mixture_are_weighted_by_items(self) -> None:
        generator = np.random.default_rng(4)
        four, three = structured(300, generator), generator.standard_normal((100, 6))
        scores = scored(*four, *three)
        observed = item_outlier_scores(scores, isolation_score)
        null = matched_null(scores, isolation_score)
        floor = null_floor(scores, observed, -0.2, null)
        parts = [float(np.mean(null[m] < -0.2)) for m in (24, 6)]
        assert floor.value == pytest.approx((300 * parts[0] + 100 * parts[1]) / 400, abs=1e-3)
        np.testing.assert_array_equal(observed[:300], isolation_score(four))

    def test_a_floor_is_the_same_every_time(self) -> None:
        scores = scored(*structured(50, np.random.default_rng(5)))
        assert floor_of_b(scores, -0.2) == floor_of_b(scores, -0.2)
        assert floor_of_b(scores, -0.2) != floor_of_b(scores, -0.2, seed=1)

    def test_items_with_many_options_share_one_law(self) -> None:
        generator = np.random.default_rng(6)
        items = tuple(
            ItemScores("s", str(i), sampled_orders(6, 100, generator), generator.standard_normal(100))
            for i in range(4)
        )
        null = matched_null(PermutationScores("t", items), isolation_score)
        assert {m: len(clean) % 4 for m, clean in null.items()} == {100: 0}


def test_turning_residuals_changes_neither_effects_nor_length() -> None:
    rows, orders = structured(5, np.random.default_rng(8)), all_orders(4)
    turned = rotated(orders, rows, np.random.default_rng(9))
    for option, slot in itertools.product(range(4), repeat=2):
        here = orders[:, slot] == option
        np.testing.assert_allclose(turned[:, here].mean(axis=1), rows[:, here].mean(axis=1))
        follows = ((orders[:, :-1] == option) & (orders[:, 1:] == slot)).any(axis=1)
        if option != slot:
            np.testing.assert_allclose(turned[:, follows].mean(axis=1), rows[:, follows].mean(axis=1))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(rows, axis=1))
    assert np.abs(turned - rows).max(axis=1).min() > 0.1

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from evalkit.leakage.forest import decision_of_max
from evalkit.leakage.parity import corrected_fractions, published_table
from evalkit.leakage.published import (
    CMB_THRESHOLD,
    SCENARIO_B_THRESHOLDS,
    outlier_scores,
    scenario_a,
    scenario_b,
)
from evalkit.leakage.scores import Floats, ItemScores, PermutationScores, all_orders


def reference_score(logprobs: Floats, seed: int = 42) -> float:
    """The released code's score of an item: a forest of its own, asked about the likeliest order."""
    column = logprobs[:, None]
    forest = IsolationForest(n_estimators=100, contamination="auto", random_state=seed).fit(column)
    return float(forest.decision_function(column)[np.argmax(logprobs)])


def difficult_rows(m: int) -> Floats:
    """Rows on which another forest would give another score: ties, tiny and huge spans, long texts."""
    generator = np.random.default_rng(m)
    noise = generator.standard_normal((9, m))
    return np.array(
        [
            noise[0],
            -180 + 4 * noise[1],
            np.round(noise[2], 1),
            np.repeat(noise[3], 2)[:m],
            np.full(m, -61.3),
            -50 + 1e-7 * noise[4],
            1e6 * noise[5] ** 3,
            np.float16(-300 + 5 * noise[6]),
            np.where(noise[7] > 0.5, noise[7], 0.0),
            np.append(np.full(m - 1, -9.0), -1.0),
        ],
        np.float64,
    )


@pytest.mark.parametrize("m", [2, 6, 24, 120])
def test_the_outlier_scores_are_scikit_learns_bit_for_bit(m: int) -> None:
    rows = difficult_rows(m)
    expected = np.array([reference_score(row) for row in rows])
    np.testing.assert_array_equal(outlier_scores(rows), expected)


def test_another_seed_grows_scikit_learns_other_forest() -> None:
    rows = difficult_rows(24)[:2]
    np.testing.assert_array_equal(decision_of_max(rows, seed=7), [reference_score(row, 7) for row in rows])


def test_an_items_outlier_score_does_not_depend_on_its_neighbours() -> None:
    rows = np.random.default_rng(1).standard_normal((600, 6))
    alone = [float(outlier_scores(row[None])[0]) for row in rows[::97]]
    assert outlier_scores(rows)[::97].tolist() == alone


@pytest.mark.parametrize("shape", [(3, 1), (3, 257), (24,)])
def test_a_forest_of_another_kind_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="2 to 256 values"):
        outlier_scores(np.zeros(shape))


def test_rule_a_flags_what_no_other_order_beats() -> None:
    rows = np.array([[-1.0, -2, -3], [-2, -1, -3], [-1, -1, -3], [-2, -1, -1], [-5, -5, -5]])
    by_hand = [not any(other > row[0] for other in row[1:]) for row in rows]
    assert scenario_a(rows).tolist() == by_hand == [True, False, True, False, True]


def test_rule_b_flags_strictly_below_the_threshold() -> None:
    scores = np.array([-0.2, np.nextafter(-0.2, -1), -0.1])
    assert scenario_b(scores, -0.2).tolist() == [False, True, False]


def test_the_rules_flag_the_items_that_the_released_code_flags() -> None:
    generator = np.random.default_rng(3)
    rows = -90 + 3 * generator.standard_normal((24, 24))
    rows[::3, 0] += 6
    for threshold in SCENARIO_B_THRESHOLDS:
        reference = [reference_score(row) < threshold for row in rows[:8]]
        assert scenario_b(outlier_scores(rows[:8]), threshold).tolist() == reference
    assert 0 < scenario_b(outlier_scores(rows), -0.2).sum() < len(rows)


def test_the_published_percentages_are_worth_less_than_they_say() -> None:
    # Qwen2-72B on CMMLU, LLaMA2-7B on MMLU and a typical MMLU figure of a model card.
    assert corrected_fractions(0.389, -0.2)["CMMLU, Qwen2-7B"] == pytest.approx(0.27, abs=0.005)
    assert corrected_fractions(0.199, -0.2)["MMLU, LLaMA2-7B"] < 0
    assert corrected_fractions(0.30, -0.2)["MMLU, LLaMA2-7B"] == pytest.approx(0.05, abs=0.005)
    assert corrected_fractions(0.30, CMB_THRESHOLD) == {}


def simulated(n_items: int, n_options: int, bump: float, seed: int) -> list[ItemScores]:
    """Items whose options have tastes in slots and neighbours; the published order is likelier by `bump`."""
    generator = np.random.default_rng(seed)
    orders = all_orders(n_options)
    found = []
    for i in range(n_items):
        slots, pairs = generator.standard_normal((2, n_options, n_options))
        logprobs = slots[np.arange(n_options), orders].sum(axis=1) - 80
        logprobs += pairs[orders[:, :-1], orders[:, 1:]].sum(axis=1)
        logprobs += 0.5 * generator.standard_normal(len(orders))
        logprobs[0] += bump
        found.append(ItemScores("s", f"{n_options}-{i}", orders, logprobs))
    return found


def test_the_table_tells_a_leaked_file_from_a_clean_one() -> None:
    clean, leaked = (
        {(row.method, row.threshold): row for row in published_table(PermutationScores("t", tuple(items)))}
        for items in (simulated(400, 4, 0, seed=1), simulated(400, 4, 3, seed=2))
    )
    assert [method for method, _ in clean] == ["a", *["b"] * 4, *["b-exact"] * 4]
    for row in clean.values():
        assert row.floor.low <= row.flagged.value <= row.floor.high
        assert row.flagged.n == 400
    assert leaked["a", None].floor.value == pytest.approx(1 / 24)
    assert leaked["a", None].excess > 0.2
    assert leaked["a", None].floor.p_value < 1e-20
    # The published rule's own noise hides the same leak.
    assert leaked["b", -0.2].flagged.value < 2 * clean["b", -0.2].flagged.value
    assert leaked["b", -0.2].noise_floor.value == pytest.approx(0.30, abs=0.015)
    assert leaked["b", -0.2].corrected.keys() == {"MMLU, LLaMA2-7B", "CMMLU, Qwen2-7B"}


def test_items_of_different_sizes_have_rows_of_their_own_and_together() -> None:
    items = simulated(40, 4, 0, seed=1) + simulated(20, 3, 0, seed=2)
    items.append(ItemScores("s", "equal", all_orders(4), np.zeros(24), ("duplicate_options",)))
    rows = published_table(PermutationScores("t", tuple(items)))
    assert [(row.n_orders, row.flagged.n) for row in rows if row.method == "a"] == [
        (6, 20),
        (24, 41),
        (None, 61),
    ]
    assert [(row.tied, row.duplicate_options) for row in rows if row.method == "a"] == [
        (0, 0),
        (1, 1),
        (1, 1),
    ]
    assert all(bool(row.corrected) == (row.n_orders == 24 and row.threshold != CMB_THRESHOLD) for row in rows)

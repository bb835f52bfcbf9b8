from typing import Any

import numpy as np
import pytest

from evalkit.leakage.clean_score import clean_score
from evalkit.types import Outcome


def outcomes(correct: dict[str, list[float]]) -> list[Outcome]:
    return [
        Outcome("t", subset, str(i), "", "A", "A", value, None, None)
        for subset, values in correct.items()
        for i, value in enumerate(values)
    ]


def score(correct: dict[str, list[float]], evidence: Any, average: str = "micro") -> dict[str, Any]:
    found = clean_score(outcomes(correct), evidence, average)
    assert found is not None
    return found


def test_the_score_without_the_items_there_is_evidence_against() -> None:
    found = score({"a": [1, 1, 0, 0], "b": [1, 0, 0, 0]}, [("a", "0"), ("b", "0")])
    assert found["all"]["value"] == 3 / 8
    assert found["clean"]["value"] == 1 / 6
    assert found["clean"]["n"] == 6
    assert found["inflation_points"]["value"] == pytest.approx(100 * (3 / 8 - 1 / 6))
    assert found["n_with_evidence"] == 2


def test_macro_averages_weigh_subsets_alike() -> None:
    found = score({"a": [1, 1], "b": [1, 0, 0, 0]}, [("b", "0")], "macro")
    assert found["all"]["value"] == pytest.approx((1 + 1 / 4) / 2)
    assert found["clean"]["value"] == pytest.approx((1 + 0) / 2)
    assert found["inflation_points"]["value"] == pytest.approx(12.5)


def test_no_evidence_is_no_inflation() -> None:
    found = score({"a": [1, 0, 1], "b": [1, 0, 0]}, [])
    assert found["inflation_points"] == {"value": 0.0, "ci95": [0.0, 0.0]}


def test_nothing_left_to_compare() -> None:
    assert clean_score(outcomes({"a": [1.0]}), [("a", "0")], "micro") is None
    assert clean_score([], [], "micro") is None


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_the_interval_covers_a_true_inflation(average: str) -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        leaked = {f"s{k}": generator.random(30) < 0.3 for k in range(20)}
        correct = {
            s: np.where(m, generator.random(30) < 0.9, generator.random(30) < 0.5) for s, m in leaked.items()
        }
        evidence = [(s, str(i)) for s, mask in leaked.items() for i in np.flatnonzero(mask)]
        found = score({s: c.astype(float).tolist() for s, c in correct.items()}, evidence, average)
        low, high = found["inflation_points"]["ci95"]
        covered += low <= 12 <= high
    assert covered >= 89

import json

import pytest

from evalkit.leakage.validation import tier0


@pytest.fixture(scope="module")
def found():
    return tier0.run(replicates=200, seed=0)


def test_it_fits_json(found):
    assert json.loads(json.dumps(found))["items"] == 150


def test_size_and_error_rates_are_as_promised(found):
    assert 0.008 < found["null"]["exact_size"] <= 0.01
    assert found["null"]["ci95"][0] <= 0.01
    assert found["null"]["ks_p"] > 0.001
    assert all(0.93 <= cell["covered"] <= 0.97 for cell in found["coverage"])
    assert found["sequential"]["type_1_ci95"][0] <= 0.01


def test_residuals_beat_raw_scores_everywhere(found):
    assert all(cell["residual"] >= cell["raw"] for cell in found["power"])


def test_the_same_seed_gives_the_same_report():
    assert tier0.run(replicates=40, seed=3)["null"] == tier0.run(replicates=40, seed=3)["null"]

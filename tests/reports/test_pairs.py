import json
from dataclasses import replace
from unittest import mock

import pytest
from helpers import mock_run

from evalkit.backends.mock import MockBackend
from evalkit.reports import pairs as of_pairs
from evalkit.reports.pairs import MOST_MODELS, pairs
from evalkit.reports.runs import entrants, open_runs
from evalkit.store import RunStore


def scored(run, scores):
    """A run of the bundled sample whose first samples have these scores and whose others failed."""
    mock_run(run, "cmmlu", backend=MockBackend(run.name), model=run.name)
    store = RunStore(run)
    padded = [*scores, *[None] * 1000]
    store.write_samples([replace(o, correct=s) for o, s in zip(store.read_samples(), padded, strict=False)])
    return run


def compared(*runs):
    return list(pairs(entrants(open_runs(runs))))


def test_counts_and_difference(tmp_path):
    a = scored(tmp_path / "a", [1.0, 1.0, 1.0, 0.0, 0.0])
    b = scored(tmp_path / "b", [1.0, 0.0, 0.0, 1.0, 0.0])
    (pair,) = compared(a, b)
    whole = pair.whole
    assert (whole.both_right, whole.only_a, whole.only_b, whole.both_wrong) == (1, 2, 1, 1)
    assert whole.difference.value == pytest.approx(0.2)
    assert whole.difference.ci95[0] < 0.2 < whole.difference.ci95[1]
    assert pair.same_data
    assert sum(subset.n for subset in pair.subsets) == whole.n == 5


def test_graded_scores_count_by_who_is_higher(tmp_path):
    a, b = scored(tmp_path / "a", [0.7, 0.2, 0.9]), scored(tmp_path / "b", [0.6, 0.2, 0.9])
    whole = compared(a, b)[0].whole
    assert (whole.both_right, whole.only_a, whole.only_b, whole.both_wrong) == (1, 1, 0, 1)


def test_samples_that_one_failed_are_left_out(tmp_path):
    a, b = scored(tmp_path / "a", [1.0, None, 0.0]), scored(tmp_path / "b", [1.0, 1.0])
    assert compared(a, b)[0].whole.n == 1
    assert compared(a, b)[0].whole.difference is None


def test_other_data_are_said(tmp_path):
    a, b = scored(tmp_path / "a", [1.0, 0.0]), scored(tmp_path / "b", [1.0, 0.0])
    path = b / "manifest.json"
    manifest = json.loads(path.read_text())
    (task,) = manifest["tasks"].values()
    task["hashes"]["data"] = "0" * 64
    path.write_text(json.dumps(manifest))
    assert not compared(a, b)[0].same_data


def test_nothing_in_common(tmp_path):
    a = scored(tmp_path / "a", [1.0])
    (a / "samples.parquet").unlink()
    assert compared(a, scored(tmp_path / "b", [1.0])) == []


def test_samples_of_a_model_are_read_once(tmp_path):
    runs = [scored(tmp_path / name, [1.0, 0.0]) for name in "abcd"]
    with mock.patch.object(of_pairs, "_scores", wraps=of_pairs._scores) as read:
        assert len(compared(*runs)) == 6
    assert read.call_count == 4


def test_many_models_are_compared_with_the_first_alone(tmp_path):
    runs = [scored(tmp_path / f"m{k:02}", [1.0, 0.0]) for k in range(MOST_MODELS + 1)]
    assert len(compared(*runs[:3])) == 3
    assert [(pair.a, pair.b) for pair in compared(*runs)] == [(0, k) for k in range(1, MOST_MODELS + 1)]

"""Runs as data frames."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from _made_up import CEVAL, CMMLU, write_run
from helpers import mock_run

import evalkit
from evalkit.errors import UsageError

TASKS = {CMMLU: {"agronomy": [1, 0, 1, 1], "anatomy": [0, 0]}, CEVAL: {"law": [1, None]}}


def test_scores_have_a_row_per_part_and_metric(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", TASKS, verdict="file leak")
    frame = evalkit.load_runs(run)
    assert len(frame) == 2 + 1 + 2 * 2 + 2 + 1 + 2
    (whole,) = frame.query("part == 'whole' and task == @CMMLU and metric == 'acc'").to_dict("records")
    low, value, high = (whole.pop(key) for key in ("low", "value", "high"))
    assert low < value < high
    assert value == pytest.approx(0.375)
    assert whole.pop("stderr") > 0
    assert whole == {
        "model": "m",
        "run_id": "a",
        "task": CMMLU,
        "protocol": "official",
        "split": "test",
        "shots": 5,
        "part": "whole",
        "name": "",
        "metric": "acc",
        "average": "macro",
        "n": 6,
        "status": "partial",
        "backend": "mock",
        "dtype": "float32",
        "contamination": "file leak",
    }
    parts = frame.query("task == @CMMLU and metric == 'acc'")[["part", "name"]]
    assert parts.to_records(index=False).tolist() == [
        ("whole", ""),
        ("category", "All of it"),
        ("subset", "agronomy"),
        ("subset", "anatomy"),
    ]


def test_scores_of_several_runs_can_be_pivoted(tmp_path: Path) -> None:
    paths = [str(write_run(tmp_path / name, TASKS, name)) for name in "ab"]
    frame = evalkit.load_runs(*paths).query("part == 'whole' and metric == 'acc'")
    table = frame.pivot(index="task", columns="model", values="value")
    assert table.loc[CMMLU].to_dict() == {"a": pytest.approx(0.375), "b": pytest.approx(0.375)}


def test_samples_have_a_row_each(tmp_path: Path) -> None:
    mock_run(tmp_path / "run", "cmmlu,cmmlu@oc-gen", limit=2)
    plain = write_run(tmp_path / "a", TASKS)
    frame = evalkit.load_runs(tmp_path / "run", plain, level="samples")
    assert list(frame.columns[:3]) == ["model", "run_id", "task"]
    assert frame.groupby("run_id").size().to_dict() == {"run": 12, "a": 8}
    ours = frame[frame.run_id == "a"]
    assert ours.metric_acc.sum() == 4
    assert ours.correct.isna().sum() == ours.metric_acc.isna().sum() == 1
    assert ours.error.dropna().tolist() == ["out of memory"]
    assert frame.index.is_unique


def test_samples_of_errors_only(tmp_path: Path) -> None:
    tasks = {CMMLU: {"agronomy": [None, None], "anatomy": [1, 1]}}
    frame = evalkit.load_runs(write_run(tmp_path / "a", tasks), level="samples")
    assert frame.metric_acc.isna().tolist() == [True, True, False, False]


def test_bad_input(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", TASKS, samples=False)
    with pytest.raises(UsageError, match="name at least one run directory"):
        evalkit.load_runs()
    with pytest.raises(UsageError, match="does not exist"):
        evalkit.load_runs(tmp_path / "b")
    with pytest.raises(UsageError, match="keeps no samples"):
        evalkit.load_runs(run, level="samples")
    with pytest.raises(ValueError, match="level 'rows': scores or samples"):
        evalkit.load_runs(run, level="rows")  # type: ignore[arg-type]


def test_without_pandas_the_extra_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", TASKS)
    with (
        mock.patch.dict(sys.modules, {"pandas": None}),
        pytest.raises(ImportError, match=r"evalkit\[report\]"),
    ):
        evalkit.load_runs(run)


def test_importing_evalkit_stays_light() -> None:
    code = (
        "import sys, evalkit; evalkit.__version__;"
        "heavy = {'pandas', 'numpy', 'pyarrow', 'pydantic', 'evalkit.reports'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'load_run'"):
        evalkit.load_run  # noqa: B018

"""Baselines: small, the same as their run, and never read when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import cli
from made_runs import Made, flipped, write_run

from evalkit.errors import DataError, EvalkitError
from evalkit.gate.baseline import read, read_any, save
from evalkit.gate.outcomes import read_run
from evalkit.gate.policy import load
from evalkit.gate.verdict import judge
from evalkit.store import RunStore

RNG = np.random.default_rng(0)


def exam(name: str, sizes: list[int]) -> Made:
    """A made-up model's answers to so many questions per subject."""
    subsets = [f"subject_{i}" for i, size in enumerate(sizes) for _ in range(size)]
    ids = [str(row) for size in sizes for row in range(size)]
    predictions, targets = RNG.choice(list("ABCD"), (2, len(ids))).tolist()
    scores = [float(p == t) for p, t in zip(predictions, targets, strict=True)]
    return Made(scores, name, subsets, ids, predictions, targets, average="macro")


def test_the_usual_benchmarks_take_less_than_two_megabytes(tmp_path: Path) -> None:
    numbers = [str(n) for n in RNG.integers(0, 100_000, 1319)]
    tasks = [
        exam("mmlu@official:test:5shot", [246] * 57 + [20]),
        exam("ceval@official:val:5shot", [26] * 52),
        exam("cmmlu@official:test:5shot", [173] * 67),
        Made([1.0] * 1319, "gsm8k@official:test:8shot", predictions=numbers, targets=numbers),
    ]
    run = write_run(tmp_path / "run", *tasks)
    size_bytes = save(run, tmp_path / "main.baseline.parquet")
    assert sum(len(task.scores) for task in tasks) > 28_000
    assert size_bytes < 2_000_000


def test_a_baseline_says_what_its_run_says(tmp_path: Path) -> None:
    before, after = flipped(1000, 80, 30)
    a, b = write_run(tmp_path / "a", Made(before)), write_run(tmp_path / "b", Made(after))
    save(a, tmp_path / "kept/a.baseline.parquet")
    of_run, of_file = (
        judge(read_any(path), read_run(b), load("default"))
        for path in (a, tmp_path / "kept/a.baseline.parquet")
    )
    assert of_run.tasks == of_file.tasks


@pytest.mark.parametrize(
    "made",
    [Made([1.0, float("nan"), 0.0]), Made([1.0, 1.0, 0.0], ids=["a", "b", "a"])],
    ids=["not a number", "one id twice"],
)
def test_a_run_that_can_never_be_compared_is_not_saved(tmp_path: Path, made: Made) -> None:
    run = write_run(tmp_path / "run", Made([1.0, 1.0, 0.0]))
    RunStore(run).write_samples(made.outcomes())
    with pytest.raises(DataError):
        save(run, tmp_path / "b.parquet")
    assert not (tmp_path / "b.parquet").exists()


def test_a_damaged_baseline_is_an_error_or_unharmed(tmp_path: Path) -> None:
    path = tmp_path / "a.baseline.parquet"
    save(write_run(tmp_path / "a", exam("mmlu@official:test:5shot", [30, 20])), path)
    whole = path.read_bytes()
    expected = read(path).tasks["mmlu@official:test:5shot"]
    for place in RNG.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(RNG.integers(8))
        path.write_bytes(damaged)
        try:
            found = read(path).tasks["mmlu@official:test:5shot"]
        except EvalkitError as error:
            assert error.exit_code in (2, 4)  # noqa: PT017 - either may happen
        else:
            assert found.entry == expected.entry
            assert found.columns == expected.columns
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(EvalkitError, match="not a readable baseline"):
            read(path)


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", Made(flipped(100, 0, 0)[0]), model="demo\x1b[2J")
    saved = cli("baseline", "save", "a", "main")
    assert (saved.code, saved.out) == (0, "")
    assert saved.err.startswith("wrote main.baseline.parquet (")
    shown = cli("baseline", "show", "main.baseline.parquet")
    assert shown.out == "a, demo␛[2J\ncmmlu@official:test:0shot: 100 samples, acc 50.00, half 25.00\n"
    assert cli("baseline", "save", "none", "x").code == 2
    assert cli("baseline", "save", "a", "a/results.json/x").code == 2
    assert cli("baseline", "show", "none").code == 2

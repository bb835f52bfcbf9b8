"""Planned runs: the fewest samples on which a gate can still tell, and a run of just these."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import Ran, cli, mock_run, write_ceval, write_cmmlu
from hypothesis import given
from hypothesis import strategies as st
from made_runs import NAME, Made, write_run

from evalkit.errors import UsageError
from evalkit.gate.baseline import read, save
from evalkit.gate.comparison import p_lower
from evalkit.gate.outcomes import Outcomes, TaskOutcomes
from evalkit.gate.plan import TaskPlan, plan
from evalkit.gate.policy import PolicyFile, load, parse
from evalkit.stats.weights import weigh

SIZES = {"agronomy": 300, "anatomy": 120, "arts": 30}
QUICK = "{subset: true, rules: [{detect: 4}]}"


def population(
    sizes: list[int], average: str, changed: float, *, seed: int = 0
) -> tuple[Outcomes, TaskOutcomes]:
    """A baseline that is right half the time, and to which so large a share changed since."""
    subsets = [f"s{i}-{seed}" for i, size in enumerate(sizes) for _ in range(size)]
    ids = [str(row) for size in sizes for row in range(size)]
    scores = (np.random.default_rng(seed).random(len(ids)) < 0.5).astype(float)
    columns = {"task": subsets, "subset": subsets, "sample_id": ids, "correct": scores.tolist()}
    entry = {"task": "cmmlu", "average": average, "metrics": {"acc": {}}}
    task = TaskOutcomes("b", NAME, entry, {}, {}, columns)
    changes = {NAME: {"acc": {"sd": changed**0.5, "n": 10**6, "changed": round(changed * 10**6)}}}
    return Outcomes("b", {}, "b", {}, {}, {NAME: task}, {"run_id": "older"}, changes), task


def place(subset: str) -> int:
    """Of its size."""
    return int(subset.partition("-")[0][1:])


def planned(baseline: Outcomes, policy: str | PolicyFile = QUICK) -> TaskPlan:
    (found,) = plan(baseline, parse(policy, "p.yaml") if isinstance(policy, str) else policy).tasks
    return found


@given(
    st.lists(st.integers(1, 200), min_size=2, max_size=12),
    st.sampled_from(["micro", "macro"]),
    st.floats(0.02, 0.3),
)
def test_the_parts_keep_the_shares_of_the_average(sizes: list[int], average: str, changed: float) -> None:
    baseline, task = population(sizes, average, changed)
    found = planned(baseline)
    picked = {subset: len(ids) for subset, ids in found.samples.items()}
    assert sum(picked.values()) == found.part.n <= sum(sizes)
    assert set(picked) == set(task.columns["subset"])
    free = {subset: n for subset, n in picked.items() if 1 < n < sizes[place(subset)]}
    if average == "macro":
        assert not free or max(free.values()) - min(free.values()) <= 1
    else:
        shares = [n / sizes[place(subset)] for subset, n in free.items()]
        assert not free or max(shares) - min(shares) <= 2 / min(sizes[place(s)] for s in free)


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_one_sample_less_would_be_too_few(average: str) -> None:
    baseline, _ = population([400, 300, 500], average, 0.1)
    found = planned(baseline, "{subset: true, power: 0.8}")
    assert found.part.n == found.whole.n  # two points are too little to be seen on so few
    assert 0.5 < found.part.power < 0.8
    found = planned(baseline)
    assert 0.8 <= found.part.power < 0.803
    assert found.part.smallest_seen == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize(
    "test", ["margin: 4, test: non-inferiority", "margin: 4, test: equivalence", "detect: 4"]
)
def test_more_power_takes_the_same_samples_and_more(test: str) -> None:
    baseline, _ = population([900, 200, 400], "macro", 0.1)
    less, more = (
        {(subset, name) for subset, names in found.samples.items() for name in names}
        for found in (
            planned(baseline, f"{{subset: true, power: {power}, rules: [{{{test}}}]}}")
            for power in (0.6, 0.9)
        )
    )
    assert less < more


def test_the_gate_tells_on_the_planned_part_as_often_as_promised() -> None:
    """Candidates that are as good fail seldom, those that are worse by `detect` with the power planned."""
    rng = np.random.default_rng(5)
    n, baselines = 60, 10
    alarms = caught = 0
    for seed in range(baselines):
        baseline, task = population([150] * 40 + [37] * 20, "macro", 0.1, seed=seed)
        found = planned(baseline, load("quick"))
        assert found.part.n < 0.4 * found.whole.n
        right = np.array(task.columns["correct"])
        share = np.average(right, weights=weigh(task.entry, task.columns["subset"]))
        rows = [task.row_of[subset, name] for subset, names in found.samples.items() for name in names]
        weights = weigh(task.entry, [task.columns["subset"][row] for row in rows])
        for drop in (0.0, 0.02):
            gained = 0.1 - drop
            lost = (drop + (1 - share) * gained) / share  # so that the whole drops by just that
            chance = np.where(right[rows] == 1, lost, gained)
            for _ in range(n):
                changes = np.where(rng.random(len(rows)) < chance, 1 - 2 * right[rows], 0.0)
                fails = p_lower(changes, weights) <= 0.05
                alarms, caught = alarms + (fails and not drop), caught + (fails and drop > 0)
    n *= baselines
    assert alarms / n <= 0.05 + 3 * (0.05 * 0.95 / n) ** 0.5
    assert caught / n >= 0.8 - 3 * (0.8 * 0.2 / n) ** 0.5


def test_a_part_scores_as_the_whole_does() -> None:
    """So that what a candidate loses on it is what it loses on all, wherever the baseline is right."""
    gaps, spread = [], []
    for seed in range(40):
        baseline, task = population([60] * 30, "macro", 0.1, seed=seed)
        found = planned(baseline)
        right = np.array(task.columns["correct"])
        rows = [task.row_of[subset, name] for subset, names in found.samples.items() for name in names]
        gaps.append(right[rows].mean() - right.mean())
        spread.append((0.25 / len(rows) * (1 - len(rows) / right.size)) ** 0.5)
    assert np.std(gaps) < 0.5 * np.mean(spread)
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / len(gaps) ** 0.5 + 1e-4


def test_an_earlier_run_of_few_samples_is_trusted_little(tmp_path: Path) -> None:
    scores = [1.0, 0.0] * 3000
    run = write_run(tmp_path / "run", Made(scores))
    found = {}
    for n in (20, 6000):
        earlier = write_run(tmp_path / f"earlier-{n}", Made(scores[:n]))
        save(run, tmp_path / f"{n}.parquet", previous=earlier)
        found[n] = planned(read(tmp_path / f"{n}.parquet"), load("quick"))
    assert found[6000].part.n < 500
    assert found[20].part.n > 1500
    assert "at most, from 20 samples of earlier-20" in found[20].spread


def test_an_earlier_run_must_be_another_of_the_same_tasks(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Made([1.0, 0.0] * 50))
    other = write_run(tmp_path / "other", Made([1.0, 0.0] * 50, name="mmlu@official:test:5shot"))
    for previous, message in ((run, "is the run itself"), (other, "has no two scored samples of cmmlu@")):
        with pytest.raises(UsageError, match=message):
            save(run, tmp_path / "b.parquet", previous=previous)


def test_without_an_earlier_run_the_worst_is_taken(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before = (rng.random(9000) < 0.5).astype(float)
    after = np.where(rng.random(9000) < 0.05, 1 - before, before)
    a, b = (write_run(tmp_path / name, Made(s.tolist())) for name, s in (("old", before), ("new", after)))
    save(b, tmp_path / "alone.parquet")
    save(b, tmp_path / "with.parquet", previous=a)
    alone, known = (planned(read(tmp_path / f"{name}.parquet"), load("quick")) for name in ("alone", "with"))
    assert alone.sd == pytest.approx(0.707, abs=0.001)
    assert known.sd == pytest.approx(0.05**0.5, abs=0.01)
    assert "old" in known.spread
    assert 7000 < alone.part.n < 8500
    assert known.part.n < 1100


def test_each_of_several_tasks_gets_what_the_correction_costs(tmp_path: Path) -> None:
    scores = [1.0, 0.0] * 6000
    names = [NAME, "mmlu@official:test:5shot", "ceval@official:val:5shot"]
    run = write_run(tmp_path / "run", *(Made(scores, name) for name in names))
    save(run, tmp_path / "b.parquet")
    three = plan(read(tmp_path / "b.parquet"), load("quick"))
    one = plan(read(tmp_path / "b.parquet"), load("quick"), [NAME])
    assert [task.task for task in three.tasks] == names
    assert one.tasks[0].part.n < three.tasks[0].part.n


# -- runs -------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_ceval(tmp_path / "data", {"law": 4})
    return write_cmmlu(tmp_path / "data", SIZES)


@pytest.fixture
def policy(tmp_path: Path, data: Path) -> Path:
    """A policy that names a baseline beside it."""
    mock_run(tmp_path / "whole", "cmmlu", data=data, subsets=tuple(SIZES))
    mock_run(tmp_path / "earlier", "cmmlu", data=data, subsets=tuple(SIZES), limit=200)
    save(tmp_path / "whole", tmp_path / "ci/b.baseline.parquet", previous=tmp_path / "earlier")
    path = tmp_path / "ci/gate.yaml"
    path.write_text("baseline: b.baseline.parquet\nsubset: true\nrules: [{detect: 20}]\n", "utf-8")
    return path


def planned_run(policy: Path, output: Path, data: Path, *options: object) -> Ran:
    model = ("--model", "mock", "--backend", "mock", "--offline", "--data", data)
    return cli("run", *model, "--plan", policy, "--output", output, *options)


def rows(run: Path) -> dict[tuple[str, str], str]:
    table = pq.read_table(run / "samples.parquet").to_pylist()
    return {(row["subset"], row["sample_id"]): row["prompt_sha256"] for row in table}


def test_a_planned_run_asks_the_same_of_fewer_samples(tmp_path: Path, policy: Path, data: Path) -> None:
    done = planned_run(policy, tmp_path / "part", data)
    assert done.code == 0, done.err
    part, whole = rows(tmp_path / "part"), rows(tmp_path / "whole")
    assert len(part) < len(whole)
    assert part.items() <= whole.items()
    assert set(Counter(subset for subset, _ in part)) == set(SIZES)
    assert f"{len(part):,} of {len(whole):,} samples" in done.err
    assert "points with power 0.8" in done.err
    manifest = json.loads((tmp_path / "part/manifest.json").read_text("utf-8"))
    (task,) = manifest["request"]["selection"]["tasks"].values()
    assert task["part"]["n"] == len(part)
    gate = cli("gate", "--policy", policy, "--candidate", tmp_path / "part")
    assert gate.code == 0, gate.err + gate.out
    assert "samples were run" in gate.out


def test_a_planned_run_can_be_resumed(tmp_path: Path, policy: Path, data: Path) -> None:
    first = planned_run(policy, tmp_path / "part", data, "--json")
    again = planned_run(policy, tmp_path / "part", data, "--json", "--resume")
    assert first.code == again.code == 0, again.err
    assert json.loads(first.out) == json.loads(again.out)


def test_tasks_without_answers_are_left_out(tmp_path: Path, data: Path) -> None:
    mock_run(tmp_path / "run", "cmmlu,ceval@official:test", data=data, subsets=("law", *SIZES))
    done = planned_run(Path("quick"), tmp_path / "part", data, "--baseline", tmp_path / "run")
    assert done.code == 0, done.err
    assert "not run, no sample has a score" in done.err
    assert len(json.loads((tmp_path / "part/results.json").read_text("utf-8"))["tasks"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--limit", 3), "--plan picks the samples"),
        (("--subsets", "arts"), "--plan picks the samples"),
        (("--tasks", "mmlu"), "has no mmlu@"),
        (("--split", "dev"), "--split and --shots are for --tasks"),
        (("--baseline", "nowhere.parquet"), "no such baseline"),
        (("--plan", "quik"), "quick"),
        (("--plan", "quick"), "no baseline: name"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    tmp_path: Path, policy: Path, data: Path, options: tuple[object, ...], message: str
) -> None:
    done = planned_run(policy, tmp_path / "part", data, *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "part").exists()


def test_other_data_are_refused(tmp_path: Path, policy: Path) -> None:
    other = write_cmmlu(tmp_path / "other", {**SIZES, "agronomy": 20})
    done = planned_run(policy, tmp_path / "part", other)
    assert done.code == 2
    assert "samples that the plan picked are in the data" in done.err


@pytest.mark.parametrize("options", [(), ("--baseline", "b.parquet")])
def test_a_run_needs_tasks_or_a_plan(options: tuple[str, ...]) -> None:
    done = cli("run", "--model", "mock", "--backend", "mock", *options)
    assert done.code == 2
    assert "--plan" in done.err


def test_a_policy_that_refuses_parts_is_refused() -> None:
    baseline, _ = population([30, 20], "micro", 0.1)
    with pytest.raises(UsageError, match=r"p\.yaml:1: subset: a plan picks a part"):
        planned(baseline, "subset: false")


def test_a_demand_for_more_samples_than_there_are_is_named_with_its_line() -> None:
    baseline, _ = population([30, 20], "micro", 0.1)
    with pytest.raises(
        UsageError, match=r"p\.yaml:3: rules\[0\]\.min_samples: .* 50 samples .* 60 are demanded"
    ):
        planned(baseline, "subset: true\nrules:\n- min_samples: 60\n")

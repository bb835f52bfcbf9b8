"""What the gate concludes from two runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import NAME, Made, flipped, write_run

from evalkit.errors import DataError, UsageError
from evalkit.gate.baseline import read_any
from evalkit.gate.outcomes import read_run
from evalkit.gate.policy import load, parse
from evalkit.gate.verdict import Verdict, judge
from evalkit.store import RunStore


def judged(
    tmp_path: Path, before: Made | list[Made], after: Made | list[Made], policy: str = "{}"
) -> Verdict:
    runs = [task if isinstance(task, list) else [task] for task in (before, after)]
    a, b = (write_run(tmp_path / name, *tasks) for name, tasks in zip("ab", runs, strict=True))
    return judge(read_any(a), read_run(b), parse(policy, "p.yaml"))


def rule(**keys: object) -> str:
    return json.dumps({"rules": [keys]})


@pytest.mark.parametrize(
    ("policy", "n", "expected"),
    [
        *(("default", n, ("inconclusive", 0)) for n in (2, 40)),
        *(("strict", n, ("inconclusive", 1)) for n in (2, 40)),
        ("default", 200, ("pass", 0)),
        ("strict", 400, ("pass", 0)),
    ],
)
def test_identical_runs_pass_where_there_are_enough_samples_to_tell(
    tmp_path: Path, policy: str, n: int, expected: tuple[str, int]
) -> None:
    scores, _ = flipped(n, 0, 0)
    for name in "ab":
        write_run(tmp_path / name, Made(scores))
    found = judge(read_any(tmp_path / "a"), read_run(tmp_path / "b"), load(policy))
    assert (found.verdict, found.exit_code) == expected
    assert found.tasks[0].measured.difference == 0


def test_a_real_drop_fails_and_is_put_in_numbers(tmp_path: Path) -> None:
    before, after = flipped(1000, 80, 30)
    found = judged(tmp_path, Made(before), Made(after))
    task = found.tasks[0]
    assert (found.verdict, found.exit_code) == ("fail", 1)
    assert (task.measured.losses, task.measured.gains, task.measured.n) == (80, 30, 1000)
    assert task.measured.difference == pytest.approx(-5)
    assert task.measured.ci95[0] < -5 < task.measured.ci95[1] < 0
    assert "worse by more than 0 points" in task.reason
    assert [flip.change_points for flip in task.flips] == [-100.0] * 20


def test_as_many_losses_as_gains_pass_where_a_drop_would_have_been_seen(tmp_path: Path) -> None:
    before, after = flipped(3000, 40, 40)
    found = judged(tmp_path, Made(before), Made(after))
    assert found.verdict == "pass"
    assert "ruled out" in found.tasks[0].reason


@pytest.mark.parametrize(("lets", "code"), [("pass", 0), ("fail", 1)])
def test_too_few_samples_are_inconclusive_and_say_how_many_would_do(
    tmp_path: Path, lets: str, code: int
) -> None:
    before, after = flipped(200, 20, 20)
    found = judged(tmp_path, Made(before), Made(after), f"inconclusive: {lets}")
    assert (found.verdict, found.exit_code) == ("inconclusive", code)
    # 20 % of samples differ: (1.645 + 0.842)² · 0.2 / 0.02², and some for the steps of an exact test.
    assert found.tasks[0].measured.samples_needed == pytest.approx(3100, rel=0.04)


def test_a_clear_gain_passes_however_few_samples_there_are(tmp_path: Path) -> None:
    before, after = flipped(60, 0, 30)
    assert judged(tmp_path, Made(before), Made(after)).verdict == "pass"


def test_where_lower_is_better_a_rise_fails(tmp_path: Path) -> None:
    before, after = flipped(1000, 30, 80)
    found = judged(tmp_path, Made(before), Made(after), rule(direction="lower"))
    assert found.verdict == "fail"
    assert found.tasks[0].measured.difference == pytest.approx(-5)
    assert found.tasks[0].flips[0].candidate == "A"


@pytest.mark.parametrize(
    ("losses", "gains", "expected"), [(10, 10, "pass"), (60, 60, "inconclusive"), (150, 60, "fail")]
)
def test_non_inferiority_must_be_shown(tmp_path: Path, losses: int, gains: int, expected: str) -> None:
    before, after = flipped(2000, losses, gains)
    found = judged(tmp_path, Made(before), Made(after), rule(test="non-inferiority", margin=0.5))
    assert found.verdict == expected
    assert (found.tasks[0].measured.samples_needed or 0) > (2000 if expected == "inconclusive" else -1)


@pytest.mark.parametrize(
    ("losses", "gains", "expected"),
    [(10, 10, "pass"), (20, 200, "fail"), (200, 20, "fail"), (90, 90, "inconclusive")],
)
def test_equivalence_fails_on_either_side(tmp_path: Path, losses: int, gains: int, expected: str) -> None:
    before, after = flipped(2000, losses, gains)
    assert judged(tmp_path, Made(before), Made(after), rule(test="equivalence", margin=1)).verdict == expected


def test_a_margin_allows_a_small_drop(tmp_path: Path) -> None:
    before, after = flipped(10_000, 200, 100)
    assert judged(tmp_path, Made(before), Made(after), rule(margin=0)).verdict == "fail"
    assert judged(tmp_path, Made(before), Made(after), rule(margin=1, detect=2)).verdict == "pass"


def test_a_macro_average_is_compared_as_it_is_published(tmp_path: Path) -> None:
    small, large = 20, 1980
    subsets = ["small"] * small + ["large"] * large
    before = [1.0] * small + [1.0, 0.0] * (large // 2)
    after = [0.0] * small + [1.0, 0.0] * (large // 2)
    found = judged(
        tmp_path,
        Made(before, subsets=subsets, average="macro"),
        Made(after, subsets=subsets, average="macro"),
    ).tasks[0]
    assert found.measured.difference == pytest.approx(-50)
    assert found.verdict == "fail"


def test_few_changes_of_unequal_weight_are_no_alarm(tmp_path: Path) -> None:
    """Student's test would call three losses of a macro average significant."""
    subsets = ["a"] * 1000 + ["b"] * 900
    before, after = flipped(1900, 3, 0)
    tasks = (Made(scores, subsets=subsets, average="macro") for scores in (before, after))
    found = judged(tmp_path, *tasks).tasks[0]
    assert found.measured.p == pytest.approx(1 / 8, abs=0.02)
    assert found.verdict == "pass"


def test_a_mean_over_categories_needs_the_categories(tmp_path: Path) -> None:
    scores, subsets = [1.0, 0.0, 1.0] * 400, ["a", "b", "c"] * 400
    categories = {"categories": {"x": ["a", "b"], "y": ["c", "d"]}}
    made = Made(scores, subsets=subsets, average="category", entry=categories)
    assert judged(tmp_path, made, made).tasks[0].measured.baseline == pytest.approx(75)
    for name in "ab":
        path = tmp_path / name / "results.json"
        results = json.loads(path.read_text())
        del results["tasks"][NAME]["categories"]
        path.write_text(json.dumps(results))
    with pytest.raises(UsageError, match="evalkit rescore"):
        judge(read_any(tmp_path / "a"), read_run(tmp_path / "b"), parse("{}", "p.yaml"))


def test_a_score_that_its_samples_do_not_give_is_not_judged(tmp_path: Path) -> None:
    scores = [1.0, 0.0] * 500
    made = Made(scores, average="macro")
    write_run(tmp_path / "a", made)
    path = tmp_path / "a/results.json"
    results = json.loads(path.read_text())
    results["tasks"][NAME]["metrics"]["acc"]["value"] = 0.6
    path.write_text(json.dumps(results))
    with pytest.raises(UsageError, match="cannot be compared sample by sample"):
        judge(read_any(tmp_path / "a"), read_run(write_run(tmp_path / "b", made)), parse("{}", "p.yaml"))


@pytest.mark.parametrize(("changed", "expected"), [(0, "pass"), (60, "fail")])
def test_macro_f1_of_the_predictions(tmp_path: Path, changed: int, expected: str) -> None:
    targets = ["x", "y", "z"] * 200
    wrong = ["y" if i < changed and target == "x" else target for i, target in enumerate(targets)]

    def made(predictions: list[str]) -> Made:
        scores = [float(p == t) for p, t in zip(predictions, targets, strict=True)]
        return Made(scores, targets=targets, predictions=predictions, corpus=True)

    found = judged(tmp_path, made(targets), made(wrong), rule(metric="macro_f1"))
    assert found.verdict == expected
    assert found.tasks[0].measured.baseline == 100


def test_fractions_are_compared_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before = rng.random(800)
    after = np.clip(before - 0.03 + rng.normal(0, 0.1, 800), 0, 1)
    found = judged(tmp_path, Made(before.tolist()), Made(after.tolist()), rule(metric="half"))
    assert found.verdict == "fail"
    assert found.tasks[0].measured.baseline == pytest.approx(50 * before.mean())


def test_failed_samples_are_named_and_stay_out(tmp_path: Path) -> None:
    before, after = flipped(1000, 0, 0)
    after[3] = after[5] = None
    before[7] = None
    task = judged(tmp_path, Made(before), Made(after), rule(max_errors=1)).tasks[0]
    assert (task.verdict, task.failed_baseline, task.failed_candidate, task.left_out) == ("fail", 1, 2, 3)
    assert task.failed_samples == ("all/3", "all/5", "all/7")
    assert "errors 2 of 1,000, limit 1" in task.reason
    with pytest.raises(UsageError, match="itself failed on 1 of 1,000 samples"):
        judged(tmp_path, Made(before), Made(after))
    assert judged(tmp_path, Made(before), Made(after), rule(max_errors="1%")).verdict == "pass"


@pytest.mark.parametrize(
    ("key", "bad", "good"),
    [("floor", 60, 50), ("max_unparsed", "1%", 12), ("max_truncated", 0, "0.5%")],
)
def test_limits_of_a_task(tmp_path: Path, key: str, bad: object, good: object) -> None:
    made = Made(flipped(1000, 0, 0)[0], counters={"unparsed": 12, "truncated": 5})
    assert judged(tmp_path, made, made, rule(**{key: bad})).verdict == "fail"
    assert judged(tmp_path, made, made, rule(**{key: good})).verdict == "pass"


def test_what_a_run_may_cost_and_what_contamination_fails(tmp_path: Path) -> None:
    made = Made(flipped(1000, 0, 0)[0])
    a = write_run(tmp_path / "a", made)

    def result(policy: str, kind: str | None = None, *also: str) -> str:
        verdict = {"short": "", "sentence": "", "kind": kind, "also": also}
        examined = {"leakage": {"tasks": {NAME: {"verdict": verdict, "methods": {}}}}} if kind else {}
        b = write_run(tmp_path / "b", made, **examined)
        return judge(read_any(a), read_run(b), parse(policy, "p.yaml")).verdict

    assert result("max_cost: {wall_s: 12}") == "fail"
    assert result("max_cost: {wall_s: 13}") == "pass"
    assert result(rule(contamination=["file leak"]), "file leak") == "fail"
    assert result(rule(contamination=["source exposure"]), "file leak") == "pass"
    assert result(rule(contamination=["source exposure"]), "file leak", "source exposure") == "fail"
    assert result(rule(contamination=["file leak"])) == "pass"
    assert result(rule(contamination=["file leak", "not examined"])) == "fail"
    with pytest.raises(DataError, match="'File Leak' is no verdict"):
        result(rule(contamination=["file leak"]), "File Leak")


def test_many_tasks_are_corrected_for(tmp_path: Path) -> None:
    before, after = flipped(3000, 16, 6)  # p = 0.026 alone
    names = [f"t{i}@p:test:0shot" for i in range(4)]
    a = [Made(before, name=name) for name in names]
    b = [Made(after if name == names[0] else before, name=name) for name in names]
    assert judged(tmp_path, a, b, "correction: none").verdict == "fail"
    for correction in ("holm", "bh"):
        assert judged(tmp_path, a, b, f"correction: {correction}").verdict == "pass"


def test_the_first_rule_that_matches_holds(tmp_path: Path) -> None:
    before, after = flipped(10_000, 200, 100)
    text = "rules:\n- tasks: ['*:0shot']\n  margin: 1.5\n  detect: 3\n- tasks: [cmmlu]\n- tasks: [gsm8k*]\n"
    found = judged(tmp_path, Made(before), Made(after), text)
    assert (found.verdict, found.tasks[0].margin) == ("pass", 1.5)
    assert [note.partition(" no task")[0] for note in found.notes] == [
        "p.yaml:5: rules[1].tasks:",
        "p.yaml:6: rules[2].tasks:",
    ]


def test_a_part_of_the_baseline_where_the_policy_allows_it(tmp_path: Path) -> None:
    scores = flipped(1000, 0, 0)[0]
    part = Made(scores[:400], data="e" * 64)
    whole = [Made(scores), Made(scores, name="mmlu@official:test:0shot")]
    with pytest.raises(UsageError, match="lacks mmlu@official:test:0shot"):
        judged(tmp_path, whole, part)
    with pytest.raises(UsageError, match=r"1,000 samples and .* 400, of which 400 are the same"):
        judged(tmp_path, whole[0], part)
    found = judged(tmp_path, whole, part, "subset: true")
    assert found.verdict == "pass"
    assert found.tasks[0].measured.n == 400
    assert len(found.notes) == 2
    strange = Made(scores[:400], ids=[f"x{i}" for i in range(400)], data="e" * 64)
    with pytest.raises(UsageError, match="of which 0 are the same"):
        judged(tmp_path, whole, strange, "subset: true")


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"data": "e" * 64}, "run on other data"),
        ({"name": "cmmlu@official:test:5shot"}, "another protocol, split or number of examples"),
        ({"targets": ["C"] * 100}, "other right answers"),
        ({"ids": [str(i + 1) for i in range(100)]}, "of which 99 are the same"),
    ],
)
def test_what_is_not_the_same_is_refused(tmp_path: Path, other: dict[str, object], why: str) -> None:
    scores = flipped(100, 0, 0)[0]
    with pytest.raises(UsageError, match=why):
        judged(tmp_path, Made(scores), Made(scores, **other))


def test_scores_that_are_no_numbers_are_bad_data(tmp_path: Path) -> None:
    scores = flipped(100, 0, 0)[0]
    write_run(tmp_path / "a", Made(scores))
    for bad in (float("nan"), 7.0):
        run = write_run(tmp_path / "b", Made(scores))
        RunStore(run).write_samples(Made([*scores[:-1], bad]).outcomes())
        with pytest.raises(DataError, match=r"sample '99' of 'all' has acc .* which is no fraction"):
            judge(read_any(tmp_path / "a"), read_run(run), parse("{}", "p.yaml"))


def test_two_samples_of_one_id_are_bad_data(tmp_path: Path) -> None:
    scores = flipped(100, 0, 0)[0]
    with pytest.raises(DataError, match="two samples of one id"):
        judged(tmp_path, Made(scores), Made(scores, ids=["7"] * 100))


def test_fewer_samples_than_demanded_are_refused_with_line_and_key(tmp_path: Path) -> None:
    scores = flipped(100, 0, 0)[0]
    with pytest.raises(UsageError, match=r"^p\.yaml:2: rules\[0\]\.min_samples: .* 100 samples .* 500 are"):
        judged(tmp_path, Made(scores), Made(scores), "rules:\n- min_samples: 500\n")


def test_a_metric_that_is_not_there_is_refused_with_line_and_key(tmp_path: Path) -> None:
    scores = flipped(100, 0, 0)[0]
    with pytest.raises(UsageError, match=r"^p\.yaml:3: rules\[0\]\.metric: .* no f1 .* known: acc, half"):
        judged(tmp_path, Made(scores), Made(scores), "rules:\n- tasks: [cmmlu]\n  metric: f1\n")


def test_a_rule_that_names_a_task_which_is_not_there_is_refused(tmp_path: Path) -> None:
    made, more = Made(flipped(400, 0, 0)[0]), Made(flipped(400, 0, 0)[0], name="mmlu@official:test:0shot")
    with pytest.raises(UsageError, match=r"p\.yaml:1: rules\[0\]\.tasks: .*a has no cmmluu"):
        judged(tmp_path, made, made, rule(tasks=["cmmluu"], floor=90))
    with pytest.raises(UsageError, match=r"b has no mmlu, which this rule names"):
        judged(tmp_path, [made, more], made, json.dumps({"subset": True, "rules": [{"tasks": ["mmlu"]}]}))


def test_a_candidate_that_answered_nothing_fails(tmp_path: Path) -> None:
    found = judged(tmp_path, Made([1.0] * 50), Made([None] * 50))
    assert (found.verdict, found.exit_code) == ("fail", 1)
    assert "errors 50 of 50" in found.tasks[0].reason


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"system": "You are wrong."}, "system is 'You are wrong.' and None"),
        ({"answer_prefix": "A"}, "answer_prefix is 'A' and None"),
        ({"chat_template": True}, "chat_template is True and False"),
        ({"prompts": "0" * 64}, "asked with other texts"),
    ],
)
def test_other_prompts_are_refused(tmp_path: Path, change: dict[str, object], why: str) -> None:
    made = Made(flipped(400, 0, 0)[0])
    with pytest.raises(UsageError, match=why):
        judged(tmp_path, made, replace(made, asked=change))


def test_a_chat_template_and_a_cut_are_of_the_model(tmp_path: Path) -> None:
    scores = flipped(400, 0, 0)[0]
    for how in ({"asked": {"chat_template": True}}, {"counters": {"truncated": 3}}):
        made = Made(scores, **how)
        other = replace(made, asked={**made.asked, "prompts": "0" * 64})
        assert judged(tmp_path, made, other).verdict == "pass"


def test_counters_that_contradict_the_samples_are_bad_data(tmp_path: Path) -> None:
    made = Made(flipped(400, 0, 0)[0])
    for counters in ({"errors": 3}, {"samples": 10_000}):
        with pytest.raises(DataError, match=r"results\.json counts"):
            judged(tmp_path, made, replace(made, counters=counters))
    with pytest.raises(DataError, match="neither score nor error"):
        judged(tmp_path, made, Made([1.0] * 400, targets=["A"] * 400, drop=range(50)))


def test_a_manifest_that_says_nothing_of_prompts_is_no_crash(tmp_path: Path) -> None:
    for name in "ab":
        run = write_run(tmp_path / name, Made(flipped(400, 0, 0)[0]))
        manifest = json.loads((run / "manifest.json").read_text("utf-8"))
        manifest["tasks"][NAME]["data"] = None
        (run / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    found = judge(read_any(tmp_path / "a"), read_run(tmp_path / "b"), parse("{}", "p.yaml"))
    assert found.verdict == "pass"


def test_the_same_run_twice_is_said(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", Made(flipped(400, 0, 0)[0]))
    found = judge(read_any(a), read_run(a), parse("{}", "p.yaml"))
    assert found.notes == ("the candidate is the very run that it is compared with",)


def test_many_tasks_do_not_hide_a_collapse(tmp_path: Path) -> None:
    """Random draws end at 1e-4, which a correction for many tasks would lift above the level."""
    rng = np.random.default_rng(3)
    before = rng.uniform(0.3, 0.8, 300)
    names = [f"t{i}@p:test:0shot" for i in range(150)]
    a = [Made(before.tolist(), name=name, metric="f1") for name in names]
    b = [Made((before - 0.2).tolist(), name=names[0], metric="f1"), *a[1:]]
    found = judged(tmp_path, a, b, "alpha: 0.01")
    assert found.tasks[0].verdict == "fail"
    assert found.tasks[0].measured.p < 1e-10


@pytest.mark.parametrize(("rare", "expected"), [(4, "inconclusive"), (40, "pass")])
def test_a_rare_class_counts_in_macro_f1_as_much_as_others(tmp_path: Path, rare: int, expected: str) -> None:
    """A third of the score that rests on four samples proves nothing."""
    targets = ["A"] * rare + ["B"] * 300 + ["C"] * 300
    made = Made([1.0] * len(targets), targets=targets, predictions=targets, corpus=True)
    found = judged(tmp_path, made, made, rule(metric="macro_f1", test="non-inferiority", margin=5))
    assert found.verdict == expected


def test_a_published_macro_f1_is_that_of_the_samples(tmp_path: Path) -> None:
    targets = ["A", "B"] * 200
    made = Made([1.0] * 400, targets=targets, predictions=targets, corpus=True)
    a, b = write_run(tmp_path / "a", made), write_run(tmp_path / "b", made)
    results = json.loads((b / "results.json").read_text("utf-8"))
    results["tasks"][NAME]["metrics"]["macro_f1"]["value"] = 0.5
    (b / "results.json").write_text(json.dumps(results), "utf-8")
    with pytest.raises(UsageError, match="macro_f1 is not the"):
        judge(read_any(a), read_run(b), parse(rule(metric="macro_f1"), "p.yaml"))


def test_the_smallest_drop_holds_for_fractions_against_a_margin(tmp_path: Path) -> None:
    """What is said to be seen is what the test sees: it takes no less spread than the margin needs."""
    rng = np.random.default_rng(0)
    before = rng.uniform(0.3, 0.9, 500)
    after = np.clip(before + rng.normal(0, 0.05, 500), 0, 1)
    found = judged(
        tmp_path, *(Made(s.tolist(), metric="f1") for s in (before, after)), rule(margin=5, detect=9)
    )
    # (1.645 + 0.842) · sqrt(0.05 · 0.95 / 500), and half a sample.
    assert found.tasks[0].measured.smallest_drop == pytest.approx(5 + 2.42 + 0.1, abs=0.05)


def test_without_public_answers_nothing_is_passed(tmp_path: Path) -> None:
    made = Made([None] * 50, targets=[None] * 50)
    found = judged(tmp_path, made, made)
    assert found.verdict == "inconclusive"
    assert "right answers are not public" in found.tasks[0].reason

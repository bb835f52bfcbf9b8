"""`pytest --evalkit-run RUN --evalkit-baseline FILE`: one test item per task."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import NAME, Made, flipped, write_run

from evalkit.gate.baseline import save

pytest_plugins = ["pytester"]

OTHER = "mmlu@official:test:0shot"


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    before, after = flipped(1000, 80, 30)
    same, unsure = flipped(100, 10, 10)
    names = ["sure@p:test:0shot", OTHER, NAME]
    a = [Made(scores, name) for scores, name in zip((before, same, before), names, strict=True)]
    b = [Made(scores, name) for scores, name in zip((before, unsure, after), names, strict=True)]
    save(write_run(tmp_path / "a", *a), tmp_path / "a.baseline.parquet")
    return [
        f"--evalkit-run={write_run(tmp_path / 'b', *b)}",
        f"--evalkit-baseline={tmp_path / 'a.baseline.parquet'}",
    ]


def test_one_item_per_task_beside_other_tests(pytester: pytest.Pytester, arguments: list[str]) -> None:
    pytester.makepyfile("def test_other(): pass")
    ran = pytester.runpytest(*arguments, "-v", "-rfs")
    ran.assert_outcomes(passed=2, failed=1, skipped=1)
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    ran.stdout.fnmatch_lines(
        [f"*{NAME}*FAILED*", "worse by more than 0 points*", "acc 50.00 *", "all/0: 100 points worse*"]
    )
    ran.stdout.fnmatch_lines([f"FAILED*{NAME}*"])
    assert "Traceback" not in ran.stdout.str()


def test_items_can_be_selected(pytester: pytest.Pytester, arguments: list[str]) -> None:
    ran = pytester.runpytest(*arguments, "-k", "sure")
    ran.assert_outcomes(passed=1, deselected=2)
    assert ran.ret == pytest.ExitCode.OK


def test_a_policy_of_ones_own(pytester: pytest.Pytester, arguments: list[str]) -> None:
    policy = pytester.path / "p.yaml"
    policy.write_text("inconclusive: fail\nmax_cost: {wall_s: 1}\n")
    ran = pytester.runpytest(*arguments, f"--evalkit-policy={policy}", "-v")
    ran.assert_outcomes(passed=1, failed=3)
    ran.stdout.fnmatch_lines(["*wall_s*FAILED*"])


@pytest.mark.parametrize("left_out", [0, 1])
def test_half_the_options_are_a_usage_error(
    pytester: pytest.Pytester, arguments: list[str], left_out: int
) -> None:
    ran = pytester.runpytest(arguments[1 - left_out])
    assert ran.ret == pytest.ExitCode.USAGE_ERROR


def test_a_policy_alone_is_a_usage_error(pytester: pytest.Pytester) -> None:
    ran = pytester.runpytest("--evalkit-policy=strict")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["*--evalkit-policy needs --evalkit-run*"])


def test_the_baseline_may_be_the_policys(pytester: pytest.Pytester, arguments: list[str]) -> None:
    policy = pytester.path / "p.yaml"
    baseline = arguments[1].partition("=")[2]
    policy.write_text(f"baseline: {baseline}\nrules: [{{tasks: [none*]}}, {{contamination: [file leak]}}]\n")
    ran = pytester.runpytest(arguments[0], f"--evalkit-policy={policy}", "-rP")
    ran.assert_outcomes(passed=1, failed=1, skipped=1)
    ran.stdout.fnmatch_lines(["contamination not examined, limit not file leak: pass"])
    ran.stdout.fnmatch_lines(["evalkit gate: note: *p.yaml:2: rules*: no task is held to this rule (none?)"])


def test_what_cannot_be_compared_is_a_usage_error(pytester: pytest.Pytester, arguments: list[str]) -> None:
    ran = pytester.runpytest(arguments[0], "--evalkit-baseline=none")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["*evalkit gate: 'none': no such baseline*"])


def test_nothing_happens_unless_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\ndef test_other(): assert not {'evalkit.gate.verdict', 'pyarrow'} & set(sys.modules)"
    )
    ran = pytester.runpytest_subprocess()
    ran.assert_outcomes(passed=1)

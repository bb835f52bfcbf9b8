"""Exit code, JSON, terminal, JUnit, job summary and annotations tell the same of every verdict."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from helpers import cli
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import NAME, Made, flipped, write_run

from evalkit.gate import outputs
from evalkit.gate.verdict import Check, Flip, Measured, TaskVerdict, Verdict

HOSTILE = st.text(max_size=12) | st.sampled_from(
    [
        "a|b", "```", "<script>", "\x1b[2J", "\n::error::x", "##[error]x", "##vso[task.setvariable]", "%0A",
        "]]>", "&amp;", "\u202eevil", "\ud800", "\ufffe", "\x00", "::set-output name=a::b", "</details>",
    ]
)  # fmt: skip
POINTS = st.floats(-100, 100)
COUNTS = st.integers(0, 30_000)
MEASURED = st.builds(
    Measured, baseline=POINTS, candidate=POINTS, difference=POINTS, ci95=st.tuples(POINTS, POINTS),
    p=st.floats(0, 1), p_adjusted=st.floats(0, 1), n=COUNTS, losses=COUNTS, gains=COUNTS,
    smallest_drop=POINTS, samples_needed=st.none() | COUNTS,
)  # fmt: skip
FLIPS = st.builds(
    Flip, subset=HOSTILE, sample_id=HOSTILE, change_points=POINTS, target=st.none() | HOSTILE,
    baseline=st.none() | HOSTILE, candidate=st.none() | HOSTILE,
)  # fmt: skip
CHECKS = st.lists(
    st.builds(Check, name=HOSTILE, found=HOSTILE, limit=HOSTILE, passed=st.booleans()), max_size=2
)
TASKS = st.builds(
    TaskVerdict, task=HOSTILE, metric=HOSTILE, test=st.just("regression"), margin=POINTS,
    verdict=st.sampled_from(["pass", "fail", "inconclusive"]), reason=HOSTILE, measured=MEASURED,
    failed_baseline=COUNTS, failed_candidate=COUNTS, left_out=COUNTS,
    failed_samples=st.lists(HOSTILE, max_size=3).map(tuple), checks=CHECKS.map(tuple),
    flips=st.lists(FLIPS, max_size=3).map(tuple),
)  # fmt: skip
RUN = st.fixed_dictionaries(
    {"name": HOSTILE, "run_id": HOSTILE, "model": st.fixed_dictionaries({"name": HOSTILE})}
)
VERDICTS = st.builds(
    Verdict, policy=HOSTILE, alpha=st.just(0.05), correction=st.just("holm"),
    inconclusive=st.sampled_from(["fail", "pass"]), baseline=RUN, candidate=RUN,
    tasks=st.lists(TASKS, min_size=1, max_size=4).map(tuple), checks=CHECKS.map(tuple),
    notes=st.lists(HOSTILE, max_size=2).map(tuple),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(VERDICTS)
def test_all_outputs_agree(verdict: Verdict) -> None:
    judged = [task.verdict for task in verdict.tasks]
    judged += ["pass" if check.passed else "fail" for check in verdict.checks]
    stops = [v == "fail" or (v == "inconclusive" and verdict.inconclusive == "fail") for v in judged]

    assert verdict.exit_code == int(any(stops))
    worst = next(v for v in ("fail", "inconclusive", "pass") if v in judged)
    document = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert (document["verdict"], document["exit_code"]) == (worst, verdict.exit_code)
    assert [task["verdict"] for task in document["tasks"]] == judged[: len(verdict.tasks)]

    lines = outputs.text(verdict).splitlines()
    assert [
        line[:13].strip().lower() for line in lines if re.match("PASS |FAIL |INCONCLUSIVE ", line)
    ] == judged
    assert lines[-1].startswith(f"gate: {worst.upper()}")

    suite = ET.fromstring(outputs.junit(verdict))[0]
    assert [case.find("failure") is not None for case in suite] == stops
    assert (int(suite.attrib["failures"]) > 0) == bool(verdict.exit_code)
    skipped = [v == "inconclusive" and not stop for v, stop in zip(judged, stops, strict=True)]
    assert [case.find("skipped") is not None for case in suite] == skipped

    summary = outputs.summary(verdict).splitlines()
    assert summary[0].split(": ")[1].split(",")[0] == worst
    table = summary[summary.index("|---|---|---|--:|--:|--:|:-:|--:|--:|--:|") + 1 :]
    assert [row.split(" ")[2] for row in table[: len(judged)]] == judged
    assert table[len(judged)] == ""

    commands = outputs.github_annotations(verdict).splitlines()
    assert sum(command.startswith("::error ") for command in commands) == sum(stops)
    assert sum(command.startswith("::warning ") for command in commands) == sum(skipped)


@settings(max_examples=200, deadline=None)
@given(VERDICTS)
def test_no_output_obeys_what_a_model_wrote(verdict: Verdict) -> None:
    text = outputs.text(verdict)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]|^\s*::\w|##\w*\[", text, re.MULTILINE)
    assert "<script" not in re.sub(r"\\<", "", outputs.summary(verdict))
    for made in (text, outputs.junit(verdict), outputs.summary(verdict), outputs.github_annotations(verdict)):
        made.encode()
    for command in outputs.github_annotations(verdict).splitlines():
        assert re.match(r"::(error|warning|notice) title=[^:,]*::", command)
    # One row has one cell per heading.
    for row in outputs.summary(verdict).splitlines():
        if row.startswith(("| ✅", "| ❌", "| ❔")):
            assert len(re.findall(r"(?<!\\)\|", row)) == 11


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    before, after = flipped(1000, 80, 30)
    return write_run(tmp_path / "a", Made(before)), write_run(tmp_path / "b", Made(after))


def test_the_command_writes_all_of_them(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    summary, junit = tmp_path / "summary.md", tmp_path / "deep/gate.xml"
    summary.write_text("before\n")
    arguments = ("gate", "--baseline", runs[0], "--candidate", runs[1], "--annotate")
    ran = cli(*arguments, "--junit", junit, "--summary", summary)
    assert (ran.code, ran.err) == (1, "")
    assert "gate: FAIL (policy default)" in ran.out
    assert ran.out.count("\n::error title=") == 1
    assert ran.out.count("\n::notice title=") == outputs.MAX_ANNOTATIONS
    assert summary.read_text().startswith("before\n## ❌ evalkit gate: fail\n")
    assert ET.parse(junit).getroot().attrib["failures"] == "1"
    as_json = cli(*arguments, "--json")
    assert json.loads(as_json.out)["tasks"][0]["task"] == NAME
    assert as_json.err.startswith("::error")
    assert cli("gate", "--baseline", runs[0], "--candidate", runs[0]).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--baseline", "{none}", "--candidate", "{b}"), 2, "no such baseline"),
        (("--baseline", "{a}", "--candidate", "{none}"), 2, "does not exist"),
        (("--baseline", "{junk}", "--candidate", "{b}"), 4, "not a readable baseline"),
        (
            ("--baseline", "{a}", "--candidate", "{b}", "--policy", "{policy}"),
            2,
            "policy.yaml:2: margn: unknown key",
        ),
        (("--baseline", "{a}", "--candidate", "{b}", "--policy", "nothing"), 2, "unknown policy"),
        (("--baseline", "{a}", "--candidate", "{b}", "--junit", "{folder}"), 2, "--junit"),
        (("--baseline", "{a}", "--candidate", "{b}", "--summary", "{folder}"), 2, "--summary"),
    ],
)
def test_bad_input_never_passes(
    tmp_path: Path, runs: tuple[Path, Path], arguments: tuple[str, ...], code: int, says: str
) -> None:
    (tmp_path / "policy.yaml").write_text("alpha: 0.05\nmargn: 1\n")
    (tmp_path / "junk.baseline.parquet").write_bytes(b"PAR1 this is none PAR1")
    places = {
        "a": runs[0], "b": runs[1], "none": tmp_path / "none", "policy": tmp_path / "policy.yaml",
        "junk": tmp_path / "junk.baseline.parquet", "folder": tmp_path,
    }  # fmt: skip
    ran = cli("gate", *(argument.format(**places) for argument in arguments))
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err


@pytest.mark.parametrize("name", ["results.json", "manifest.json", "samples.parquet"])
def test_a_damaged_run_never_passes(runs: tuple[Path, Path], name: str) -> None:
    for content, codes in ((None, {2}), (b"junk", {4}), (b'{"schema_version": 1}', {4})):
        path = runs[1] / name
        kept = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        assert cli("gate", "--baseline", runs[0], "--candidate", runs[1]).code in codes
        path.write_bytes(kept)


@pytest.mark.parametrize(
    "path", ["task", "average", "metrics", "counters", "metrics/acc/value", "counters/errors"]
)
@pytest.mark.parametrize("value", [None, [], float("nan")])
def test_damaged_documents_never_pass(runs: tuple[Path, Path], path: str, value: object) -> None:
    file = runs[1] / "results.json"
    results = json.loads(file.read_text())
    place = results["tasks"][NAME]
    *above, key = path.split("/")
    for name in above:
        place = place[name]
    if value is None:
        del place[key]
    else:
        place[key] = value
    file.write_text(json.dumps(results))
    ran = cli("gate", "--baseline", runs[0], "--candidate", runs[1])
    assert (ran.code, ran.out) == (4, "")

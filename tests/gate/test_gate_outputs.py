"""Exit code, JSON, terminal, JUnit, job summary and annotations tell the same of every verdict."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from helpers import cli
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import NAME, Made, flipped, write_run

from evalkit.gate import outputs
from evalkit.gate.decision import Measured
from evalkit.gate.limits import Check
from evalkit.gate.verdict import Flip, TaskVerdict, Verdict
from evalkit.reports.text import markdown

HOSTILE = st.text(max_size=12) | st.sampled_from(
    [
        "a|b", "```", "<script>", "\x1b[2J", "\n::error::x", "##[error]x", "##vso[task.setvariable]", "###[x",
        "%0A", "\x85::error::x", "\u2028::error::x",
        "]]>", "&amp;", "\u202eevil", "\ud800", "\ufffe", "\x00", "::set-output name=a::b", "</details>",
    ]
)  # fmt: skip
POINTS = st.floats(-100, 100)
WIDE = st.floats(-2000, 2000)
COUNTS = st.integers(0, 30_000)
MEASURED = st.builds(
    Measured, baseline=POINTS, candidate=POINTS, difference=POINTS, ci95=st.tuples(WIDE, WIDE),
    p=st.floats(0, 1), p_adjusted=st.floats(0, 1), n=COUNTS, losses=COUNTS, gains=COUNTS,
    smallest_drop=st.floats(0, 2000), samples_needed=st.none() | COUNTS,
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

OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]|^\\s*::\\w|##\\w*\\[", re.MULTILINE)
"""What terminals and CI systems act on."""


@settings(max_examples=200, deadline=None)
@given(VERDICTS)
def test_all_outputs_agree(verdict: Verdict) -> None:
    judged = [task.verdict for task in verdict.tasks]
    judged += ["pass" if check.passed else "fail" for check in verdict.checks]
    stops = [v == "fail" or (v == "inconclusive" and verdict.inconclusive == "fail") for v in judged]

    assert verdict.exit_code == int(any(stops))
    worst = next(v for v in ("fail", "inconclusive", "pass") if v in judged)
    document = json.loads(outputs.as_json(verdict))
    assert document == json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert (document["verdict"], document["exit_code"]) == (worst, verdict.exit_code)
    assert [task["verdict"] for task in document["tasks"]] == judged[: len(verdict.tasks)]

    lines = outputs.text(verdict).splitlines()
    assert [
        line[:13].strip().lower() for line in lines if re.match("PASS |FAIL |INCONCLUSIVE ", line)
    ] == judged
    assert lines[-1].startswith(f"gate: {worst.upper()}")

    (suite,) = ET.fromstring(outputs.junit(verdict))
    cases = suite.findall("testcase")
    assert [case.find("failure") is not None for case in cases] == stops
    assert (int(suite.attrib["failures"]) > 0) == bool(verdict.exit_code)
    assert suite.attrib["errors"] == "0"
    skipped = [v == "inconclusive" and not stop for v, stop in zip(judged, stops, strict=True)]
    assert [case.find("skipped") is not None for case in cases] == skipped

    summary = outputs.summary(verdict).splitlines()
    assert summary[0].split(": ")[1].split(",")[0] == worst
    table = summary[summary.index("|---|---|---|--:|--:|--:|:-:|--:|--:|--:|") + 1 :]
    assert [row.split(" ")[2] for row in table[: len(judged)]] == judged
    assert table[len(judged)] == ""

    commands = outputs.github_annotations(verdict).splitlines()
    assert sum(command.startswith("::error ") for command in commands) == sum(stops)
    warnings = sum(command.startswith("::warning ") for command in commands)
    assert warnings == sum(skipped) + len(verdict.notes)


@settings(max_examples=100, deadline=None)
@given(VERDICTS)
def test_every_check_and_note_is_in_every_report(verdict: Verdict) -> None:
    (suite,) = ET.fromstring(outputs.junit(verdict))
    in_junit = "".join(suite.itertext()).splitlines()
    in_text = [line.strip() for line in outputs.text(verdict).splitlines()]
    in_summary = outputs.summary(verdict)
    for check in (check for task in verdict.tasks for check in task.checks):
        state = "pass" if check.passed else "fail"
        said = outputs.plain(f"{check.name} {check.found}, limit {check.limit}: {state}")
        assert said in in_text
        assert said in in_junit
        assert in_summary.count(f": {state}") >= 1
    for note in verdict.notes:
        said = outputs.plain(f"note: {note}")
        assert said in in_text
        assert said in map(str.strip, in_junit)
        assert f"- {markdown(note)}" in in_summary


@pytest.mark.parametrize(
    ("points", "said"),
    [(5, "5.00 better"), (-5, "5.00 worse"), (-0.001, "0.00"), (-1370.6, "100.00 worse"), (0, "0.00")],
)
def test_changes_are_said_in_words(points: float, said: str) -> None:
    measured = Measured(45, 50, points, (points, points), 0.01, 0.01, 10, 5, 0, 125.6, None)
    task = TaskVerdict("t", "em", "regression", 0, "fail", "worse", measured, 0, 0, 0, (), (), ())
    run = {"name": "r", "run_id": "r", "model": {}}
    verdict = Verdict("p", 0.05, "holm", "pass", run, run, (task,), (), ())
    number, _, word = said.partition(" ")
    whole = f"{number} points {word}".strip()
    assert f"45.00 → 50.00: {whole} [{said}, {said}]" in outputs.text(verdict)
    assert "too few samples to see any drop" in outputs.text(verdict)
    assert f"| {said} | {said} … {said} |" in outputs.summary(verdict)


@settings(max_examples=100, deadline=None)
@given(HOSTILE)
def test_an_error_is_no_verdict_in_any_output(message: str) -> None:
    (suite,) = ET.fromstring(outputs.junit_of_error(message))
    assert (suite.attrib["errors"], suite.attrib["failures"], suite[0][0].tag) == ("1", "0", "error")
    assert outputs.summary_of_error(message).splitlines()[0].endswith("evalkit gate: error")
    (command,) = outputs.annotation_of_error(message).splitlines()
    assert command.startswith("::error title=evalkit gate::")
    assert not OBEYED.search(command.removeprefix("::error"))


@settings(max_examples=200, deadline=None)
@given(VERDICTS)
def test_no_output_obeys_what_a_model_wrote(verdict: Verdict) -> None:
    text, as_json = outputs.text(verdict), outputs.as_json(verdict)
    cases = [outputs.case_of(verdict, part) for part in verdict.parts]
    for printed in (text, as_json, *(line for case in cases for line in (case.name, *case.details))):
        assert not OBEYED.search(printed)
    assert "<script" not in re.sub(r"\\<", "", outputs.summary(verdict))
    for made in (text, as_json, outputs.junit(verdict), outputs.summary(verdict)):
        made.encode()
    for command in outputs.github_annotations(verdict).splitlines():
        assert re.match(r"::(error|warning|notice) title=[^:,]*::", command)
        assert not OBEYED.search(command.removeprefix("::"))
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


@pytest.mark.parametrize(("candidate", "code"), [("a", 0), ("b", 1)])
def test_the_exit_code_holds_though_nobody_reads(
    tmp_path: Path, runs: tuple[Path, Path], candidate: str, code: int
) -> None:
    gate = [
        sys.executable,
        "-m",
        "evalkit",
        "gate",
        "--baseline",
        runs[0],
        "--candidate",
        tmp_path / candidate,
    ]
    for options in (["--annotate"], ["--annotate", "--json"]):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb") as nobody:
            ran = subprocess.run(
                [*gate, *options, "--junit", tmp_path / "gate.xml"], stdout=nobody, stderr=nobody
            )
        assert ran.returncode == code
        assert ET.parse(tmp_path / "gate.xml").getroot().attrib["failures"] == str(code)


def test_output_that_cannot_be_printed_is_no_pass(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    junit = tmp_path / "gate.xml"
    gate = [sys.executable, "-m", "evalkit", "gate", "--baseline", runs[0], "--candidate", runs[0]]
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run([*gate, "--junit", junit], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "error: standard output: No space left" in ran.stderr
    assert ET.parse(junit).getroot().attrib["errors"] == "1"


@pytest.mark.parametrize(("name", "content", "code"), [("none", None, 2), ("junk", b"PAR1 none PAR1", 4)])
def test_no_earlier_verdict_outlives_an_error(
    tmp_path: Path, runs: tuple[Path, Path], name: str, content: bytes | None, code: int
) -> None:
    junit, summary = tmp_path / "gate.xml", tmp_path / "summary.md"
    options = ("--candidate", runs[0], "--junit", junit, "--summary", summary, "--annotate")
    assert cli("gate", "--baseline", runs[0], *options).code == 0
    if content is not None:
        (tmp_path / name).write_bytes(content)
    ran = cli("gate", "--baseline", tmp_path / name, *options)
    assert ran.code == code
    assert ran.out.startswith("::error title=evalkit gate::")
    assert ran.out.count("\n") == 1
    (suite,) = ET.parse(junit).getroot()
    assert (suite.attrib["tests"], suite.attrib["errors"]) == ("1", "1")
    assert name in suite[0][0].attrib["message"]
    assert summary.read_text().count("## ") == 2
    assert "evalkit gate: error" in summary.read_text()
    as_json = cli("gate", "--baseline", tmp_path / name, *options, "--json")
    assert (as_json.out, as_json.err.count("::error")) == ("", 1)


def test_a_file_that_cannot_be_written_leaves_no_pass_in_another(
    tmp_path: Path, runs: tuple[Path, Path]
) -> None:
    junit = tmp_path / "gate.xml"
    ran = cli("gate", "--baseline", runs[0], "--candidate", runs[0], "--junit", junit, "--summary", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ET.parse(junit).getroot().attrib["errors"] == "1"


def test_a_gate_that_crashes_leaves_no_earlier_verdict(
    tmp_path: Path, runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    junit = tmp_path / "gate.xml"
    arguments = ("gate", "--baseline", runs[0], "--candidate", runs[0], "--junit", junit)
    assert cli(*arguments).code == 0
    monkeypatch.setattr("evalkit.gate.verdict.judge", None)
    with pytest.raises(TypeError):
        cli(*arguments)
    assert ET.parse(junit).getroot().attrib["errors"] == "1"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("out/main", "out/main.baseline.parquet"),
        ("main.baseline", "main.baseline.parquet"),
        ("a.parquet", "a.parquet"),
    ],
)
def test_names_of_baselines(tmp_path: Path, runs: tuple[Path, Path], name: str, file: str) -> None:
    assert cli("baseline", "save", runs[0], f"{tmp_path}/{name}").code == 0
    assert (tmp_path / file).is_file()


@pytest.mark.parametrize("name", ["", ".", "out/", "out/.", "..", ".parquet", "out/.baseline.parquet"])
def test_names_that_name_no_file(
    tmp_path: Path, runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ran = cli("baseline", "save", runs[0], name)
    assert ran.code == 2
    assert "names no file; give a name such as" in ran.err
    assert sorted(tmp_path.rglob("*")) == before


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

"""The verdict for people and pipelines: terminal, JSON, JUnit XML, Markdown summary, GitHub annotations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from evalkit.gate.decision import Measured
from evalkit.gate.limits import Check
from evalkit.gate.outcomes import Json
from evalkit.gate.verdict import Flip, TaskVerdict, Verdict
from evalkit.reports.text import escaped_json, markdown, one_line

MAX_ANNOTATIONS = 10
"""GitHub shows so many of each kind that one step makes."""

_ICONS = {"pass": "✅", "fail": "❌", "inconclusive": "❔"}
_COMMANDS = re.compile(r"##(?=\w*\[)|::(?=\w)")
"""What CI systems obey, at the beginning of a line or anywhere."""


def text(verdict: Verdict) -> str:
    """For a terminal or a log: a paragraph per task, then the verdict on all in the last line."""
    return _lines_of(*_text_lines(verdict))


def _lines_of(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def _text_lines(verdict: Verdict) -> Iterator[str]:
    yield f"baseline   {_run(verdict.baseline)}"
    yield f"candidate  {_run(verdict.candidate)}"
    for task in verdict.tasks:
        yield f"{task.verdict.upper():<13}{plain(task.task)}"
        if task.measured:
            yield f"             {plain(str(task.metric))} {_numbers(task.measured)}"
        yield f"             {plain(task.reason)}"
        for sentence in _remarks(task):
            yield f"             {plain(sentence)}"
    for check in verdict.checks:
        yield f"{_state(check).upper():<13}{_check(check)}"
    for note in verdict.notes:
        yield f"note: {plain(note)}"
    yield f"gate: {verdict.verdict.upper()}{_consequence(verdict)} (policy {plain(verdict.policy)})"


def _run(run: Json) -> str:
    return plain(f"{run['name']} ({run['model'].get('name', 'unknown model')})")


def _numbers(measured: Measured) -> str:
    low, high = measured.ci95
    return (
        f"{measured.baseline:.2f} → {measured.candidate:.2f}: {_change(measured.difference, ' points')} "
        f"[{_change(low)}, {_change(high)}], {measured.n:,} samples, {measured.losses:,} worse, "
        f"{measured.gains:,} better; {_sight(measured)}"
    )


def _change(points: float, unit: str = "", digits: int = 2) -> str:
    """In words, for where lower is better a sign would mislead; no score changes by more than 100."""
    size = f"{min(abs(points), 100):.{digits}f}"
    better = "" if float(size) == 0 else " better" if points > 0 else " worse"
    return f"{size}{unit}{better}"


def _sight(measured: Measured) -> str:
    if measured.smallest_drop > 100:
        return "too few samples to see any drop"
    return f"sees drops of {measured.smallest_drop:.2f}"


def _remarks(task: TaskVerdict) -> Iterator[str]:
    if task.failed_baseline or task.failed_candidate:
        named = ", ".join(task.failed_samples[:5])
        yield (
            f"failed: {task.failed_candidate:,} samples of the candidate, {task.failed_baseline:,} of the "
            f"baseline ({named}{', …' if len(task.failed_samples) > 5 else ''})"
        )
    if task.left_out:
        yield f"left out: {task.left_out:,} samples without a score in both runs"
    yield from (f"{check.name} {check.found}, limit {check.limit}: {_state(check)}" for check in task.checks)


def _check(check: Check) -> str:
    return plain(f"{check.name} {check.found}, limit {check.limit}")


def _state(check: Check) -> str:
    return "pass" if check.passed else "fail"


def _consequence(verdict: Verdict) -> str:
    if verdict.verdict != "inconclusive":
        return ""
    return f", which the policy lets {verdict.inconclusive}"


def plain(words: str) -> str:
    """One line that no terminal and no CI system obeys."""
    return _COMMANDS.sub(lambda found: " ".join(found[0]), one_line(words))


def as_json(verdict: Verdict) -> str:
    """The whole verdict; nothing in it is obeyed, and all of it means what it meant."""
    document = json.dumps(verdict.to_json(), ensure_ascii=False, allow_nan=False, indent=1)
    return re.sub("#(?=#)", r"\\u0023", escaped_json(document)) + "\n"


# -- cases: JUnit and pytest ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """A task, or a limit of the whole run, as test frameworks see it."""

    name: str
    outcome: Literal["passed", "failed", "skipped", "error"]
    """What is inconclusive and does not stop the pipeline is skipped; an error is no verdict."""
    kind: str
    """The verdict."""
    details: tuple[str, ...]
    """Lines, the reason first."""


def case_of(verdict: Verdict, part: TaskVerdict | Check) -> Case:
    """A task or limit as a test case."""
    if isinstance(part, Check):
        outcome: Literal["passed", "failed"] = "passed" if part.passed else "failed"
        return Case(plain(part.name), outcome, _state(part), (_check(part),))
    details = tuple(map(plain, _details(part)))
    if verdict.stops(part.verdict):
        return Case(plain(part.task), "failed", part.verdict, details)
    return Case(plain(part.task), "passed" if part.verdict == "pass" else "skipped", part.verdict, details)


def junit(verdict: Verdict) -> str:
    """A test case per task and per limit of the whole run."""
    return _junit([case_of(verdict, part) for part in verdict.parts], verdict.notes)


def _junit(cases: Sequence[Case], notes: Sequence[str] = ()) -> str:
    outcomes = [case.outcome for case in cases]
    counts = {
        "tests": str(len(cases)),
        "failures": str(outcomes.count("failed")),
        "errors": str(outcomes.count("error")),
        "skipped": str(outcomes.count("skipped")),
    }
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": "evalkit gate", **counts})
    suite.extend(map(_element, cases))
    if notes:
        ET.SubElement(suite, "system-out").text = "\n".join(f"note: {plain(note)}" for note in notes)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _element(case: Case) -> ET.Element:
    element = ET.Element("testcase", {"classname": "evalkit.gate", "name": case.name})
    tag = {"failed": "failure", "skipped": "skipped", "passed": "system-out", "error": "error"}[case.outcome]
    attributes = {} if case.outcome == "passed" else {"type": case.kind, "message": case.details[0]}
    ET.SubElement(element, tag, attributes).text = "\n".join(case.details)
    return element


def _details(task: TaskVerdict) -> Iterator[str]:
    yield task.reason
    if task.measured:
        yield f"{task.metric} {_numbers(task.measured)}"
    yield from _remarks(task)
    yield from (_flip(flip) for flip in task.flips)


def _flip(flip: Flip) -> str:
    return (
        f"{flip.subset}/{flip.sample_id}: {_change(flip.change_points, ' points', 0)}, "
        f"{_short(flip.baseline)} → {_short(flip.candidate)}, right: {_short(flip.target)}"
    )


def _short(answer: str | None) -> str:
    if answer is None:
        return "none"
    line = one_line(answer)
    return repr(line if len(line) <= 60 else f"{line[:59]}…")


# -- Markdown ---------------------------------------------------------------------------------------


def summary(verdict: Verdict) -> str:
    """A job summary in Markdown."""
    return _lines_of(*_summary_lines(verdict))


def _summary_lines(verdict: Verdict) -> Iterator[str]:
    yield f"## {_ICONS[verdict.verdict]} evalkit gate: {verdict.verdict}{_consequence(verdict)}"
    yield ""
    runs = markdown(_run(verdict.baseline)), markdown(_run(verdict.candidate))
    yield f"Baseline {runs[0]}, candidate {runs[1]}, policy {markdown(verdict.policy)}."
    yield ""
    yield "| | task | metric | baseline | candidate | change | 95 % interval | samples | worse | better |"
    yield "|---|---|---|--:|--:|--:|:-:|--:|--:|--:|"
    for task in verdict.tasks:
        yield f"| {_ICONS[task.verdict]} {task.verdict} | {markdown(task.task)} | {_row(task)} |"
    for check in verdict.checks:
        state = _state(check)
        yield f"| {_ICONS[state]} {state} | {markdown(_check(check))} | | | | | | | | |"
    yield ""
    yield from (
        f"- {markdown(task.task)}: {markdown('; '.join((task.reason, *_remarks(task))))}"
        for task in verdict.tasks
    )
    yield from (f"- {markdown(note)}" for note in verdict.notes)
    for task in verdict.tasks:
        if task.flips:
            yield from _flip_table(task)


def _row(task: TaskVerdict) -> str:
    if task.measured is None:
        return f"{markdown(task.metric or '')} | | | | | | | "
    m = task.measured
    return (
        f"{markdown(str(task.metric))} | {m.baseline:.2f} | {m.candidate:.2f} | {_change(m.difference)} | "
        f"{_change(m.ci95[0])} … {_change(m.ci95[1])} | {m.n:,} | {m.losses:,} | {m.gains:,}"
    )


def _flip_table(task: TaskVerdict) -> Iterator[str]:
    assert task.measured is not None
    of = task.measured.losses + task.measured.gains
    yield ""
    yield f"<details><summary>{len(task.flips)} of {of:,} changed samples of {_html(task.task)}</summary>"
    yield ""
    yield "| sample | points | right | baseline | candidate |"
    yield "|---|--:|---|---|---|"
    for flip in task.flips:
        answers = (markdown(_short(answer)) for answer in (flip.target, flip.baseline, flip.candidate))
        sample = markdown(f"{flip.subset}/{flip.sample_id}")
        yield f"| {sample} | {_change(flip.change_points, digits=0)} | {' | '.join(answers)} |"
    yield ""
    yield "</details>"


def _html(words: str) -> str:
    return one_line(words).replace("&", "&amp;").replace("<", "&lt;")


# -- annotations ------------------------------------------------------------------------------------


def github_annotations(verdict: Verdict) -> str:
    """GitHub workflow commands: an error per task that stops the pipeline, a warning for one that could not
    be told and per note, and a notice for samples that became worse."""
    notes = (_command("warning", "evalkit gate", note) for note in verdict.notes)
    return _lines_of(*_task_commands(verdict), *notes, *_sample_commands(verdict))


def _task_commands(verdict: Verdict) -> Iterator[str]:
    for task in verdict.tasks:
        if task.verdict != "pass":
            kind = "error" if verdict.stops(task.verdict) else "warning"
            yield _command(kind, f"evalkit gate: {task.task}", f"{task.verdict}: {task.reason}")
    for check in verdict.checks:
        if not check.passed:
            yield _command("error", "evalkit gate", f"fail: {_check(check)}")


def _sample_commands(verdict: Verdict) -> Iterator[str]:
    failing = [task for task in verdict.tasks if task.verdict != "pass"]
    lost = [(task, flip) for task in failing for flip in task.flips if flip.change_points < 0]
    for task, flip in lost[:MAX_ANNOTATIONS]:
        yield _command("notice", f"became worse: {task.task}", _flip(flip))


def _command(kind: str, title: str, message: str) -> str:
    title = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={title}::{_escaped(message)}"


def _escaped(words: str) -> str:
    return plain(words).replace("%", "%25")


# -- where there is no verdict ----------------------------------------------------------------------


def junit_of_error(message: str) -> str:
    """A test case in error, so that what an earlier gate wrote is not taken for a verdict."""
    return _junit([Case("evalkit gate", "error", "error", (plain(message),))])


def summary_of_error(message: str) -> str:
    """A job summary that says why there is no verdict."""
    return f"## ⚠️ evalkit gate: error\n\n{markdown(message)}\n"


def annotation_of_error(message: str) -> str:
    """The same as a GitHub workflow command."""
    return _lines_of(_command("error", "evalkit gate", message))

"""The verdict for people and pipelines: terminal, JUnit XML, Markdown job summary, GitHub annotations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from evalkit.gate.outcomes import Json
from evalkit.gate.verdict import Check, Flip, Measured, TaskVerdict, Verdict
from evalkit.reports.text import markdown, one_line

MAX_ANNOTATIONS = 10
"""GitHub shows so many of each kind that one step makes."""

_ICONS = {"pass": "✅", "fail": "❌", "inconclusive": "❔"}
_COMMANDS = re.compile(r"##(?=\w*\[)|::(?=\w)")
"""How lines begin that CI systems obey."""


def text(verdict: Verdict) -> str:
    """For a terminal or a log: a paragraph per task, then the verdict on all in the last line."""
    return "\n".join(_lines(verdict)) + "\n"


def _lines(verdict: Verdict) -> Iterator[str]:
    yield f"baseline   {_run(verdict.baseline)}"
    yield f"candidate  {_run(verdict.candidate)}"
    for task in verdict.tasks:
        yield f"{task.verdict.upper():<13}{_plain(task.task)}"
        if task.measured:
            yield f"             {_plain(str(task.metric))} {_numbers(task.measured)}"
        yield f"             {_plain(task.reason)}"
        for sentence in _counted(task):
            yield f"             {_plain(sentence)}"
    for check in verdict.checks:
        yield f"{_state(check).upper():<13}{_check(check)}"
    for note in verdict.notes:
        yield f"note: {_plain(note)}"
    yield f"gate: {verdict.verdict.upper()}{_consequence(verdict)} (policy {_plain(verdict.policy)})"


def _run(run: Json) -> str:
    return _plain(f"{run['name']} ({run['model'].get('name', 'unknown model')})")


def _numbers(measured: Measured) -> str:
    low, high = measured.ci95
    return (
        f"{measured.baseline:.2f} → {measured.candidate:.2f}: {measured.difference:+.2f} points "
        f"[{low:+.2f}, {high:+.2f}], {measured.n:,} samples, {measured.losses:,} worse, "
        f"{measured.gains:,} better; sees drops of {measured.smallest_drop:.2f}"
    )


def _counted(task: TaskVerdict) -> Iterator[str]:
    if task.failed_baseline or task.failed_candidate:
        named = ", ".join(task.failed_samples[:5])
        yield (
            f"failed: {task.failed_candidate:,} samples of the candidate, {task.failed_baseline:,} of the "
            f"baseline ({named}{', …' if len(task.failed_samples) > 5 else ''})"
        )
    if task.left_out:
        yield f"left out: {task.left_out:,} samples without a score in both runs"


def _check(check: Check) -> str:
    return _plain(f"{check.name} {check.found}, limit {check.limit}")


def _state(check: Check) -> str:
    return "pass" if check.passed else "fail"


def _consequence(verdict: Verdict) -> str:
    if verdict.verdict != "inconclusive":
        return ""
    return f", which the policy lets {verdict.inconclusive}"


def _plain(words: str) -> str:
    """One line that no terminal and no CI system obeys."""
    return _COMMANDS.sub(lambda found: " ".join(found[0]), _encodable(one_line(words)))


def _encodable(words: str) -> str:
    return words.encode("utf-8", "replace").decode("utf-8")


# -- cases: JUnit and pytest ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """A task, or a limit of the whole run, as test frameworks see it."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    """What is inconclusive and does not stop the pipeline is skipped."""
    kind: str
    """The verdict."""
    details: tuple[str, ...]
    """Lines, the reason first."""


def case_of(verdict: Verdict, part: TaskVerdict | Check) -> Case:
    """A task or limit as a test case."""
    if isinstance(part, Check):
        outcome: Literal["passed", "failed"] = "passed" if part.passed else "failed"
        return Case(_xml(part.name), outcome, _state(part), (_xml(_check(part)),))
    details = tuple(map(_xml, _details(part)))
    if verdict.stops(part.verdict):
        return Case(_xml(part.task), "failed", part.verdict, details)
    return Case(_xml(part.task), "passed" if part.verdict == "pass" else "skipped", part.verdict, details)


def junit(verdict: Verdict) -> str:
    """A test case per task and per limit of the whole run."""
    cases = [case_of(verdict, part) for part in verdict.parts]
    outcomes = [case.outcome for case in cases]
    counts = {
        "tests": str(len(cases)),
        "failures": str(outcomes.count("failed")),
        "errors": "0",
        "skipped": str(outcomes.count("skipped")),
    }
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": "evalkit gate", **counts})
    suite.extend(map(_element, cases))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _element(case: Case) -> ET.Element:
    element = ET.Element("testcase", {"classname": "evalkit.gate", "name": case.name})
    tag = {"failed": "failure", "skipped": "skipped", "passed": "system-out"}[case.outcome]
    attributes = {} if case.outcome == "passed" else {"type": case.kind, "message": case.details[0]}
    ET.SubElement(element, tag, attributes).text = "\n".join(case.details)
    return element


def _details(task: TaskVerdict) -> Iterator[str]:
    yield task.reason
    if task.measured:
        yield f"{task.metric} {_numbers(task.measured)}"
    yield from _counted(task)
    yield from (_flip(flip) for flip in task.flips)


def _flip(flip: Flip) -> str:
    return (
        f"{flip.subset}/{flip.sample_id}: {flip.change_points:+.0f} points, {_short(flip.baseline)} → "
        f"{_short(flip.candidate)}, right: {_short(flip.target)}"
    )


def _short(answer: str | None) -> str:
    if answer is None:
        return "none"
    line = one_line(answer)
    return repr(line if len(line) <= 60 else f"{line[:59]}…")


def _xml(words: str) -> str:
    """One line without the two characters that neither `_plain` shows nor XML can hold."""
    return re.sub("[\ufffe\uffff]", "\ufffd", _encodable(one_line(words)))


# -- Markdown ---------------------------------------------------------------------------------------


def summary(verdict: Verdict) -> str:
    """A job summary in Markdown."""
    return "\n".join(_summary_lines(verdict)) + "\n"


def _summary_lines(verdict: Verdict) -> Iterator[str]:
    yield f"## {_ICONS[verdict.verdict]} evalkit gate: {verdict.verdict}{_consequence(verdict)}"
    yield ""
    runs = _cell(_run(verdict.baseline)), _cell(_run(verdict.candidate))
    yield f"Baseline {runs[0]}, candidate {runs[1]}, policy {_cell(verdict.policy)}."
    yield ""
    yield "| | task | metric | baseline | candidate | difference | 95 % interval | samples | worse | better |"
    yield "|---|---|---|--:|--:|--:|:-:|--:|--:|--:|"
    for task in verdict.tasks:
        yield f"| {_ICONS[task.verdict]} {task.verdict} | {_cell(task.task)} | {_row(task)} |"
    for check in verdict.checks:
        state = _state(check)
        yield f"| {_ICONS[state]} {state} | {_cell(_check(check))} | | | | | | | | |"
    yield ""
    yield from (
        f"- {_cell(task.task)}: {_cell('; '.join((task.reason, *_counted(task))))}" for task in verdict.tasks
    )
    yield from (f"- {_cell(note)}" for note in verdict.notes)
    for task in verdict.tasks:
        if task.flips:
            yield from _flip_table(task)


def _row(task: TaskVerdict) -> str:
    if task.measured is None:
        return f"{_cell(task.metric or '')} | | | | | | | "
    m = task.measured
    return (
        f"{_cell(str(task.metric))} | {m.baseline:.2f} | {m.candidate:.2f} | {m.difference:+.2f} | "
        f"{m.ci95[0]:+.2f} … {m.ci95[1]:+.2f} | {m.n:,} | {m.losses:,} | {m.gains:,}"
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
        answers = (_cell(_short(answer)) for answer in (flip.target, flip.baseline, flip.candidate))
        sample = _cell(f"{flip.subset}/{flip.sample_id}")
        yield f"| {sample} | {flip.change_points:+.0f} | {' | '.join(answers)} |"
    yield ""
    yield "</details>"


def _cell(words: str) -> str:
    return markdown(_encodable(words))


def _html(words: str) -> str:
    return _encodable(one_line(words)).replace("&", "&amp;").replace("<", "&lt;")


# -- annotations ------------------------------------------------------------------------------------


def github_annotations(verdict: Verdict) -> str:
    """GitHub workflow commands: an error per task that stops the pipeline, a warning for one that could not
    be told, and a notice for samples that became worse."""
    commands = [*_task_commands(verdict), *_sample_commands(verdict)]
    return "".join(f"{command}\n" for command in commands)


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
    return _encodable(one_line(words)).replace("%", "%25")

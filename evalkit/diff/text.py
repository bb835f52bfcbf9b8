"""A comparison of two runs as people read it, on a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evalkit.reports.text import one_line, visible

Json = Mapping[str, Any]

_LONGEST = 200
"""Characters of a completion, or of a line of a prompt, that are shown."""
_MOST_LINES = 30
"""Of a difference of prompts."""

_MARKS = {"equal": "{}", "delete": "[-{}-]", "insert": "{{+{}+}}"}
"""As wdiff and `git diff --word-diff` write what only the first or the second has."""


def render(document: Json) -> str:
    """The comparison in lines; whatever models wrote appears as text."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Json) -> Iterator[str]:
    for side in ("a", "b"):
        one = document[side]
        yield f"{side.upper()}: {one_line(one['name'])} ({one_line(str(one['model']))})"
    for task in document["tasks"]:
        yield ""
        yield from _task(task)
    for side in ("a", "b"):
        if names := document[f"only_{side}"]:
            yield f"only in {side.upper()}: {', '.join(map(one_line, names))}"


def _task(task: Json) -> Iterator[str]:
    yield one_line(task["a"] if task["a"] == task["b"] else f"{task['a']}  against  {task['b']}")
    yield _samples(task)
    for rung, found in task["rungs"].items():
        here = "  <- first difference" if rung == task["first"] else ""
        yield f"  {_rung(rung):<10} {found['status']:<8}{_count(rung, found)}{here}".rstrip()
    if task["verdict"] == "equal":
        partly = any(found["status"] == "unknown" for found in task["rungs"].values())
        yield f"  no difference{' in what both put down' if partly else ''}"
    yield from _causes(task)
    for also in task["also"]:
        yield f"  also, {also['differing']:,} of the {also['of']:,} samples {_EQUAL_SO_FAR[also['rung']]}"
        yield from _causes(also)
    if task["token_ids"] and task["token_ids"]["differing"]:
        yield _positions(task["token_ids"])
    if task["logprobs"] and task["logprobs"]["largest"]:
        yield _logprobs(task["logprobs"])
    if task["effect"]:
        yield _effect(task["effect"])
    for example in task["examples"]:
        yield from _example(example)


_EQUAL_SO_FAR = {
    "prompts": "with the same record have other prompts",
    "token_ids": "with the same prompt have other token ids",
    "responses": "with the same prompt have other responses",
    "outcomes": "with the same response have other outcomes",
}


def _samples(task: Json) -> str:
    said = f"  {task['shared']:,} samples in both"
    if task["only_a"] or task["only_b"]:
        said += f", {task['only_a']:,} only in A, {task['only_b']:,} only in B"
        picked = [
            f"{side.upper()} ran with {one_line(task['picked'][side])}"
            for side in "ab"
            if task["picked"][side]
        ]
        said += f" ({'; '.join(picked)})" if picked else ""
    return said


def _rung(rung: str) -> str:
    return rung.replace("_", " ")


def _count(rung: str, found: Json) -> str:
    if found["differing"]:
        return f"  {found['differing']:,} of {found['of']:,} samples"
    if (rung, found["status"]) == ("data", "unknown") and found["of"]:
        return "  (right answers are the same)"
    return ""


def _causes(task: Json) -> Iterator[str]:
    yield from (f"  cause: {one_line(cause['sentence'])}" for cause in task["causes"])


def _logprobs(found: Json) -> str:
    return (
        f"  log-probabilities of {found['n']:,} options differ by (nat): median {found['median']:.2g}, "
        f"99 % {found['p99']:.2g}, most {found['largest']:.2g} ({one_line('/'.join(found['key']))})"
    )


def _positions(found: Json) -> str:
    where = f"position {found['earliest']:,}"
    if found["median"] != found["earliest"]:
        where += f" at the earliest, {found['median']:,} in the median"
    return f"  token ids part at {where}"


def _effect(effect: Json) -> str:
    low, high = effect["ci95"]
    metrics = f" ({', '.join(map(one_line, effect['metrics']))})" if effect["metrics"] else ""
    return (
        f"  effect: B - A = {effect['points']:+.2f} points [{low:+.2f}, {high:+.2f}] of the "
        f"{effect['average']} average{metrics} on {effect['n']:,} samples; "
        f"{'right' if effect['right_or_wrong'] else 'higher'} only in A {effect['higher_in_a']:,}, "
        f"only in B {effect['higher_in_b']:,}"
    )


def _example(example: Json) -> Iterator[str]:
    yield f"  {one_line(example['subset'])}/{one_line(example['id'])}"
    for side in ("a", "b"):
        yield f"    {side.upper()}: {_answer(example[side])}"
    if "prompt_diff" in example:
        yield from _prompts(example["prompt_diff"])
    if "token_diff" in example:
        yield f"    {_tokens(example['token_diff'])}"


def _prompts(diff: Json) -> Iterator[str]:
    lines = [visible(line) for line in diff["lines"][:_MOST_LINES]]
    yield from (f"    {_start(line)}" for line in lines)
    more = len(diff["lines"]) - len(lines) + diff["more"]
    if more:
        yield f"    … {more:,} more lines"
    if more or any(len(line) > _LONGEST for line in lines):
        a, b = repr(diff["a"]), repr(diff["b"])
        yield f"    prompts part at character {diff['position']:,}: {visible(a)} in A, {visible(b)} in B"


def _start(line: str) -> str:
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"


def _tokens(diff: Json) -> str:
    """The ids around the first changes."""
    shown = " ".join(_MARKS[part["op"]].format(_ids(part)) for part in diff["parts"])
    if diff["more"] and not shown.endswith("…"):
        shown += " …"
    return f"{diff['a']:,} and {diff['b']:,} token ids, from {diff['position']:,} on: {shown}"


def _ids(part: Json) -> str:
    listed = " ".join("…" if one is None else str(one) for one in part["ids"])
    return f"{listed} ({part['n']:,})" if part["op"] != "equal" and None in part["ids"] else listed


def _answer(answer: Json) -> str:
    if answer["error"]:
        return f"failed: {one_line(answer['error'])}"
    said = f"{answer['prediction']}, target {answer['target']}"
    if answer["logprobs"]:
        values = ("not finite" if value is None else f"{value:.3f}" for value in answer["logprobs"])
        said += f" ({', '.join(values)})"
    if answer["completion"] is not None:
        said += f": {_start(answer['completion'])}"
    return one_line(said)

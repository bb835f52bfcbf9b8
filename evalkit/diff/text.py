"""A comparison of two runs as people read it, on a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evalkit.reports.text import one_line, visible

Json = Mapping[str, Any]

_NAMES = {
    "data": "data",
    "prompts": "prompts",
    "token_ids": "token ids",
    "responses": "responses",
    "outcomes": "outcomes",
}
_LONGEST = 200
"""Characters of a completion that are shown."""


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
    samples = f"  {task['shared']:,} samples in both"
    if task["only_a"] or task["only_b"]:
        samples += f", {task['only_a']:,} only in A, {task['only_b']:,} only in B"
    yield samples
    for rung, found in task["rungs"].items():
        count = f"  {found['differing']:,} of {found['of']:,} samples" if found["differing"] else ""
        here = "  <- first difference" if rung == task["first"] else ""
        yield f"  {_NAMES[rung]:<10} {found['status']:<8}{count}{here}"
    yield from (f"  cause: {one_line(cause['sentence'])}" for cause in task["causes"])
    if task["token_ids"] and task["token_ids"]["differing"]:
        yield _positions(task["token_ids"])
    if task["logprobs"]:
        found = task["logprobs"]
        yield (
            f"  log-probabilities of {found['n']:,} options differ by (nat): median {found['median']:.2g}, "
            f"99 % {found['p99']:.2g}, most {found['largest']:.2g} ({one_line('/'.join(found['key']))})"
        )
    if task["effect"]:
        yield _effect(task["effect"])
    for example in task["examples"]:
        yield from _example(example)


def _positions(found: Json) -> str:
    where = f"position {found['earliest']:,}"
    if found["median"] != found["earliest"]:
        where += f" at the earliest, {found['median']:,} in the median"
    return f"  token ids part at {where}"


def _effect(effect: Json) -> str:
    low, high = effect["ci95"]
    return (
        f"  effect: B - A = {effect['points']:+.2f} points [{low:+.2f}, {high:+.2f}] on {effect['n']:,} "
        f"samples; right only in A {effect['only_a_right']:,}, only in B {effect['only_b_right']:,}"
    )


def _example(example: Json) -> Iterator[str]:
    yield f"  {one_line(example['subset'])}/{one_line(example['id'])}"
    for side in ("a", "b"):
        yield f"    {side.upper()}: {_answer(example[side])}"
    for line in visible(example.get("prompt_diff", "")).splitlines():
        yield f"    {line}"
    if "token_diff" in example:
        yield f"    {_tokens(example['token_diff'])}"


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
        said += f": {answer['completion'][:_LONGEST]}"
    return one_line(said)

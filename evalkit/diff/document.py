"""Everything a comparison of two runs has to say, ready for JSON and for people."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evalkit.diff import tokens
from evalkit.diff.causes import Case, causes
from evalkit.diff.ladder import RUNGS, Pairs, Step, climb, first_difference, pair
from evalkit.diff.logprobs import options, spread
from evalkit.diff.sides import Key, Side, TaskSide
from evalkit.errors import UsageError
from evalkit.stats.paired import paired_difference
from evalkit.types import Outcome

EXAMPLES = 3
"""Samples that are shown."""
_CONTEXT = 2


def compare(a: Side, b: Side, examples: int = EXAMPLES) -> dict[str, Any]:
    """Compare two sides task by task.

    Args:
        a: one side.
        b: the other.
        examples: differing samples to show of each task.

    Raises:
        UsageError: they have no benchmark in common.
    """
    found = list(matched(a, b))
    if not found:
        raise UsageError(
            f"nothing to compare: {a.name} has {', '.join(a.tasks)}; {b.name} has {', '.join(b.tasks)}"
        )
    seen = {side.name for pair_ in found for side in pair_}
    return {
        "a": {"name": a.name, "model": a.model.get("name")},
        "b": {"name": b.name, "model": b.model.get("name")},
        "tasks": [_task(a, b, mine, theirs, examples) for mine, theirs in found],
        "only_a": [name for name in a.tasks if name not in seen],
        "only_b": [name for name in b.tasks if name not in seen],
    }


def matched(a: Side, b: Side) -> Iterator[tuple[TaskSide, TaskSide]]:
    """Tasks of the same resolved name, then those of one benchmark under two protocols."""
    left = dict(b.tasks)
    rest = []
    for name, mine in a.tasks.items():
        if name in left:
            yield mine, left.pop(name)
        else:
            rest.append(mine)
    for mine in rest:
        theirs = next((other for other in left.values() if other.task == mine.task), None)
        if theirs is not None:
            del left[theirs.name]
            yield mine, theirs


def _task(a: Side, b: Side, mine: TaskSide, theirs: TaskSide, examples: int) -> dict[str, Any]:
    pairs = pair(mine, theirs)
    steps = climb(mine, theirs, pairs)
    first = first_difference(steps)
    case = Case(a, b, mine, theirs, pairs, first)
    scored = options(mine, theirs, pairs)
    return {
        "a": mine.name,
        "b": theirs.name,
        "shared": len(pairs.both),
        "only_a": len(pairs.only_a),
        "only_b": len(pairs.only_b),
        "rungs": {
            step.rung: {"status": step.status, "differing": len(step.keys), "of": step.n} for step in steps
        },
        "first": first.rung if first else None,
        "causes": [asdict(cause) for cause in causes(case)],
        "effect": _effect(mine, theirs, pairs),
        "logprobs": asdict(spread(scored)) if scored else None,
        "token_ids": _token_ids(mine, theirs, pairs) if first and first.rung == "token_ids" else None,
        "examples": [_example(mine, theirs, key, first) for key in _chosen(steps, first)[:examples]],
    }


def _effect(mine: TaskSide, theirs: TaskSide, pairs: Pairs) -> dict[str, Any] | None:
    """How much the difference is worth: points of the mean score of shared samples, B less A."""
    scores = [(mine.samples[key].correct, theirs.samples[key].correct) for key in pairs.both]
    both = np.array([(x, y) for x, y in scores if x is not None and y is not None])
    if len(both) < 2:
        return None
    found = paired_difference(both[:, 1], both[:, 0])
    return {
        "points": 100 * found.value,
        "ci95": [100 * end for end in found.ci95],
        "p": found.p,
        "only_a_right": int((both[:, 0] > both[:, 1]).sum()),
        "only_b_right": int((both[:, 0] < both[:, 1]).sum()),
        "n": len(both),
    }


def _token_ids(mine: TaskSide, theirs: TaskSide, pairs: Pairs) -> dict[str, Any] | None:
    """Where the ids of prompts part; None where a side did not keep them."""
    found = tokens.positions(list(tokens.pairs(mine.samples, theirs.samples, pairs.both)))
    return asdict(found) if found else None


def _chosen(steps: Sequence[Step], first: Step | None) -> list[Key]:
    """Samples worth showing: those that changed sides, else those of the first difference."""
    if first is None:
        return []
    flipped = next(step.keys for step in steps if step.rung == RUNGS[-1])
    on_first = set(first.keys)
    shown = [key for key in flipped if key in on_first or not on_first]
    return list(dict.fromkeys([*shown, *first.keys]))


def _example(mine: TaskSide, theirs: TaskSide, key: Key, first: Step | None) -> dict[str, Any]:
    a, b = mine.samples[key], theirs.samples[key]
    shown = {"subset": key[0], "id": key[1], "a": _answer(a), "b": _answer(b)}
    if first and first.rung in ("data", "prompts") and a.prompt and b.prompt and a.prompt != b.prompt:
        lines = difflib.unified_diff(
            a.prompt.splitlines(), b.prompt.splitlines(), "A", "B", n=_CONTEXT, lineterm=""
        )
        shown["prompt_diff"] = "\n".join(lines)
    if first and first.rung == "token_ids" and tokens.differ(a, b):
        ((ids_a, ids_b),) = tokens.pairs(mine.samples, theirs.samples, [key])
        shown["token_diff"] = asdict(tokens.token_diff(ids_a, ids_b))
    return shown


def _answer(outcome: Outcome) -> dict[str, Any]:
    return {
        "prediction": outcome.prediction,
        "target": outcome.target,
        "correct": outcome.correct,
        "logprobs": [x if math.isfinite(x) else None for x in outcome.choice_logprobs or ()] or None,
        "completion": outcome.completions[0] if outcome.completions else None,
        "error": outcome.error,
    }

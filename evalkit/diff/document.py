"""Everything a comparison of two runs has to say, ready for JSON and for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evalkit.diff import tokens
from evalkit.diff.causes import causes, is_rounding
from evalkit.diff.ladder import Step, climb, differs, independent
from evalkit.diff.logprobs import options, spread
from evalkit.diff.pairing import Pair, pairs
from evalkit.diff.prompts import prompt_diff
from evalkit.diff.sides import Key, Side
from evalkit.stats.paired import paired_difference
from evalkit.stats.weights import weigh
from evalkit.types import Outcome


def compare(a: Side, b: Side, examples: int) -> dict[str, Any]:
    """Compare two sides task by task.

    Args:
        a: one side.
        b: the other.
        examples: differing samples to show of each task.

    Raises:
        UsageError: they have no benchmark, or no sample, in common.
    """
    found = pairs(a, b)
    seen = {side.name for pair in found for side in pair.sides}
    return {
        "a": {"name": a.name, "model": a.model.get("name")},
        "b": {"name": b.name, "model": b.model.get("name")},
        "tasks": [_task(pair, examples) for pair in found],
        "only_a": [name for name in a.tasks if name not in seen],
        "only_b": [name for name in b.tasks if name not in seen],
    }


def _task(pair: Pair, examples: int) -> dict[str, Any]:
    steps = climb(pair)
    apart = independent(pair, steps)
    first = apart[0] if apart else None
    why = [causes(pair, step) for step in apart]
    verdict = _verdict(pair, why)
    scored = options(pair)
    return {
        "a": pair.a.name,
        "b": pair.b.name,
        "shared": len(pair.both),
        "only_a": len(pair.only_a),
        "only_b": len(pair.only_b),
        "picked": {"a": pair.a.picked, "b": pair.b.picked},
        "verdict": verdict,
        "rungs": {step.rung: _rung(step) for step in steps},
        "first": first.rung if first else None,
        "causes": [asdict(cause) for cause in why[0]] if why else [],
        "also": [
            {"rung": step.rung, **_rung(step), "causes": [asdict(cause) for cause in found]}
            for step, found in zip(apart[1:], why[1:], strict=True)
        ],
        "effect": _effect(pair),
        "logprobs": asdict(spread(scored)) if scored else None,
        "token_ids": _token_ids(pair) if first and first.rung == "token_ids" else None,
        "examples": [_example(pair, key, apart) for key in _chosen(pair, apart)[:examples]]
        if verdict == "differs"
        else [],
    }


def _verdict(pair: Pair, why: Sequence[list[Any]]) -> str:
    """`equal`, `rounding`, `differs`, or `unknown` without a sample in common."""
    if not pair.both:
        return "unknown"
    if not why:
        return "equal"
    return "rounding" if all(map(is_rounding, why)) else "differs"


def _rung(step: Step) -> dict[str, Any]:
    return {"status": step.status, "differing": len(step.keys), "of": step.n}


def _effect(pair: Pair) -> dict[str, Any] | None:
    """How much the difference is worth: points of the published average over the shared samples, B less A.

    Where two protocols average differently, all samples count the same.
    """
    scores = {key: tuple(outcome.correct for outcome in pair.of(key)) for key in pair.both}
    judged = [key for key, both in scores.items() if None not in both]
    if len(judged) < 2:
        return None
    a, b = np.array([scores[key] for key in judged], np.float64).T
    entries = [side.entry for side in pair.sides if side.entry]
    averages = {entry["average"] for entry in entries}
    entry = entries[0] if len(averages) == 1 else {"average": "micro"}
    found = paired_difference(b, a, weights=weigh(entry, [subset for subset, _ in judged]))
    return {
        "points": 100 * found.value,
        "ci95": [100 * end for end in found.ci95],
        "p": found.p,
        "average": entry["average"],
        "metrics": list(dict.fromkeys(next(iter(one["metrics"]), None) for one in entries)),
        "higher_in_a": int((a > b).sum()),
        "higher_in_b": int((a < b).sum()),
        "right_or_wrong": bool(np.isin([a, b], (0, 1)).all()),
        "n": len(judged),
    }


def _token_ids(pair: Pair) -> dict[str, Any] | None:
    """Where the ids of prompts part; None where a side did not keep them."""
    found = tokens.positions(list(tokens.kept(pair, pair.both)))
    return asdict(found) if found else None


def _chosen(pair: Pair, apart: Sequence[Step]) -> list[Key]:
    """Samples worth showing: of the first difference before others, and of each those that changed sides."""
    found: list[Key] = []
    for step in apart:
        keys = step.keys or pair.both
        flipped = [key for key in keys if differs(pair, "outcomes", key)]
        found += [*flipped, *step.keys]
    return list(dict.fromkeys(found))


def _example(pair: Pair, key: Key, apart: Sequence[Step]) -> dict[str, Any]:
    a, b = pair.of(key)
    shown = {"subset": key[0], "id": key[1], "a": _answer(a), "b": _answer(b)}
    rungs = {step.rung for step in apart if key in step.keys}
    if rungs & {"data", "prompts"} and a.prompt and b.prompt and a.prompt != b.prompt:
        shown["prompt_diff"] = asdict(prompt_diff(a.prompt, b.prompt))
    if "token_ids" in rungs:
        ((ids_a, ids_b),) = tokens.kept(pair, [key])
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

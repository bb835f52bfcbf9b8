"""What can make two sides part on a rung, told from what the runs put down about themselves."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from evalkit.diff import tokens
from evalkit.diff.ladder import Rung, Step, differs
from evalkit.diff.pairing import Pair
from evalkit.diff.prompts import only_white_space, parting, same_pieces
from evalkit.diff.sides import Key, TaskSide

_LEFT = 12
"""Digits of a hash that are shown."""
_SPECIAL = 4
"""Ids in front, at most, that a tokenizer may have put there of its own accord."""
_ROUNDING = 1e-3
"""Largest difference of log-probabilities, in nat, that is called rounding: the tolerance that the equality
gate has in float32, where engines that compute the same lie below it."""
_HARMLESS = "rounding"
"""Kind of the cause that changes nothing."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that differs and explains the difference."""

    kind: str
    """For programs, for example `dtype`."""
    sentence: str


def causes(pair: Pair, step: Step) -> list[Cause]:
    """Name what explains that samples differ on a rung, likeliest first."""
    found = list(dict.fromkeys([*_protocol(pair), *_BY_RUNG[step.rung](pair, step)]))
    return found or [Cause("unknown", "nothing the runs put down about themselves explains it")]


def is_rounding(found: list[Cause]) -> bool:
    """Whether what differs is no more than rounding."""
    return _HARMLESS in [cause.kind for cause in found]


def _protocol(pair: Pair) -> Iterator[Cause]:
    # A log names neither split nor number of examples.
    a, b = (side.protocol if pair.has_log else side.name for side in pair.sides)
    if a != b:
        names = [f"lm-eval's own ({side.name})" if side.is_log else side.name for side in pair.sides]
        yield Cause("protocol", f"two protocols: {names[0]} and {names[1]}")


# -- data and prompts -------------------------------------------------------------------------------


def _data(pair: Pair, step: Step) -> Iterator[Cause]:
    seen = "answer" if pair.a.protocol != pair.b.protocol else "prompt or answer"
    changed = set(step.keys)
    if seen != "answer":
        changed |= {key for key in pair.both if differs(pair, "prompts", key)}
    what = f"{len(changed):,} of {len(pair.both):,} shared samples have another {seen}"
    yield Cause("data", f"two versions of the data: {what if changed else f'no {seen} shows where'}")


def _prompts(pair: Pair, step: Step) -> Iterator[Cause]:
    yield from _template(pair)
    yield from _truncation(pair)
    a, b = (outcome.prompt for outcome in pair.of(step.keys[0]))
    if a and b and only_white_space(a, b):
        _, end, other = parting(a, b, 8)
        yield Cause("white space", f"white space at the end: {end!r} in A, {other!r} in B")
    elif a and b and same_pieces(a, b):
        yield Cause("shot order", "the same examples in another order")
    elif len(step.keys) < step.n and _may_differ(pair, "data"):
        yield Cause("data", f"{len(step.keys):,} of {step.n:,} prompts: their records, or examples, differ")
    else:
        yield Cause("prompt", f"{_part(pair, step)}{_where_shown(pair, step.keys[0])}")


def _may_differ(pair: Pair, rung: Rung) -> bool:
    """Whether a rung may differ, for all that its hashes say."""
    a, b = (side.hashes.get(rung) for side in pair.sides)
    return not (a and a == b)


def _part(pair: Pair, step: Step) -> str:
    """What of the prompts differs: with whole subsets, it is their examples."""
    differing = {subset for subset, _ in step.keys}
    subsets = {subset for subset, _ in pair.both}
    whole = sum(subset in differing for subset, _ in pair.both) == len(step.keys)
    if whole and len(differing) < len(subsets):
        return f"examples of {len(differing):,} of {len(subsets):,} subsets differ"
    return "template or examples"


def _where_shown(pair: Pair, key: Key) -> str:
    lacking = [name for name, outcome in zip("AB", pair.of(key), strict=True) if not outcome.prompt]
    if not lacking:
        return ", as the text below shows"
    return f"; run {' and '.join(lacking)} with --log-prompts and the difference is shown"


def _template(pair: Pair) -> Iterator[Cause]:
    applied = [side.how.get("chat_template") for side in pair.sides]
    if applied[0] != applied[1] and None not in applied:
        yield Cause("template", f"the chat template is applied in {'A' if applied[0] else 'B'} only")
    if all(applied):
        yield from _two(
            pair,
            "template",
            "two chat templates",
            lambda side: (side.how.get("chat") or {}).get("template_sha256"),
        )
    yield from _two(pair, "template", "the system prompt", _asked("system"))
    yield from _two(pair, "template", "the beginning of the answer", _asked("answer_prefix"))


def _truncation(pair: Pair) -> Iterator[Cause]:
    a, b = (sum(bool(side.samples[key].truncated) for key in pair.both) for side in pair.sides)
    if a != b:
        yield Cause("truncation", f"prompts cut: {a:,} in A, {b:,} in B")
    elif a:
        yield from _two(pair, "truncation", "the context length prompts are cut to", _asked("max_length"))


# -- token ids --------------------------------------------------------------------------------------


def _token_ids(pair: Pair, step: Step) -> list[Cause]:
    """What the manifests say, put into the order of what the ids show and completed by it."""
    found, seen = list(_encoding(pair)), _seen_in_ids(pair)
    if seen is None:
        return found
    exact = seen.kind in ("bos", "truncation")
    if not found or (exact and seen.kind not in [cause.kind for cause in found]):
        found.append(seen)
    return sorted(found, key=lambda cause: cause.kind != seen.kind)


def _encoding(pair: Pair) -> Iterator[Cause]:
    yield from _two(pair, "bos", "BOS tokens in front of prompts", lambda side: side.how.get("bos"))
    yield from _two(pair, "tokenizer", "two tokenizers or revisions of one", _detail("tokenizer"))
    yield from _two(pair, "bos", "other special tokens in front", _detail("leading_ids"))
    yield from _template(pair)
    if _generates(pair, pair.both[:1]):
        yield from _two(pair, "seed", "the seed of sampling", _asked("seed"))
    yield from _truncation(pair)


def _seen_in_ids(pair: Pair) -> Cause | None:
    """What the ids in front of the answers tell; None where they were not kept."""
    kept = list(tokens.kept(pair, pair.both))
    if not kept:
        return None
    more = [tokens.surplus(a, b) for a, b in kept if not np.array_equal(a, b)]
    samples = f"in {len(more):,} of {len(kept):,} samples"
    if not more:
        return Cause("request", "the ids in front of the answers are the same; options or settings differ")
    if None in more:
        return Cause("tokenizer", f"other ids for the same text {samples}")
    cut = any(outcome.truncated for key in pair.both for outcome in pair.of(key))
    if cut or len(set(more)) > 1:
        return Cause("truncation", f"the ids of one side are the end of the other's {samples}")
    side, front = more[0] or ("", ())
    kind = "bos" if len(front) <= _SPECIAL else "template"
    listed = " ".join(map(str, front[:_SPECIAL])) + (" …" if len(front) > _SPECIAL else "")
    return Cause(kind, f"{side} has {len(front):,} more in front ({listed}) {samples}")


# -- responses and outcomes -------------------------------------------------------------------------


def _responses(pair: Pair, step: Step) -> Iterator[Cause]:
    failed = list(_failures(pair, step))
    yield from failed
    if all(any(outcome.error for outcome in pair.of(key)) for key in step.keys):
        return
    model = list(_models(pair))
    yield from model
    if differs(pair, "token_ids", step.keys[0]) is None and _may_differ(pair, "token_ids"):
        yield from _encoding(pair)
    gap = None if model else _rounding(pair, step)
    yield from _engines(pair)
    if pair.has_log and gap is None:
        yield from _names_in_logs(pair)
    if _generates(pair, step.keys[:1]):
        yield from _two(pair, "seed", "the seed of sampling", _asked("seed"))
    yield from _truncation(pair)
    yield from _two(pair, "engine", "other versions of the engine's libraries", _detail("versions"))
    for what, name in _WAYS.items():
        yield from _two(pair, "machine", f"another {what}, which rounds otherwise", _detail(name))
    if gap is not None:
        yield Cause(_HARMLESS, f"log-probabilities at most {gap:.2g} nat apart, no answer differs: rounding")


_WAYS = {
    "way of scoring": "scoring_path",
    "device": "device",
    "GPU": "gpu",
    "number of threads": "threads",
    "token budget": "batch_tokens",
}


def _failures(pair: Pair, step: Step) -> Iterator[Cause]:
    for at, name in enumerate("AB"):
        errors = [
            str(pair.of(key)[at].error)
            for key in step.keys
            if pair.of(key)[at].error and not pair.of(key)[1 - at].error
        ]
        if errors:
            (commonest, n), *others = Counter(errors).most_common()
            more = f" ({n:,}), and {len(others):,} other reasons" if others else ""
            samples = "1 sample" if len(errors) == 1 else f"{len(errors):,} samples"
            yield Cause("failed", f"{samples} failed in {name} only: {commonest}{more}")


def _models(pair: Pair) -> Iterator[Cause]:
    """Two models, as far as their weights, names or fingerprints tell."""
    found = list(_two(pair, "weights", "other weights", _detail("weights")))
    if not pair.has_log:
        found += _two(pair, "model", "another model", _of_model("name"))
    yield from found
    if not found and not list(_engines(pair)):
        yield from _two(pair, "model", "another fingerprint of the model", _of_model("fingerprint"))


def _engines(pair: Pair) -> Iterator[Cause]:
    yield from _two(pair, "dtype", "precision", _of_model("dtype"))
    if pair.has_log:
        yield Cause("engine", "lm-evaluation-harness computed one side")
    else:
        yield from _two(pair, "engine", "engine", _of_model("backend"))


def _names_in_logs(pair: Pair) -> Iterator[Cause]:
    """Names of models, but for what lm-eval changes when it makes a folder's name of one."""
    a, b = (re.sub(r"[\W_]", "", str(side.model.get("name")).lower()) for side in pair.sides)
    if not (a.endswith(b) or b.endswith(a)):
        yield from _two(pair, "model", "the models have other names", _of_model("name"))


def _rounding(pair: Pair, step: Step) -> float | None:
    """Largest difference of log-probabilities, in nat, where it is small and changes nothing; else None."""
    gaps = [0.0]
    for a, b in map(pair.of, step.keys):
        mine, theirs = a.choice_logprobs or (), b.choice_logprobs or ()
        if a.completions != b.completions or len(mine) != len(theirs):
            return None
        gaps += [abs(x - y) for x, y in zip(mine, theirs, strict=True) if x != y]
    if any(differs(pair, "outcomes", key) is not False for key in pair.both):
        return None
    largest = max(gaps) if all(map(math.isfinite, gaps)) else math.inf
    return largest if largest <= _ROUNDING else None


def _outcomes(pair: Pair, step: Step) -> Iterator[Cause]:
    versions = [side.model.get("details", {}).get("versions", {}).get("evalkit") for side in pair.sides]
    again = [name for name, side in zip("AB", pair.sides, strict=True) if side.rescored]
    by = f"; {' and '.join(again)} was judged again" if again else ""
    if pair.has_log:
        by += "; lm-evaluation-harness judged one side"
    elif versions[0] != versions[1]:
        by += f"; evalkit {versions[0]} and {versions[1]}"
    yield Cause("extraction", f"the same answers were judged differently: extraction or metric{by}")


_BY_RUNG = {
    "data": _data,
    "prompts": _prompts,
    "token_ids": _token_ids,
    "responses": _responses,
    "outcomes": _outcomes,
}


# -- what two sides say of themselves ---------------------------------------------------------------

Get = Callable[[TaskSide], Any]


def _two(pair: Pair, kind: str, what: str, get: Get) -> Iterator[Cause]:
    """A cause where both sides say something, and not the same."""
    a, b = map(get, pair.sides)
    if a != b and a is not None and b is not None:
        yield Cause(kind, f"{what}: {_short(a)} in A, {_short(b)} in B")


def _of_model(key: str) -> Get:
    return lambda side: side.model.get(key)


def _detail(key: str) -> Get:
    return lambda side: side.model.get("details", {}).get(key)


def _asked(key: str) -> Get:
    """An option of the command line; None where it is not known what was asked."""
    return lambda side: (
        ("none" if (value := side.request.get(key)) is None else value) if side.request else None
    )


def _short(value: Any) -> str:
    text = str(value)
    return text[:_LEFT] if isinstance(value, str) and len(text) == 64 else text


def _generates(pair: Pair, keys: tuple[Key, ...]) -> bool:
    return any(outcome.completions for key in keys for outcome in pair.of(key))

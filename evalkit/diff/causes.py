"""What can make two sides part on a rung, told from what the runs put down about themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from evalkit.diff import tokens
from evalkit.diff.ladder import Pairs, Step
from evalkit.diff.sides import Side, TaskSide

_LEFT = 12
"""Digits of a hash that are shown."""
_SPECIAL = 4
"""Ids in front, at most, that a tokenizer may have put there of its own accord."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that differs and explains the difference."""

    kind: str
    """For programs, for example `dtype`."""
    sentence: str


@dataclass(frozen=True, slots=True)
class Case:
    """One task on both sides, with the rung on which they part."""

    a: Side
    b: Side
    mine: TaskSide
    theirs: TaskSide
    pairs: Pairs
    step: Step | None
    """None where no rung differs."""


def causes(case: Case) -> list[Cause]:
    """Name what explains the first difference, likeliest first; empty where nothing differs."""
    found = list(_protocol(case))
    if case.step is not None:
        found += _BY_RUNG[case.step.rung](case)
    if case.step is not None and not found:
        found.append(Cause("unknown", "nothing the runs put down about themselves explains it"))
    return found


def _protocol(case: Case) -> Iterator[Cause]:
    if case.mine.name != case.theirs.name and "lm-eval" not in _backends(case):
        yield Cause("protocol", f"two protocols: {case.mine.name} and {case.theirs.name}")


def _data(case: Case) -> Iterator[Cause]:
    only = f"{len(case.pairs.only_a):,} samples only in A, {len(case.pairs.only_b):,} only in B"
    if case.pairs.only_a or case.pairs.only_b:
        yield Cause("samples", f"other samples: {only}")
    changed = {key for key in case.pairs.both if _sample(case, key)[0] != _sample(case, key)[1]}
    if changed or not (case.pairs.only_a or case.pairs.only_b):
        what = f"{len(changed):,} of {len(case.pairs.both):,} shared samples have another text or answer"
        yield Cause("data", f"two versions of the data: {what}")


def _sample(case: Case, key: Any) -> tuple[Any, Any]:
    a, b = case.mine.samples[key], case.theirs.samples[key]
    return (a.prompt_sha256, a.target), (b.prompt_sha256, b.target)


def _prompts(case: Case) -> Iterator[Cause]:
    yield from _template(case)
    yield from _truncation(case)
    yield from _request(case, "seed", "the seed, which draws the examples", "seed")
    if _same_pieces(case):
        yield Cause("shot order", "the same examples in another order")
    elif case.step and len(case.step.keys) < case.step.n:
        yield Cause(
            "data", f"{len(case.step.keys):,} of {case.step.n:,} prompts: the records of those differ"
        )
    elif not _logged(case):
        yield Cause("prompt", "template or examples; run both with --log-prompts and the difference is shown")
    else:
        yield Cause("prompt", "template or examples, as the text below shows")


def _template(case: Case) -> Iterator[Cause]:
    applied = [side.how.get("chat_template") for side in (case.mine, case.theirs)]
    if applied[0] != applied[1] and None not in applied:
        yield Cause("template", f"the chat template is applied in {'A' if applied[0] else 'B'} only")
    texts = [(side.how.get("chat") or {}).get("template_sha256") for side in (case.mine, case.theirs)]
    if all(applied) and texts[0] != texts[1]:
        yield Cause("template", f"two chat templates: {_short(texts[0])} in A, {_short(texts[1])} in B")
    yield from _request(case, "system", "the system prompt", "template")
    yield from _request(case, "answer_prefix", "the beginning of the answer", "template")


def _same_pieces(case: Case) -> bool:
    """Whether prompts of one differing sample consist of the same paragraphs in another order."""
    if not case.step or not _logged(case):
        return False
    texts = [side.samples[case.step.keys[0]].prompt or "" for side in (case.mine, case.theirs)]
    pieces = [sorted(piece for piece in text.split("\n\n") if piece.strip()) for text in texts]
    return len(pieces[0]) > 2 and pieces[0] == pieces[1]


def _logged(case: Case) -> bool:
    key = case.step.keys[0] if case.step and case.step.keys else None
    return key is not None and all(side.samples[key].prompt for side in (case.mine, case.theirs))


def _token_ids(case: Case) -> list[Cause]:
    """What the manifests say, put into the order of what the ids show and completed by it."""
    found, seen = list(_encoding(case)), _seen_in_ids(case)
    if seen is None:
        return found
    exact = seen.kind in ("bos", "truncation")
    if not found or (exact and seen.kind not in [cause.kind for cause in found]):
        found.append(seen)
    return sorted(found, key=lambda cause: cause.kind != seen.kind)


def _encoding(case: Case) -> Iterator[Cause]:
    mine, theirs = case.mine.how.get("bos"), case.theirs.how.get("bos")
    if mine != theirs:
        yield Cause("bos", f"BOS tokens in front of prompts: {mine} in A, {theirs} in B")
    yield from _detail(case, "tokenizer", "two tokenizers or revisions of one", "tokenizer")
    yield from _detail(case, "leading_ids", "other special tokens in front", "bos")
    yield from _template(case)
    yield from _request(case, "seed", "the seed of sampling, which is part of every request", "seed")
    yield from _truncation(case)


def _seen_in_ids(case: Case) -> Cause | None:
    """What the ids in front of the answers tell; None where they were not kept."""
    sides = (case.mine, case.theirs)
    pairs = list(tokens.pairs(case.mine.samples, case.theirs.samples, case.pairs.both))
    if not pairs:
        return None
    more = [tokens.surplus(a, b) for a, b in pairs if not np.array_equal(a, b)]
    samples = f"in {len(more):,} of {len(pairs):,} samples"
    if not more:
        return Cause("request", "the ids in front of the answers are the same; options or settings differ")
    if None in more:
        return Cause("tokenizer", f"other ids for the same text {samples}")
    cut = any(side.samples[key].truncated for side in sides for key in case.pairs.both)
    if cut or len(set(more)) > 1:
        return Cause("truncation", f"the ids of one side are the end of the other's {samples}")
    side, front = more[0] or ("", ())
    kind = "bos" if len(front) <= _SPECIAL else "template"
    listed = " ".join(map(str, front[:_SPECIAL])) + (" …" if len(front) > _SPECIAL else "")
    return Cause(kind, f"{side} has {len(front):,} more in front ({listed}) {samples}")


def _truncation(case: Case) -> Iterator[Cause]:
    cut = [
        sum(bool(side.samples[key].truncated) for key in case.pairs.both) for side in (case.mine, case.theirs)
    ]
    if cut[0] != cut[1]:
        yield Cause("truncation", f"prompts cut: {cut[0]:,} in A, {cut[1]:,} in B")
    elif any(cut):
        yield from _request(case, "max_length", "the context length prompts are cut to", "truncation")


def _responses(case: Case) -> Iterator[Cause]:
    yield from _detail(case, "weights", "other weights", "weights")
    yield from _model(case, "dtype", "precision", "dtype")
    if "lm-eval" not in _backends(case):
        yield from _model(case, "backend", "engine", "engine")
    else:
        yield Cause("engine", "lm-evaluation-harness computed one side")
    if any(case.mine.samples[key].completions for key in case.pairs.both[:1]):
        yield from _request(case, "seed", "the seed of sampling", "seed")
    yield from _truncation(case)
    yield from _detail(case, "versions", "other versions of the engine's libraries", "engine")
    yield from _detail(case, "scoring_path", "another way of scoring", "rounding")
    for name in ("device", "gpu", "threads", "batch_tokens"):
        yield from _detail(
            case, name, f"another {name.replace('_', ' ')}, which rounds otherwise", "rounding"
        )


def _outcomes(case: Case) -> Iterator[Cause]:
    versions = [side.model.get("details", {}).get("versions", {}).get("evalkit") for side in (case.a, case.b)]
    again = [name for name, side in (("A", case.a), ("B", case.b)) if side.rescored]
    by = f"; {' and '.join(again)} was judged again" if again else ""
    if versions[0] != versions[1]:
        by += f"; evalkit {versions[0]} and {versions[1]}"
    yield Cause("extraction", f"the same answers were judged differently: extraction or metric{by}")


_BY_RUNG = {
    "data": _data,
    "prompts": _prompts,
    "token_ids": _token_ids,
    "responses": _responses,
    "outcomes": _outcomes,
}


def _backends(case: Case) -> set[Any]:
    return {case.a.model.get("backend"), case.b.model.get("backend")}


def _model(case: Case, key: str, what: str, kind: str) -> Iterator[Cause]:
    mine, theirs = case.a.model.get(key), case.b.model.get(key)
    if mine and theirs and mine != theirs:
        yield Cause(kind, f"{what}: {mine} in A, {theirs} in B")


def _detail(case: Case, key: str, what: str, kind: str) -> Iterator[Cause]:
    mine, theirs = (side.model.get("details", {}).get(key) for side in (case.a, case.b))
    if mine != theirs and None not in (mine, theirs):
        yield Cause(kind, f"{what}: {_short(mine)} in A, {_short(theirs)} in B")


def _request(case: Case, key: str, what: str, kind: str) -> Iterator[Cause]:
    mine, theirs = case.a.request.get(key), case.b.request.get(key)
    if case.a.request and case.b.request and mine != theirs:
        yield Cause(kind, f"{what}: {_short(mine)} in A, {_short(theirs)} in B")


def _short(value: Any) -> str:
    text = str(value)
    return text[:_LEFT] if isinstance(value, str) and len(text) == 64 else text

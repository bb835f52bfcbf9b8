"""What may be said of a benchmark, in fixed words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.leakage.multiplicity import e_bh

FILE_LEAK = "file leak"
SOURCE_EXPOSURE = "source exposure"
INCONCLUSIVE = "inconclusive"
NO_EVIDENCE = "no evidence"

_SUGGESTIVE = 0.05
"""A p-value below it that is no evidence is no reason to speak of none either."""

_SENTENCES = {
    FILE_LEAK: "File leak: the model knows the order in which the benchmark's own file prints things, which "
    "nothing but that file (or a copy of it) could teach.",
    SOURCE_EXPOSURE: "Source exposure: the model is more certain of these questions' options, in whatever "
    "order, than of swapped ones, and than reference models are; the order of the benchmark's file it does "
    "not show to know.",
}


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One detector's evidence on one benchmark."""

    task: str
    kind: str
    """`FILE_LEAK` or `SOURCE_EXPOSURE`."""
    e_value: float
    p_value: float


def verdicts(
    hypotheses: Sequence[Hypothesis], tasks: Mapping[str, Mapping[str, Any]], *, alpha: float, smallest: float
) -> dict[str, dict[str, Any]]:
    """Judge all benchmarks together: evidence is what e-BH rejects at level `alpha`.

    Args:
        hypotheses: all detectors on all benchmarks.
        tasks: entries of the document, of which `power` and `fraction` are read.
        alpha: false-discovery rate.
        smallest: leaked fraction a run must have been able to see before it may speak of no evidence.
    """
    found = _discoveries(hypotheses, alpha)
    p_file = {
        task: min((h.p_value for h in hypotheses if (h.task, h.kind) == (task, FILE_LEAK)), default=None)
        for task in tasks
    }
    return {
        task: _verdict(entry, [kind for kind in _SENTENCES if (task, kind) in found], p_file[task], smallest)
        for task, entry in tasks.items()
    }


def _discoveries(hypotheses: Sequence[Hypothesis], alpha: float) -> set[tuple[str, str]]:
    """Task and kind of what e-BH rejects."""
    if not hypotheses:
        return set()
    rejected = e_bh([h.e_value for h in hypotheses], alpha)
    return {(h.task, h.kind) for h, one in zip(hypotheses, rejected, strict=True) if one}


def _verdict(
    entry: Mapping[str, Any], found: Sequence[str], p_file: float | None, smallest: float
) -> dict[str, Any]:
    if found:
        sentence = " ".join(_SENTENCES[kind] for kind in found[:1])
        return {
            "kind": found[0],
            "short": found[0],
            "also": list(found[1:]),
            "sentence": sentence,
            "p_file": p_file,
        }
    power = entry.get("power")
    if power is None:
        return _inconclusive("has a power that is not known", p_file, suggestive=False)
    sees = power["detectable"]
    could = "could have seen nothing" if sees is None else f"could have seen ≥ {100 * sees:.1f} %"
    upper = entry["fraction"]["ci95"][1] if entry.get("fraction") else None
    suggestive = p_file is not None and p_file < _SUGGESTIVE
    if upper is None or sees is None or sees > smallest or suggestive:
        return _inconclusive(could, p_file, suggestive=suggestive)
    return {
        "kind": NO_EVIDENCE,
        "short": f"no evidence above {100 * upper:.1f} %",
        "sentence": f"No evidence that more than {100 * upper:.1f} % of the items were seen in the order of "
        "the benchmark's file (95 % bound, if one exposure leaves at least the published trace).",
        "p_file": p_file,
    }


def _inconclusive(could: str, p_file: float | None, *, suggestive: bool) -> dict[str, Any]:
    why = (
        "What there is falls short of evidence and is too much to speak of none; more items would tell."
        if suggestive
        else "It is too small to speak of none."
    )
    return {
        "kind": INCONCLUSIVE,
        "short": f"inconclusive (this run {could})",
        "sentence": f"Inconclusive: this run {could}. {why}",
        "p_file": p_file,
    }

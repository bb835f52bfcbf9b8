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

_TOO_MUCH = "What there is falls short of evidence and is too much to speak of none; more items would tell."
_TOO_SMALL = "It is too small to speak of none."
_NO_BOUND = "No test that could bound the leaked fraction applies here."

_SENTENCES = {
    FILE_LEAK: "File leak: the model knows the order in which the benchmark's own file prints things, which "
    "nothing but that file (or a copy of it) could teach if that order is as random as it looks.",
    SOURCE_EXPOSURE: "Source exposure: the model is more certain of these questions' options, in whatever "
    "order, than of swapped ones, and than reference models are.",
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
    suggestive = p_file is not None and p_file < _SUGGESTIVE
    fraction, power = entry.get("fraction"), entry.get("power")
    upper = fraction["ci95"][1] if fraction else None
    sees = power["detectable"] if power else None
    stopped = (entry.get("sequential") or {}).get("decision") == "futile"
    if suggestive:
        return _inconclusive(sees, p_file, _TOO_MUCH)
    if upper is None:
        return _inconclusive(sees, p_file, _NO_BOUND)
    if not stopped and (sees is None or sees > smallest):
        return _inconclusive(sees, p_file, _TOO_SMALL)
    return {
        "kind": NO_EVIDENCE,
        "short": f"no evidence above {100 * upper:.1f} %",
        "sentence": f"No evidence that more than {100 * upper:.1f} % of the items were seen in the order of "
        "the benchmark's file (95 % bound, if one exposure leaves at least the published trace).",
        "p_file": p_file,
    }


def _inconclusive(sees: float | None, p_file: float | None, why: str) -> dict[str, Any]:
    could = "could have seen nothing for sure" if sees is None else f"could have seen ≥ {100 * sees:.1f} %"
    return {
        "kind": INCONCLUSIVE,
        "short": f"inconclusive (this run {could})",
        "sentence": f"Inconclusive: this run {could}. {why}",
        "p_file": p_file,
    }

"""From what was measured to the leakage document: every detector, its null and its power, then verdicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evalkit.leakage.conditional_test import conditional_order_test
from evalkit.leakage.evidence import Evidence
from evalkit.leakage.fraction import leads, leaked_fraction
from evalkit.leakage.multiplicity import average_e, p_needed, p_to_e
from evalkit.leakage.natural_order import OrderDiagnostic
from evalkit.leakage.options import LeakageOptions
from evalkit.leakage.order_test import Ranks, by_subset, order_test, rank_difference, ranks
from evalkit.leakage.parity import published_table
from evalkit.leakage.power import detectable_fraction, one_exposure
from evalkit.leakage.published import SCENARIO_B_THRESHOLDS
from evalkit.leakage.publisher_law import fit_publisher
from evalkit.leakage.scores import PermutationScores
from evalkit.leakage.sequential import EProcess
from evalkit.leakage.source_exposure import source_exposure
from evalkit.leakage.texts.examination import BLIND_ALPHA
from evalkit.leakage.verdict import FILE_LEAK, SOURCE_EXPOSURE, Hypothesis, verdicts

LEADS_FDR = 0.1
"""False-discovery rate at which single items are listed."""


def method(
    *,
    statistic: float | None = None,
    threshold: float | None = None,
    flagged: float | None = None,
    ci95: Sequence[float] | None = None,
    null_floor: float | None = None,
    null_floor_ci95: Sequence[float] | None = None,
    p_value: float | None = None,
    e_value: float | None = None,
    verdict: str,
    **details: Any,
) -> dict[str, Any]:
    """One method's entry: the same keys for all, None where a method has no such thing."""
    return {
        "statistic": statistic,
        "threshold": threshold,
        "flagged": flagged,
        "ci95": None if ci95 is None else list(ci95),
        "null_floor": null_floor,
        "null_floor_ci95": None if null_floor_ci95 is None else list(null_floor_ci95),
        "p_value": p_value,
        "e_value": e_value,
        "verdict": verdict,
        **details,
    }


def analyse(evidence: Evidence, options: LeakageOptions) -> tuple[dict[str, Any], list[Hypothesis]]:
    """Apply every detector that was asked for to one benchmark.

    Returns:
        The benchmark's entry in the document, still without a verdict, and the evidence to be judged together
        with that on other benchmarks.
    """
    entry: dict[str, Any] = {
        "n_items": len(evidence.scores),
        "n_permutations": _orders(evidence.scores),
        "format": options.format,
        "excluded": dict(evidence.excluded),
        "n_errors": sum(evidence.errors.values()),
        "errors": dict(evidence.errors),
        "flags": dict(Counter(flag for item in evidence.scores.items for flag in item.flags)),
        "sequential": dict(evidence.sequential) if evidence.sequential else None,
        "methods": {},
    }
    hypotheses: list[Hypothesis] = []
    if evidence.texts is not None:
        return _of_texts(evidence, entry)
    if not len(evidence.scores):
        return entry, []
    if options.wants("published"):
        entry["methods"].update(_published(evidence, options))
    if options.wants("order"):
        hypotheses += _order(evidence, options, entry)
    if options.wants("source") and evidence.controls is not None:
        hypotheses += _source(evidence, options, entry)
    return entry, hypotheses


def conclude(
    found: Mapping[str, tuple[dict[str, Any], list[Hypothesis]]], options: LeakageOptions
) -> dict[str, Any]:
    """Judge all benchmarks together and put the document's main part together."""
    tasks = {name: entry for name, (entry, _) in found.items()}
    hypotheses = [one for _, some in found.values() for one in some]
    for entry in tasks.values():
        # Of the exact test in full: a law of orders leaves less, early stopping another question.
        if entry.get("fraction") is not None and entry["sequential"] is None:
            entry["power"] = _power(entry, len(hypotheses), options.alpha)
    judged = verdicts(hypotheses, tasks, alpha=options.alpha, smallest=options.smallest)
    for name, entry in tasks.items():
        entry["verdict"] = judged[name]
    procedure = {"procedure": "e-BH", "alpha": options.alpha, "hypotheses": len(hypotheses)}
    return {"tasks": tasks, "multiplicity": procedure}


_E_VALUES = 3
"""The order test's e-value is the mean of so many; one of them alone may have to carry it."""


def level_needed(n_hypotheses: int, alpha: float) -> float:
    """The p-value at which the order test alone is a discovery among so many hypotheses."""
    return p_needed(_E_VALUES * max(1, n_hypotheses) / alpha)


def _power(entry: Mapping[str, Any], n_hypotheses: int, alpha: float) -> dict[str, Any]:
    """The leaked fraction that the verdict would have found with probability 0.8."""
    m = int(max(entry["n_permutations"], key=entry["n_permutations"].__getitem__))
    level, sensitivity = level_needed(n_hypotheses, alpha), one_exposure(1 / m)
    detectable = detectable_fraction(entry["n_items"], sensitivity, level, m)
    return {"detectable": detectable, "sensitivity": sensitivity, "level": level}


def _orders(scores: PermutationScores) -> dict[str, int]:
    """Number of orders to number of items scored in so many."""
    return {str(m): n for m, n in sorted(Counter(len(item.orders) for item in scores.items).items())}


def _published(evidence: Evidence, options: LeakageOptions) -> Iterator[tuple[str, dict[str, Any]]]:
    table = published_table(evidence.scores, options.seed)
    shuffled = evidence.benchmark.order is not None and evidence.benchmark.order.random
    several = len({row.n_orders for row in table}) > 1
    for row in table:
        name = {"a": "scenario a", "b": "scenario b", "b-exact": "scenario b, infinite forest"}[row.method]
        name += "" if row.threshold is None else f", threshold {row.threshold:g}"
        name += f", {row.n_orders} orders" if several and row.n_orders else ""
        reads = "above its null floor" if row.floor.p_value < options.alpha else "within its null floor"
        if row.method == "a" and not shuffled:
            reads = "no floor: natural order"
        yield (
            name,
            method(
                statistic=row.excess,
                threshold=row.threshold,
                flagged=row.flagged.value,
                ci95=row.flagged.ci95,
                null_floor=row.floor.value,
                null_floor_ci95=(row.floor.low, row.floor.high),
                p_value=row.floor.p_value,
                verdict=reads,
                noise_floor=None if row.noise_floor is None else row.noise_floor.value,
                tied=row.tied,
                duplicate_options=row.duplicate_options,
                corrected_fraction=row.corrected,
            ),
        )


def _order(evidence: Evidence, options: LeakageOptions, entry: dict[str, Any]) -> list[Hypothesis]:
    """The option-order test: exact where the publisher shuffled, conditional on a law of orders where not."""
    diagnosis = evidence.benchmark.order
    assert diagnosis is not None
    entry["publisher_order"] = _described(diagnosis)
    if options.sequential and not diagnosis.random:
        entry["publisher_order"]["sentence"] += " Every item was scored: early stopping needs a shuffle."
    found = ranks(evidence.scores, seed=options.seed)
    if diagnosis.random:
        p, e = _exact(found, evidence, options, entry)
    else:
        p, e = _conditional(found, evidence, options, entry)
    entry["methods"]["option order, residual ranks"] = _order_method(
        ranks(evidence.scores, "residual", options.seed),
        None,
        None,
        "for comparison" if diagnosis.random else "not valid: natural order",
    )
    for reference in evidence.references:
        other = reference.scores.get(evidence.benchmark.name)
        if other is not None and _shared(evidence.scores, other):
            theirs = ranks(other, seed=options.seed)
            entry["methods"][f"ranks beside {reference.name}"] = _beside(found, theirs, options)
    entry["subsets"] = {
        name: {"n": test.n, "p_value": test.p, "top_rate": test.top_rate}
        for name, test in (by_subset(found).items() if diagnosis.random and not evidence.sequential else ())
    }
    # Of natural orders many stand out without having been seen: no rate of false leads could be promised.
    listed = leads(found, evidence.scores, LEADS_FDR) if diagnosis.random else []
    entry["leads"] = [asdict(lead) for lead in listed]
    return [Hypothesis(evidence.benchmark.name, FILE_LEAK, e, p)]


def _exact(
    found: Ranks, evidence: Evidence, options: LeakageOptions, entry: dict[str, Any]
) -> tuple[float, float]:
    """Test ranks that are uniform under the null; p-value and e-value."""
    process = EProcess()
    process.update(found)
    fraction = leaked_fraction(found)
    ci95 = fraction.ci95
    if evidence.sequential is not None:
        # Stopped by what was seen: only what holds at any time may be said.
        p, e = min(1.0, math.exp(-process.log_value)), process.value
        ci95 = (0.0, float(evidence.sequential["upper_fraction"]))
    else:
        test = order_test(found)
        p = test.p
        e = average_e([process.value, *map(_finite, p_to_e([p, test.p_top]).tolist())])
    entry["methods"]["option order"] = _order_method(found, p, e, _reads(e, options))
    entry["fraction"] = {
        "value": fraction.value,
        "ci95": list(ci95),
        "lower95_without_assumptions": None if evidence.sequential else fraction.lower95,
        "sensitivity": list(fraction.sensitivity),
        "basis": fraction.basis,
    }
    return p, _finite(e)


def _conditional(
    found: Ranks, evidence: Evidence, options: LeakageOptions, entry: dict[str, Any]
) -> tuple[float, float]:
    """Test ranks against what this publisher might as well have printed; p-value and e-value."""
    name = evidence.benchmark.name
    references = [
        r.scores[name]
        for r in evidence.references
        if name in r.scores and _shared(evidence.scores, r.scores[name])
    ]
    law = fit_publisher(evidence.items, evidence.scores, references, options.seed)
    test = conditional_order_test(evidence.scores, law)
    e = _finite(float(p_to_e([test.p])[0]))
    entry["methods"]["option order, conditional"] = method(
        statistic=test.z,
        p_value=test.p,
        e_value=e,
        verdict=_reads(e, options),
        references=[r.name for r in evidence.references if name in r.scores],
        law=dict(zip(law.columns, law.coefficients.mean(axis=0).tolist(), strict=True)),
        information=test.information,
    )
    entry["methods"]["option order"] = _order_method(found, None, None, "not valid: natural order")
    return test.p, e


def _shared(scores: PermutationScores, others: PermutationScores) -> bool:
    """Whether there is anything to compare: at least two items in common."""
    keys = [{(item.subset, item.sample_id) for item in one.items} for one in (scores, others)]
    return len(keys[0] & keys[1]) > 1


def _order_method(found: Ranks, p: float | None, e: float | None, verdict: str) -> dict[str, Any]:
    test = order_test(found)
    return method(
        statistic=test.z,
        flagged=test.top_rate,
        ci95=test.top_ci95,
        null_floor=test.expected_top_rate,
        p_value=p,
        e_value=None if e is None else _finite(e),
        verdict=verdict,
        log10_p_fixed_n=test.log10_p if math.isfinite(test.log10_p) else None,
    )


def _beside(found: Ranks, theirs: Ranks, options: LeakageOptions) -> dict[str, Any]:
    difference = rank_difference(found, theirs, options.seed)
    return method(
        statistic=difference.value,
        ci95=difference.ci95,
        p_value=difference.p,
        verdict="higher than the reference's" if difference.p < options.alpha else "as the reference's",
        n=difference.n,
    )


def _source(evidence: Evidence, options: LeakageOptions, entry: dict[str, Any]) -> list[Hypothesis]:
    name = evidence.benchmark.name
    assert evidence.controls is not None
    pairs = [
        (r.scores[name], r.controls[name])
        for r in evidence.references
        if name in r.scores and name in r.controls and _shared(evidence.controls, r.controls[name])
    ]
    if len(evidence.controls) < 2:
        return []
    found = source_exposure(evidence.scores, evidence.controls, pairs, options.seed)
    e = _finite(float(p_to_e([found.peak.p])[0]))
    entry["methods"]["source exposure"] = method(
        statistic=found.peak.value,
        ci95=found.peak.ci95,
        p_value=found.peak.p,
        e_value=e if pairs else None,
        verdict=_reads(e, options) if pairs else "no claim without --reference",
        effect_sd=found.effect,
        controlled=found.controlled,
        n=found.n,
    )
    entry["methods"]["source exposure, flagged beyond controls"] = method(
        statistic=found.flagged.value,
        threshold=SCENARIO_B_THRESHOLDS[0],
        flagged=found.flagged_benchmark,
        ci95=found.flagged.ci95,
        null_floor=found.flagged_control,
        p_value=found.flagged.p,
        verdict="for comparison",
    )
    return [Hypothesis(name, SOURCE_EXPOSURE, e, found.peak.p)] if pairs else []


def _of_texts(evidence: Evidence, entry: dict[str, Any]) -> tuple[dict[str, Any], list[Hypothesis]]:
    """What the detectors on texts found; of these only the order of records says anything by itself."""
    found = evidence.texts or {}
    entry |= {"n_items": found["n_texts"], "format": "record", "texts": dict(found)}
    entry["methods"] = dict(_text_methods(found))
    order = found.get("item_order")
    # An order that is recognisable without the model is no evidence whatever the model thinks of it.
    if order is None or order["blind"]["p"] < BLIND_ALPHA:
        return entry, []
    p = float(order["test"]["p"])
    return entry, [Hypothesis(evidence.benchmark.name, FILE_LEAK, _finite(float(p_to_e([p])[0])), p)]


def _text_methods(found: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if order := found.get("item_order"):
        p = float(order["test"]["p"])
        e = _finite(float(p_to_e([p])[0]))
        yield (
            "item order",
            method(statistic=order["test"]["z"], p_value=p, e_value=e, verdict=order["claim"]),
        )
    if tokens := found.get("token_battery"):
        for name, one in tokens["statistics"].items():
            yield name.replace("_", " "), _contrasted(one["auc"], one["p"], tokens["claim"])
    for kind, estimate in (("completion", "auc"), ("loss_gap", "gap"), ("context_gain", "difference")):
        if one := found.get(kind):
            yield kind.replace("_", " "), _contrasted(one[estimate], one["p"], one["claim"])


def _contrasted(estimate: Mapping[str, Any], p: float, claim: str) -> dict[str, Any]:
    """A comparison with other texts: never evidence, so it has no e-value."""
    return method(statistic=estimate["value"], ci95=estimate["ci95"], p_value=p, verdict=claim)


def _described(diagnosis: OrderDiagnostic) -> dict[str, Any]:
    habits = [check.habit for check in diagnosis.checks if check.p < 1e-3]
    kind = (
        "The publisher's option order looks random"
        if diagnosis.random
        else ("The publisher's option order is natural (" + ", ".join(habits) + ")")
    )
    test = (
        "the exact test applies"
        if diagnosis.random
        else "the test is conditional on an estimated law of orders"
    )
    return {
        "random": diagnosis.random,
        "p": diagnosis.p,
        "checks": [asdict(check) for check in diagnosis.checks],
        "sentence": f"{kind}: {test}.",
    }


def _reads(e: float, options: LeakageOptions) -> str:
    """What one e-value says on its own, before the others are looked at."""
    return "evidence" if e >= 1 / options.alpha else "no evidence"


def _finite(e: float) -> float:
    """The largest e-values, as JSON can hold them."""
    return min(e, 1e300)

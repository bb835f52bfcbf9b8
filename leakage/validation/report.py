"""The document that says what the validation found, written from its numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]

_TARGET = 1e-6
"""p-value that one exposure of every item is meant to reach."""
_PUBLISHED = {
    "1": (0.262, 0.50),
    "2": (0.538, 0.58),
    "3": (0.824, 0.71),
    "5": (0.978, 0.85),
    "10": (1.0, 0.87),
}
"""Exposures to (true-positive rate of scenario a, AUC of scenario b): arXiv 2409.01790, tables 1 and 2, CMMLU
with Qwen2-7B; the AUC is the trapezoid through the three published thresholds."""
_STATISTICS = ("raw", "residual")
_TENTH = {"statistic": "raw", "fraction": 0.1, "n": 300}
"""Where power is wanted after two exposures."""


def render(results: Results) -> str:
    """The document in Markdown; tiers that have no results are left out."""
    parts = [_INTRODUCTION]
    for tier, section in (("tier0", _tier0), ("tier1", _tier1), ("tier2", _tier2)):
        if tier in results:
            parts += section(results[tier])
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """# Where the truth is known

What the contamination detectors find where we know what there is to find: in made-up scores, in a small
model trained from scratch, and in a pre-trained model that was fine-tuned on items chosen by coin flip.
Members and non-members differ in nothing but the coin, options stand in a random order of our own, and a
test never sees who was a member. Numbers and figures are written by `evalkit leakage validate`; nothing on
this page is edited by hand.

*Exposures* is how often a member was read. *TPR at rank 1* is the share of members whose published order is
the first of 24, where chance puts 1/24 = 4.2 %; *FPR* is the same among items never read. *Raw* ranks orders
by log-probability (scenario a of arXiv 2409.01790), *residual* by what is left of it after the effects of
slots and neighbours. Intervals are exact 95 % ones; several p-values are those of several draws."""


def _tier0(tier: Results) -> Iterator[str]:
    null, sequential = tier["null"], tier["sequential"]
    covered = [row["covered"] for row in tier["coverage"]]
    yield "## Tier 0: made-up scores"
    yield "\n".join(
        [
            f"- Size of the order test at {tier['alpha']}: {null['rejection_rate']:.4f} "
            f"({_interval(null['ci95'], 4)}) in {tier['replicates']:,} clean data sets of {tier['items']} "
            f"items; exactly {null['exact_size']:.4f}. Uniformity of p: KS p = {null['ks_p']:.2f}.",
            f"- Coverage of the 95 % interval of the leaked fraction: {min(covered):.1%} to "
            f"{max(covered):.1%}.",
            f"- Watching items come in and stopping at will: type I error {sequential['type_1']:.4f} "
            f"({_interval(sequential['type_1_ci95'], 4)}).",
            *(
                f"- Leads at a false-discovery rate of {row['q']:.0%}, {row['fraction']:.0%} leaked: "
                f"{row['fdr']:.1%} false, {row['power']:.0%} found."
                for row in tier["false_discoveries"]
            ),
        ]
    )


def _tier1(tier: Results) -> Iterator[str]:
    shape = tier["shape"]
    yield "## Tier 1: a byte model trained from scratch"
    yield (
        f"{shape['num_hidden_layers']} layers of width {shape['hidden_size']}, bytes as tokens, one pass "
        f"over {sum(tier['n_items'])} CMMLU items, each read 0, 1, 2, 4, 8 or 16 times by lot, among four "
        "times as many others read once. Items of a dose are compared with those never read."
    )
    yield _order_table(tier["doses"])
    yield _detector_table(tier["doses"])


def _tier2(tier: Results) -> Iterator[str]:
    doses = {dose: found for dose, found in tier["doses"].items() if dose != "0"}
    yield "## Tier 2: SmolLM2-135M, fine-tuned in full"
    yield (
        f"Per draw {tier['n_items'][0]} items of MMLU's test set with four distinct one-line options and at "
        f"most {tier['longest']} characters, spread evenly over the subjects as far as they have them; half "
        "of each subject is read, among as many texts of MMLU's other splits. Every document is a row of its "
        f"own; AdamW at a constant {tier['rate']:g}, {tier['batch']} documents a step, float32 weights with "
        "bfloat16 products; of three rates the one with the least loss over one exposure in a pilot on "
        "another draw. All 24 orders are scored in bfloat16 by evalkit's own engine."
    )
    yield from _unfinished(tier)
    yield "### Targets"
    yield "\n".join(f"- {line}" for line in _targets(tier, doses))
    yield from _why_residuals_miss(tier)
    yield "### Is the data set in the training data?"
    yield _order_table(tier["doses"])
    yield "### Which items are?"
    yield _detector_table(doses)
    yield "![ROC curves](figures/leakage-roc.png)"
    yield "### How many items are needed"
    yield _power_table(doses)
    yield "![Power](figures/leakage-power.png)"
    yield "### Items nobody read"
    yield _null_table(tier["null"])
    yield "![p-values of unexposed sets](figures/leakage-null.png)"
    if tier["untouched"]:
        yield "### A model that never read the benchmark"
        yield from _untouched(tier["untouched"])
    yield "### Harder"
    yield from _hard(tier)


def _unfinished(tier: Results) -> Iterator[str]:
    """What a validation that was stopped has not measured."""
    n_draws = len(tier["n_items"])
    draws = {dose: found["draws"] for dose, found in tier["doses"].items()}
    if missing := [f"{n} of {n_draws} after {dose}" for dose, n in draws.items() if n < n_draws]:
        yield f"Not finished: draws scored are only {', '.join(missing)} exposures."
    if not tier["untouched"]:
        yield "Not measured: p-values of an untouched model over CMMLU's subjects."
    if not tier["swapped"]:
        yield "Not measured: exposure to sources, with swapped options as controls."


def _targets(tier: Results, doses: Results) -> Iterator[str]:
    for statistic in _STATISTICS if "1" in doses else ():
        p = doses["1"]["order"][statistic]["p_members"]
        yield (
            f"p < {_p(_TARGET)} after one exposure of every item, {statistic} ranks: "
            f"**{_verdict(max(p) < _TARGET)}** (p = {_ps(p)})."
        )
    behind = [dose for dose, found in doses.items() if _top(found, "residual") < _top(found, "raw")]
    yield (
        "Residual ranks find at least as many members at rank 1 as raw ones at every dose: "
        f"**{_verdict(not behind)}**" + (f" (fewer after {', '.join(behind)} exposures)." if behind else ".")
    )
    if "2" in doses:
        power = next(row["power"] for row in doses["2"]["power"] if _TENTH.items() <= row.items())
        yield (
            f"80 % power for 10 % leaked items that were read twice, with {_TENTH['n']} items, raw ranks: "
            f"**{_verdict(power >= 0.8)}** ({power:.0%})."
        )
    blind = ", ".join(f"{auc:.2f}" for auc in tier["blind_auc"])
    yield f"A classifier that sees only the words of the items: AUC {blind} (chance: 0.5)."
    fired = [
        f"{statistic} ranks after {dose}: p = {_p(found[statistic]['p_all'])}"
        for dose, found in tier["null"].items()
        for statistic in _STATISTICS
        if found[statistic]["p_all"] <= 0.01
    ]
    found = f" ({'; '.join(fired)})" if fired else ""
    yield f"Items nobody read do not fire: **{_verdict(not fired)}**{found}."


def _why_residuals_miss(tier: Results) -> Iterator[str]:
    shares = ", ".join(f"{share:.1%} after {dose}" for dose, share in tier["lift_explained"].items())
    yield (
        "What residuals are blind to: they suppose that memory lifts one order of 24 and leaves the others "
        "alone. Reading an item lifts every order by how much of the published one it shares. Of the mean "
        "lift (members less unseen items, order by order) so much lies in the slots and neighbours that "
        f"residuals leave out: {shares} (by exposures). Where the published order is random, raw ranks are "
        "just as exact a test and keep it."
    )


def _order_table(doses: Results) -> str:
    rows = []
    for dose, found in doses.items():
        for statistic in _STATISTICS:
            one = found["order"][statistic]
            top = (_share(one["top_members"]), _share(one["top_unseen"]))
            published = f"{_PUBLISHED[dose][0]:.0%}" if statistic == "raw" and dose in _PUBLISHED else "—"
            rows.append([dose, statistic, _ps(one["p_members"]), _ps(one["p_unseen"]), *top, published])
    header = ["exposures", "ranks", "p, members", "p, unseen", "TPR at rank 1", "FPR", "published TPR (a)"]
    return _table(header, rows)


def _detector_table(doses: Results) -> str:
    names = list(next(iter(doses.values()))["detectors"])
    rows = []
    for dose, found in doses.items():
        cells = (_separation(found["detectors"][name]) for name in names)
        rows.append([dose, *cells, f"{_PUBLISHED[dose][1]:.2f}" if dose in _PUBLISHED else "—"])
    note = "ROC-AUC · TPR at 1 % false positives (95 % interval)."
    return f"{note}\n\n{_table(['exposures', *names, 'published AUC (b)'], rows)}"


def _power_table(doses: Results) -> str:
    sizes = list(dict.fromkeys(row["n"] for row in next(iter(doses.values()))["power"]))
    rows = []
    for dose, found in doses.items():
        power = {(row["statistic"], row["fraction"], row["n"]): row["power"] for row in found["power"]}
        for statistic, fraction in dict.fromkeys(key[:2] for key in power):
            shares = (f"{power[statistic, fraction, n]:.0%}" for n in sizes)
            rows.append([dose, statistic, f"{fraction:.0%}", *shares])
    note = "Share of random data sets of n items with p ≤ 0.01."
    return f"{note}\n\n{_table(['exposures', 'ranks', 'leaked', *(f'n = {n}' for n in sizes)], rows)}"


def _null_table(nulls: Results) -> str:
    rows = []
    for dose, found in nulls.items():
        for statistic in _STATISTICS:
            one = found[statistic]
            rejected = (_share(one[kind]["rejected"], 1, 3) for kind in ("sets", "redrawn"))
            rows.append(
                [
                    *(dose, statistic, str(one["n_items"]), _p(one["p_all"]), _p(one["chi2_p"])),
                    *(*rejected, _p(one["redrawn"]["ks_p"])),
                ]
            )
    first = next(iter(nulls.values()))
    header = [
        *("exposures", "ranks", "items", "p, all", "χ² p of ranks", "sets with p ≤ 0.01"),
        *("the same, orders redrawn", "KS p, orders redrawn"),
    ]
    return (
        "All items that were not read (before training: all), and p-values of "
        f"{first['replicates']:,} random sets of {first['set']} of them. Such sets overlap, so that their "
        "p-values move together with the pool (the figure's solid lines, and no interval holds for them); "
        "where each set redraws which orders are the published ones they do not (dotted).\n\n"
        f"{_table(header, rows)}"
    )


def _untouched(found: Results) -> Iterator[str]:
    n = len(found["raw"]["p_subjects"])
    yield (
        f"The {found['n_items'] / n:.0f} shortest items of each of {n} subjects of CMMLU's test set, in "
        f"published order, scored by `{found['model']}` as it is. One p-value per subject."
    )
    yield _table(
        ["ranks", "p, all", "KS p of subjects against uniform", "subjects with p ≤ 0.01", "smallest p"],
        [
            [
                *(statistic, _p(one["p_all"]), _p(one["ks_p"])),
                *(f"{one['rejected']} of {n}", _p(min(one["p_subjects"]))),
            ]
            for statistic in _STATISTICS
            for one in [found[statistic]]
        ],
    )


def _hard(tier: Results) -> Iterator[str]:
    yield (
        "*Another order.* The model has read every item in an order that is not the published one (the same "
        "scores, with another order called published). An order test must find nothing; scenario b does not "
        "ask which order it is."
    )
    names = ("raw gap", "residual gap", "scenario b", "scenario b, exact")
    yield _table(
        ["exposures", *(f"{statistic}: p" for statistic in _STATISTICS), *(f"AUC {name}" for name in names)],
        [
            [
                dose,
                *(_ps(found["order"][statistic]["p_members"]) for statistic in _STATISTICS),
                *(f"{found['detectors'][name]['auc']:.2f}" for name in names),
            ]
            for dose, found in tier["reordered"].items()
        ],
    )
    if tier["lettered"]:
        yield "*Another format.* Read as `A:option`, tested as `A. option`, without the line break in front."
        yield _order_table(tier["lettered"])
    if tier["swapped"]:
        yield (
            "*Source exposure.* How much one order stands out, whichever it is, beyond the same questions "
            "with options of other items: in standard deviations, and p."
        )
        yield _table(
            ["exposures", "members", "unseen"],
            [
                [
                    dose,
                    *(f"{one['effect']:+.2f}, {_p(one['p'])}" for one in (found["members"], found["unseen"])),
                ]
                for dose, found in tier["swapped"].items()
            ],
        )


def _separation(found: Results) -> str:
    return f"{found['auc']:.2f} · {found['tpr']:.0%} ({_interval(found['tpr_ci95'], 2)})"


def _top(found: Results, statistic: str) -> float:
    return float(found["order"][statistic]["top_members"]["value"])


def _share(found: Results, percent: int = 0, ends: int = 2) -> str:
    return f"{found['value']:.{percent}%} ({_interval(found['ci95'], ends)})"


def _interval(ends: Sequence[float], digits: int) -> str:
    return "–".join(f"{end:.{digits}f}" for end in ends)


def _ps(values: Iterable[float]) -> str:
    return ", ".join(map(_p, values))


def _p(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else f"{value:.0e}"


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

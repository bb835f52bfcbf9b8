"""The document that says what the validation found, written from its numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]

_TARGET = 1e-6
"""p-value that one exposure of all items is meant to reach."""
_AT_ONCE = {"1": (0.262, 0.50), "2": (0.538, 0.58), "3": (0.824, 0.71), "5": (0.978, 0.85), "10": (1.0, 0.87)}
"""Exposures to (true-positive rate of scenario a, AUC of scenario b): arXiv 2409.01790, tables 1 and 2,
CMMLU with Qwen2-7B; the AUC is the trapezoid through the three published thresholds."""


def render(results: Results) -> str:
    """The document in Markdown."""
    parts = [_INTRODUCTION]
    if "tier0" in results:
        parts += _tier0(results["tier0"])
    if "tier1" in results:
        parts += _tier1(results["tier1"])
    if "tier2" in results:
        parts += _tier2(results["tier2"])
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """# Where the truth is known

What the contamination detectors find where we know what there is to find: in made-up scores, in a small
model trained from scratch, and in a pre-trained model that was fine-tuned on items chosen by coin flip.
Members and non-members differ in nothing but the coin, options stand in a random order of our own, and a
test never sees who was a member. Numbers and figures are written by `evalkit leakage validate`; nothing on
this page is edited by hand.

*Exposures* is how often a member was read. *TPR at rank 1* is the share of members whose published order is
the first of 24, where chance puts 1/24 = 4.2 %: `raw` ranks by log-probability (scenario a of arXiv
2409.01790), `residual` by what is left of it after slots and neighbours. Intervals are exact 95 % ones."""


def _tier0(tier: Results) -> Iterator[str]:
    null, sequential = tier["null"], tier["sequential"]
    covered = [row["covered"] for row in tier["coverage"]]
    yield "## Tier 0: made-up scores"
    yield "\n".join(
        [
            f"- Size of the order test at {tier['alpha']}: {null['rejection_rate']:.4f} "
            f"({_interval(null['ci95'], 4)}) in {tier['replicates']:,} clean data sets of {tier['items']} items; exactly "
            f"{null['exact_size']:.4f}. Uniformity of p: KS p = {null['ks_p']:.2f}.",
            f"- Coverage of the 95 % interval of the leaked fraction: {min(covered):.1%} to {max(covered):.1%}.",
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
        f"{shape['num_hidden_layers']} layers of width {shape['hidden_size']}, bytes as tokens, one pass over "
        f"{sum(tier['n_items'])} CMMLU items, each read 0, 1, 2, 4, 8 or 16 times by lot, among four times as many "
        "others read once. Items of a dose are compared with those never read."
    )
    yield _order_table(tier["doses"])
    yield _detector_table(tier["doses"])


def _tier2(tier: Results) -> Iterator[str]:
    doses = {dose: found for dose, found in tier["doses"].items() if dose != "0"}
    yield "## Tier 2: SmolLM2-135M, fine-tuned in full"
    yield (
        f"Per draw {tier['n_items'][0]} items of MMLU's test set with four distinct one-line options and at most "
        "120 characters, the same number from every subject as far as it has them; half of each subject is read, among "
        "as many texts of MMLU's other splits. Every document is a row of its own; AdamW at a constant "
        f"{tier['rate']:g}, 8 documents a step, float32 weights with bfloat16 products. Scored in bfloat16 with evalkit's "
        "own engine, all 24 orders. Draws (seeds) per dose are in the table."
    )
    yield "### Targets"
    yield "\n".join(f"- {line}" for line in _targets(tier, doses))
    yield "### Is the data set in the training data?"
    yield _order_table(tier["doses"])
    yield "### Which items are?"
    yield _detector_table(doses)
    yield "![ROC curves](figures/leakage-roc.png)"
    yield "### How many items are needed"
    yield _power_table(doses)
    yield "![Power](figures/leakage-power.png)"
    yield "### Nobody there: unexposed items"
    yield _null_table(tier["null"])
    yield "![p-values of unexposed sets](figures/leakage-null.png)"
    yield "### Harder"
    yield from _hard(tier)


def _targets(tier: Results, doses: Results) -> Iterator[str]:
    if "1" in doses:
        for statistic, found in doses["1"]["order"].items():
            worst = max(found["p_members"])
            yield (
                f"p < {_p(_TARGET)} after one exposure of every item, {statistic} ranks: "
                f"**{_verdict(worst < _TARGET)}** ({_ps(found['p_members'])})."
            )
    behind = [dose for dose, found in doses.items() if _top(found, "residual") < _top(found, "raw")]
    yield (
        "residual ranks find at least as many members as raw ones at every dose: "
        f"**{_verdict(not behind)}**" + (f" (they find fewer after {_join(behind)})." if behind else ".")
    )
    blind = tier["blind_auc"]
    yield f"a classifier that sees only words is at chance: AUC {', '.join(f'{auc:.2f}' for auc in blind)}."
    fired = [
        f"{statistic} ranks after {dose}"
        for dose, found in tier["null"].items()
        for statistic in ("residual", "raw")
        if found[statistic]["p_all"] <= 0.01
    ]
    yield (
        "unexposed items do not fire: **"
        + _verdict(not fired)
        + "**"
        + (f" ({_join(fired)})." if fired else ".")
    )


def _order_table(doses: Results) -> str:
    header = ["exposures", "draws"]
    for statistic in ("residual", "raw"):
        header += [f"{statistic}: p, members", "p, unseen", "TPR at rank 1", "FPR"]
    rows = []
    for dose, found in doses.items():
        row = [dose, str(found["draws"])]
        for statistic in ("residual", "raw"):
            order = found["order"][statistic]
            row += [_ps(order["p_members"]), _ps(order["p_unseen"])]
            row += [_share(order["top_members"]), _share(order["top_unseen"])]
        rows.append([*row, f"{_AT_ONCE[dose][0]:.0%}" if dose in _AT_ONCE else "—"])
    return _table([*header, "published a"], rows)


def _detector_table(doses: Results) -> str:
    names = list(next(iter(doses.values()))["detectors"])
    rows = []
    for dose, found in doses.items():
        cells = (
            f"{one['auc']:.2f} · {one['tpr']:.0%} ({_interval(one['tpr_ci95'], 2)})"
            for one in (found["detectors"][name] for name in names)
        )
        rows.append([dose, *cells, f"{_AT_ONCE[dose][1]:.2f}" if dose in _AT_ONCE else "—"])
    note = "ROC-AUC · TPR at 1 % false positives (95 % interval)."
    return f"{note}\n\n{_table(['exposures', *names, 'published b, AUC'], rows)}"


def _power_table(doses: Results) -> str:
    """Power at 0.01 by statistic, leaked share and size."""
    first = next(iter(doses.values()))["power"]
    sizes = list(dict.fromkeys(row["n"] for row in first))
    rows = []
    for dose, found in doses.items():
        for statistic in ("residual", "raw"):
            for fraction in dict.fromkeys(row["fraction"] for row in found["power"]):
                power = {
                    row["n"]: row["power"]
                    for row in found["power"]
                    if (row["statistic"], row["fraction"]) == (statistic, fraction)
                }
                rows.append([dose, statistic, f"{fraction:.0%}", *(f"{power[n]:.0%}" for n in sizes)])
    note = "Share of random data sets of n items with p ≤ 0.01."
    return f"{note}\n\n{_table(['exposures', 'ranks', 'leaked', *(f'n = {n}' for n in sizes)], rows)}"


def _null_table(nulls: Results) -> str:
    rows = [
        [
            *(dose, statistic, str(found[statistic]["n_items"]), _p(found[statistic]["p_all"])),
            *(
                _p(found[statistic]["chi2_p"]),
                f"{found[statistic]['rejected']:.1%}",
                _p(found[statistic]["ks_p"]),
            ),
        ]
        for dose, found in nulls.items()
        for statistic in ("residual", "raw")
    ]
    one = next(iter(nulls.values()))
    header = [
        "after",
        "ranks",
        "items",
        "p, all together",
        "χ² p of ranks",
        "sets with p ≤ 0.01",
        "KS p of sets",
    ]
    return (
        f"All items no draw's model has read, and {one['replicates']:,} random sets of {one['set']} of them. The sets "
        "overlap, so that their p-values move together with the pool and the KS test takes that for a defect; the "
        f"test of the ranks themselves does not.\n\n{_table(header, rows)}"
    )


def _hard(tier: Results) -> Iterator[str]:
    yield (
        "*Another order.* The model read every item in an order that is not the published one (the same scores, with "
        "another order called published). An order test must then find nothing, and what finds the items is scenario b, "
        "which does not ask which order it is."
    )
    reordered = {dose: found for dose, found in tier["reordered"].items() if dose != "0"}
    yield _table(
        ["exposures", "residual: p", "raw: p", "AUC residual gap", "AUC raw gap", "AUC scenario b, exact"],
        [
            [
                *(
                    dose,
                    _ps(found["order"]["residual"]["p_members"]),
                    _ps(found["order"]["raw"]["p_members"]),
                ),
                *(
                    f"{found['detectors'][n]['auc']:.2f}"
                    for n in ("residual gap", "raw gap", "scenario b, exact")
                ),
            ]
            for dose, found in reordered.items()
        ],
    )
    lettered = {dose: found for dose, found in tier["lettered"].items() if found}
    if lettered:
        yield "*Another format.* Read as `A:option`, tested as `A. option`, without the line break in front."
        yield _order_table(lettered)
    swapped = {dose: found for dose, found in tier["swapped"].items() if found}
    if swapped:
        yield (
            "*Source exposure.* Outlier scores (scenario b, exact) of items against the same questions with options of "
            "other items of the subject, which were never printed together."
        )
        yield _table(
            ["exposures", "AUC, members against their controls", "AUC, unseen against theirs"],
            [
                [dose, f"{found['members']['auc']:.2f}", f"{found['unseen']['auc']:.2f}"]
                for dose, found in swapped.items()
            ],
        )


def _top(found: Results, statistic: str) -> float:
    return float(found["order"][statistic]["top_members"]["value"])


def _share(found: Results) -> str:
    return f"{found['value']:.0%} ({_interval(found['ci95'], 2)})" if found["n"] else "—"


def _interval(ends: Sequence[float], digits: int) -> str:
    return "–".join(f"{end:.{digits}f}" for end in ends)


def _ps(values: Iterable[float]) -> str:
    return ", ".join(map(_p, values)) or "—"


def _p(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else f"{value:.0e}"


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _join(parts: Sequence[str]) -> str:
    return ", ".join(parts)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

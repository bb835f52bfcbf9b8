"""What contamination is worth in points: the score on all items beside that on items without evidence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from evalkit.errors import UsageError
from evalkit.reports.summary import markdown
from evalkit.stats.intervals import LEVEL, Estimate, clustered_mean
from evalkit.store import RunStore
from evalkit.types import Outcome

ItemId = tuple[str, str]
"""(subset, sample id)."""


def annotate(store: RunStore, document: Mapping[str, Any]) -> dict[str, Any]:
    """Write verdicts and the score on clean items into a finished run of the same model.

    Args:
        store: the run.
        document: the leakage document; there is evidence against the items it lists as `leads`.

    Returns:
        The run's result document, now with the key `leakage`.

    Raises:
        UsageError: the run is of another model, or has none of the examined tasks.
    """
    results = store.read_json("results.json")
    if results["model"]["fingerprint"] != document["model"]["fingerprint"]:
        raise UsageError(
            f"--into {store.root}: that run is of {results['model']['name']} ({results['model']['dtype']}), "
            f"not of the examined {document['model']['name']} ({document['model']['dtype']})"
        )
    outcomes = store.read_samples()
    tasks = {}
    for name, examined in document["tasks"].items():
        evidence = [(lead["subset"], lead["sample_id"]) for lead in examined.get("leads", ())]
        for run_name in _same_records(name, results["tasks"]):
            rows = [o for o in outcomes if o.task == run_name and o.correct is not None]
            whole = not examined["sequential"] and len(rows) <= examined["n_items"] + sum(
                examined["excluded"].values()
            )
            average = results["tasks"][run_name]["average"]
            # Items that were not examined are not clean, and without a test of items nothing is known of any.
            clean = clean_score(rows, evidence, average) if whole and examined.get("fraction") else None
            tasks[run_name] = {**examined, "clean_score": clean}
    if not tasks:
        raise UsageError(
            f"--into {store.root}: that run has none of the examined tasks ({', '.join(document['tasks'])})"
        )
    results["leakage"] = {"run_id": document["run_id"], "tasks": tasks}
    store.write_text("report.md", markdown(results, store.read_json("manifest.json")))
    store.write_json("results.json", results)
    return results


def _same_records(name: str, tasks: Mapping[str, Any]) -> list[str]:
    """Tasks of a run that read the same benchmark and split, by whatever protocol."""
    benchmark, split = name.partition("@")[0], name.split(":")[1:2]
    return [run for run, task in tasks.items() if task["task"] == benchmark and [task["split"]] == split]


def clean_score(
    outcomes: Sequence[Outcome], evidence: Collection[ItemId], average: str
) -> dict[str, Any] | None:
    """Score on all items, score on those without evidence, and the difference in points.

    Both are averaged as the protocol publishes it (over subsets, or over items). The interval of the
    difference is that of the jackknife over subsets, or over items where there is one subset, and of
    Student's t (Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", 1982).

    Args:
        outcomes: judged outcomes of one task that have a score.
        evidence: the items there is evidence against.
        average: `macro` or `micro`.

    Returns:
        `all`, `clean` (estimates as in `results.json`), `inflation_points` {`value`, `ci95`} and counts;
        None where nothing is left to compare.
    """
    against = set(evidence)
    leaked = np.array([(o.subset, o.sample_id) in against for o in outcomes], np.bool_)
    if not len(outcomes) or leaked.all():
        return None
    correct = np.array([o.correct for o in outcomes], np.float64)
    subset = np.unique([o.subset for o in outcomes], return_inverse=True)[1]
    value, low, high = _inflation(correct, subset, leaked, macro=average != "micro")
    return {
        "all": _mean(correct, subset, average).to_json(),
        "clean": _mean(correct[~leaked], subset[~leaked], average).to_json(),
        "inflation_points": {"value": 100 * value, "ci95": [100 * low, 100 * high]},
        "n_with_evidence": int(leaked.sum()),
    }


def _mean(correct: NDArray[np.float64], subset: NDArray[np.intp], average: str) -> Estimate:
    weights = None if average == "micro" else 1 / np.bincount(subset)[subset]
    return clustered_mean(correct, subset, weights)


def _inflation(
    correct: NDArray[np.float64], subset: NDArray[np.intp], leaked: NDArray[np.bool_], *, macro: bool
) -> tuple[float, float, float]:
    """Difference of the two scores with its 95 % interval, as fractions."""
    several = bool(subset.max())
    unit = subset if several else np.arange(len(correct))
    clean = (~leaked).astype(np.float64)
    columns = (correct, np.ones_like(correct), correct * clean, clean)
    sums = np.stack([np.bincount(unit, weights=c) for c in columns]).astype(np.float64)
    by_subset, n = macro and several, sums.shape[1]
    value = _difference(sums, by_subset)
    if n < 2:
        return value, value, value
    without = np.array([_difference(np.delete(sums, k, axis=1), by_subset) for k in range(n)])
    stderr = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    half = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * stderr
    return value, value - half, value + half


def _difference(sums: NDArray[np.float64], by_subset: bool) -> float:
    """Score of all minus score of the clean, from (correct, items, clean correct, clean items) per unit."""
    correct, items, clean_correct, clean = sums
    if not by_subset:
        return float(correct.sum() / items.sum() - clean_correct.sum() / max(clean.sum(), 1))
    some = clean > 0
    return float((correct / items).mean() - (clean_correct[some] / clean[some]).mean())

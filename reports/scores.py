"""Which task of a run fills an entry, the score it takes from there, and what must not be compared."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Sequence

import numpy as np

from evalkit.errors import UsageError
from evalkit.reports.comparison import Json, half_width
from evalkit.reports.layouts import Entry
from evalkit.stats.intervals import clustered_mean


def place(tasks: Collection[str], entry: Entry) -> str | None:
    """The task, by resolved name, that fills an entry; None if none of them does."""
    for pattern in entry.runs:
        if pattern in tasks:
            return pattern
        for name in tasks:
            if pattern == name.partition("@")[0] or fnmatch.fnmatchcase(name, pattern):
                return name
    return None


def refuse_mixture(what: str, scores: Sequence[tuple[str, str, str | None]]) -> None:
    """Different protocols, shots, splits or data must not stand beside each other unawares.

    Args:
        what: name of the entry.
        scores: of each, what it was measured by, its task by resolved name and the hash of its data.

    Raises:
        UsageError: they differ.
    """
    remedy = "leave one out, or show both with footnotes: --mixed"
    for where, name, _ in scores[1:]:
        first, first_name, _ = scores[0]
        if name != first_name:
            raise UsageError(
                f"'{what}': {first} has {first_name} and {where} has {name}, which are not comparable; "
                f"{remedy}"
            )
    hashed = [(where, name, data) for where, name, data in scores if data]
    for where, name, data in hashed[1:]:
        first, _, first_data = hashed[0]
        if data != first_data:
            raise UsageError(
                f"'{what}': {first} and {where} ran {name} on different data "
                f"({first_data[:12]} and {data[:12]}); {remedy}"
            )


def estimate(task: Json, entry: Entry) -> Json | None:
    """The metric of an entry over what it asks for; None where the task lacks it."""
    parts = [task["metrics"]]
    if entry.category:
        parts = [task["groups"].get(entry.category, {})]
    if entry.subsets:
        parts = [task["subsets"].get(subset, {}) for subset in entry.subsets]
    metric = entry.metric or next(iter(parts[0]), "")
    if not all(metric in part for part in parts):
        return None
    estimates: list[Json] = [part[metric] for part in parts]
    if entry.average and entry.average != task["average"]:
        return _averaged(task, entry.average, metric)
    if len(estimates) > 1:
        value = sum(one["value"] for one in estimates) / len(estimates)
        # Subsets share no samples.
        half = math.hypot(*(half_width(one["ci95"]) for one in estimates)) / len(estimates)
        interval = (max(0.0, value - half), min(1.0, value + half))
        return {"value": value, "ci95": interval, "n": sum(one["n"] for one in estimates)}
    return estimates[0]


def _averaged(task: Json, average: str, metric: str) -> Json | None:
    """The whole under another average than the protocol's, with the interval of its subsets as clusters."""
    parts = [part[metric] for part in task["subsets"].values() if metric in part]
    value, n = task["averages"].get(average, {}).get(metric), sum(part["n"] for part in parts)
    if value is None:
        return None
    weights = [part["n"] if average == "micro" else 1 for part in parts]
    if len(parts) > 1 and all(weights) and all(0 <= part["value"] <= 1 for part in parts):
        found = clustered_mean([part["value"] for part in parts], np.arange(len(parts)), weights)
        if math.isclose(found.value, value, abs_tol=1e-9):
            return {"value": value, "ci95": found.ci95, "n": n}
    return {"value": value, "n": n}

"""Limits that a candidate is held to whatever the comparison says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from evalkit.errors import DataError, UsageError
from evalkit.gate.outcomes import Json, Outcomes, TaskOutcomes
from evalkit.gate.policy import Contamination, Policy, PolicyFile, Rule

_KINDS = {*get_args(Contamination), "no evidence"}
"""What `evalkit leakage` can conclude, or nobody asked."""


@dataclass(frozen=True, slots=True)
class Check:
    """A limit and what was found."""

    name: str
    found: str
    limit: str
    passed: bool


def check_rules(policy: PolicyFile, *runs: Outcomes) -> None:
    """Refuse a rule for a task that is not there: a slip of the pen would let the task go unjudged.

    Raises:
        UsageError: one of the runs lacks a task that a rule names, with file, line and key.
    """
    for place, rule in enumerate(policy.policy.rules):
        for named in (name for name in rule.tasks if not set(name) & set("*?[")):
            for run in runs:
                if not any(named in (name, task.entry["task"]) for name, task in run.tasks.items()):
                    raise UsageError(
                        f"{policy.where(place, 'tasks')}: {run.name} has no {named}, which this rule names; "
                        f"it has {', '.join(run.tasks)} (a pattern such as {named}* may match nothing)"
                    )


def check_task(
    rule: Rule, candidate: TaskOutcomes, metric: str | None, examined: Json | None
) -> Iterator[Check]:
    """Hold one task to its limits.

    Args:
        rule: what is demanded.
        candidate: the task.
        metric: the one that is compared; None without a score.
        examined: what `evalkit leakage` concluded; None where it was not asked.

    Raises:
        DataError: that is nothing it can conclude.
    """
    counters = candidate.entry["counters"]
    for name, limit in (
        ("errors", rule.max_errors),
        ("unparsed", rule.max_unparsed),
        ("truncated", rule.max_truncated),
    ):
        if limit is not None:
            found, samples = counters[name], counters["samples"]
            yield Check(name, f"{found:,} of {samples:,}", limit, found <= allowed(limit, samples))
    if rule.floor is not None and metric in candidate.entry["metrics"]:
        score = 100 * candidate.entry["metrics"][metric]["value"]
        passed = score <= rule.floor if rule.direction == "lower" else score >= rule.floor
        yield Check(str(metric), f"{score:.2f}", f"{rule.floor:g}", passed)
    if rule.contamination:
        yield _contamination(rule, candidate, examined)


def _contamination(rule: Rule, candidate: TaskOutcomes, examined: Json | None) -> Check:
    verdict = examined["verdict"] if examined else {"kind": "not examined"}
    found = [verdict["kind"], *verdict.get("also", ())]
    for kind in found:
        if kind not in _KINDS:
            raise DataError(
                f"{candidate.source}: {candidate.name}: '{kind}' is no verdict of evalkit leakage; examine "
                "it again"
            )
    passed = not set(found) & set(rule.contamination)
    return Check("contamination", ", ".join(found), f"not {' or '.join(rule.contamination)}", passed)


def check_baseline(baseline: TaskOutcomes, rule: Rule, where: str) -> None:
    """Refuse a baseline that failed on more samples than a candidate may.

    Raises:
        UsageError: it did.
    """
    counters = baseline.entry["counters"]
    if counters["errors"] > allowed(rule.max_errors, counters["samples"]):
        raise UsageError(
            f"{where}: {baseline.source} itself failed on {counters['errors']:,} of {counters['samples']:,} "
            f"samples of {baseline.name}, {rule.max_errors} are allowed; run it again (evalkit run … "
            "--resume)"
        )


def allowed(limit: str, samples: int) -> float:
    """Samples that a limit of N or P% allows."""
    return float(limit[:-1]) * samples / 100 if limit.endswith("%") else float(limit)


def check_cost(policy: Policy, candidate: Outcomes) -> Iterator[Check]:
    """Hold a whole run to the ceilings of its cost."""
    for name, limit in policy.max_cost.items():
        found = candidate.cost.get(name)
        said = "unknown" if found is None else f"{found:,.15g}"
        yield Check(name, said, f"{limit:,.15g}", found is not None and found <= limit)

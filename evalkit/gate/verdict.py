"""The verdict on a candidate: the one document that every output is made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from evalkit._version import __version__
from evalkit.errors import UsageError
from evalkit.gate.comparison import Comparison, compare, scored_in_both
from evalkit.gate.decision import Judgement, Measured, decide, demand_of, p_of_failure
from evalkit.gate.limits import Check, check_baseline, check_cost, check_rules, check_task
from evalkit.gate.outcomes import Json, Outcomes
from evalkit.gate.pairing import Pair, pair_up
from evalkit.gate.policy import Correction, Policy, PolicyFile, Rule
from evalkit.stats.multiple import benjamini_hochberg, holm

SCHEMA_VERSION = 1
MAX_FLIPS = 20
"""Changed samples that are shown of a task."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A sample that is better or worse than it was."""

    subset: str
    sample_id: str
    change_points: float
    """Above 0 is better."""
    target: str | None
    baseline: str | None
    """Prediction."""
    candidate: str | None


@dataclass(frozen=True, slots=True)
class TaskVerdict:
    """One task."""

    task: str
    """Resolved name."""
    metric: str | None
    test: str
    margin: float
    verdict: Judgement
    reason: str
    measured: Measured | None
    """None where nothing could be compared."""
    failed_baseline: int
    """Samples without an answer in the baseline."""
    failed_candidate: int
    left_out: int
    """Samples without a score in both runs."""
    failed_samples: tuple[str, ...]
    """The first of those that failed in one of the runs, as subset/id."""
    checks: tuple[Check, ...]
    flips: tuple[Flip, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """All tasks, and what a pipeline does."""

    policy: str
    alpha: float
    correction: str
    inconclusive: Literal["fail", "pass"]
    """What an inconclusive verdict does."""
    baseline: Json
    """`name`, `run_id` and `model` of the run."""
    candidate: Json
    tasks: tuple[TaskVerdict, ...]
    checks: tuple[Check, ...]
    """Of the whole run."""
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Judgement:
        """The worst of all."""
        found = {task.verdict for task in self.tasks}
        if "fail" in found or not all(check.passed for check in self.checks):
            return "fail"
        return "inconclusive" if "inconclusive" in found else "pass"

    @property
    def parts(self) -> tuple[TaskVerdict | Check, ...]:
        """All that was judged."""
        return (*self.tasks, *self.checks)

    @property
    def exit_code(self) -> int:
        """0 lets a pipeline go on, 1 stops it."""
        return int(self.stops(self.verdict))

    def stops(self, verdict: Judgement) -> bool:
        """Whether a verdict on a task or on all stops the pipeline."""
        return verdict == "fail" or (verdict == "inconclusive" and self.inconclusive == "fail")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "evalkit_version": __version__,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            **asdict(self),
        }


def judge(baseline: Outcomes, candidate: Outcomes, policy: PolicyFile) -> Verdict:
    """Compare a candidate with a baseline, sample by sample.

    Raises:
        UsageError: the runs cannot be compared, or have less than the policy demands.
        DataError: a score is no fraction.
    """
    check_rules(policy, baseline, candidate)
    pairs = pair_up(baseline, candidate, subset=policy.policy.subset)
    cases = [_case(pair, policy) for pair in pairs]
    return Verdict(
        policy=policy.name,
        alpha=policy.policy.alpha,
        correction=policy.policy.correction,
        inconclusive=policy.policy.inconclusive,
        baseline=_about(baseline),
        candidate=_about(candidate),
        tasks=tuple(_verdicts(cases, candidate, policy.policy)),
        checks=tuple(check_cost(policy.policy, candidate)),
        notes=tuple(_notes(baseline, candidate, pairs, policy)),
    )


def _about(run: Outcomes) -> Json:
    return {"name": run.name, "run_id": run.run_id, "model": dict(run.model)}


@dataclass(frozen=True)
class _Case:
    """A task with its rule and its comparison, before all are judged together."""

    pair: Pair
    rule: Rule
    metric: str | None
    comparison: Comparison | None
    why_not: str = ""
    """Why nothing can be compared."""


def _case(pair: Pair, policy: PolicyFile) -> _Case:
    place, rule = policy.rule(pair.baseline.name, pair.baseline.entry["task"])
    check_baseline(pair.baseline, rule, policy.where(place, "max_errors"))
    if pair.baseline.headline is None:
        return _Case(pair, rule, None, None, "no sample has a score: the right answers are not public")
    metric = pair.baseline.metric(rule.metric, policy.where(place, "metric"))
    if pair.candidate.headline is None:
        return _Case(pair, rule, metric, None, "the candidate answered no sample")
    pair.candidate.metric(metric, policy.where(place, "metric"))
    rows = scored_in_both(pair, metric)
    if rows.size < rule.min_samples:
        raise UsageError(
            f"{policy.where(place, 'min_samples')}: {pair.baseline.name} has {rows.size:,} samples with a "
            f"score in {metric} in both runs, {rule.min_samples:,} are demanded; run more"
        )
    return _Case(pair, rule, metric, compare(pair, metric, rows, lower_is_better=rule.direction == "lower"))


def _verdicts(cases: Sequence[_Case], candidate: Outcomes, policy: Policy) -> Iterator[TaskVerdict]:
    """Judge all tasks together, since the chance of a false alarm grows with their number."""
    p_values = [p_of_failure(case.rule, case.comparison) for case in cases if case.comparison]
    adjusted = iter(_adjust(p_values, policy.correction) if p_values else p_values)
    for case in cases:
        examined = candidate.leakage.get(case.pair.candidate.name)
        checks = tuple(check_task(case.rule, case.pair.candidate, case.metric, examined))
        if case.comparison is None:
            verdict: Judgement = "inconclusive"
            reason, measured = case.why_not, None
        else:
            demand = demand_of(policy, case.rule, len(p_values))
            verdict, reason, measured = decide(demand, case.comparison, next(adjusted))
        if failed := [check for check in checks if not check.passed]:
            broken = "; ".join(f"{c.name} {c.found}, limit {c.limit}" for c in failed)
            reason = f"{broken}; {reason}"
            verdict = "fail"
        yield _task_verdict(case, verdict, reason, measured, checks)


def _adjust(p_values: list[float], correction: Correction) -> list[float]:
    if correction == "none":
        return p_values
    adjust = holm if correction == "holm" else benjamini_hochberg
    return [float(p) for p in adjust(p_values)]


def _task_verdict(
    case: _Case, verdict: Judgement, reason: str, measured: Measured | None, checks: tuple[Check, ...]
) -> TaskVerdict:
    pair = case.pair
    either = np.flatnonzero(pair.failed[0] | pair.failed[1])
    return TaskVerdict(
        task=pair.baseline.name,
        metric=case.metric,
        test=case.rule.test,
        margin=case.rule.margin,
        verdict=verdict,
        reason=reason,
        measured=measured,
        failed_baseline=int(pair.failed[0].sum()),
        failed_candidate=int(pair.failed[1].sum()),
        left_out=pair.rows[0].size - (measured.n if measured else 0),
        failed_samples=tuple("/".join(_key(pair, int(place))) for place in either[:MAX_FLIPS]),
        checks=checks,
        flips=tuple(_flips(pair, case.comparison)) if case.comparison else (),
    )


def _key(pair: Pair, place: int) -> tuple[str, str]:
    row = int(pair.rows[1][place])
    columns = pair.candidate.columns
    return columns["subset"][row], columns["sample_id"][row]


def _flips(pair: Pair, comparison: Comparison) -> Iterator[Flip]:
    """The samples that changed most, losses first."""
    changes = comparison.changes
    order = np.argsort(changes, kind="stable")
    worst = [at for at in order if changes[at] < 0]
    best = [at for at in order[::-1] if changes[at] > 0]
    targets, (before, after) = pair.columns("target")[0], pair.columns("prediction")
    for at in (worst + best)[:MAX_FLIPS]:
        place = int(comparison.rows[at])
        subset, sample_id = _key(pair, place)
        change = 100 * float(changes[at])
        yield Flip(subset, sample_id, change, targets[place], before[place], after[place])


def _notes(
    baseline: Outcomes, candidate: Outcomes, pairs: Sequence[Pair], policy: PolicyFile
) -> Iterator[str]:
    """What a reader of the verdict should know and no check says."""
    compared = {pair.baseline.name for pair in pairs}
    if left := [name for name in baseline.tasks if name not in compared]:
        yield f"not run by the candidate and not compared: {', '.join(left)}"
    if new := [name for name in candidate.tasks if name not in compared]:
        yield f"not in the baseline and not compared: {', '.join(new)}"
    for pair in pairs:
        if (part := pair.rows[0].size) < (whole := len(pair.baseline.row_of)):
            yield f"{pair.baseline.name}: {part:,} of the baseline's {whole:,} samples were run"
    if candidate.run_id == baseline.run_id:
        yield "the candidate is the very run that it is compared with"
    used = {policy.rule(pair.baseline.name, pair.baseline.entry["task"])[0] for pair in pairs}
    for place, rule in enumerate(policy.policy.rules):
        if place not in used:
            yield f"{policy.where(place, 'tasks')}: no task is held to this rule ({', '.join(rule.tasks)})"

"""What a comparison decides under a rule, and what it must be able to see to decide anything."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from evalkit.gate.comparison import Comparison
from evalkit.gate.policy import Policy, Rule
from evalkit.stats.power import least_sd, power, samples_needed, smallest_difference

Judgement = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Measured:
    """A comparison in numbers; scores and differences in points, where a difference above 0 is better."""

    baseline: float
    candidate: float
    difference: float
    ci95: tuple[float, float]
    p: float
    """One-sided p-value of the claim that the candidate is worse than allowed (of equivalence: worse or
    better)."""
    p_adjusted: float
    """The same, corrected for the number of tasks."""
    n: int
    losses: int
    """Samples that became worse."""
    gains: int
    smallest_drop: float
    """Smallest true drop below the margin that such a comparison sees with the power demanded."""
    samples_needed: int | None
    """Samples that would decide an inconclusive comparison; None where none is needed or no number helps."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A rule with the numbers that a test needs."""

    rule: Rule
    alpha: float
    tests: int
    """Tasks that share the chance of a false alarm."""
    power: float
    """Chance of seeing a difference that counts as enough."""

    @property
    def margin(self) -> float:
        """As a fraction."""
        return self.rule.margin / 100

    @property
    def level(self) -> float:
        """At which a drop fails the task for sure, however the other tasks turn out."""
        return self.alpha / self.tests

    def lost(self, *, is_mcnemar: bool) -> float:
        """What the steps of the scores cost a test, in samples."""
        return 0.5 if self.rule.margin else float(is_mcnemar)


def demand_of(policy: Policy, rule: Rule, tasks: int) -> Demand:
    """What a policy demands of each of so many tasks that are compared."""
    tests = 1 if policy.correction == "none" else max(1, tasks)
    return Demand(rule, rule.alpha or policy.alpha, tests, policy.power)


@dataclass(frozen=True, slots=True)
class Aim:
    """What a test has to see."""

    difference: float
    """From what is not to be taken for it, as a fraction above 0."""
    least_sd: float
    """Of the differences of single samples where the drop in question is real."""
    level: float
    power: float

    def seen(self, sd: float, effective_n: float, lost: float) -> float:
        """Chance of seeing it on so many samples of equal weight."""
        return power(self.difference, max(sd, self.least_sd), effective_n, self.level, lost)


def aim_of(demand: Demand) -> Aim:
    """What must be seen for a pass, and with which chance.

    `regression`: the drop that must not go unseen. `non-inferiority`: the margin, where the candidate is as
    good as the baseline. `equivalence`: both margins, each with half the chance of missing it.
    """
    rule = demand.rule
    if rule.test == "regression":
        excess = (rule.detect - rule.margin) / 100
        return Aim(excess, least_sd(rule.detect / 100), demand.level, demand.power)
    wanted = demand.power if rule.test == "non-inferiority" else (1 + demand.power) / 2
    return Aim(demand.margin, least_sd(demand.margin), demand.alpha, wanted)


def p_of_failure(rule: Rule, found: Comparison) -> float:
    """p-value of the claim that fails a candidate: worse than allowed, of equivalence worse or better."""
    worse = found.p_worse(rule.margin / 100)
    if rule.test != "equivalence":
        return worse
    return min(1.0, 2 * min(worse, found.p_better(rule.margin / 100)))


def decide(demand: Demand, found: Comparison, p_adjusted: float) -> tuple[Judgement, str, Measured]:
    """Judge one task, by the p-value of failure that was corrected for the number of tasks.

    Returns:
        verdict, its reason in words, and the numbers.
    """
    rule, measured = demand.rule, _measured(demand, found, p_adjusted)
    if p_adjusted <= demand.alpha:
        how = "not within" if rule.test == "equivalence" else "worse by more than"
        return "fail", f"{how} {rule.margin:g} points (p = {p_adjusted:.2g})", measured
    passed, reason, needed = _support(demand, found)
    if passed:
        return "pass", reason, measured
    would = f"{needed:,} samples would decide" if needed else "at the margin no number of samples decides"
    return "inconclusive", f"{reason}; {would}", replace(measured, samples_needed=needed)


def _measured(demand: Demand, found: Comparison, p_adjusted: float) -> Measured:
    low, high = found.difference.ci95
    lost = demand.lost(is_mcnemar=found.is_mcnemar)
    sd = max(found.sd, least_sd(demand.margin))
    seen = smallest_difference(sd, found.effective_n, demand.level, lost, demand.power)
    return Measured(
        baseline=100 * found.baseline,
        candidate=100 * found.candidate,
        difference=100 * found.difference.value,
        ci95=(100 * low, 100 * high),
        p=p_of_failure(demand.rule, found),
        p_adjusted=p_adjusted,
        n=found.rows.size,
        losses=int((found.changes < 0).sum()),
        gains=int((found.changes > 0).sum()),
        smallest_drop=100 * (demand.margin + seen),
        samples_needed=None,
    )


def _support(demand: Demand, found: Comparison) -> tuple[bool, str, int | None]:
    """Whether enough speaks for a pass, in words, and how many samples would decide if not."""
    if demand.rule.test == "regression":
        return _could_see(demand, found)
    return _is_shown(demand, found)


def _could_see(demand: Demand, found: Comparison) -> tuple[bool, str, int | None]:
    """Whether a drop that matters is ruled out, or would have been seen."""
    detect, aim = demand.rule.detect, aim_of(demand)
    p = found.p_not_worse(detect / 100)
    if p <= demand.alpha:
        return True, f"a drop of {detect:g} points is ruled out (p = {p:.2g})", None
    seen = aim.seen(found.sd, found.effective_n, demand.lost(is_mcnemar=found.is_mcnemar))
    reason = f"not shown to be worse; a drop of {detect:g} points would be with power {seen:.2f}"
    return seen >= aim.power, reason, _needed(demand, found, aim)


def _is_shown(demand: Demand, found: Comparison) -> tuple[bool, str, int | None]:
    """Whether it is shown to be within the margin."""
    rule, margin, value = demand.rule, demand.margin, found.difference.value
    p, distance = found.p_not_worse(margin), abs(value + margin)
    if rule.test == "equivalence":
        p, distance = max(p, found.p_not_better(margin)), min(distance, abs(value - margin))
    shown = "shown" if p <= demand.alpha else "not shown"
    what = "to be within" if rule.test == "equivalence" else "not to be worse by"
    reason = f"{shown} {what} {rule.margin:g} points (p = {p:.2g})"
    aim = replace(aim_of(demand), difference=distance, power=demand.power)
    return p <= demand.alpha, reason, _needed(demand, found, aim)


def _needed(demand: Demand, found: Comparison, aim: Aim) -> int | None:
    """Samples of this task's weights that show a difference; None for one that none shows."""
    if aim.difference < 1e-6:
        return None
    lost, sd = demand.lost(is_mcnemar=found.is_mcnemar), max(found.sd, aim.least_sd)
    needed = samples_needed(aim.difference, sd, aim.level, lost, aim.power)
    return math.ceil(needed * found.rows.size / found.effective_n)

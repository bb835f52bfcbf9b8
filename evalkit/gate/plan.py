"""Which samples of a baseline a candidate has to run, so that a gate can still tell."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from evalkit.errors import UsageError
from evalkit.gate.decision import Aim, Demand, aim_of, demand_of
from evalkit.gate.limits import check_rules
from evalkit.gate.outcomes import Outcomes, TaskOutcomes
from evalkit.gate.picking import Frame
from evalkit.gate.policy import PolicyFile
from evalkit.reports.text import one_line
from evalkit.stats.intervals import clopper_pearson
from evalkit.stats.power import smallest_difference

_CAUTION = 0.8
"""Level of the interval of the share of samples that change, of which the upper end is taken."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What so many samples of a task tell."""

    n: int
    effective_n: float
    """Samples of equal weight that say as much."""
    power: float
    """Chance of seeing what the policy wants seen."""
    smallest_seen: float
    """In points, with the power demanded: smallest true drop that is seen, or smallest margin within which an
    equal model is shown to be."""


@dataclass(frozen=True)
class TaskPlan:
    """The samples of one task."""

    task: str
    """Resolved name."""
    metric: str
    test: str
    samples: Mapping[str, tuple[str, ...]]
    """Ids by subset."""
    sd: float
    """Of the difference that a sample's score is taken to make, as a fraction."""
    spread: str
    """Where that is from, in words."""
    part: Sight
    whole: Sight
    unscored: int
    """Samples of the baseline without a score."""


@dataclass(frozen=True)
class Plan:
    """The samples of all tasks."""

    policy: str
    power: float
    """Chance of seeing a drop that counts as enough."""
    baseline: Outcomes
    tasks: tuple[TaskPlan, ...]
    left_out: Mapping[str, str]
    """Tasks of the baseline that are not run, and why."""

    @cached_property
    def samples(self) -> dict[str, Mapping[str, tuple[str, ...]]]:
        """Ids by resolved task and subset."""
        return {task.task: task.samples for task in self.tasks}

    def to_json(self) -> dict[str, Any]:
        """All but the ids."""
        return {
            "policy": self.policy,
            "power": self.power,
            "baseline": {"name": self.baseline.name, "run_id": self.baseline.run_id},
            "tasks": {
                task.task: {"metric": task.metric, "sd": task.sd, "spread": task.spread}
                | {"part": asdict(task.part), "whole": asdict(task.whole)}
                for task in self.tasks
            },
            "left_out": dict(self.left_out),
        }


def plan(baseline: Outcomes, policy: PolicyFile, tasks: Collection[str] | None = None) -> Plan:
    """Pick the fewest samples on which every task's test has the power that the policy demands.

    Every subset keeps the share that it has in the task's published average, as far as it has samples, and at
    least one; which of its samples are picked is the same for every candidate. More power takes the same
    samples and more. Where the whole task has too little power, all of it is taken.

    Args:
        baseline: what candidates are compared with.
        policy: what is demanded.
        tasks: resolved names of those to run; by default all that have a score.

    Raises:
        UsageError: the policy refuses parts of a baseline, or the baseline lacks a task or metric.
        DataError: a score is no fraction.
    """
    if not policy.policy.subset:
        raise UsageError(
            f"{policy.at('subset')}: a plan picks a part of the baseline's samples, which this policy "
            "refuses to compare; write subset: true, or take the policy quick"
        )
    check_rules(policy, baseline)
    unscored = [name for name, task in baseline.tasks.items() if task.headline is None]
    wanted = [name for name in baseline.tasks if name not in unscored] if tasks is None else list(tasks)
    for name in wanted:
        if name not in baseline.tasks:
            raise UsageError(f"{baseline.name} has no {name}; it has {', '.join(baseline.tasks)}")
        if name in unscored:
            raise UsageError(f"{baseline.name}: no sample of {name} has a score; leave it out")
    if not wanted:
        raise UsageError(f"{baseline.name}: no task has a score, so nothing can be planned")
    return Plan(
        policy.name,
        policy.policy.power,
        baseline,
        tuple(_plan_task(baseline, baseline.tasks[name], policy, len(wanted)) for name in wanted),
        dict.fromkeys([] if tasks else unscored, "no sample has a score: the right answers are not public"),
    )


def _plan_task(baseline: Outcomes, task: TaskOutcomes, policy: PolicyFile, tasks: int) -> TaskPlan:
    place, rule = policy.rule(task.name, task.entry["task"])
    metric = task.metric(rule.metric, policy.where(place, "metric"))
    frame = Frame.of(task, metric)
    sd, spread = _spread(baseline, task, metric, frame)
    prospect = _Prospect(frame, demand_of(policy.policy, rule, tasks), sd)
    fewest = max(rule.min_samples, len(set(frame.subsets)))
    if fewest > frame.n:
        raise UsageError(
            f"{policy.where(place, 'min_samples')}: {task.name} has {frame.n:,} samples with a score in "
            f"{metric} in {baseline.name}, {fewest:,} are demanded"
        )
    part = bisect_left(range(frame.n), True, lo=fewest, key=prospect.suffices)
    return TaskPlan(
        task=task.name,
        metric=metric,
        test=rule.test,
        samples=frame.first(part),
        sd=max(sd, prospect.aim.least_sd),
        spread=spread,
        part=prospect.sight(part),
        whole=prospect.sight(frame.n),
        unscored=len(task.columns["task"]) - frame.n,
    )


@dataclass(frozen=True)
class _Prospect:
    """What a test of a task will see, by the number of its samples."""

    frame: Frame
    demand: Demand
    sd: float
    """Of the difference that a sample's score makes."""

    @property
    def aim(self) -> Aim:
        """What it has to see."""
        return aim_of(self.demand)

    @property
    def _lost(self) -> float:
        """As much as steps cost the tests of any scores: a little more than some lose."""
        return self.demand.lost(is_mcnemar=True)

    def suffices(self, n: int) -> bool:
        """Whether the first `n` samples see it with the power demanded."""
        return self.aim.seen(self.sd, self.frame.effective_n(n), self._lost) >= self.aim.power

    def sight(self, n: int) -> Sight:
        """What the first `n` samples tell."""
        aim, effective_n = self.aim, self.frame.effective_n(n)
        sd = max(self.sd, aim.least_sd)
        seen = smallest_difference(sd, effective_n, aim.level, self._lost, aim.power)
        base = self.demand.margin if self.demand.rule.test == "regression" else 0.0
        return Sight(n, effective_n, aim.seen(sd, effective_n, self._lost), 100 * (base + seen))


def _spread(baseline: Outcomes, task: TaskOutcomes, metric: str, frame: Frame) -> tuple[float, str]:
    """Standard deviation of a sample's difference in score, and where it is from."""
    change = baseline.changes.get(task.name, {}).get(metric)
    if change is None:
        # A model that is as good on every sample but answers on its own has the variance of both.
        return math.sqrt(2 * frame.variance), "as if it had nothing to do with the baseline"
    of = f"{change['n']:,} samples of {baseline.previous['run_id']}"
    return _upper_sd(**change), f"as much as it did, at most, from {of}"


def _upper_sd(sd: float, n: int, changed: int) -> float:
    """A standard deviation of differences that is seldom exceeded: luck may have changed few samples."""
    share = clopper_pearson(changed, n, _CAUTION)[1]
    return sd * math.sqrt(share * n / changed) if changed else math.sqrt(share)


def describe(planned: Plan) -> Iterator[str]:
    """The plan in lines: what is run, and what is given up by not running the rest."""
    yield f"plan of {one_line(planned.policy)} for {one_line(planned.baseline.name)}"
    for task in planned.tasks:
        yield f"{one_line(task.task)}: {task.part.n:,} of {task.whole.n:,} samples{_of_subsets(task)}"
        if task.unscored:
            yield f"  {task.unscored:,} more have no score in the baseline and are left out"
        yield f"  a sample's score is taken to change {one_line(task.spread)} (sd {task.sd:.2f})"
        sees = "sees a drop of" if task.test == "regression" else "shows that an equal model is within"
        yield (
            f"  {sees} {_points(task.part)} with power {planned.power:g} (all samples: {_points(task.whole)})"
        )
        times = math.sqrt(task.whole.effective_n / task.part.effective_n)
        yield f"  the score itself is up to {times:.1f} times as uncertain as that of all samples"
        if task.part.power < planned.power:
            yield f"  even all samples see what the policy wants seen with power {task.part.power:.2f} only"
    yield from (f"{one_line(name)}: not run, {why}" for name, why in planned.left_out.items())


def _of_subsets(task: TaskPlan) -> str:
    fewest = min(map(len, task.samples.values()))
    return f", {fewest:,} or more of each of {len(task.samples):,} subsets" if len(task.samples) > 1 else ""


def _points(sight: Sight) -> str:
    return f"{sight.smallest_seen:.2f} points" if sight.smallest_seen < 100 else "no size"

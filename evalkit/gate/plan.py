"""Which samples of a baseline a candidate has to run, so that a gate can still tell."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import UsageError
from evalkit.gate.comparison import CORPUS_METRICS, weigh_samples
from evalkit.gate.decision import Demand, aim_of, demand_of
from evalkit.gate.limits import check_rules
from evalkit.gate.outcomes import Outcomes, TaskOutcomes
from evalkit.gate.policy import PolicyFile
from evalkit.reports.text import one_line
from evalkit.stats.intervals import Floats
from evalkit.stats.power import smallest_difference
from evalkit.stats.weights import kish

_LARGEST_VARIANCE = 0.25
"""Of scores in [0, 1]."""
_Z95 = 1.96


@dataclass(frozen=True, slots=True)
class Sight:
    """What so many samples of a task tell; all but the power in points."""

    n: int
    power: float
    """Chance of seeing what the policy wants seen."""
    smallest_drop: float
    """Smallest true drop that is seen with the power demanded."""
    score_half_width: float
    """Half the 95 % interval of the task's own score."""


@dataclass(frozen=True)
class TaskPlan:
    """The samples of one task."""

    task: str
    """Resolved name."""
    metric: str
    samples: Mapping[str, tuple[str, ...]]
    """Ids by subset."""
    sd: float
    """Of the difference that a sample's score is taken to make, as a fraction."""
    spread: str
    """Where that is from, in words."""
    part: Sight
    whole: Sight

    @property
    def smallest_subset(self) -> int:
        """Samples of the subset that has fewest."""
        return min(map(len, self.samples.values()))


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
    least one; which of its samples are picked is the same for every candidate and says nothing of them. More
    power takes the same samples and more. Where the whole task has too little power, all of it is taken.

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
    demand = demand_of(policy.policy, rule, tasks)
    frame = _Frame.of(task, metric)
    sd, spread = _spread(baseline, task, metric, frame)
    fewest = max(rule.min_samples, len(frame.sizes))
    if fewest > frame.n:
        raise UsageError(
            f"{policy.where(place, 'min_samples')}: {task.name} has {frame.n:,} samples with a {metric} in "
            f"{baseline.name}, {fewest:,} are demanded"
        )
    part = bisect_left(
        range(frame.n), True, lo=fewest, key=lambda n: _has_power(demand, sd, frame.effective_n(n))
    )
    return TaskPlan(
        task=task.name,
        metric=metric,
        samples=frame.first(part),
        sd=sd,
        spread=spread,
        part=_sight(demand, sd, frame, part),
        whole=_sight(demand, sd, frame, frame.n),
    )


@dataclass(frozen=True)
class _Frame:
    """The samples of a task that have a score, in the order in which they are picked."""

    task: TaskOutcomes
    metric: str
    rows: NDArray[np.intp]
    """Shape (n,)."""
    subsets: Sequence[str]
    variance: float
    """Of single scores."""

    @classmethod
    def of(cls, task: TaskOutcomes, metric: str) -> _Frame:
        """Take the samples that have a score in a metric."""
        subsets, ids = task.columns["subset"], task.columns["sample_id"]
        # A metric of all predictions together scores what has a score in any.
        scores = task.scores((task.headline or metric) if metric in CORPUS_METRICS else metric)
        rows = np.flatnonzero(~np.isnan(scores))
        weights = weigh_samples(task, metric, rows)
        order = rows[_order([(subsets[row], ids[row]) for row in rows], weights)]
        variance = _LARGEST_VARIANCE
        if metric not in CORPUS_METRICS:
            mean = np.average(scores[rows], weights=weights)
            variance = float(np.average((scores[rows] - mean) ** 2, weights=weights))
        return cls(task, metric, order, [subsets[row] for row in order], variance)

    @property
    def n(self) -> int:
        """Samples."""
        return len(self.subsets)

    @cached_property
    def sizes(self) -> Counter[str]:
        """Samples of every subset."""
        return Counter(self.subsets)

    def effective_n(self, n: int) -> float:
        """Samples of equal weight that say as much as the first `n` (Kish)."""
        return kish(weigh_samples(self.task, self.metric, self.rows[:n]))

    def first(self, n: int) -> dict[str, tuple[str, ...]]:
        """Ids of the first `n`, by subset."""
        found: dict[str, list[str]] = {}
        for row, subset in zip(self.rows[:n], self.subsets, strict=False):
            found.setdefault(subset, []).append(self.task.columns["sample_id"][row])
        return {subset: tuple(ids) for subset, ids in found.items()}


def _order(keys: Sequence[tuple[str, str]], weights: Floats) -> NDArray[np.intp]:
    """Places of samples in an order every beginning of which holds the subsets by their weight, shape (n,).

    One sample of each subset comes first; then subsets take turns as parties do in a proportional election
    (Webster). Within a subset a hash decides.

    Args:
        keys: subset and id of each sample.
        weights: of each in the published average, shape (n,).
    """
    hashes = [hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).digest() for key in keys]
    weight_of: Counter[str] = Counter()
    for (subset, _), weight in zip(keys, weights, strict=True):
        weight_of[subset] += weight
    seats: Counter[str] = Counter()
    ranked = []
    for at in sorted(range(len(keys)), key=hashes.__getitem__):
        subset = keys[at][0]
        ranked.append((seats[subset] > 0, -weight_of[subset] / (seats[subset] + 0.5), hashes[at], at))
        seats[subset] += 1
    return np.array([at for *_, at in sorted(ranked)], np.intp)


def _spread(baseline: Outcomes, task: TaskOutcomes, metric: str, frame: _Frame) -> tuple[float, str]:
    """Standard deviation of a sample's difference in score, and where it is from."""
    measured = baseline.changes.get(task.name, {}).get(metric)
    if measured is not None:
        return measured, f"as much as it changed from {baseline.previous['run_id']}"
    # A model that is as good on every sample but answers on its own has the variance of both.
    return math.sqrt(2 * frame.variance), "as if it had nothing to do with the baseline"


def _has_power(demand: Demand, sd: float, effective_n: float) -> bool:
    aim = aim_of(demand)
    return aim.seen(sd, effective_n, demand.lost(is_mcnemar=True)) >= aim.power


def _sight(demand: Demand, sd: float, frame: _Frame, n: int) -> Sight:
    effective_n, lost = frame.effective_n(n), demand.lost(is_mcnemar=True)
    drop = smallest_difference(sd, effective_n, demand.level, lost, demand.power)
    return Sight(
        n=n,
        power=aim_of(demand).seen(sd, effective_n, lost),
        smallest_drop=100 * (demand.margin + drop),
        score_half_width=100 * _Z95 * math.sqrt(frame.variance / effective_n),
    )


def describe(planned: Plan) -> Iterator[str]:
    """The plan in lines: what is run, and what is given up by not running the rest."""
    yield f"plan of {one_line(planned.policy)} for {one_line(planned.baseline.name)}"
    for task in planned.tasks:
        part, whole = task.part, task.whole
        yield (
            f"{one_line(task.task)}: {part.n:,} of {whole.n:,} samples, {task.smallest_subset:,} or more of "
            f"each of {len(task.samples):,} subsets"
        )
        yield f"  a sample's score is taken to change {one_line(task.spread)} (sd {task.sd:.2f})"
        yield (
            f"  smallest drop seen with power {planned.power:g}: {part.smallest_drop:.2f} points "
            f"(all samples: {whole.smallest_drop:.2f})"
        )
        yield (
            f"  score known to ± {part.score_half_width:.1f} points "
            f"(all samples: ± {whole.score_half_width:.1f})"
        )
        if part.power < planned.power:
            yield f"  even all samples see what the policy wants seen with power {part.power:.2f} only"
    yield from (f"{one_line(name)}: not run, {why}" for name, why in planned.left_out.items())

"""Run directories with made-up outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.metrics.classification import macro_f1
from evalkit.stats.weights import weigh
from evalkit.store import RunStore
from evalkit.types import Outcome

NAME = "cmmlu@official:test:0shot"


@dataclass
class Made:
    """One task: a score per sample, None where it failed."""

    scores: Sequence[float | None]
    name: str = NAME
    subsets: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    predictions: Sequence[str | None] | None = None
    targets: Sequence[str | None] | None = None
    average: str = "micro"
    metric: str = "acc"
    data: str = "d" * 64
    counters: dict[str, int] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    """How its prompts were put, and their hash."""
    drop: Sequence[int] = ()
    """Samples that lose their score after the result was written."""
    corpus: bool = False
    """Whether macro-F1 is a metric as well."""

    def outcomes(self) -> list[Outcome]:
        n = len(self.scores)
        right = [None if score is None else "A" if score == 1 else "B" for score in self.scores]
        predictions, targets = self.predictions or right, self.targets or ["A"] * n
        subsets, ids = self.subsets or ["all"] * n, self.ids or list(map(str, range(n)))
        return [
            Outcome(
                task=self.name,
                subset=subsets[i],
                sample_id=ids[i],
                prompt_sha256="0" * 64,
                prediction=predictions[i],
                target=targets[i],
                correct=score,
                choice_logprobs=None,
                choice_tokens=None,
                metrics={} if score is None else {self.metric: score, "half": score / 2},
                error="out of memory" if score is None and targets[i] is not None else None,
            )
            for i, score in enumerate(self.scores)
        ]

    def kept(self) -> list[Outcome]:
        return [replace(o, correct=None) if i in self.drop else o for i, o in enumerate(self.outcomes())]

    def prepared(self) -> dict[str, Any]:
        """Its entry in the manifest."""
        return {
            "hashes": {"data": self.data, "prompts": self.asked.get("prompts", "a" * 64)},
            "data": {"chat_template": self.asked.get("chat_template", False)},
        }

    def result(self) -> dict[str, Any]:
        rows = [o for o in self.outcomes() if o.correct is not None]
        task, rest = self.name.split("@")
        protocol, split, shots = rest.split(":")
        entry = {
            "task": task,
            "protocol": protocol,
            "split": split,
            "shots": int(shots.removesuffix("shot")),
            "average": self.average,
            "metrics": {},
            "groups": {},
            "subsets": {},
            "averages": {},
            "counters": dict.fromkeys(("unparsed", "truncated", "ties", "non_finite", "close_calls"), 0)
            | {"samples": len(self.scores)}
            | {"errors": sum(o.error is not None for o in self.outcomes())}
            | self.counters,
        } | self.entry
        if rows:
            weights = weigh(entry, [o.subset for o in rows])
            mean = float(weights @ np.array([o.correct for o in rows]) / weights.sum())
            entry["metrics"] = {self.metric: estimate(mean), "half": estimate(mean / 2)}
            if self.corpus:
                value = macro_f1([o.prediction for o in rows], [str(o.target) for o in rows])
                entry["metrics"]["macro_f1"] = estimate(value)
        return entry


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "stderr": 0.0, "ci95": [value, value], "n": 1}


def write_run(
    root: Path, *tasks: Made, model: str = "m", cost: dict[str, float] | None = None, **more: Any
) -> Path:
    """A finished run of made-up outcomes."""
    store = RunStore(root)
    root.mkdir(parents=True, exist_ok=True)
    store.write_samples([outcome for task in tasks for outcome in task.kept()])
    results = {
        "schema_version": 1,
        "run_id": root.name,
        "evalkit_version": "0.1.0",
        "status": "complete",
        "model": {"name": model},
        "tasks": {task.name: task.result() for task in tasks},
        "cost": {"wall_s": 12.5, "load_s": 1.0, "tokens_logical": 2000, "tokens_computed": 1000}
        | {"tokens_generated": 0, "peak_memory_bytes": 0}
        | (cost or {}),
        **more,
    }
    store.write_json("results.json", results)
    request = {key: tasks[0].asked.get(key) for key in ("system", "answer_prefix")}
    prepared = {task.name: task.prepared() for task in tasks}
    store.write_json("manifest.json", {"schema_version": 1, "request": request, "tasks": prepared})
    return root


def flipped(n: int, losses: int, gains: int, right: int | None = None) -> tuple[list[float], list[float]]:
    """Scores of two runs, of which so many samples become worse and better."""
    right = n // 2 if right is None else right
    before = [1.0] * right + [0.0] * (n - right)
    after = [*([0.0] * losses), *before[losses : n - gains], *([1.0] * gains)]
    return before, after

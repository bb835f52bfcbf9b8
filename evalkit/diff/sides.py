"""The two things that are compared: evalkit runs, or what another harness logged, in the same form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError
from evalkit.store import RunStore
from evalkit.types import Outcome

Json = Mapping[str, Any]
Key = tuple[str, str]
"""Subset and id of a sample."""


@dataclass(frozen=True)
class TaskSide:
    """One task on one side."""

    name: str
    """Resolved name."""
    samples: Mapping[Key, Outcome]
    hashes: Json = field(default_factory=dict)
    """Its hash ladder; empty where it is not known."""
    how: Json = field(default_factory=dict)
    """How its prompts were made: chat template, BOS tokens."""

    @property
    def task(self) -> str:
        """Name of the benchmark."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class Side:
    """Everything one side says."""

    name: str
    """As it was named on the command line."""
    model: Json
    request: Json
    """What was asked of the run; empty where it is not known."""
    tasks: Mapping[str, TaskSide]
    rescored: Json | None = None
    """When and by which version the answers were judged again."""


def read_run(root: Path) -> Side:
    """Read a run directory.

    Raises:
        UsageError: it is none, or not finished.
        DataError: a file is damaged.
    """
    store = RunStore(root)
    results = store.read_json("results.json")
    manifest = store.read_json("manifest.json") if (root / "manifest.json").is_file() else {}
    by_task: dict[str, dict[Key, Outcome]] = {name: {} for name in results["tasks"]}
    for outcome in store.read_samples():
        by_task[outcome.task][outcome.subset, outcome.sample_id] = outcome
    about = manifest.get("tasks", {})
    return Side(
        name=str(root),
        model=manifest.get("model", results["model"]),
        request=manifest.get("request", {}),
        tasks={
            name: TaskSide(
                name, samples, about.get(name, {}).get("hashes", {}), about.get(name, {}).get("data", {})
            )
            for name, samples in by_task.items()
        },
        rescored=manifest.get("rescored"),
    )


def read(path: Path) -> Side:
    """Read a run directory, or a folder or file that lm-evaluation-harness logged samples to.

    Raises:
        UsageError: it is neither.
        DataError: a file is damaged.
    """
    from evalkit.diff import lm_eval

    if not path.exists():
        raise UsageError(f"'{path}' does not exist; name a run directory, or what lm-eval logged samples to")
    if lm_eval.is_log(path):
        return lm_eval.read(path)
    if not path.is_dir():
        raise UsageError(f"'{path}' is neither a run directory nor a samples_*.jsonl of lm-eval")
    return read_run(path)

"""The two things that are compared: evalkit runs, or what another harness logged, in the same form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, UsageError
from evalkit.reports.runs import open_run
from evalkit.store import RunStore
from evalkit.types import Outcome

Json = Mapping[str, Any]
Key = tuple[str, str]
"""Subset and id of a sample."""


@dataclass(frozen=True)
class TaskSide:
    """One task on one side, and what that side says of how it came about."""

    name: str
    """Resolved name."""
    samples: Mapping[Key, Outcome]
    model: Json
    entry: Json | None = None
    """Its entry in the result document; None for what another harness logged."""
    hashes: Json = field(default_factory=dict)
    """Its hash ladder; empty where it is not known."""
    how: Json = field(default_factory=dict)
    """How its prompts were made: chat template, BOS tokens."""
    request: Json = field(default_factory=dict)
    """What was asked of the run; empty where it is not known."""
    rescored: bool = False
    """Whether the answers were judged again."""

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return self.name.partition("@")[0]

    @property
    def protocol(self) -> str:
        """Name of the protocol."""
        return self.name.partition("@")[2].partition(":")[0]

    @property
    def is_log(self) -> bool:
        """Whether another harness logged it."""
        return self.entry is None

    @property
    def picked(self) -> str:
        """What limited the run to some of the samples, as options of the command line; empty without."""
        return ", ".join(_picked(self.request))


def _picked(request: Json) -> Iterator[str]:
    if request.get("limit") is not None:
        yield f"--limit {request['limit']}"
    if request.get("subsets"):
        yield f"--subsets {','.join(request['subsets'])}"
    if request.get("selection"):
        yield "samples picked by a plan"


@dataclass(frozen=True)
class Side:
    """Everything one side says."""

    name: str
    """As it was named on the command line."""
    model: Json
    tasks: Mapping[str, TaskSide]


def read(path: Path) -> Side:
    """Read a run directory, or a folder or file that lm-evaluation-harness logged samples to.

    Raises:
        UsageError: it is neither.
        DataError: a file is damaged.
    """
    from evalkit.diff import lm_eval

    if not path.exists():
        raise UsageError(f"'{path}' does not exist; name a run directory, or what lm-eval logged samples to")
    is_run = any((path / name).is_file() for name in ("results.json", "manifest.json"))
    if not is_run and lm_eval.is_log(path):
        return lm_eval.read(path)
    if not path.is_dir():
        raise UsageError(f"'{path}' is neither a run directory nor a samples_*.jsonl of lm-eval")
    return read_run(path)


def read_run(root: Path) -> Side:
    """Read a run directory.

    Raises:
        UsageError: it is none, or not finished.
        DataError: a file is damaged.
    """
    run = open_run(root)
    _ = run.samples  # checks the table, which the store only reads
    outcomes = RunStore(root).read_samples()
    manifest = run.manifest or {}
    model = {**run.results["model"], "details": manifest.get("model", {}).get("details", {})}
    by_task = _by_task(root, run.tasks, outcomes)
    tasks = {}
    for name, entry in run.tasks.items():
        prepared = manifest.get("tasks", {}).get(name, {})
        tasks[name] = TaskSide(
            name,
            by_task[name],
            model,
            entry,
            hashes=prepared.get("hashes", {}),
            how=prepared.get("data") or {},
            request=manifest.get("request", {}),
            rescored=bool(manifest.get("rescored")),
        )
    return Side(str(root), model, tasks)


def _by_task(root: Path, names: Iterable[str], outcomes: Iterable[Outcome]) -> dict[str, dict[Key, Outcome]]:
    found: dict[str, dict[Key, Outcome]] = {name: {} for name in names}
    for outcome in outcomes:
        key = (outcome.subset, outcome.sample_id)
        if outcome.task not in found:
            raise DataError(
                f"{root}: samples.parquet holds samples of {outcome.task}, which results.json does not; "
                "restore the files or run again"
            )
        if key in found[outcome.task]:
            raise DataError(
                f"{root}: {outcome.task} has two samples of one id, {'/'.join(key)}; run it again"
            )
        found[outcome.task][key] = outcome
    return found

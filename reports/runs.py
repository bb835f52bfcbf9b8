"""Finished runs as reports see them: their documents, and their samples when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError
from evalkit.store import RunStore

Json = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run directory."""

    root: Path
    results: Json
    """`results.json`."""
    manifest: Json | None
    """`manifest.json`; None where it was not kept."""

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return str(self.results["run_id"])

    @property
    def is_partial(self) -> bool:
        """Whether some samples have no outcome."""
        return bool(self.results["status"] != "complete")

    @property
    def date(self) -> str | None:
        """UTC day on which it was finished."""
        finished = (self.manifest or {}).get("finished_at")
        return finished[:10] if finished else None

    @property
    def tasks(self) -> Json:
        """Result entries by resolved name."""
        tasks: Json = self.results["tasks"]
        return tasks

    def data_hash(self, task: str) -> str | None:
        """Hash of the samples of a task, by resolved name; None where the manifest was not kept."""
        entry = (self.manifest or {}).get("tasks", {}).get(task, {})
        found: str | None = entry.get("hashes", {}).get("data")
        return found

    def verdict(self, task: str) -> Json | None:
        """What `evalkit leakage` concluded of a task, by resolved name."""
        found: Json | None = self.results.get("leakage", {}).get("tasks", {}).get(task, {}).get("verdict")
        return found

    @cached_property
    def samples(self) -> Any:
        """`samples.parquet` as a pyarrow table, or None where it was not kept."""
        import pyarrow.parquet as pq

        path = self.root / "samples.parquet"
        return pq.read_table(path) if path.is_file() else None


@dataclass(frozen=True, slots=True)
class Entrant:
    """One model of a report, with the runs that scored it on different tasks."""

    name: str
    """Unique among the entrants of a report."""
    runs: tuple[Run, ...]

    def find(self, task: str) -> Run | None:
        """The run that has a task, by resolved name."""
        return next((run for run in self.runs if task in run.tasks), None)

    @property
    def tasks(self) -> Json:
        """Result entries of all runs by resolved name."""
        return {name: entry for run in self.runs for name, entry in run.tasks.items()}


def open_runs(paths: Sequence[Path]) -> list[Run]:
    """Read runs.

    Raises:
        UsageError: a path is no run directory, or its run was interrupted, or it is named twice.
        DataError: a document is damaged.
    """
    times = Counter(path.resolve() for path in paths)
    if twice := [path for path in paths if times[path.resolve()] > 1]:
        raise UsageError(f"'{twice[0]}' is named twice; name every run once")
    return [_open(path) for path in paths]


def _open(path: Path) -> Run:
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise UsageError(f"'{path}' {what}; name the directory of a run, as `evalkit run` printed it")
    store = RunStore(path)
    if not (path / "results.json").is_file() and store.has_journal:
        raise UsageError(
            f"'{path}' was interrupted before its results were written; finish it first: "
            f"repeat its command line with --output {path} --resume"
        )
    results = store.read_json("results.json")
    manifest = store.read_json("manifest.json") if (path / "manifest.json").is_file() else None
    return Run(path, results, manifest)


def entrants(runs: Sequence[Run]) -> list[Entrant]:
    """Put runs of one model on different tasks together, in order of first appearance.

    A model is known by fingerprint, engine and precision. Runs of one model on the same task stay apart.
    Equal names are told apart by precision, engine or run id, whichever first does so.
    """
    groups: list[list[Run]] = []
    for run in runs:
        home = next((g for g in groups if _identity(g[0]) == _identity(run) and not _overlap(g, run)), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    return [Entrant(name, tuple(group)) for name, group in zip(_unique_names(groups), groups, strict=True)]


def _identity(run: Run) -> tuple[Any, ...]:
    return tuple(run.results["model"].get(key) for key in ("name", "fingerprint", "backend", "dtype"))


def _overlap(group: Sequence[Run], run: Run) -> bool:
    return any(one.tasks.keys() & run.tasks.keys() for one in group)


_DIFFERENCES: tuple[Callable[[Run], object], ...] = (
    lambda run: run.results["model"].get("dtype"),
    lambda run: run.results["model"].get("backend"),
    lambda run: run.run_id,
    lambda run: run.root.resolve(),
)
"""What tells models of one name apart, most telling first."""


def _unique_names(groups: Sequence[Sequence[Run]]) -> list[str]:
    firsts = [group[0] for group in groups]
    names = [str(run.results["model"]["name"]) for run in firsts]
    for differs in _DIFFERENCES:
        times = Counter(names)
        kinds = {
            name: {differs(run) for run, n in zip(firsts, names, strict=True) if n == name} for name in times
        }
        names = [
            f"{name} ({differs(run)})" if times[name] > 1 and len(kinds[name]) == times[name] else name
            for run, name in zip(firsts, names, strict=True)
        ]
    return names

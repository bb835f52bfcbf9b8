"""Finished runs as reports see them: their documents, and their samples when asked for."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError
from evalkit.reports import documents, summary
from evalkit.reports.text import one_line
from evalkit.store import RunStore, read_sample_table

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
    def finished_at(self) -> str | None:
        """UTC time at which it was finished, as ISO 8601 writes it."""
        finished: str | None = (self.manifest or {}).get("finished_at")
        return finished

    @property
    def identity(self) -> tuple[str | None, ...]:
        """What makes two runs runs of one model: name, fingerprint, engine and precision."""
        return tuple(self.results["model"].get(key) for key in ("name", "fingerprint", "backend", "dtype"))

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

    @property
    def warnings(self) -> list[str]:
        """What must be known to read any score of the run."""
        return list(summary.run_warnings(self.results, self.manifest))

    def task_warnings(self, task: str) -> list[str]:
        """What must be known, beside that, to read the score of a task, by resolved name."""
        return list(summary.task_warnings(self.results, self.manifest, task))

    def caveats(self, task: str) -> list[str]:
        """All that must be known to read the score of a task, by resolved name."""
        return [*self.warnings, *self.task_warnings(task)]

    @cached_property
    def samples(self) -> Any:
        """`samples.parquet` as a pyarrow table, or None where it was not kept.

        Raises:
            DataError: the file is damaged.
        """
        return self._read_samples(None)

    @cached_property
    def sample_scores(self) -> Any:
        """Of the same only what was scored: task, subset, sample_id, correct and metrics."""
        return self._read_samples(["task", "subset", "sample_id", "correct", "metrics"])

    def _read_samples(self, columns: list[str] | None) -> Any:
        path = self.root / "samples.parquet"
        if not path.is_file():
            return None
        table = read_sample_table(path, columns)
        documents.check_samples(table, path)
        return table


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
    # Unlike `resolve`, it leaves links that lead nowhere to be complained of below.
    times = Counter(map(os.path.realpath, paths))
    if twice := [path for path in paths if times[os.path.realpath(path)] > 1]:
        raise UsageError(f"'{twice[0]}' is named twice; name every run once")
    return [open_run(path) for path in paths]


def open_run(path: Path) -> Run:
    """Read a run.

    Raises:
        UsageError: the path is no run directory, or its run was interrupted.
        DataError: a document is damaged.
    """
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            raise UsageError(f"'{path}' is a file; {_REMEDY}")
        return _read(path)
    except FileNotFoundError as error:
        raise UsageError(f"'{path}' does not exist; {_REMEDY}") from error
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read ({error.strerror}); {_REMEDY}") from error


_REMEDY = "name the directory of a run, as `evalkit run` printed it"


def _read(path: Path) -> Run:
    store = RunStore(path)
    if not (path / "results.json").is_file() and store.has_journal:
        raise UsageError(
            f"'{path}' was interrupted before its results were written; finish it first: "
            f"repeat its command line with --output {path} --resume"
        )
    results = store.read_json("results.json")
    documents.check(results, documents.Results, path / "results.json")
    manifest = None
    if (path / "manifest.json").is_file():
        manifest = store.read_json("manifest.json")
        documents.check(manifest, documents.Manifest, path / "manifest.json")
    return Run(path, results, manifest)


def entrants(runs: Sequence[Run]) -> list[Entrant]:
    """Put runs of one model on different tasks together, in order of first appearance.

    A model is known by fingerprint, engine and precision. Runs of one model on the same task stay apart.
    Equal names are told apart by precision, engine or run id, whichever first does so.
    """
    groups: list[list[Run]] = []
    for run in runs:
        home = next((g for g in groups if g[0].identity == run.identity and not _overlap(g, run)), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    firsts = [group[0] for group in groups]
    names = unique_names(
        [str(run.results["model"]["name"]) for run in firsts],
        [run.results["model"].get("dtype") for run in firsts],
        [run.results["model"].get("backend") for run in firsts],
        [run.run_id for run in firsts],
        [str(run.root.resolve()) for run in firsts],
    )
    return [Entrant(name, tuple(group)) for name, group in zip(names, groups, strict=True)]


def _overlap(group: Sequence[Run], run: Run) -> bool:
    return any(one.tasks.keys() & run.tasks.keys() for one in group)


def unique_names(names: Iterable[str], *features: Sequence[str | None]) -> list[str]:
    """Tell names that read alike apart by the first of the features, one value per name, that does so."""
    found = list(map(one_line, names))
    for feature in features:
        kinds: dict[str, set[str | None]] = {}
        for name, value in zip(found, feature, strict=True):
            kinds.setdefault(name, set()).add(value)
        times = Counter(found)
        found = [
            f"{name} ({value})" if len(kinds[name]) == times[name] > 1 else name
            for name, value in zip(found, feature, strict=True)
        ]
    return found

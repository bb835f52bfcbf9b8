"""Where benchmark data comes from: a folder, the hub through the user's cache, or the shipped sample.

All three hold the official file layouts, so a task's one parser reads them alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evalkit.data import hub
from evalkit.data.content import SplitCheck, check_split
from evalkit.errors import DataError
from evalkit.fewshot import Examples
from evalkit.task import Task
from evalkit.types import Sample

if TYPE_CHECKING:
    from evalkit.spec import ResolvedTask

Kind = Literal["path", "hub", "sample"]


@dataclass(frozen=True)
class DataSource:
    """One answer to `--data`; make it with `open_source`."""

    kind: Kind
    root: Path
    """Folder that holds one folder per benchmark."""
    offline: bool = False
    variant: str | None = None
    """Another set of records in the official format, for tasks that know one of this name."""

    def describe(self) -> dict[str, str | None]:
        """Return what the manifest says about the origin of the data."""
        return {"kind": self.kind, "root": str(self.root), "variant": self.variant}

    def folder(self, task: Task) -> Path:
        """Return the folder of `task`; a user's own task brings its folder along."""
        return task.root or self.root / task.folder

    def available(self, task: Task, split: str) -> list[str]:
        """Return the subsets a run covers: all of them, except that the sample holds only a few.

        Real data that lacks a subset is an error of `load`, never a smaller benchmark.
        """
        if self.kind != "sample":
            return list(task.subsets)
        here = [subset for subset in task.subsets if self.file(task, split, subset).is_file()]
        if not here:
            raise DataError(f"the sample data has no {task.name} ({split}); use --data PATH or --data hub")
        return here

    def load(self, task: Task, split: str, subset: str) -> list[Sample]:
        """Return every sample of one subset, in file order; raises DataError naming file and remedy."""
        path = self.file(task, split, subset)
        if not path.is_file() and self._can_fetch(task):
            hub.fetch(task, self.root, offline=self.offline)
        if not path.is_file() and split in task.splits:  # what else there is, its parser knows where to get
            raise self._missing(task, path)
        return task.parse(path, split, subset)

    def shots(self, resolved: ResolvedTask, subset: str, samples: Sequence[Sample]) -> Examples:
        """Return the few-shot examples of each of `samples`, which must be the whole subset."""
        task, protocol, k = resolved.task, resolved.protocol, resolved.shots
        split = protocol.shots_split or task.shots_split
        try:
            pool = self.load(task, split, subset) if k else []
        except DataError as error:
            raise DataError(f"{error} (for the few-shot examples; --shots 0 needs none)") from error
        if len(pool) < k:
            raise DataError(
                f"{task.name}: {self.file(task, split, subset)} has {len(pool)} examples, "
                f"{k} are asked for; use --shots {len(pool)} or less"
            )
        return protocol.few_shot(pool, samples, k)

    def file(self, task: Task, split: str, subset: str) -> Path:
        """Return where the records of one subset are."""
        path = task.variants.get(self.variant or "", task.path)
        return self.folder(task) / path(split, subset)

    def _can_fetch(self, task: Task) -> bool:
        return self.kind == "hub" and task.hub is not None and task.root is None

    def _missing(self, task: Task, path: Path) -> DataError:
        if task.root is not None:
            return DataError(
                f"{task.name}: its data file {path} does not exist; see `data` in the task's file"
            )
        message = f"{task.name}: no data at {path}"
        if near := _nearby_root(self.root, path.relative_to(self.root)):
            return DataError(
                f"{message}; the data directory is the folder above {task.folder}: --data {near}"
            )
        if self.kind == "sample":
            return DataError(f"{message}: the sample has only a few subsets; use --data PATH or --data hub")
        name_it = f"name the folder that holds {task.folder} with --data PATH or EVALKIT_DATA"
        if task.hub is None:
            return DataError(
                f"{message} (data directory {self.root}); get the official files ({task.homepage}) "
                f"and {name_it}"
            )
        return DataError(
            f"{message} (data directory {self.root}); {name_it}, or run `evalkit data fetch {task.name}` and "
            "use --data hub; --data sample tries the tool without any download"
        )


def recorded_source(described: Mapping[str, Any]) -> DataSource:
    """Open the source a manifest describes, reading only what is on this machine."""
    return DataSource(described["kind"], Path(described["root"]), True, described.get("variant"))


def open_source(value: str | None = None, *, offline: bool = False, variant: str | None = None) -> DataSource:
    """Open the data source `--data` names: a path, `hub`, `sample` or `auto` (also None).

    `auto` is what `EVALKIT_DATA` says, else the same as `hub`: the user's cache, filled from the hub on
    first use unless `offline`. Raises DataError if a path does not exist.
    """
    if value in (None, "", "auto"):
        value = os.environ.get("EVALKIT_DATA") or "hub"
    if value in ("hub", "auto"):
        return DataSource("hub", hub.data_dir(), offline, variant)
    if value == "sample":
        return DataSource("sample", sample_root(), offline, variant)
    root = Path(str(value)).expanduser().resolve()
    if not root.is_dir():
        raise DataError(
            f"data directory {root} does not exist; give --data (or EVALKIT_DATA) a folder that holds one "
            "folder per benchmark, or one of: hub, sample, auto"
        )
    return DataSource("path", root, offline, variant)


def sample_root() -> Path:
    """Return the folder of the small data set that ships with evalkit."""
    return Path(str(resources.files("evalkit.tasks"))) / "sample_data"


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """Which files of a benchmark are there."""

    task: str
    folder: Path
    files: dict[str, int]
    """Split to the number of its files that exist."""
    expected_files: int
    """Files of a complete split."""
    remedy: str
    """How to get the files."""

    @property
    def state(self) -> Literal["complete", "partial", "missing"]:
        """Whether all, some or none of the files are there."""
        if all(found == self.expected_files for found in self.files.values()):
            return "complete"
        return "partial" if any(self.files.values()) else "missing"


def status(tasks: Iterable[Task], source: DataSource) -> list[TaskStatus]:
    """Look which files exist, without reading or fetching any."""
    return [_status(task, source.folder(task)) for task in tasks]


def _status(task: Task, folder: Path) -> TaskStatus:
    files = {
        split: sum((folder / task.path(split, subset)).is_file() for subset in task.subsets)
        for split in task.splits
    }
    remedy = f"fetch it with: evalkit data fetch {task.name}" if task.hub else f"get it from {task.homepage}"
    return TaskStatus(task.name, folder, files, len(task.subsets), remedy)


def verify(task: Task, source: DataSource) -> list[SplitCheck]:
    """Read every split and compare it with the official release; raises DataError if a file is missing."""
    return [
        check_split(
            task, split, {name: source.load(task, split, name) for name in source.available(task, split)}
        )
        for split in task.splits
    ]


def _nearby_root(root: Path, relative: Path) -> Path | None:
    """Find the data directory when the path given points a level or two beside it."""
    below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for candidate in (root.parent, root.parent.parent, *below):
        with suppress(PermissionError):
            if (candidate / relative).is_file():
                return candidate
    return None

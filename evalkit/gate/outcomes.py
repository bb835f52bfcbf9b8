"""What a run or a saved baseline says of every sample: all that a paired comparison needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.errors import DataError, UsageError
from evalkit.reports.runs import open_run

if TYPE_CHECKING:
    from evalkit.stats.intervals import Floats

Json = Mapping[str, Any]

Columns = Mapping[str, list[Any]]
"""Values by column, with None where a sample has none."""

ASKED = ("system", "answer_prefix")
"""Options of a run that are part of every prompt."""

COLUMNS = {
    "task": "string",
    "subset": "string",
    "sample_id": "string",
    "correct": "double",
    "metrics": "string",
    "prediction": "string",
    "target": "string",
    "error": "string",
}
"""What of `samples.parquet` is read."""
_NEVER_NULL = ("task", "subset", "sample_id", "metrics")


@dataclass(frozen=True)
class TaskOutcomes:
    """One task of a run, sample by sample."""

    source: str
    """Run or baseline, as it was named, for messages."""
    name: str
    """Resolved name."""
    entry: Json
    """Its entry in the result document."""
    hashes: Json
    """Its hash ladder."""
    asked: Json
    """How its prompts were put: `system`, `answer_prefix`, `chat_template`."""
    columns: Columns
    """The samples."""

    @cached_property
    def row_of(self) -> dict[tuple[str, str], int]:
        """Subset and id of every sample to its row.

        Raises:
            DataError: two samples share an id.
        """
        keys = zip(self.columns["subset"], self.columns["sample_id"], strict=True)
        found = {key: row for row, key in enumerate(keys)}
        if len(found) < len(self.columns["subset"]):
            raise DataError(f"{self.source}: {self.name} has two samples of one id; run it again")
        return found

    @property
    def headline(self) -> str | None:
        """The task's first metric; None without a score."""
        return next(iter(self.entry["metrics"]), None)

    def metric(self, name: str | None, where: str) -> str:
        """A metric by name, or the headline.

        Args:
            name: of the metric; None for the headline.
            where: it was named, for the message.

        Raises:
            UsageError: the task has none of this name.
        """
        chosen = name or self.headline
        if chosen not in self.entry["metrics"]:
            known = ", ".join(self.entry["metrics"]) or "none: no sample has a score"
            raise UsageError(f"{where}: {self.source} has no {chosen} of {self.name}; known: {known}")
        return str(chosen)

    def scores(self, metric: str) -> Floats:
        """Each sample's score in a metric, a fraction, shape (n,); NaN where it has none.

        Raises:
            DataError: a score is no fraction, such as one that is not a number.
        """
        found = self.columns["correct"] if metric == self.headline else self._metric(metric)
        scores = np.array(found, np.float64)
        scored = np.array([score is not None for score in found], np.bool_)
        # Written so that NaN fails as well.
        bad = scored & ~((scores >= 0) & (scores <= 1))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            sample = f"sample {self.columns['sample_id'][row]!r} of {self.columns['subset'][row]!r}"
            raise DataError(
                f"{self.source}: {self.name}: {sample} has {metric} {scores[row]:g}, which is no fraction; "
                "score the run again (evalkit rescore)"
            )
        return scores

    def check(self) -> None:
        """Make sure that the samples can be told apart and compared.

        Raises:
            DataError: two share an id, or a score is no fraction.
        """
        _ = self.row_of
        if self.headline:
            self.scores(self.headline)

    def _metric(self, name: str) -> list[float | None]:
        texts = self.columns["metrics"]
        # Few different ones, each read once.
        try:
            read = {text: json.loads(text).get(name) for text in set(texts)}
            np.array(list(read.values()), np.float64)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise DataError(
                f"{self.source}: {self.name}: a sample's metrics are damaged ({error})"
            ) from error
        return [read[text] for text in texts]


@dataclass(frozen=True)
class Outcomes:
    """All tasks of a run or baseline."""

    name: str
    """Path as it was named."""
    model: Json
    run_id: str
    cost: Json
    leakage: Json
    """Contamination verdicts by task."""
    tasks: Mapping[str, TaskOutcomes]
    previous: Json = field(default_factory=dict)
    """`run_id` and `model` of an earlier run that a baseline was saved with."""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """How far scores lie from that run's, by task and metric: `sd` of a sample's difference, `n` samples in
    both, of which `changed` have another score."""


def read_run(root: Path) -> Outcomes:
    """Read a run directory.

    Raises:
        UsageError: it is none, or not finished.
        DataError: a file is damaged.
    """
    run = open_run(root)
    path = root / "samples.parquet"
    for file in (path, root / "manifest.json"):
        if not file.is_file():
            raise UsageError(f"'{root}' has no {file.name}, without which samples cannot be compared")
    manifest = run.manifest or {}
    prepared = manifest.get("tasks", {})
    lacking = [name for name in run.tasks if not prepared.get(name, {}).get("hashes", {}).get("data")]
    if lacking:
        raise DataError(
            f"{root}/manifest.json: has no data hash of {lacking[0]}; restore the file or run again"
        )
    asked = {
        name: {key: manifest.get("request", {}).get(key) for key in ASKED}
        | {"chat_template": (prepared[name].get("data") or {}).get("chat_template")}
        for name in run.tasks
    }
    ladders = {name: prepared[name]["hashes"] for name in run.tasks}
    return outcomes(str(root), run.results, ladders, asked, read_columns(path))


def outcomes(name: str, results: Json, ladders: Json, asked: Json, columns: Columns) -> Outcomes:
    """Put documents and samples together.

    Args:
        name: of the run or baseline, for messages.
        results: the result document.
        ladders: hashes by task.
        asked: how each task's prompts were put.
        columns: of the samples.

    Raises:
        DataError: the documents and the samples contradict each other.
    """
    rows: dict[str, list[int]] = {}
    for row, task in enumerate(columns["task"]):
        rows.setdefault(task, []).append(row)
    tasks = {
        task: TaskOutcomes(
            name, task, entry, ladders[task], asked[task], _rows_of(columns, rows.get(task, []))
        )
        for task, entry in results["tasks"].items()
    }
    for one in tasks.values():
        _check_counted(one)
    return Outcomes(
        name=name,
        model=results["model"],
        run_id=results["run_id"],
        cost=results["cost"],
        leakage=results.get("leakage", {}).get("tasks", {}),
        tasks=tasks,
    )


def _check_counted(task: TaskOutcomes) -> None:
    """Limits are held against the counters, so these must be what the samples say."""
    errors = task.columns["error"]
    unscored = sum(
        correct is None and target is not None and error is None
        for correct, target, error in zip(
            task.columns["correct"], task.columns["target"], errors, strict=True
        )
    )
    counters = task.entry["counters"]
    counted = {"samples": len(errors), "errors": sum(error is not None for error in errors)}
    for key, found in counted.items():
        if counters[key] != found:
            raise DataError(
                f"{task.source}: {task.name}: results.json counts {counters[key]:,} {key}, samples.parquet "
                f"holds {found:,}; restore the files or score the run again (evalkit rescore)"
            )
    if unscored:
        raise DataError(
            f"{task.source}: {task.name}: {unscored:,} samples have neither score nor error; score the run "
            "again (evalkit rescore)"
        )


def _rows_of(columns: Columns, rows: Sequence[int]) -> Columns:
    return {name: [column[row] for row in rows] for name, column in columns.items()}


def read_columns(path: Path) -> Columns:
    """Read samples.

    Raises:
        DataError: the file is damaged or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # `pq.read_table` takes half a second longer: it imports pandas.
        with pq.ParquetFile(path) as file:
            table = file.read(list(COLUMNS)).select(list(COLUMNS))
        for name, kind in COLUMNS.items():
            if str(table[name].type) != kind:
                raise ValueError(f"the column {name} is of type {table[name].type}, not {kind}")
            if name in _NEVER_NULL and table[name].null_count:
                raise ValueError(f"the column {name} holds null")
        table.validate(full=True)  # text that is no UTF-8 shows here, not where it is used
        columns: Columns = table.to_pydict()
        return columns
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a readable table of samples ({error})") from error

"""What a run or a saved baseline says of every sample: all that a paired comparison needs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.errors import DataError, UsageError
from evalkit.store import RunStore

if TYPE_CHECKING:
    from evalkit.stats.intervals import Floats

Json = Mapping[str, Any]

Columns = Mapping[str, list[Any]]
"""Values by column, with None where a sample has none."""

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

    def _metric(self, name: str) -> list[float | None]:
        texts = self.columns["metrics"]
        # Few different ones, each read once.
        try:
            read = {text: json.loads(text).get(name) for text in set(texts)}
        except (ValueError, TypeError, AttributeError) as error:
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
    changes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Standard deviation of a sample's difference in score to that run, by task and metric."""


def read_run(root: Path) -> Outcomes:
    """Read a run directory.

    Raises:
        UsageError: it is none, or not finished.
        DataError: a file is damaged.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UsageError(f"'{root}' {what}; name the directory of a run, as `evalkit run` printed it")
    store = RunStore(root)
    results, manifest = store.read_json("results.json"), store.read_json("manifest.json")
    path = root / "samples.parquet"
    if not path.is_file():
        raise UsageError(f"'{root}' has no samples.parquet, without which samples cannot be compared")
    try:
        ladders = {name: task["hashes"] for name, task in manifest["tasks"].items()}
        return outcomes(str(root), results, ladders, read_columns(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{root}: its documents are damaged ({error!r}); run again") from error


def outcomes(name: str, results: Json, ladders: Json, columns: Columns) -> Outcomes:
    """Put documents and samples together.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: something is missing from the documents.
    """
    for task, entry in results["tasks"].items():
        _check_entry(entry, ladders[task])
    rows: dict[str, list[int]] = {}
    for row, task in enumerate(columns["task"]):
        rows.setdefault(task, []).append(row)
    tasks = {
        task: TaskOutcomes(name, task, entry, ladders[task], _rows_of(columns, rows.get(task, [])))
        for task, entry in results["tasks"].items()
    }
    return Outcomes(
        name=name,
        model=results["model"],
        run_id=results["run_id"],
        cost=results["cost"],
        leakage=results.get("leakage", {}).get("tasks", {}),
        tasks=tasks,
    )


def _check_entry(entry: Json, hashes: Json) -> None:
    """Look up all that is read later, so that damage is noticed here."""
    texts = (entry["task"], entry["average"], hashes["data"])
    numbers = [estimate["value"] for estimate in entry["metrics"].values()]
    numbers += [entry["counters"][name] for name in ("samples", "errors", "unparsed", "truncated")]
    if not all(isinstance(text, str) for text in texts) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{texts} or {numbers} are not what they should be")


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
        columns: Columns = table.to_pydict()
        return columns
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a readable table of samples ({error})") from error

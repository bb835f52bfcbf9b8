"""What a run or a saved baseline says of every sample: all that a paired comparison needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import DataError, UsageError
from evalkit.store import RunStore

if TYPE_CHECKING:
    import pyarrow as pa

Json = Mapping[str, Any]

COLUMNS = ("task", "subset", "sample_id", "correct", "metrics", "prediction", "target", "error")
"""What of `samples.parquet` is read."""


@dataclass(frozen=True)
class TaskOutcomes:
    """One task of a run, sample by sample."""

    name: str
    """Resolved name."""
    entry: Json
    """Its entry in the result document."""
    hashes: Json
    """Its hash ladder; empty where the manifest was not kept."""
    rows: pa.Table
    """The samples, with the columns of `COLUMNS`."""

    @cached_property
    def keys(self) -> list[tuple[str, str]]:
        """Subset and id of every sample."""
        return list(zip(self.rows["subset"].to_pylist(), self.rows["sample_id"].to_pylist(), strict=True))

    @property
    def headline(self) -> str | None:
        """The task's first metric; None without a score."""
        return next(iter(self.entry["metrics"]), None)

    def scores(self, metric: str) -> NDArray[np.float64]:
        """Each sample's score in a metric, shape (n,); NaN where it has none."""
        if metric == self.headline:
            return np.array(self.rows["correct"].to_pylist(), np.float64)
        texts = self.rows["metrics"].dictionary_encode().combine_chunks()
        # Few different ones, each read once.
        read = [json.loads(text).get(metric) for text in texts.dictionary.to_pylist()]
        return np.array(read, np.float64)[texts.indices.to_numpy()]

    def texts(self, column: str) -> list[str | None]:
        """Predictions or targets."""
        found: list[str | None] = self.rows[column].to_pylist()
        return found


@dataclass(frozen=True)
class Outcomes:
    """All tasks of a run or baseline."""

    name: str
    """Path as it was named, for messages."""
    model: Json
    run_id: str
    cost: Json
    leakage: Json
    """Contamination verdicts by task."""
    tasks: Mapping[str, TaskOutcomes]


def read_run(root: Path) -> Outcomes:
    """Read a run directory.

    Raises:
        UsageError: it is none, or not finished.
        DataError: a file is damaged or missing.
    """
    if not root.is_dir():
        raise UsageError(f"'{root}' is no run directory; name what `evalkit run` printed")
    store = RunStore(root)
    results = store.read_json("results.json")
    manifest = store.read_json("manifest.json") if (root / "manifest.json").is_file() else {}
    path = root / "samples.parquet"
    if not path.is_file():
        raise UsageError(
            f"'{root}' has no samples.parquet, without which samples cannot be compared; run again"
        )
    ladders = {name: task["hashes"] for name, task in manifest.get("tasks", {}).items()}
    return outcomes(str(root), results, ladders, read_table(path))


def outcomes(name: str, results: Json, ladders: Json, rows: pa.Table) -> Outcomes:
    """Put documents and samples together."""
    import pyarrow.compute as pc

    tasks = {
        task: TaskOutcomes(task, entry, ladders.get(task, {}), rows.filter(pc.equal(rows["task"], task)))
        for task, entry in results["tasks"].items()
    }
    return Outcomes(
        name=name,
        model=results["model"],
        run_id=results["run_id"],
        cost=results.get("cost", {}),
        leakage=results.get("leakage", {}).get("tasks", {}),
        tasks=tasks,
    )


def read_table(path: Path) -> pa.Table:
    """Read samples.

    Raises:
        DataError: the file is damaged or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=list(COLUMNS))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a readable table of samples ({error})") from error

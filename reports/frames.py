"""Runs as pandas tables, for notebooks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evalkit.errors import UsageError
from evalkit.reports.runs import Run, open_runs

if TYPE_CHECKING:
    import pandas as pd

Level = Literal["scores", "samples"]

_WHOLE = "whole"
_SCORES = (
    "model",
    "run_id",
    "task",
    "protocol",
    "split",
    "shots",
    "part",
    "name",
    "metric",
    "average",
    "value",
    "stderr",
    "low",
    "high",
    "n",
    "status",
    "backend",
    "dtype",
    "contamination",
)


def load_runs(*paths: str | PathLike[str], level: Level = "scores") -> pd.DataFrame:
    """Read finished runs into one tidy table.

    `scores` has a row per run, task, part and metric: `model`, `run_id`, `task` (resolved name), `protocol`,
    `split`, `shots`, `part` (`whole`, `category` or `subset`), `name` (of the category or subset), `metric`,
    `average` (how the whole is averaged over subsets), `value`, `stderr`, `low` and `high` (ends of the 95 %
    interval), all fractions, `n` (samples), `status` (`complete` or `partial`), `backend`, `dtype` and
    `contamination` (verdict on the benchmark, where it was examined).

    `samples` has a row per sample: `model`, `run_id` and the columns of `samples.parquet`, with a column
    `metric_<name>` of its own for every metric.

    Args:
        *paths: run directories.
        level: what a row is.

    Raises:
        UsageError: no path, or one that is no run directory, or a run that keeps no samples.
        DataError: a file of a run is damaged.
        ImportError: pandas is not installed.
        ValueError: there is no such level.
    """
    if level not in ("scores", "samples"):
        raise ValueError(f"level '{level}': scores or samples")
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("load_runs needs pandas: pip install 'evalkit[report]'") from error
    if not paths:
        raise UsageError("load_runs: name at least one run directory")
    runs = open_runs([Path(path) for path in paths])
    if level == "scores":
        rows = [row for run in runs for row in _scores(run)]
        return pd.DataFrame(rows, columns=list(_SCORES)).astype({"shots": "int64", "n": "int64"})
    return pd.concat([_samples(run) for run in runs], ignore_index=True)


def _scores(run: Run) -> Iterator[dict[str, Any]]:
    model = run.results["model"]
    for task, entry in run.tasks.items():
        verdict = run.verdict(task)
        same = {
            "model": model["name"],
            "run_id": run.run_id,
            "task": task,
            **{key: entry[key] for key in ("protocol", "split", "shots", "average")},
            "status": run.results["status"],
            "backend": model.get("backend"),
            "dtype": model.get("dtype"),
            "contamination": verdict["short"] if verdict else None,
        }
        parts = [
            (_WHOLE, {"": entry["metrics"]}),
            ("category", entry["groups"]),
            ("subset", entry["subsets"]),
        ]
        for part, found in parts:
            for name, metrics in found.items():
                for metric, estimate in metrics.items():
                    yield {**same, "part": part, "name": name, "metric": metric, **_estimate(estimate)}


def _estimate(estimate: Mapping[str, Any]) -> dict[str, Any]:
    low, high = estimate.get("ci95") or (None, None)
    return {**{key: estimate[key] for key in ("value", "stderr", "n")}, "low": low, "high": high}


def _samples(run: Run) -> pd.DataFrame:
    import pandas as pd

    if run.samples is None:
        raise UsageError(f"'{run.root}' keeps no samples (samples.parquet is missing)")
    frame = run.samples.to_pandas()
    metrics = pd.DataFrame([json.loads(text) for text in frame.pop("metrics")], dtype="float64")
    metrics.columns = [f"metric_{name}" for name in metrics.columns]
    frame.insert(0, "model", run.results["model"]["name"])
    frame.insert(1, "run_id", run.run_id)
    return frame.join(metrics)

"""A run's outcomes in one small file, to be committed and compared with later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, UsageError
from evalkit.gate.comparison import compare, scored_in_both
from evalkit.gate.outcomes import COLUMNS, Columns, Outcomes, outcomes, read_columns, read_run
from evalkit.gate.pairing import Pair, overlap
from evalkit.gate.policy import PolicyFile
from evalkit.store import SCHEMA_VERSION, digest

SUFFIX = ".baseline.parquet"
_ABOUT, _SHA256 = b"evalkit_baseline", b"evalkit_baseline_sha256"


def save(run: Path, path: Path, previous: Path | None = None) -> int:
    """Write what a gate needs of a run, and return the file's size in bytes.

    Args:
        run: directory of the run.
        path: of the file.
        previous: an earlier run or baseline with some of the same samples; how far its scores lie from this
            run's is what plans of runs go by.

    Raises:
        UsageError: not a finished run with samples, or the file cannot be written.
        DataError: the run is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = read_run(run)
    tasks = found.tasks.values()
    for task in tasks:
        task.check()
    columns = {name: [value for task in tasks for value in task.columns[name]] for name in COLUMNS}
    if previous is not None:
        found = _with_changes(found, read_any(previous))
    about = json.dumps(_about(found), allow_nan=False).encode()
    metadata = {_ABOUT: about, _SHA256: _digest(about, columns)}
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()], metadata)
        pq.write_table(pa.table(columns, schema), partial, compression="zstd", compression_level=19)
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    return path.stat().st_size


def _with_changes(found: Outcomes, previous: Outcomes) -> Outcomes:
    if previous.run_id == found.run_id:
        raise UsageError(f"--previous {previous.name} is the run itself; name an earlier one")
    pairs = [
        overlap(task, previous.tasks[name]) for name, task in found.tasks.items() if name in previous.tasks
    ]
    changes = {pair.baseline.name: dict(_changes(pair)) for pair in pairs}
    if not any(changes.values()):
        raise UsageError(
            f"--previous {previous.name} has no two scored samples of {', '.join(found.tasks)}; name a run "
            "of the same tasks"
        )
    return replace(found, previous={"run_id": previous.run_id, "model": previous.model}, changes=changes)


def _changes(pair: Pair) -> Iterator[tuple[str, dict[str, float]]]:
    """How far scores lie apart, by the metrics that both runs have."""
    for metric in pair.baseline.entry["metrics"]:
        rows = scored_in_both(pair, metric)
        if metric in pair.candidate.entry["metrics"] and rows.size > 1:
            with suppress(UsageError):  # what cannot be compared is no gate's metric either
                found = compare(pair, metric, rows, lower_is_better=False)
                changed = int((found.changes != 0).sum())
                yield metric, {"sd": found.sd, "n": rows.size, "changed": changed}


def _about(found: Outcomes) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "results": {
            "run_id": found.run_id,
            "model": found.model,
            "cost": found.cost,
            "tasks": {name: task.entry for name, task in found.tasks.items()},
        },
        "hashes": {name: task.hashes for name, task in found.tasks.items()},
        "asked": {name: task.asked for name, task in found.tasks.items()},
        "previous": found.previous,
        "changes": found.changes,
    }


def _digest(about: bytes, columns: Columns) -> bytes:
    """Checksum of all that a baseline says: a damaged one must never pass anything."""
    texts = (json.dumps(columns[name]).encode() for name in COLUMNS)
    return digest([about, *texts]).encode()


def read(path: Path) -> Outcomes:
    """Read a baseline file.

    Raises:
        UsageError: there is none.
        DataError: it is damaged, or of another version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UsageError(f"'{path}': no such baseline; make one with evalkit baseline save RUN {path}")
    try:
        metadata = pq.read_schema(path).metadata or {}
        columns = read_columns(path)
        if _digest(metadata[_ABOUT], columns) != metadata[_SHA256]:
            raise ValueError("it does not hold what was written")
        about = json.loads(metadata[_ABOUT])
        if about["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"of version {about['schema_version']}, this evalkit reads {SCHEMA_VERSION}")
        found = outcomes(str(path), about["results"], about["hashes"], about["asked"], columns)
        return replace(found, previous=about["previous"], changes=about["changes"])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a readable baseline ({error}); save it again from its run") from error


def read_any(path: Path) -> Outcomes:
    """Read a run directory or a baseline file."""
    return read_run(path) if path.is_dir() else read(path)


def chosen(given: Path | None, policy: PolicyFile) -> Outcomes:
    """Read the baseline that was named on the command line, else the policy's.

    Raises:
        UsageError: neither names one that is there.
        DataError: it is damaged.
    """
    path = given or policy.baseline
    if path is None:
        raise UsageError(
            "no baseline: name a run directory or a file of evalkit baseline save with --baseline, or in the "
            "policy (baseline: FILE)"
        )
    return read_any(path)

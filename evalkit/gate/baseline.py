"""A run's outcomes in one small file, to be committed and compared with later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, UsageError
from evalkit.gate.outcomes import Outcomes, outcomes, read_run, read_table
from evalkit.store import SCHEMA_VERSION

SUFFIX = ".baseline.parquet"
_KEY = b"evalkit_baseline"


def save(run: Path, path: Path) -> int:
    """Write what a gate needs of a run, and return the file's size in bytes.

    Raises:
        UsageError: not a finished run with samples, or the file cannot be written.
        DataError: the run is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = read_run(run)
    rows = pa.concat_tables([task.rows for task in found.tasks.values()])
    about = {
        "schema_version": SCHEMA_VERSION,
        "results": {
            "run_id": found.run_id,
            "model": dict(found.model),
            "cost": dict(found.cost),
            "tasks": {name: task.entry for name, task in found.tasks.items()},
        },
        "hashes": {name: task.hashes for name, task in found.tasks.items()},
    }
    text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table = rows.replace_schema_metadata({_KEY: text.encode()})
        pq.write_table(table, partial, compression="zstd", compression_level=19)
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    return path.stat().st_size


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
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable baseline ({error}); save it again from its run") from error
    about: Mapping[str, Any] = json.loads(metadata.get(_KEY, b"{}"))
    if about.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{path}: not a baseline of this version of evalkit; save it again from its run")
    rows = read_table(path)
    return outcomes(str(path), about["results"], about["hashes"], rows)


def read_any(path: Path) -> Outcomes:
    """Read a run directory or a baseline file."""
    return read_run(path) if path.is_dir() else read(path)

"""`permutations.parquet` and its like: what was measured, from which every statistic is computed again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import DataError, UsageError
from evalkit.leakage.scores import MOST_PERMUTED, ItemScores, PermutationScores, all_orders

_COLUMNS = ("task", "subset", "sample_id", "logprobs", "rank_of_published", "flags", "n_options", "orders")


def write_scores(path: Path, tables: Sequence[PermutationScores]) -> None:
    """Write one row per item; `orders` is null where these are all n! as `itertools.permutations` has them.

    `rank_of_published` counts from 1: the orders with a higher log-probability, plus one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(table.task, item) for table in tables for item in table.items]
    schema = pa.schema(
        [
            ("task", pa.string()),
            ("subset", pa.string()),
            ("sample_id", pa.string()),
            ("logprobs", pa.list_(pa.float64())),
            ("rank_of_published", pa.int32()),
            ("flags", pa.list_(pa.string())),
            ("n_options", pa.int32()),
            ("orders", pa.list_(pa.list_(pa.int8()))),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial, compression="zstd")
    partial.replace(path)


def _row(task: str, item: ItemScores) -> dict[str, Any]:
    n = item.n_options
    return {
        "task": task,
        "subset": item.subset,
        "sample_id": item.sample_id,
        "logprobs": item.logprobs.tolist(),
        "rank_of_published": 1 + int(np.count_nonzero(item.logprobs > item.logprobs[0])),
        "flags": list(item.flags),
        "n_options": n,
        "orders": None if n <= MOST_PERMUTED else item.orders.tolist(),
    }


def read_scores(path: Path) -> dict[str, PermutationScores]:
    """Read the tables back, by task.

    Raises:
        UsageError: there is no such file.
        DataError: it is damaged or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UsageError(f"{path} does not exist; name a folder that `evalkit leakage run` wrote")
    try:
        table = pq.read_table(path)
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}); run again") from error
    if missing := [name for name in _COLUMNS if name not in table.column_names]:
        raise DataError(f"{path}: lacks the columns {', '.join(missing)}; run again")
    by_task: dict[str, list[ItemScores]] = defaultdict(list)
    complete = {n: all_orders(n) for n in {row["n_options"] for row in rows if row["orders"] is None}}
    for row in rows:
        orders = complete[row["n_options"]] if row["orders"] is None else np.array(row["orders"], np.int8)
        logprobs = np.array(row["logprobs"], np.float64)
        if logprobs.shape != (len(orders),) or not np.isfinite(logprobs).all():
            raise DataError(f"{path}: {row['task']} {row['subset']} {row['sample_id']} is damaged; run again")
        by_task[row["task"]].append(
            ItemScores(row["subset"], row["sample_id"], orders, logprobs, tuple(row["flags"]))
        )
    return {task: PermutationScores(task, tuple(items)) for task, items in by_task.items()}

"""What `evalkit leakage` found of single items, read from its documents and files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evalkit.reports.runs import Json, Run


@dataclass(frozen=True, slots=True)
class Ranks:
    """Ranks of the published order among all orders of an item's options, of items in equally many."""

    orders: int
    """Orders that were scored of each item."""
    counts: list[int]
    """Items by rank, shape (orders,); rank 1, the highest log-probability, comes first."""

    @property
    def items(self) -> int:
        """Number of items."""
        return sum(self.counts)


def examined(run: Run) -> Json:
    """What was examined, by resolved task name; empty where nothing was."""
    tasks: Json = run.results.get("leakage", {}).get("tasks", {})
    return tasks


def leads(run: Run, task: str) -> dict[tuple[str, str], Json]:
    """Items there is evidence against, by subset and id: rank, gap, p and false-discovery rate of each."""
    found = examined(run).get(task, {}).get("leads", ())
    return {(lead["subset"], lead["sample_id"]): lead for lead in found}


def ranks(run: Run, task: str) -> Ranks | None:
    """Ranks from the `permutations.parquet` of the examination, if it still lies beside the run or in it.

    Of items in different numbers of orders, those in the commonest number are taken.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    examination = str(run.results.get("leakage", {}).get("run_id", ""))
    folders = (run.root, run.root.resolve().parent / examination)
    path = next((p for folder in folders if (p := folder / "permutations.parquet").is_file()), None)
    if path is None or not examination:
        return None
    table = pq.read_table(path, columns=["task", "rank_of_published", "logprobs"])
    same_records = [name for name in pc.unique(table["task"]).to_pylist() if _same_records(name, task)]
    table = table.filter(pc.is_in(table["task"], value_set=_strings(same_records)))
    if not len(table):
        return None
    n_orders = pc.list_value_length(table["logprobs"])
    commonest = pc.mode(n_orders)[0]["mode"].as_py()
    found = table.filter(pc.equal(n_orders, commonest))["rank_of_published"].to_pylist()
    counts = [0] * commonest
    for rank in found:
        counts[rank - 1] += 1
    return Ranks(commonest, counts)


def _same_records(one: str, other: str) -> bool:
    """Whether two resolved tasks read the same benchmark and split, by whatever protocol."""
    return _records(one) == _records(other)


def _records(task: str) -> tuple[str, list[str]]:
    return task.partition("@")[0], task.split(":")[1:2]


def _strings(values: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from evalkit.errors import DataError, UsageError
from evalkit.leakage.files import read_scores, write_scores
from evalkit.leakage.scores import ItemScores, PermutationScores, all_orders, sampled_orders


def table(task: str = "t") -> PermutationScores:
    generator = np.random.default_rng(0)
    items = [
        ItemScores("s", str(n), all_orders(n), generator.normal(size=len(all_orders(n))), ("tie",) * (n % 2))
        for n in (2, 4, 5)
    ]
    orders = sampled_orders(8, 20, generator)
    return PermutationScores(task, (*items, ItemScores("s", "many", orders, generator.normal(size=20))))


def test_what_was_measured_comes_back_bit_by_bit(tmp_path: Path) -> None:
    write_scores(tmp_path / "p.parquet", [table("a"), table("b")])
    found = read_scores(tmp_path / "p.parquet")
    assert list(found) == ["a", "b"]
    for item, other in zip(found["b"].items, table("b").items, strict=True):
        assert (item.subset, item.sample_id, item.flags) == (other.subset, other.sample_id, other.flags)
        assert item.logprobs.tobytes() == other.logprobs.tobytes()
        assert np.array_equal(item.orders, other.orders)


def test_the_columns_others_rely_on(tmp_path: Path) -> None:
    write_scores(tmp_path / "p.parquet", [table()])
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    contract = {"task", "subset", "sample_id", "logprobs", "rank_of_published", "flags"}
    assert contract <= rows[0].keys()
    for row, item in zip(rows, table().items, strict=True):
        higher = sum(lp > item.logprobs[0] for lp in item.logprobs)
        assert row["rank_of_published"] == 1 + higher
        assert row["logprobs"] == item.logprobs.tolist()


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leakage run"):
        read_scores(tmp_path / "p.parquet")


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(DataError, match=r"p\.parquet"):
        read_scores(path)


def test_a_row_that_cannot_be(tmp_path: Path) -> None:
    write_scores(tmp_path / "p.parquet", [table()])
    whole = pq.read_table(tmp_path / "p.parquet")
    rows = whole.to_pylist()
    rows[1]["logprobs"] = rows[1]["logprobs"][:-1]
    pq.write_table(type(whole).from_pylist(rows, schema=whole.schema), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="s 4 is damaged"):
        read_scores(tmp_path / "p.parquet")

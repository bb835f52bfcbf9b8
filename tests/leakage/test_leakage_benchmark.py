import json
from pathlib import Path

import pytest
from helpers import CMMLU_COLUMNS, write_csv

from evalkit.data.source import open_source
from evalkit.errors import DataError, UsageError
from evalkit.leakage.benchmark import Benchmark, load


def read(specs: str, data: Path | str = "sample", **asked: object) -> list[Benchmark]:
    options = {"split": None, "subsets": (), "limit": None} | asked
    return load(specs, open_source(str(data), offline=True), **options)  # type: ignore[arg-type]


def items_file(path: Path, records: list[object]) -> Path:
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


class TestTasks:
    def test_options_stand_in_published_order(self) -> None:
        (benchmark,) = read("cmmlu")
        item = benchmark.items[0]
        sample = benchmark.samples[0]
        assert item.options == tuple(sample.fields[x] for x in "ABCD")
        assert (item.subset, item.sample_id) == (sample.subset, sample.id)
        assert benchmark.name == "cmmlu@official:test:5shot"

    def test_answers_and_examples_are_not_needed(self) -> None:
        (benchmark,) = read("ceval:test:5shot")
        assert benchmark.items

    def test_limit_is_per_subset(self) -> None:
        (benchmark,) = read("cmmlu", limit=2)
        subsets = [item.subset for item in benchmark.items]
        assert max(map(subsets.count, subsets)) == 2

    def test_items_that_cannot_be_examined_are_counted_not_dropped_in_silence(self, tmp_path: Path) -> None:
        rows = [
            ("0", "why", "a", "b", "c", "d", "A"),
            ("1", "why", "same", "same", "same", "same", "A"),
            ("2", "why", "a", " ", "c", "d", "A"),
            ("3", "why", "a", "a", "c", "d", "A"),
        ]
        write_csv(tmp_path / "CMMLU/data/test/agronomy.csv", CMMLU_COLUMNS, rows)
        (benchmark,) = read("cmmlu", tmp_path, subsets=("agronomy",))
        assert [item.sample_id for item in benchmark.items] == ["0", "3"]
        assert benchmark.excluded == {"fewer than two distinct options": 1, "empty text": 1}

    @pytest.mark.data
    def test_a_text_benchmark_has_samples_and_no_items(self, official_data: Path) -> None:
        (benchmark,) = read("gsm8k", official_data)
        assert not benchmark.is_multiple_choice
        assert benchmark.samples
        assert not benchmark.items

    def test_limit_zero_is_refused(self) -> None:
        with pytest.raises(UsageError, match="--limit 0"):
            read("cmmlu", limit=0)


class TestFilesOfItems:
    def test_any_number_of_options(self, tmp_path: Path) -> None:
        five = {"question": "q", "option": dict(zip("ABCDE", "vwxyz", strict=True))}
        path = items_file(tmp_path / "exam.json", [five, {"question": "r", "option": {"A": "1", "B": "2"}}])
        (benchmark,) = read(str(path))
        assert benchmark.name == "exam"
        assert [len(item.options) for item in benchmark.items] == [5, 2]
        assert benchmark.is_multiple_choice

    def test_beside_tasks(self, tmp_path: Path) -> None:
        path = items_file(tmp_path / "exam.json", [{"question": "r", "option": {"A": "1", "B": "2"}}])
        assert [b.name for b in read(f"cmmlu,{path}")] == ["cmmlu@official:test:5shot", "exam"]

    @pytest.mark.parametrize(
        "content",
        [{"question": "q"}, [], [{"question": "q"}], [{"question": "q", "option": {"A": 1}}], [3]],
    )
    def test_another_shape_names_file_and_record(self, tmp_path: Path, content: object) -> None:
        path = tmp_path / "exam.json"
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"exam\.json"):
            read(str(path))

    def test_two_records_of_one_id(self, tmp_path: Path) -> None:
        record = {"id": "x", "question": "r", "option": {"A": "1", "B": "2"}}
        with pytest.raises(DataError, match="several records with one id"):
            read(str(items_file(tmp_path / "exam.json", [record, record])))

    def test_two_files_of_one_name(self, tmp_path: Path) -> None:
        paths = [tmp_path / name / "exam.json" for name in ("a", "b")]
        for path in paths:
            path.parent.mkdir()
            items_file(path, [{"question": "r", "option": {"A": "1", "B": "2"}}])
        with pytest.raises(UsageError, match="one name"):
            read(",".join(map(str, paths)))

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no such file"):
            read(str(tmp_path / "exam.json"))

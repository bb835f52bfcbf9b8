import os

import pytest

from evalkit.errors import UsageError
from evalkit.reports.files import slug, write


def test_a_pipe_is_written_to_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert write(tmp_path / "pipe", b"text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert [path.name for path in tmp_path.iterdir() if path.is_fifo()] == ["pipe"]


def test_files_of_a_run_that_kept_only_its_results_are_its_own(tmp_path):
    (tmp_path / "results.json").write_text('{"run_id": "a"}')
    for name in ("results.json", "manifest.json"):
        with pytest.raises(UsageError, match="a run keeps its own results there"):
            write(tmp_path / name, b"text")
    assert write(tmp_path / "report.md", b"text")


def test_slugs_differ_where_names_do():
    names = ["a/b", "a b", "A B", "模型一", "模型二", "", "x" * 200, "x" * 201]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("a b", ("1",)) != slug("a b", ("2",))

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.data.csvfile import read_csv, read_table, unique_ids
from evalkit.errors import DataError

COLUMNS = ("question", "A", "answer")


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "exam.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_cell_stays_the_text_it_is(tmp_path: Path) -> None:
    rows = read_csv(write(tmp_path, "None,NA,007\nnull,0.50, x \n"), COLUMNS, header=False)
    assert [list(row.cells.values()) for row in rows] == [["None", "NA", "007"], ["null", "0.50", " x "]]


def test_quoted_cells_keep_newlines_quotes_and_commas(tmp_path: Path) -> None:
    rows = read_csv(write(tmp_path, 'question,A,answer\r\n"a\r\n""b"",",x,A\r\n\r\nc,y,B\r\n'), COLUMNS)
    assert [(row.line, row.cells["question"]) for row in rows] == [(2, 'a\r\n"b",'), (5, "c")]


def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path: Path) -> None:
    (row,) = read_csv(write(tmp_path, b"\xef\xbb\xbfquestion,A,answer\nq,1,A\n"), COLUMNS)
    assert row.cells["question"] == "q"


def test_optional_columns_follow_in_order(tmp_path: Path) -> None:
    (row,) = read_csv(
        write(tmp_path, "question,A,answer\nq,1,A\n"), ("question", "A"), optional=("answer", "why")
    )
    assert dict(row.cells) == {"question": "q", "A": "1", "answer": "A"}


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("question,A,answer\nq,1,A\nq,1\n", 3, "2 columns instead of 3"),
        ("question,A,answer\nq,1,A,4\n", 2, "4 columns instead of 3"),
        ("question,answer,A\nq,1,A\n", 1, "expected the columns question,A,answer, found question,answer,A"),
        ('question,A,answer\nq,1,A\n"q\nq,1', 3, "unclosed quote or truncated file"),
        ('question,A,answer\n"q"x,1,A\n', 2, "broken CSV record"),
        (b"question,A,answer\nq,\x00,A\n", 2, "NUL byte"),
        ("question,A,answer\n题,1,A\n".encode("gbk"), 2, "not UTF-8"),
        ("question,A,answer\n".encode("utf-16"), 1, "NUL byte"),
        ("", 1, "the file is empty"),
    ],
)
def test_defects_name_file_line_and_remedy(
    tmp_path: Path, content: str | bytes, line: int, problem: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError) as raised:
        read_csv(path, COLUMNS)
    message = str(raised.value)
    assert message.startswith(f"{path}:{line}: ")
    assert problem in message
    assert "official file" in message


def test_answers_must_be_labels(tmp_path: Path) -> None:
    rows = read_csv(write(tmp_path, "q,1,A\nq,1,E\n"), COLUMNS, header=False)
    assert rows[0].label("answer", "ABCD") == "A"
    with pytest.raises(DataError, match=r":2: answer 'E' is not one of A, B, C, D"):
        rows[1].label("answer", "ABCD")


def test_ids_must_be_unique_and_not_empty(tmp_path: Path) -> None:
    assert unique_ids(read_table(write(tmp_path, "id,q\n0,a\n1,b\n")), "id") == ["0", "1"]
    with pytest.raises(DataError, match=r":3: repeated id '0'"):
        unique_ids(read_table(write(tmp_path, "id,q\n0,a\n0,b\n")), "id")
    with pytest.raises(DataError, match=r":2: empty id"):
        unique_ids(read_table(write(tmp_path, "id,q\n,a\n")), "id")


def test_tables_need_distinct_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="distinct, non-empty names"):
        read_table(write(tmp_path, "a,a\n1,2\n"))


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_table(tmp_path / "none.csv")

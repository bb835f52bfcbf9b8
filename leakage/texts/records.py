"""The texts of a benchmark, and those it is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evalkit.data.csvfile import read_text
from evalkit.data.jsonfile import Record, parse
from evalkit.errors import DataError, UsageError
from evalkit.task import RecordText, Task
from evalkit.types import Sample


@dataclass(frozen=True, slots=True)
class Text:
    """One record as text."""

    subset: str
    id: str
    text: str


def benchmark_texts(task: Task, samples: Iterable[Sample]) -> list[Text]:
    """The records of a task in the order of its files; ids are `subset/id` where there are several subsets.

    Raises:
        UsageError: the task does not say what its records' texts are.
    """
    if task.record_text is None:
        raise UsageError(
            f"{task.name} has no texts to detect: tests of texts are for tasks with `record_text`, "
            "multiple choice has the option-order test"
        )
    several = len(task.subsets) > 1
    return [
        Text(s.subset, f"{s.subset}/{s.id}" if several else s.id, task.record_text(s).text) for s in samples
    ]


def read_texts(path: Path) -> list[Text]:
    """Read a control or reference file: JSON lines with `text`, or `prompt` and `answer`, perhaps `id`.

    Prompt and answer are joined as the benchmark's own are. An id may stand on several lines; a text without
    one is called by its line, which is no record's id.

    Raises:
        DataError: naming file and line of the first defect.
    """
    lines = [line for line in enumerate(read_text(path).split("\n"), start=1) if line[1].strip()]
    if not lines:
        raise DataError(f"{path}: holds no texts; give one JSON object per line")
    return [_read(path, number, line) for number, line in lines]


def _read(path: Path, number: int, line: str) -> Text:
    fields = parse(path, number, line)
    if not isinstance(fields, dict) or not ("text" in fields or {"prompt", "answer"} <= fields.keys()):
        raise DataError(f'{path}:{number}: needs an object with "text", or with "prompt" and "answer"')
    record = Record(path, number, fields)
    if "text" in fields:
        text = record.text("text")
    else:
        text = RecordText(record.text("prompt"), record.text("answer")).text
    if not text.strip():
        raise DataError(f"{path}:{number}: the text is empty")
    return Text("", str(fields.get("id", f"line {number}")), text)

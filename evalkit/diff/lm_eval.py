"""Samples that lm-evaluation-harness wrote with `--log_samples`, read as a side of a comparison.

Its file `samples_<task>_<time>.jsonl` has a line per sample and filter: `doc_id` (row of the split),
`arguments` (context and continuation of each request), `resps`, `filtered_resps`, `target` and the metrics
(version 0.4).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.diff.sides import Key, Side, TaskSide
from evalkit.errors import DataError
from evalkit.types import Outcome

_FILE = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d{2}-\d{2}T[\d.-]+)?\.jsonl")
_LETTERS = "ABCDEFGHIJ"
_PREFIXES = {"mmlu_": "mmlu", "cmmlu_": "cmmlu", "ceval-valid_": "ceval"}
"""Names of lm-eval's subject tasks, and the benchmark each is a subset of."""


def is_log(path: Path) -> bool:
    """Whether a file, or a file in a folder, is named as lm-eval names its logs of samples."""
    return any(True for _ in _files(path))


def read(path: Path) -> Side:
    """Read one file, or the newest file of every task in a folder.

    Raises:
        DataError: a line is not what lm-eval 0.4 writes.
    """
    newest = {_task(file): file for file in sorted(_files(path), key=lambda file: file.name)}
    found: dict[str, dict[Key, Outcome]] = {}
    for name, file in newest.items():
        task, subset = _place(name)
        found.setdefault(task, {}).update(_outcomes(file, task, subset))
    tasks = {task: TaskSide(task, samples) for task, samples in found.items()}
    return Side(str(path), {"name": _model(path), "backend": "lm-eval"}, {}, tasks)


def _files(path: Path) -> Iterator[Path]:
    candidates = path.rglob("samples_*.jsonl") if path.is_dir() else [path]
    yield from (file for file in candidates if _FILE.fullmatch(file.name))


def _task(file: Path) -> str:
    match = _FILE.fullmatch(file.name)
    assert match, "only such files are listed"
    return match["task"]


def _place(name: str) -> tuple[str, str]:
    """Benchmark and subset of one of lm-eval's tasks."""
    for prefix, task in _PREFIXES.items():
        if name.startswith(prefix):
            return f"{task}@lm-eval", name.removeprefix(prefix)
    return f"{name}@lm-eval", name


def _model(path: Path) -> str:
    """Name of the model: lm-eval names the folder of a log after it."""
    folder = path if path.is_dir() else path.parent
    return folder.name


def _outcomes(file: Path, task: str, subset: str) -> Iterator[tuple[Key, Outcome]]:
    seen: set[str] = set()
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            outcome = _outcome(record, task, subset)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"{file}:{number}: not a sample as lm-eval 0.4 logs it ({error!r})") from error
        if outcome.sample_id not in seen:  # one line per filter; the first is the headline's
            seen.add(outcome.sample_id)
            yield (subset, outcome.sample_id), outcome


def _outcome(record: Mapping[str, Any], task: str, subset: str) -> Outcome:
    requests = [
        [request[key] for key in sorted(request)] for _, request in sorted(record["arguments"].items())
    ]
    context = requests[0][0]
    answers = [response[0] if isinstance(response[0], list) else response for response in record["resps"]]
    scored = len(requests) > 1
    logprobs = tuple(float(answer[0]) for answer in answers) if scored else None
    metric = next(
        (name for name in ("acc", "exact_match", *record.get("metrics", ())) if name in record), None
    )
    target = str(record["target"])
    if scored and target.isdigit():
        target = _LETTERS[int(target)]
    return Outcome(
        task=task,
        subset=subset,
        sample_id=_id(record),
        prompt_sha256=hashlib.sha256(context.encode()).hexdigest(),
        prediction=_LETTERS[max(range(len(logprobs)), key=logprobs.__getitem__)] if logprobs else None,
        target=target.strip(),
        correct=float(record[metric]) if metric else None,
        choice_logprobs=logprobs,
        choice_tokens=None,
        completions=None if scored else tuple(_texts(record["resps"])),
        prompt=context,
    )


def _id(record: Mapping[str, Any]) -> str:
    """The record's official id, else its row."""
    official = (record["doc"].get(name) for name in ("task_id", "id"))
    return str(next((one for one in official if one not in (None, "")), record["doc_id"]))


def _texts(responses: Sequence[Any]) -> Iterator[str]:
    for response in responses:
        yield from (str(text) for text in (response if isinstance(response, list) else [response]))

"""What several test files share: small official-layout folders, ill-behaved backends, one CLI call."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import pyarrow.parquet as pq
import pytest

from evalkit.backends.mock import MockBackend
from evalkit.cli import main
from evalkit.data.source import open_source
from evalkit.preparation import RunOptions
from evalkit.runner import run
from evalkit.store import RunStore
from evalkit.tokens import EncodedRequest
from evalkit.types import Failure, Response

CMMLU_COLUMNS = ("", "Question", "A", "B", "C", "D", "Answer")
CEVAL_COLUMNS = ("id", "question", "A", "B", "C", "D", "answer", "explanation")
N_SHOTS = 5


def write_cmmlu(root: Path, sizes: Mapping[str, int]) -> Path:
    """CMMLU in its official layout with so many made-up test questions per subject."""
    for subject, size in sizes.items():
        for split, n in (("dev", N_SHOTS), ("test", size)):
            rows = [(*question(split, subject, i), "ABCD"[i % 4]) for i in range(n)]
            write_csv(root / f"CMMLU/data/{split}/{subject}.csv", CMMLU_COLUMNS, rows)
    return root


def write_ceval(root: Path, sizes: Mapping[str, int]) -> Path:
    """C-Eval in its official layout; its test split carries no answers."""
    for subject, size in sizes.items():
        dev = [(*question("dev", subject, i), "ABCD"[i % 4], "because") for i in range(N_SHOTS)]
        val = [(*question("val", subject, i), "ABCD"[i % 4]) for i in range(size)]
        test = [question("test", subject, i) for i in range(size)]
        for split, columns, rows in (("dev", 8, dev), ("val", 7, val), ("test", 6, test)):
            write_csv(root / f"C-Eval/{split}/{subject}_{split}.csv", CEVAL_COLUMNS[:columns], rows)
    return root


def question(split: str, subject: str, i: int) -> tuple[str, ...]:
    return (str(i), f"{subject} {split} {i}: {'why ' * (i % 7)}？", *(f"option {x} {i}" for x in "abcd"))


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


class UnrulyBackend(MockBackend):
    """A mock that does something else for some answers, except in the equality gate's call."""

    def __init__(self, act: Callable[[int, Response], Response], name: str = "mock") -> None:
        super().__init__(name)
        self._act = act
        self._calls = 0

    def score(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        self._calls += 1
        for index, response in super().score(requests, done):
            yield index, response if self._calls == 1 else self._act(index, response)


def failing(*indices: int) -> UnrulyBackend:
    """Cannot answer these samples."""
    return UnrulyBackend(lambda i, response: Failure("out of memory") if i in indices else response)


def stopping(after: int, error: type[BaseException] = KeyboardInterrupt, name: str = "mock") -> UnrulyBackend:
    """Raises when it has given so many answers."""
    given = 0

    def act(_: int, response: Response) -> Response:
        nonlocal given
        if given == after:
            raise error
        given += 1
        return response

    return UnrulyBackend(act, name)


def mock_run(
    output: Path,
    tasks: str = "cmmlu",
    *,
    backend: MockBackend | None = None,
    data: str | Path = "sample",
    resume: bool = False,
    store: RunStore | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run tasks on the mock backend, through the library."""
    return run(
        RunOptions(options.pop("model", "mock"), tasks, **options),
        open_source(str(data), offline=True),
        lambda: backend or MockBackend(),
        store or RunStore(output),
        resume=resume,
    )


def samples(output: Path) -> list[dict[str, Any]]:
    """The rows of samples.parquet."""
    rows: list[dict[str, Any]] = pq.read_table(output / "samples.parquet").to_pylist()
    return rows


def journal(output: Path) -> Path:
    return output / "journal" / "responses.jsonl"


def missing(message: str) -> NoReturn:
    """Skip what cannot be tested here, which must not happen where all is tested."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@dataclass(frozen=True)
class Ran:
    """What one call of the command line did."""

    code: int
    out: str
    err: str


def cli(*arguments: str | Path) -> Ran:
    """Call the command line in this process, with nothing of it left behind."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    handler = signal.getsignal(signal.SIGTERM)
    code = 0
    with (
        mock.patch.object(sys, "argv", ["evalkit", *map(str, arguments)]),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
    return Ran(code, text_of(out), text_of(err))


def text_of(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()

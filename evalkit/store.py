"""The run directory: manifest, journal while running, results, samples and report when done."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from evalkit.errors import DataError, RunInterrupted, UsageError
from evalkit.types import Completion, ContinuationScore, GenerateResponse, Outcome, ScoreResponse

SCHEMA_VERSION = 1

Answer = ScoreResponse | GenerateResponse
"""A response that is kept; a failure is not, so that a resumed run tries again."""

FIRST_FILES = frozenset({"journal", ".manifest.json.partial"})
"""All that stands in a run directory whose run was stopped before it had a manifest."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, quota or file-size limit that is used up."""


class RunStore:
    """Files of one run; nothing already scored is ever lost.

    The journal gains one flushed line per scored sample, so a killed process loses at most the
    samples of the batch in flight. A line cut short by a kill or a full disk is dropped on resume.
    """

    def __init__(self, root: Path) -> None:
        """`root` is the run directory; it is created when first written to."""
        self.root = root
        self._journal = root / "journal" / "responses.jsonl"
        self._file: IO[str] | None = None

    @property
    def run_id(self) -> str:
        """Name of the run directory."""
        return self.root.resolve().name

    @property
    def is_complete(self) -> bool:
        """Whether results have been written and every sample was answered."""
        return (self.root / "results.json").is_file() and not self.has_journal

    @property
    def has_journal(self) -> bool:
        """Whether a run stands here that can be continued."""
        return self._journal.exists()

    # -- while running --------------------------------------------------------------------------

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest and open the journal for appending.

        Raises:
            UsageError: the run directory cannot be created.
        """
        try:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise UsageError(
                f"--output {self.root}: the run directory cannot be created ({error.strerror}); "
                "name another folder"
            ) from error
        self.write_json("manifest.json", manifest)
        self._drop_partial_line()
        self._file = self._journal.open("a", encoding="utf-8")

    def _drop_partial_line(self) -> None:
        if not self._journal.exists():
            return
        content = self._journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self._journal.open("r+b") as file:
                file.truncate(whole)

    def append(self, task: str, index: int, response: Answer) -> None:
        """Record one response."""
        assert self._file is not None, "begin() comes first"
        # ASCII, since generated text may hold half a surrogate pair, which UTF-8 cannot.
        self._file.write(json.dumps([task, index, *_line(response)]) + "\n")
        self._file.flush()

    def responses(self) -> dict[str, dict[int, Answer]]:
        """Everything in the journal: task name to sample index to response.

        Raises:
            DataError: a line other than a cut last one is damaged.
        """
        found: dict[str, dict[int, Answer]] = {}
        if not self._journal.exists():
            return found
        whole_lines = self._journal.read_bytes().split(b"\n")[:-1]
        for number, line in enumerate(whole_lines, 1):
            try:
                task, index, kind, parts = json.loads(line)
                response = _response(kind, parts)
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"{self._journal}:{number}: damaged line; remove it and resume, its sample is then "
                    "scored again"
                ) from error
            found.setdefault(task, {})[index] = response
        return found

    def close(self) -> None:
        """Close the journal; safe to call at any time."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    # -- when done ------------------------------------------------------------------------------

    def finish(
        self,
        manifest: Mapping[str, Any],
        results: Mapping[str, Any],
        outcomes: Sequence[Outcome],
        report: str,
    ) -> None:
        """Write the final files, then drop the journal unless some samples could be tried again."""
        self.close()
        self.write_samples(outcomes)
        self.write_text("report.md", report)
        self.write_json("manifest.json", manifest)
        self.write_json("results.json", results)
        if results["status"] == "complete":
            self.drop_journal()

    def drop_journal(self) -> None:
        """Forget the single answers: everything made of them has been written."""
        shutil.rmtree(self._journal.parent, ignore_errors=True)

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a JSON file in one piece: it is there whole or not at all."""
        self.write_text(name, json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file in one piece."""
        self.root.mkdir(parents=True, exist_ok=True)
        partial = self.root / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.root / name)

    def write_samples(self, outcomes: Sequence[Outcome]) -> None:
        """Write `samples.parquet`, one row per sample in dataset order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [_row(outcome) for outcome in outcomes]
        columns = {name: [row[name] for row in rows] for name in _COLUMNS}
        for name in _ON_DEMAND:
            if all(value is None for value in columns[name]):
                del columns[name]
        table = pa.table(
            {name: pa.array(values, _arrow_type(_COLUMNS[name])) for name, values in columns.items()}
        )
        partial = self.root / ".samples.parquet.partial"
        pq.write_table(table, partial, compression="zstd")
        partial.replace(self.root / "samples.parquet")

    # -- reading --------------------------------------------------------------------------------

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run.

        Raises:
            UsageError: this is not a run directory, or the file cannot be read.
            DataError: the file is damaged.
        """
        path = self.root / name
        try:
            document: Any = json.loads(path.read_text("utf-8"), parse_constant=_refuse)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise self._unfinished(name) from error
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; make it readable, or name another run") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not valid JSON ({error}); restore the file or run again") from error
        version = document.get("schema_version") if isinstance(document, dict) else None
        if not isinstance(document, dict) or version != SCHEMA_VERSION:
            raise DataError(
                f"{path}: has schema_version {version}, this evalkit reads {SCHEMA_VERSION}; "
                "use the evalkit that wrote it, or run again"
            )
        return document

    def _unfinished(self, missing: str) -> UsageError:
        remedy = "name the directory that `evalkit run` printed"
        if (self.root / "manifest.json").is_file():
            remedy = f"continue it with evalkit run … --output {self.root} --resume"
        return UsageError(f"'{self.root}' holds no finished run ({missing} is missing); {remedy}")

    def read_samples(self) -> list[Outcome]:
        """Read `samples.parquet` back.

        Raises:
            UsageError: there is none.
            DataError: the file is damaged.
        """
        path = self.root / "samples.parquet"
        if not path.is_file():
            raise self._unfinished("samples.parquet")
        table = read_sample_table(path)
        ids = _token_ids(table, path)
        rows = table.select([name for name in table.column_names if name != _IDS]).to_pylist()
        return [_outcome(row | {_IDS: own}) for row, own in zip(rows, ids, strict=True)]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def read_sample_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """Read a `samples.parquet` as a pyarrow table: every column, or some.

    Raises:
        DataError: it is damaged, lacks a column, or one has another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_columns(file.schema_arrow, path)
            table = file.read(columns)
            table.validate(full=True)  # text that is no UTF-8 shows here, not where it is used
            return table
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable parquet file ({reason}); restore it or run again") from error


def _check_columns(schema: Any, path: Path) -> None:
    if missing := sorted(_COLUMNS.keys() - {*_ON_DEMAND, *schema.names}):
        raise DataError(f"{path}: lacks the columns {', '.join(missing)}; restore it or run again")
    for name in schema.names:
        if name in _COLUMNS and schema.field(name).type != (wanted := _arrow_type(_COLUMNS[name])):
            found = schema.field(name).type
            raise DataError(f"{path}: column {name} is {found}, not {wanted}; restore it or run again")


_COLUMNS = {
    "task": "string",
    "subset": "string",
    "sample_id": "string",
    "prompt_sha256": "string",
    "prediction": "string",
    "target": "string",
    "correct": "double",
    "metrics": "string",
    "choice_logprobs": "list<double>",
    "choice_tokens": "list<int32>",
    "choice_chars": "list<int32>",
    "completion": "string",
    "completions": "list<string>",
    "reasoning": "string",
    "reasonings": "list<string>",
    "finish_reason": "string",
    "truncated": "bool",
    "error": "string",
    "stratum": "string",
    "prompt": "string",
    "prompt_token_ids": "list<int32>",
}

_IDS = "prompt_token_ids"

_ON_DEMAND = ("choice_chars", "completions", "reasoning", "reasonings", "stratum", "prompt", _IDS)
"""Columns that are there only where some sample has a value."""


def _line(response: Answer) -> tuple[str, list[Any]]:
    """Kind and parts of a response, as a journal line holds them."""
    if isinstance(response, ScoreResponse):
        return "scores", [[s.logprob, s.n_tokens, s.is_greedy] for s in response.scores]
    return "completions", [[c.text, c.finish_reason, c.n_tokens, c.reasoning] for c in response.completions]


def _response(kind: str, parts: list[Any]) -> Answer:
    if kind == "scores":
        return ScoreResponse(tuple(ContinuationScore(*part) for part in parts))
    if kind == "completions":
        return GenerateResponse(
            tuple(Completion(text, why, n, reasoning=thought) for text, why, n, thought in parts)
        )
    raise ValueError(f"unknown kind of response '{kind}'")


def _arrow_type(name: str) -> Any:
    import pyarrow as pa

    types = {
        "list<double>": pa.list_(pa.float64()),
        "list<int32>": pa.list_(pa.int32()),
        "list<string>": pa.list_(pa.string()),
        "bool": pa.bool_(),
    }
    return types.get(name) or getattr(pa, {"double": "float64"}.get(name, name))()


def _row(outcome: Outcome) -> dict[str, Any]:
    row = {name: getattr(outcome, name, None) for name in _COLUMNS}
    row |= _first_and_all("completion", outcome.completions) | _first_and_all("reasoning", outcome.reasonings)
    prediction = None if outcome.prediction is None else _encodable(outcome.prediction)
    return row | {"prediction": prediction, "metrics": json.dumps(dict(outcome.metrics))}


def _first_and_all(name: str, texts: Sequence[str] | None) -> dict[str, Any]:
    """Columns of a sample's texts: the first, and where there are several, all."""
    kept = [_encodable(text) for text in texts or ()]
    return {name: kept[0] if kept else None, f"{name}s": kept if len(kept) > 1 else None}


def _encodable(text: str) -> str:
    """Replace what UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _token_ids(table: Any, path: Path) -> list[Any]:
    """Ids of every row as arrays, which take a tenth of the room of Python's integers; None without."""
    import pyarrow as pa

    if _IDS not in table.column_names:
        return [None] * len(table)
    try:
        return [ids.values.to_numpy() if ids.is_valid else None for ids in table[_IDS]]
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: {_IDS} holds null; restore it or run again") from error


def _outcome(row: Mapping[str, Any]) -> Outcome:
    fields: dict[str, Any] = {name: row.get(name) for name in Outcome.__slots__}
    fields["metrics"] = json.loads(row["metrics"])
    for one, several in (("completion", "completions"), ("reasoning", "reasonings")):
        if row.get(one) is not None and fields[several] is None:
            fields[several] = (row[one],)
    for name in ("choice_logprobs", "choice_tokens", "choice_chars", "completions", "reasonings"):
        if fields[name] is not None:
            fields[name] = tuple(fields[name])
    return Outcome(**fields)


@contextlib.contextmanager
def interruptible(store: RunStore) -> Iterator[None]:
    """Turn what stops a run from outside into one clear error; the journal keeps what was answered."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise RunInterrupted(f"interrupted; what was scored is kept in {store.root}") from error
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise RunInterrupted(
            f"the disk of {store.root} is full; what was scored is kept, free some space"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a full disk also refuses the last flush
            store.close()


def default_output(model: str) -> Path:
    """`runs/<UTC time>-<model>-<6 hex>`."""
    safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in model)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path("runs") / f"{stamp}-{safe}-{os.urandom(3).hex()}"


def digest(parts: Iterable[bytes]) -> str:
    """sha256 over length-prefixed parts, so that no two lists of parts collide by their joints."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8))
        total.update(part)
    return total.hexdigest()


def outcome_bytes(outcomes: Iterable[Outcome]) -> Iterator[bytes]:
    """The judged part of each outcome, for the top rung of the hash ladder."""
    for o in outcomes:
        yield json.dumps(
            [o.subset, o.sample_id, o.prediction, o.target, o.correct, dict(o.metrics), o.error]
        ).encode()


def response_bytes(outcomes: Iterable[Outcome]) -> Iterator[bytes]:
    """The measured part of each outcome."""
    for o in outcomes:
        measured = [o.subset, o.sample_id, o.choice_logprobs, o.choice_tokens, o.completions]
        yield json.dumps(measured + ([] if o.reasonings is None else [o.reasonings])).encode()

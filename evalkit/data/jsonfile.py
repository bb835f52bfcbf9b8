"""Strict reading of JSON and JSON Lines: every defect names file and line."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.data.csvfile import corrupt, decode, read_text
from evalkit.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object of a file."""

    path: Path
    line: int
    """1-based line on which the record starts."""
    fields: dict[str, Any]

    def corrupt(self, problem: str) -> DataError:
        """Build the error for a defect of this record."""
        return corrupt(self.path, self.line, problem)

    def texts(self, key: str) -> list[str]:
        """Return a list of texts that must not be empty."""
        values = self.fields[key]
        if not isinstance(values, list) or not values or not all(map(_is_text, values)):
            raise self.corrupt(f"{key} is not a non-empty list of texts")
        return values

    def text(self, key: str) -> str:
        """Return a text."""
        if not _is_text(value := self.fields[key]):
            raise self.corrupt(f"{key} is not a text")
        return str(value)


def _is_text(value: Any) -> bool:
    """Whether this is text without halves of surrogate pairs, which JSON can spell and UTF-8 cannot."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def read_json_lines(path: Path, keys: Sequence[str]) -> list[Record]:
    """Read one JSON object per line, each with at least `keys`; `.gz` files are unpacked.

    Raises:
        DataError: naming file and line of the first defect.
    """
    text = decode(path, _unpacked(path)) if path.suffix == ".gz" else read_text(path)
    records = [
        _record(path, number, parse(path, number, line), keys)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if not records:
        raise corrupt(path, 1, "the file is empty")
    return records


def parse(path: Path, line: int, text: str) -> Any:
    """Parse a JSON text that begins on `line` of `path`; raises DataError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise corrupt(path, line + error.lineno - 1, f"not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, nesting without end
        raise corrupt(path, line, f"not JSON that can be read: {error}") from None


def read_pinned_json(path: Path, sha256: str, origin: str) -> Any:
    """Read a JSON file of texts that belong to a published protocol and are not evalkit's to ship.

    Args:
        path: where it should be.
        sha256: of the file's bytes.
        origin: where to get it from.

    Raises:
        DataError: the file is missing or is another one.
    """
    remedy = f"expected sha256 {sha256}; put the file there, it comes from {origin}"
    if not path.is_file():
        raise DataError(f"{path} is missing: {remedy}")
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256:
        raise DataError(f"{path} is not the published file (sha256 {found}): {remedy}")
    return parse(path, 1, read_text(path))


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; put the official file back in its place") from error


def _record(path: Path, line: int, value: Any, keys: Sequence[str]) -> Record:
    if not isinstance(value, dict):
        raise corrupt(path, line, "is not a JSON object")
    if missing := [key for key in keys if key not in value]:
        raise corrupt(path, line, f"lacks {', '.join(missing)}")
    return Record(path, line, value)


def squad_records(path: Path, keys: Sequence[str]) -> Iterator[tuple[Record, str, str]]:
    """Yield (question, title, context) of a file in SQuAD format; title and context are texts.

    Raises:
        DataError: naming file and line; a record's line is where its id stands.
    """
    text = read_text(path)
    content = parse(path, 1, text)
    place, line = 0, 1
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    if not isinstance(question, dict):
                        raise corrupt(path, line, "a question is not a JSON object")
                    found = text.find(f'"{question.get("id")}"', place)
                    if found > place:  # questions stand in the file in this order
                        line += text.count("\n", place, found)
                        place = found
                    record = _record(path, line, question, keys)
                    if not _is_text(article["title"]) or not _is_text(paragraph["context"]):
                        raise record.corrupt("its title or context is not a text")
                    yield record, article["title"], paragraph["context"]
    except (KeyError, TypeError, AttributeError) as error:
        raise corrupt(path, 1, f"is not in SQuAD format ({error!r})") from error

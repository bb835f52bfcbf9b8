"""Samples as the page carries them: a small index, and compressed chunks of texts opened on demand."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from evalkit.reports import leaked
from evalkit.reports.runs import Entrant, Json, Run

ERROR, TRUNCATED, UNFINISHED, LEAKED = 1, 2, 4, 8
"""Flags of a row."""

_CHUNK_ROWS = 400
_CHUNK_CHARACTERS = 1_000_000
_SHOWN = 80
"""Characters of a prediction or target in the list of samples."""
_SHARED = 200
"""Prompts that begin alike for fewer characters are kept whole."""


@dataclass(slots=True)
class Packed:
    """The samples of all runs."""

    index: Json
    """Columns of the list: models, tasks, items, and of each row its model, item, score, texts and flags."""
    chunks: list[str] = field(default_factory=list)
    """Compressed texts of the rows, in their order."""


def pack(models: Sequence[Entrant]) -> Packed:
    """Pack the samples of every run that kept them.

    The index has `models`, `tasks`, `items` {`task`, `subset`, `id`},
    `rows` {`model`, `item`, `correct`, `prediction`, `target`, `flags`} and `starts`, the first row of each
    chunk. A chunk is a document {`beginning`, `rows`}: how all its prompts begin, and the texts of each row.
    """
    index = _Index([model.name for model in models])
    packed = Packed(index.document)
    for k, model in enumerate(models):
        for run in model.runs:
            for rows, found in _of_run(run):
                packed.index["starts"].append(len(index.rows["item"]))
                packed.chunks.append(compressed(_chunk(rows, found)))
                for row in rows:
                    index.add(k, row, found.flags(row))
    return packed


def compressed(document: Any) -> str:
    """JSON, gzip and base64, as the page's script reads it."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Half a surrogate pair becomes its JSON escape, for UTF-8 cannot hold it.
    return base64.b64encode(gzip.compress(text.encode("utf-8", "backslashreplace"), 6, mtime=0)).decode()


@dataclass(slots=True)
class _Index:
    """The list of samples while it is made."""

    models: list[str]
    tasks: dict[str, int] = field(default_factory=dict)
    numbers: dict[tuple[str, str, str], int] = field(default_factory=dict)
    document: Json = field(init=False)

    def __post_init__(self) -> None:
        self.document = {
            "models": self.models,
            "tasks": [],
            "items": {"task": [], "subset": [], "id": []},
            "rows": {name: [] for name in ("model", "item", "correct", "prediction", "target", "flags")},
            "starts": [],
        }

    @property
    def rows(self) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = self.document["rows"]
        return rows

    def add(self, model: int, row: Json, flags: int) -> None:
        texts = (_cut(row["prediction"]), _cut(row["target"]))
        values = (model, self._item(row), _number(row["correct"]), *texts, flags)
        for column, value in zip(self.rows.values(), values, strict=True):
            column.append(value)

    def _item(self, row: Json) -> int:
        """Number of the sample, which it has in every run."""
        key = (row["task"], row["subset"], row["sample_id"])
        if key not in self.numbers:
            self.numbers[key] = len(self.numbers)
            if row["task"] not in self.tasks:
                self.tasks[row["task"]] = len(self.tasks)
                self.document["tasks"].append(row["task"])
            items = self.document["items"]
            items["task"].append(self.tasks[row["task"]])
            items["subset"].append(row["subset"])
            items["id"].append(row["sample_id"])
        return self.numbers[key]


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known of a task beside its rows."""

    labels: tuple[str, ...]
    """Of its options."""
    leads: Mapping[tuple[str, str], Json]

    def lead(self, row: Json) -> Json | None:
        return self.leads.get((row["subset"], row["sample_id"]))

    def flags(self, row: Json) -> int:
        return (
            (ERROR if row["error"] is not None else 0)
            | (TRUNCATED if row["truncated"] else 0)
            | (UNFINISHED if "length" in (row["finish_reason"] or "") else 0)
            | (LEAKED if self.lead(row) else 0)
        )


def _of_run(run: Run) -> Iterator[tuple[list[Json], _Found]]:
    """Rows of one subset, at most a chunk of them at a time."""
    if run.samples is None:
        return
    shown = [name for name in run.samples.column_names if name != "prompt_token_ids"]
    rows: list[Json] = run.samples.select(shown).to_pylist()
    for task, of_task in groupby(rows, key=lambda row: row["task"]):
        its = list(of_task)
        found = _Found(_labels(its), leaked.leads(run, task))
        for _, of_subset in groupby(its, key=lambda row: row["subset"]):
            yield from ((part, found) for part in _parts(of_subset))


def _parts(rows: Iterator[Json]) -> Iterator[list[Json]]:
    part: list[Json] = []
    characters = 0
    for row in rows:
        part.append(row)
        characters += sum(map(len, _texts(row)))
        if len(part) == _CHUNK_ROWS or characters > _CHUNK_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _texts(row: Json) -> Iterator[str]:
    yield row.get("prompt") or ""
    yield from _all(row, "completion")
    yield from _all(row, "reasoning")


def _all(row: Json, name: str) -> list[str]:
    """A sample's completions or reasonings."""
    first = row.get(name)
    return row.get(f"{name}s") or ([] if first is None else [first])


def _chunk(rows: Sequence[Json], found: _Found) -> Json:
    beginning = _beginning([row.get("prompt") for row in rows])
    return {"beginning": beginning, "rows": [_detail(row, len(beginning), found) for row in rows]}


def _beginning(prompts: Sequence[str | None]) -> str:
    """How all prompts begin, in whole lines: the examples, of few-shot prompts."""
    texts = [prompt for prompt in prompts if prompt is not None]
    if len(texts) < 2 or len(texts) < len(prompts):
        return ""
    first, last = min(texts), max(texts)
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    whole_lines = first[: first.rfind("\n", 0, n) + 1]
    return whole_lines if len(whole_lines) >= _SHARED else ""


def _detail(row: Json, beginning: int, found: _Found) -> Json:
    """What the list does not show of a row; what is not there is left out."""
    prompt = row.get("prompt")
    detail = {
        "prompt": None if prompt is None else prompt[beginning:],
        "options": _options(row, found.labels),
        "completions": _all(row, "completion"),
        "reasonings": _all(row, "reasoning"),
        "prediction": _if_cut(row["prediction"]),
        "target": _if_cut(row["target"]),
        "error": row["error"],
        "finish_reason": row["finish_reason"],
        "stratum": row.get("stratum"),
        "metrics": json.loads(row["metrics"]),
        "lead": found.lead(row),
    }
    return {key: value for key, value in detail.items() if value not in (None, [], {})}


def _options(row: Json, labels: Sequence[str]) -> list[list[Any]]:
    """Label, log-probability, tokens and characters of each option."""
    logprobs = row["choice_logprobs"] or []
    nothing = [None] * len(logprobs)
    tokens, characters = row["choice_tokens"] or nothing, row.get("choice_chars") or nothing
    columns = (labels[: len(logprobs)], logprobs, tokens, characters)
    return [[label, _number(lp), t, c] for label, lp, t, c in zip(*columns, strict=True)]


def _labels(rows: Sequence[Json]) -> tuple[str, ...]:
    """Names of a task's options: what is predicted where the option is the likeliest.

    The samples name options by their log-probabilities alone; an option that is never the likeliest is named
    by its letter. All are, where that gives no name of its own to each: predictions follow something else
    then, such as log-probabilities per character.
    """
    said: dict[int, set[str]] = defaultdict(set)
    scored = [row for row in rows if row["choice_logprobs"]]
    for row in scored:
        if row["prediction"] is not None:
            said[row["choice_logprobs"].index(max(row["choice_logprobs"]))].add(row["prediction"])
    letters = [_letter(k) for k in range(max((len(row["choice_logprobs"]) for row in scored), default=0))]
    names = [name for k, letter in enumerate(letters) for name in said.get(k, {letter})]
    return tuple(names if len(names) == len(set(names)) == len(letters) else letters)


def _letter(k: int) -> str:
    return chr(ord("A") + k) if k < 26 else str(k + 1)


def _number(value: float | None) -> float | str | None:
    """A number JSON has, in as many digits as anyone reads."""
    if value is None or math.isfinite(value):
        return value if value is None else round(value, 4)
    return str(value)


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _if_cut(text: str | None) -> str | None:
    """The whole text, if the list shows a part of it."""
    return text if text is not None and len(text) > _SHOWN else None

"""What is examined: the records of a benchmark, read as items whose options can be permuted, or as texts."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.data.content import content_hash
from evalkit.data.csvfile import corrupt, read_text
from evalkit.data.jsonfile import parse
from evalkit.data.source import DataSource
from evalkit.errors import DataError, UsageError
from evalkit.leakage.formats import excluded
from evalkit.leakage.items import Item
from evalkit.leakage.natural_order import OrderDiagnostic, diagnose
from evalkit.preparation import check_variant, chosen_subsets, is_official, load_samples
from evalkit.spec import ResolvedTask, resolve_all
from evalkit.task import Task
from evalkit.types import Sample


@dataclass(frozen=True)
class Benchmark:
    """The records of one task that are examined."""

    name: str
    """Resolved task name, or the name of a file of items."""
    samples: tuple[Sample, ...]
    """All records, in file order; none for a file of items."""
    items: tuple[Item, ...]
    """Those of them whose options can be permuted."""
    excluded: Mapping[str, int]
    """Why records of a multiple-choice benchmark were left out, and how many."""
    sha256: str
    """Content hash of the records."""
    official: bool | None
    """Whether these are the published records; None where that is not known."""
    order: OrderDiagnostic | None = None
    """Whether the publisher shuffled options, judged on the whole split; None without items."""
    task: Task | None = None

    @property
    def is_multiple_choice(self) -> bool:
        """Whether records have options of their own."""
        return self.task is None or self.task.as_choice is not None

    def describe(self) -> dict[str, Any]:
        """As written to the manifest."""
        return {"data": {"official": self.official}, "hashes": {"data": self.sha256}}


def load(
    specs: str,
    source: DataSource,
    *,
    split: str | None,
    subsets: Sequence[str],
    limit: int | None,
    shots: int | None = None,
) -> list[Benchmark]:
    """Read everything that is named: task specs, suites, or JSON files of items.

    Raises:
        UsageError: unknown names, or nothing that could be examined.
        DataError: data missing or corrupt.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: at least one item per subset is needed")
    names = [name.strip() for name in specs.split(",")]
    files = [_read_items(Path(name), limit) for name in names if name.endswith(".json")]
    tasks = ",".join(name for name in names if not name.endswith(".json"))
    resolved = resolve_all(tasks, shots=shots, split=split) if tasks or not files else []
    check_variant(resolved, source)
    chosen = chosen_subsets(resolved, source, subsets)
    found = [*(_load(r, source, chosen[r.name], limit) for r in resolved), *files]
    if len({b.name for b in found}) < len(found):
        raise UsageError(f"--tasks {specs}: two files of items have one name; rename one of them")
    return found


def _load(resolved: ResolvedTask, source: DataSource, subsets: Sequence[str], limit: int | None) -> Benchmark:
    task = resolved.task
    whole = load_samples(resolved, source, subsets)
    samples = {subset: rows[:limit] for subset, rows in whole.items()}
    records = tuple(sample for rows in samples.values() for sample in rows)
    items, left_out = _items(task, records)
    order = diagnose(_whole_split(resolved, source, whole)) if items else None
    official = is_official(resolved, whole)
    return Benchmark(resolved.name, records, items, left_out, content_hash(samples), official, order, task)


def _whole_split(
    resolved: ResolvedTask, source: DataSource, known: Mapping[str, Sequence[Sample]]
) -> tuple[Item, ...]:
    """All items of the split: whether a publisher shuffles shows in many, however few are examined."""
    task = resolved.task
    samples = list(itertools.chain(*known.values()))
    for subset in source.available(task, resolved.split):
        if subset not in known:
            with contextlib.suppress(DataError):  # a subset nobody asked for need not be there
                samples += source.load(task, resolved.split, subset)
    return _items(task, samples)[0]


def _items(task: Task, records: Sequence[Sample]) -> tuple[tuple[Item, ...], dict[str, int]]:
    if task.as_choice is None:
        return (), {}
    read = [(sample, task.as_choice(sample)) for sample in records]
    found = [
        Item(sample.subset, sample.id, choice.question, choice.options, choice.lead)
        for sample, choice in read
        if choice is not None
    ]
    return _permutable(found, Counter("no options of its own" for _, choice in read if choice is None))


def _permutable(items: Sequence[Item], left_out: Counter[str]) -> tuple[tuple[Item, ...], dict[str, int]]:
    kept = []
    for item in items:
        if reason := excluded(item):
            left_out[reason] += 1
        else:
            kept.append(item)
    return tuple(kept), dict(left_out)


def _read_items(path: Path, limit: int | None) -> Benchmark:
    """Read a JSON list of {"question": …, "option": {"A": …, "B": …}}, as arXiv 2409.01790 has it."""
    content = parse(path, 1, read_text(path)) if path.is_file() else None
    if content is None:
        raise UsageError(f"--tasks {path}: there is no such file of items")
    if not isinstance(content, list) or not content:
        raise corrupt(path, 1, 'is not a list of {"question": …, "option": {"A": …}}')
    whole = [_record(path, number, record) for number, record in enumerate(content)]
    if len({item.sample_id for item in whole}) < len(whole):
        raise corrupt(path, 1, "has several records with one id")
    records = whole[:limit]
    samples = [
        Sample(item.sample_id, item.subset, {"question": item.question, "option": list(item.options)}, None)
        for item in records
    ]
    items, left_out = _permutable(records, Counter())
    order = diagnose(_permutable(whole, Counter())[0]) if items else None
    return Benchmark(path.stem, (), items, left_out, content_hash({path.stem: samples}), None, order)


def _record(path: Path, number: int, record: Any) -> Item:
    options = record.get("option") if isinstance(record, dict) else None
    question = record.get("question") if isinstance(record, dict) else None
    if not isinstance(question, str) or not isinstance(options, dict):
        raise corrupt(path, 1, f'record {number} is not {{"question": …, "option": {{"A": …}}}}')
    if not all(isinstance(text, str) for text in options.values()):
        raise corrupt(path, 1, f"record {number} has an option that is no text")
    return Item(path.stem, str(record.get("id", number)), question, tuple(options.values()))

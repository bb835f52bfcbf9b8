"""Scoring of predictions that were made elsewhere: no model, and no data where the lines hold the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.data.jsonfile import parse
from evalkit.data.source import DataSource
from evalkit.errors import DataError, UsageError, unknown_name
from evalkit.judge import judge
from evalkit.preparation import by_id, check_variant
from evalkit.results import aggregate
from evalkit.spec import ResolvedTask
from evalkit.task import JudgeSettings
from evalkit.types import Outcome, Sample


@dataclass(frozen=True, slots=True)
class Prediction:
    """One line of a prediction file, with the record it answers."""

    sample: Sample
    completions: tuple[str, ...]


def score_file(
    resolved: ResolvedTask,
    file: Path,
    source: DataSource,
    *,
    subset: str | None = None,
    settings: JudgeSettings | None = None,
) -> dict[str, Any]:
    """Judge a file of predictions and return task, subset, n, metrics and counters.

    Lines are JSON: `{"id", "completion"}` (several lines with one id are several completions), or, for
    tasks whose Task.foreign_line reads them, the format another tool writes with the answers included.

    Raises:
        UsageError: unknown subset, or a task that generates no text.
        DataError: a damaged line, an unknown or missing id; names file and line.
    """
    if resolved.protocol.judge is None:
        raise UsageError(
            f"{resolved.name} compares option scores, which a file of texts does not hold; "
            f"protocols that judge texts: {', '.join(_generating(resolved)) or 'none'}"
        )
    chosen = _subset(resolved, subset)
    settings = settings or JudgeSettings()
    if resolved.protocol.ready is not None:
        resolved.protocol.ready(settings)
    check_variant([resolved], source)
    predictions, total = _predictions(resolved, file, source, chosen)
    outcomes = [_outcome(resolved, p) for p in predictions]
    samples = by_id({"": [p.sample for p in predictions]})
    entry = aggregate(resolved, judge(resolved, outcomes, samples, settings), None)
    return {
        "task": resolved.name,
        "subset": chosen,
        "n": len(predictions),
        "samples_total": total,
        "metrics": entry["metrics"],
        "counters": entry["counters"],
    }


def _generating(resolved: ResolvedTask) -> list[str]:
    return [name for name, protocol in resolved.task.protocols.items() if protocol.judge is not None]


def _subset(resolved: ResolvedTask, subset: str | None) -> str:
    subsets = resolved.task.subsets
    if subset is None and len(subsets) == 1:
        return next(iter(subsets))
    if subset is None:
        raise UsageError(f"{resolved.task.name} has {len(subsets)} subsets; say which with --subset")
    if subset not in subsets:
        raise unknown_name(f"subset of {resolved.task.name}", subset, subsets)
    return subset


def _predictions(
    resolved: ResolvedTask, file: Path, source: DataSource, subset: str
) -> tuple[list[Prediction], int | None]:
    """The predictions, and how many samples there are to predict, where the data say."""
    lines = _lines(file)
    foreign = resolved.task.foreign_line
    if foreign is not None and all("completion" not in fields for _, fields in lines):
        return _foreign(file, lines, resolved, subset), None
    texts: dict[str, list[str]] = {}
    for number, fields in lines:
        if "id" not in fields or "completion" not in fields:
            raise DataError(f'{file}:{number}: needs "id" and "completion"')
        completion = fields["completion"]
        completions = texts.setdefault(str(fields["id"]), [])
        if completions and not resolved.protocol.several_completions:
            raise DataError(f"{file}:{number}: repeats the id '{fields['id']}', and one answer is judged")
        completions.append("" if completion is None else str(completion))
    known = {s.id: s for s in source.load(resolved.task, resolved.split, subset)}
    for identifier in texts:
        if identifier not in known:
            raise DataError(
                f"{file}: {resolved.name} ({subset}) has no sample with the id '{identifier}'; ids run from "
                f"'{next(iter(known))}' to '{list(known)[-1]}'"
            )
    return [Prediction(known[i], tuple(completions)) for i, completions in texts.items()], len(known)


def _foreign(
    file: Path, lines: Sequence[tuple[int, Mapping[str, Any]]], resolved: ResolvedTask, subset: str
) -> list[Prediction]:
    assert resolved.task.foreign_line is not None
    predictions = []
    for row, (number, fields) in enumerate(lines):
        try:
            sample, completion = resolved.task.foreign_line(str(row), subset, fields)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f'{file}:{number}: needs "id" and "completion", or the line format of '
                f"{resolved.task.title}'s own tools ({error!r})"
            ) from error
        predictions.append(Prediction(sample, (completion,)))
    return predictions


def _lines(file: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """(line number, fields); bytes that are not UTF-8 are replaced, for generated text may hold some."""
    if not file.is_file():
        raise UsageError(f"no prediction file {file}")
    found: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in enumerate(file.read_bytes().decode("utf-8-sig", "replace").split("\n"), start=1):
        if not line.strip():
            continue
        fields = parse(file, number, line)
        if not isinstance(fields, dict):
            raise DataError(f"{file}:{number}: is not a JSON object")
        found.append((number, fields))
    if not found:
        raise DataError(f"{file}: holds no predictions")
    return found


def _outcome(resolved: ResolvedTask, prediction: Prediction) -> Outcome:
    sample, stratum = prediction.sample, resolved.protocol.stratum
    return Outcome(
        task=resolved.name,
        subset=sample.subset,
        sample_id=sample.id,
        prompt_sha256="",
        prediction=None,
        target=sample.target,
        correct=None,
        choice_logprobs=None,
        choice_tokens=None,
        completions=prediction.completions,
        stratum=stratum(sample) if stratum else None,
    )

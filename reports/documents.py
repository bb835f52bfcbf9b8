"""The parts of result documents and manifests that reports read, checked once where a run is opened.

What else stands in a document is left alone. Reports work on the documents themselves: a document that
passes holds at these places what the types below say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from evalkit.errors import DataError
from evalkit.reports.text import one_line
from evalkit.validation import first_problem

_MOST = 1e15
"""Far above whatever is measured, and far below where arithmetic on it overflows."""

Number = Annotated[float, Field(ge=-_MOST, le=_MOST)]
Amount = Annotated[float, Field(ge=0, le=_MOST)]
Count = Annotated[int, Field(ge=0, le=int(_MOST))]


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("ends below where it begins")
    return ends


Interval = Annotated[tuple[Number, Number], Field(strict=False), AfterValidator(_ascending)]


class _Part(BaseModel):
    # Strict, for text that looks like a number is none to those who read the document.
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Range(_Part):
    """Lowest and highest score that is possible."""

    low: Number
    high: Number


class Estimate(_Part):
    """A metric, usually a fraction."""

    value: Number
    stderr: Amount | None
    ci95: Interval
    n: Count


Estimates = dict[str, Estimate]
"""By metric."""


class Counters(_Part):
    """Numbers of samples."""

    samples: Count
    errors: Count
    truncated: Count
    ties: Count
    non_finite: Count
    unparsed: Count
    close_calls: Count | None
    unfinished: Count = 0
    unfinished_reasoning: Count = 0


class Task(_Part):
    """One entry of `tasks`."""

    task: str
    protocol: str
    split: str
    shots: Count
    average: Literal["macro", "micro", "category"]
    metrics: Estimates
    groups: dict[str, Estimates]
    subsets: dict[str, Estimates]
    averages: dict[str, dict[str, Number]]
    counters: Counters
    strata: dict[str, dict[str, Estimates]] = {}
    truncated_share: dict[str, Number] = {}
    categories: dict[str, list[str]] = {}
    score_range: Range | None = None
    submission: str | None = None
    samples_total: Count = 0
    subsets_present: Count = 0
    subsets_total: Count = 0

    @model_validator(mode="after")
    def _coverage_is_whole(self) -> Self:
        if len({"subsets_present", "subsets_total"} & self.model_fields_set) == 1:
            raise ValueError("has one of 'subsets_present' and 'subsets_total' without the other")
        return self


class Verdict(_Part):
    """On one benchmark."""

    short: str
    sentence: str
    kind: str = ""
    also: list[str] = []


class Difference(_Part):
    """In points."""

    value: Number
    ci95: Interval


class CleanScore(_Part):
    """Scores with and without the items there is evidence against."""

    all: Estimate
    clean: Estimate
    inflation_points: Difference
    n_with_evidence: Count


class Method(_Part):
    """What one detector found."""

    flagged: Number | None
    ci95: Interval | None
    null_floor: Number | None
    null_floor_ci95: Interval | None


class Lead(_Part):
    """An item there is evidence against."""

    subset: str
    sample_id: str
    rank: Count
    gap: Number
    p: Number
    fdr: Number


class Examined(_Part):
    """What `evalkit leakage` concluded of one task."""

    verdict: Verdict
    methods: dict[str, Method]
    clean_score: CleanScore | None = None
    leads: list[Lead] = []


class Leakage(_Part):
    """What `evalkit leakage` wrote into the document."""

    tasks: dict[str, Examined]
    run_id: str = ""


class Model(_Part):
    """Which model it was."""

    name: str
    backend: str | None = None
    dtype: str | None = None
    fingerprint: str | None = None


class Cost(_Part):
    """Seconds, tokens and bytes."""

    wall_s: Amount
    load_s: Amount
    score_s: Amount | None = None
    tokens_logical: Count
    tokens_computed: Count
    tokens_generated: Count
    peak_memory_bytes: Count | None


class Results(_Part):
    """`results.json`."""

    run_id: str
    evalkit_version: str
    status: Literal["complete", "partial"]
    model: Model
    tasks: dict[str, Task]
    cost: Cost
    leakage: Leakage = Leakage(tasks={})


class Data(_Part):
    """Where the records of a task came from."""

    source: str | None = None
    official: bool | None = None
    variant: str | None = None
    chat_template: bool | None = None
    chat: dict[str, Any] | None = None


class Hashes(_Part):
    """Of what was done for a task."""

    data: str | None = None
    prompts: str | None = None
    token_ids: str | None = None


class Prepared(_Part):
    """One entry of the manifest's `tasks`."""

    data: Data | None = None
    hashes: Hashes = Hashes()


class Details(_Part):
    """What its engine said of it."""

    random_weights: bool = False
    versions: dict[str, Any] = {}


class Loaded(_Part):
    """The manifest's `model`."""

    details: Details = Details()


class Gate(_Part):
    """Whether scores equal those of plain forward passes."""

    passed: bool | None = None
    max_difference: Number | None = None


class Request(_Part):
    """What was asked of the run."""

    system: str | None = None
    answer_prefix: str | None = None
    limit: Count | None = None
    subsets: list[str] = []
    selection: dict[str, Any] | None = None


class Manifest(_Part):
    """`manifest.json`."""

    request: Request = Request()
    finished_at: str | None = None
    tasks: dict[str, Prepared] = {}
    model: Loaded = Loaded()
    equality_gate: Gate | None = None


def check(document: dict[str, Any], form: type[Results] | type[Manifest], path: Path) -> None:
    """Make sure that a document has what reports read of it.

    Raises:
        DataError: it has not, and where.
    """
    try:
        form.model_validate(document)
    except ValidationError as error:
        raise DataError(f"{path}: {problem(error)}; restore the file or run again") from error


def check_samples(table: Any, path: Path) -> None:
    """Make sure that a table of samples, or some of its columns, holds what reports expect.

    Raises:
        DataError: it does not, and where.
    """
    for number, row in enumerate(
        table.select([name for name in table.column_names if name in _CHECKED]).to_pylist()
    ):
        for name, why in _faults(row):
            raise DataError(f"{path}: row {number}: {name} {why}; restore the file or run again")


_NEVER_NULL = ("task", "subset", "sample_id", "truncated")
_OF_OPTIONS = ("choice_tokens", "choice_chars")
_CHECKED = {*_NEVER_NULL, *_OF_OPTIONS, "correct", "metrics", "choice_logprobs"}


def _faults(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((name, "is null") for name in _NEVER_NULL if row.get(name, "") is None)
    correct = row["correct"]
    if correct is not None and not 0 <= correct <= 1:
        yield "correct", f"is {correct}, not between 0 and 1"
    if not _are_metrics(row["metrics"]):
        yield "metrics", "is no JSON object of numbers"
    logprobs = row.get("choice_logprobs")
    if logprobs and None in logprobs:
        yield "choice_logprobs", "holds null"
    for name in _OF_OPTIONS:
        if (its := row.get(name)) and (None in its or len(its) != len(logprobs or ())):
            yield name, "is not one number for each of choice_logprobs"


def _are_metrics(text: str | None) -> bool:
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and all(
        value is None or (type(value) in (int, float) and abs(value) <= _MOST) for value in found.values()
    )


def problem(error: ValidationError) -> str:
    """The first thing that is wrong, with its place, in one line of plain words."""
    loc, what = first_problem(error)
    place = one_line(".".join(map(str, loc)))
    return f"{place}: {what}" if place else what

"""The small immutable types that tasks and backends exchange.

A task turns a `Sample` into a `ScoreRequest` or `SpanRequest`; a backend answers with a
`ScoreResponse`; a protocol turns that into an `Outcome`. Nothing here knows an engine or a benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One benchmark record."""

    id: str
    """The record's official id, else its 0-based row in the official file; stable across data sources."""
    subset: str
    """Handle of the subset (for example the subject) it belongs to."""
    fields: Mapping[str, Any]
    """The record's texts, exactly as in the official file."""
    target: str | None
    """The right answer, or None where the publisher withholds it."""


@dataclass(frozen=True, slots=True)
class NextToken:
    """A continuation named by one vocabulary entry: the last id of tokenising `text` on its own.

    Some published protocols look up option letters this way instead of tokenising the whole string.
    """

    text: str


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Ask for log p(continuation | context) of every continuation."""

    context: str
    continuations: tuple[str | NextToken, ...]


@dataclass(frozen=True, slots=True)
class SpanRequest:
    """Ask for the log-probability of whole texts; a first token without a predecessor is not scored."""

    texts: tuple[str, ...]


Request = ScoreRequest | SpanRequest


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """What a model says of one continuation (or of one whole text)."""

    logprob: float
    """Sum of the natural-log probabilities of its tokens, added up in float64."""
    n_tokens: int
    """Tokens of the continuation; for a whole text all its tokens, the unscored first one included."""
    is_greedy: bool
    """Whether greedy decoding would have produced exactly these tokens."""


@dataclass(frozen=True, slots=True)
class ScoreResponse:
    """Scores in the order of the request's continuations or texts."""

    scores: tuple[ContinuationScore, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A request the backend could not answer, and why: an error, never a wrong answer."""

    error: str


Response = ScoreResponse | Failure


@dataclass(frozen=True, slots=True)
class Outcome:
    """The judged result of one sample: one row of `samples.parquet`."""

    task: str
    """Resolved task name, for example `cmmlu@official:test:5shot`."""
    subset: str
    sample_id: str
    prompt_sha256: str
    prediction: str | None
    """The chosen answer; None when it could not be determined."""
    target: str | None
    correct: float | None
    """Headline metric of this sample in [0, 1]; None without a target or after an error."""
    choice_logprobs: tuple[float, ...] | None
    """Summed log-probability per option, in option order."""
    choice_tokens: tuple[int, ...] | None
    """Number of tokens each of those sums covers."""
    truncated: bool = False
    """Whether the prompt had to be shortened to fit."""
    error: str | None = None
    """Why the sample could not be scored; an error is never a wrong answer."""
    prompt: str | None = None
    """The prompt, kept only on request."""

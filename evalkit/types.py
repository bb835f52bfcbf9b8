"""The small immutable types that tasks and backends exchange.

A task turns a `Sample` into a request (`ScoreRequest`, `SpanRequest` or `GenerateRequest`); a backend
answers with a `ScoreResponse` or a `GenerateResponse`; a protocol turns that into an `Outcome`. Nothing
here knows an engine or a benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn; a request without it is decoded greedily."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens already seen, prompt included (CTRL, arXiv 1909.05858)."""
    n: int = 1
    """Completions per request."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Ask for text that continues a prompt."""

    prompt: str | tuple[Message, ...]
    """Plain text, or the turns of a conversation, put into the model's chat template."""
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    """Texts that end a completion; they and what follows are not part of it."""
    sampling: Sampling | None = None
    prefill: str = ""
    """Beginning of the answer, put into the model's mouth; not part of the completion."""
    min_new_tokens: int = 0
    no_longer_than: tuple[str, ...] = ()
    """Limit the answer to the tokens of the longest of these texts as well (some protocols do)."""


Request = ScoreRequest | SpanRequest | GenerateRequest


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


@dataclass(frozen=True, slots=True, eq=False)
class TokenStats:
    """What a model says of each scored token of one sequence: arrays of one entry per token."""

    logprob: npt.NDArray[np.float64]
    """Natural-log probability of the token."""
    mean: npt.NDArray[np.float64]
    """Expectation of log p over the vocabulary under p itself, the negative entropy."""
    variance: npt.NDArray[np.float64]
    """Variance of log p over the vocabulary under p itself."""
    greedy: npt.NDArray[np.bool_]
    """Whether the token is the most likely one."""

    def __len__(self) -> int:
        return len(self.logprob)


FinishReason = Literal["stop", "eos", "length"]
"""A stop text appeared, the model ended its answer, or the token limit was reached."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated text."""

    text: str
    """The answer, without the reasoning before it; empty where the model was cut off while it reasoned."""
    finish_reason: FinishReason
    n_tokens: int
    """Tokens generated, those of a stop text or end mark included."""
    token_ids: tuple[int, ...] = ()
    logprob: float = 0.0
    """Sum of the natural-log probabilities of `token_ids` under the model, before any sampling setting."""
    reasoning: str = ""
    """What stood between the model's reasoning tags."""


@dataclass(frozen=True, slots=True)
class GenerateResponse:
    """The completions of one request."""

    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A request the backend could not answer, and why: an error, never a wrong answer."""

    error: str


Response = ScoreResponse | GenerateResponse | Failure


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
    choice_chars: tuple[int, ...] | None = None
    """Characters of each option's text, where the protocol also compares by length."""
    completions: tuple[str, ...] | None = None
    """Generated texts; None for scoring."""
    reasonings: tuple[str, ...] | None = None
    """What the model thought before each of them; None where it never did."""
    finish_reason: str | None = None
    """Why the completion ended (see `FinishReason`); of several, how often each reason occurred."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Every metric of this sample; fractions in [0, 1] unless the name says otherwise."""
    stratum: str | None = None
    """Class of samples reported apart, for example a range of lengths."""
    truncated: bool = False
    """Whether the prompt had to be shortened to fit."""
    error: str | None = None
    """Why the sample could not be scored; an error is never a wrong answer."""
    prompt: str | None = None
    """The prompt, kept only on request."""
    prompt_token_ids: npt.NDArray[np.int32] | None = field(default=None, compare=False)
    """Ids in front of the answer, as the model got them (see `Prompt.token_ids`); kept with the prompt."""

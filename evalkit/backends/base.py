"""What a backend is: an engine that answers requests, knows its limits and can name itself exactly."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from evalkit.tokens import EncodedPrompt, EncodedRequest, Tokenizer
from evalkit.types import Failure, Response, ScoreResponse, TokenStats


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Identity of the loaded model, as it stands in results and manifest."""

    name: str
    backend: str
    dtype: str
    fingerprint: str
    """`sha256:…` over weights, tokenizer, dtype and engine versions."""
    max_length: int
    """Longest input in tokens."""
    details: dict[str, Any] = field(default_factory=dict)
    """Anything else worth a line in the manifest: architecture, device, versions, scoring path."""

    def to_json(self) -> dict[str, Any]:
        """As written to the manifest."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; everything, unless it says why not."""

    no_scores: str | None = None
    """Why it cannot score given texts."""
    no_token_stats: str | None = None
    """Why it cannot tell more of a token than its log-probability; also where it cannot score."""
    no_completions: str | None = None
    """Why it cannot generate text."""
    repeatable: bool = True
    """Whether a request always gets the same bits, whatever else is asked beside it or was asked before."""


@dataclass(slots=True)
class Usage:
    """Running totals of the work done."""

    tokens_computed: int = 0
    """Tokens that went through the model."""
    tokens_generated: int = 0
    requests: int = 0
    """Questions put to an engine that shares prefixes by itself."""
    tokens_asked: int = 0
    """Input tokens of those questions, …"""
    tokens_cached: int = 0
    """… and how many of them the engine had in its prefix cache."""

    def reset(self) -> None:
        """Begin to count anew."""
        self.tokens_computed = self.tokens_generated = 0
        self.requests = self.tokens_asked = self.tokens_cached = 0


class Backend(Protocol):
    """An engine that answers encoded requests."""

    usage: Usage
    capabilities: Capabilities

    @property
    def tokenizer(self) -> Tokenizer:
        """Turns request texts into the ids the model reads."""
        ...

    @property
    def info(self) -> ModelInfo:
        """Identity of the model as it runs now."""
        ...

    def score(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        """Yield (index, response) in completion order, leaving out the indices in `done`.

        What is computed for the rest must not depend on `done`: a resumed run repeats the arithmetic
        of an uninterrupted one.
        """
        ...

    def token_stats(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, tuple[TokenStats, ...] | Failure]]:
        """Score like `score`, by the same computation, but yield every token, one `TokenStats` per sequence.

        Raises:
            UsageError: `capabilities.no_token_stats` says why.
        """
        ...

    def generate(
        self, requests: Sequence[EncodedPrompt], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        """Yield (index, response) in completion order, leaving out the indices in `done`."""
        ...

    def score_reference(self, request: EncodedRequest) -> ScoreResponse:
        """Score one request by plain forwards, sharing nothing: the measure for `score`."""
        ...

    def downgrade(self) -> str | None:
        """Switch to the next simpler scoring path and return its name; None when there is none left."""
        ...

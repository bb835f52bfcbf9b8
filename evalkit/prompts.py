"""From samples to encoded requests, shortened where a protocol says so; all before inference starts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from evalkit.errors import UsageError
from evalkit.spec import ResolvedTask
from evalkit.task import PromptInput
from evalkit.tokens import EncodedRequest, Tokenizer, encode
from evalkit.types import Request, Sample, ScoreRequest


@dataclass(frozen=True, slots=True)
class Prompt:
    """One sample, ready to be scored."""

    sample: Sample
    request: Request
    encoded: EncodedRequest
    truncated: bool
    """Whether examples or token ids had to go to make it fit."""

    @property
    def text(self) -> str:
        """The prompt as `evalkit tasks render` prints it."""
        return prompt_text(self.request)

    @property
    def sha256(self) -> str:
        """Hash of the prompt's UTF-8 bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def prompt_text(request: Request) -> str:
    """The context of a scored continuation; of whole texts, the part they share."""
    if isinstance(request, ScoreRequest):
        return request.context
    # Character by character is what is meant here: these are texts, not paths.
    return os.path.commonprefix(request.texts)  # noqa: RUF071


def render(
    resolved: ResolvedTask, samples: Iterable[Sample], shots: Sequence[Sample]
) -> list[tuple[PromptInput, Request]]:
    """Render the samples of one subset with its few-shot examples."""
    inputs = [PromptInput(s.subset, resolved.task.subsets[s.subset], tuple(shots), s) for s in samples]
    return [(p, resolved.protocol.render(p)) for p in inputs]


def prepare(
    resolved: ResolvedTask,
    rendered: Sequence[tuple[PromptInput, Request]],
    tokenizer: Tokenizer,
    max_length: int,
) -> list[Prompt]:
    """Encode rendered prompts, applying the protocol's overlong policy.

    Raises:
        UsageError: a prompt does not fit and the protocol has no way to shorten it, or an option
            tokenises to nothing.
    """
    limit = min(max_length, resolved.protocol.overlong.limit or max_length)
    requests = [request for _, request in rendered]
    return [
        Prompt(p.sample, request, encoded, truncated=False)
        if encoded.n_inputs <= limit
        else _shortened(resolved, p, encoded, tokenizer, limit, max_length)
        for (p, request), encoded in zip(rendered, encode(tokenizer, requests), strict=True)
    ]


def _shortened(
    resolved: ResolvedTask,
    p: PromptInput,
    encoded: EncodedRequest,
    tokenizer: Tokenizer,
    limit: int,
    max_length: int,
) -> Prompt:
    overlong = resolved.protocol.overlong
    if overlong.policy == "left":
        return Prompt(p.sample, resolved.protocol.render(p), encoded.kept_right(limit), truncated=True)
    if overlong.policy == "drop_last_shot":
        candidates = [replace(p, shots=p.shots[:k]) for k in reversed(range(len(p.shots)))]
    elif overlong.policy == "drop_longest_shot":
        candidates = _without_longest(resolved, p, tokenizer)
    else:
        candidates = []
    for candidate in candidates:
        request = resolved.protocol.render(candidate)
        (shorter,) = encode(tokenizer, [request])
        if shorter.n_inputs <= limit:
            return Prompt(p.sample, request, shorter, truncated=True)
    if overlong.bare is not None:
        request = overlong.bare(p)
        (shorter,) = encode(tokenizer, [request])
        if shorter.n_inputs <= max_length:
            return Prompt(p.sample, request, shorter, truncated=True)
    raise UsageError(
        f"{resolved.name}: the prompt of {p.subset} sample {p.sample.id} has {encoded.n_inputs} tokens, "
        f"{limit} fit, and the protocol has no way to shorten it further; use fewer --shots, "
        "a protocol that cuts (such as lm-eval) or a model with a longer context"
    )


def _without_longest(resolved: ResolvedTask, p: PromptInput, tokenizer: Tokenizer) -> list[PromptInput]:
    """The prompt input with its longest examples gone one after the other (longest in tokens)."""
    lengths = [_shot_tokens(resolved, p, shot, tokenizer) for shot in p.shots]
    by_length = sorted(range(len(p.shots)), key=lambda i: -lengths[i])
    return [
        replace(p, shots=tuple(s for i, s in enumerate(p.shots) if i not in by_length[:gone]))
        for gone in range(1, len(p.shots) + 1)
    ]


def _shot_tokens(resolved: ResolvedTask, p: PromptInput, shot: Sample, tokenizer: Tokenizer) -> int:
    """Length of a prompt that asks the example itself: the header counts for all examples alike."""
    text = prompt_text(resolved.protocol.render(replace(p, shots=(), sample=shot)))
    return len(tokenizer.encode([text])[0])

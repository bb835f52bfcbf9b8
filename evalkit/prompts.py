"""From samples to encoded requests, shortened where a protocol says so; all before inference starts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from evalkit.chat import example_turns, plain_text
from evalkit.errors import UsageError
from evalkit.spec import ResolvedTask
from evalkit.task import PromptInput, Render
from evalkit.tokens import EncodedPrompt, EncodedRequest, Ids, Tokenizer, encode, encode_prompt
from evalkit.types import GenerateRequest, Message, Request, Sample, ScoreRequest, SpanRequest

Encoded = EncodedRequest | EncodedPrompt
Rendered = Sequence[tuple[PromptInput, Request]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One sample, ready to be answered."""

    sample: Sample
    request: Request
    encoded: Encoded
    truncated: bool
    """Whether examples, text or token ids had to go to make it fit."""

    @property
    def text(self) -> str:
        """The prompt as `evalkit tasks render` prints it."""
        return prompt_text(self.request)

    @property
    def token_ids(self) -> Ids:
        """Ids in front of the answer as the model gets them: templated, with special tokens, cut to fit.

        Of options, the ids that stand in front of all of them: those of the context, less what merges with
        an option; where each option has a context of its own, or is a whole text, what all begin with.
        """
        return self.encoded.ids if isinstance(self.encoded, EncodedPrompt) else self.encoded.base

    @property
    def sha256(self) -> str:
        """Hash of the prompt's UTF-8 bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Encoder:
    """Everything that turns one model's requests into ids."""

    tokenizer: Tokenizer
    window: int
    """The model's context length in tokens."""
    chat: bool | None = None
    """Whether prompts go through the chat template; None: conversations do where there is one."""
    seed: int = 0
    system: str | None = None
    """System prompt of every conversation; stands in for one of the protocol's own."""
    answer_prefix: str = ""
    """Beginning of every answer of a conversation, put into the model's mouth after the template."""
    reasoning: tuple[str, str] | None = None
    """Texts between which the model reasons before it answers."""
    render: Render | None = None
    """How the protocol asks, to turn its examples into turns; None leaves a plain prompt in one turn."""

    def encode_all(self, rendered: Rendered) -> Iterator[Encoded]:
        """Encode requests in order.

        Raises:
            UsageError: the chat template does not fit the conversation, or an option is empty in tokens.
        """
        scored = [self._as_turn(p, r) for p, r in rendered if not isinstance(r, GenerateRequest)]
        encoded = encode(self.tokenizer, scored, templated=bool(self.chat))
        for p, request in rendered:
            yield self.prompt(p, request) if isinstance(request, GenerateRequest) else next(encoded)

    def encode_one(self, p: PromptInput, request: Request) -> Encoded:
        """Encode one request."""
        return next(self.encode_all([(p, request)]))

    def prompt(self, p: PromptInput, request: GenerateRequest) -> EncodedPrompt:
        """Encode a prompt that is to be continued."""
        most = max(map(len, self.tokenizer.encode(request.no_longer_than)), default=request.max_new_tokens)
        templated = self.uses_template(request)
        turns = self._conversation(p, request) if templated else ()
        begun = (self.answer_prefix if templated else "") + request.prefill
        text = (self._through_template(turns) if templated else _joined(request)) + begun
        return EncodedPrompt(
            ids=encode_prompt(self.tokenizer, text, templated=templated),
            max_new_tokens=min(most, request.max_new_tokens),
            stop=request.stop,
            sampling=request.sampling,
            seed=_seed(self.seed, p.sample),
            min_new_tokens=request.min_new_tokens,
            turns=(*turns, Message("assistant", begun)) if templated and begun else turns,
            reasoning=self.reasoning,
        )

    def uses_template(self, request: Request) -> bool:
        """Whether this prompt goes through the chat template."""
        if self.chat is not None:
            return self.chat
        turns = isinstance(request, GenerateRequest) and not isinstance(request.prompt, str)
        return turns and self.tokenizer.has_chat_template

    def _conversation(self, p: PromptInput, request: ScoreRequest | GenerateRequest) -> tuple[Message, ...]:
        """The turns of a prompt: those the protocol wrote, or its examples', or one."""
        turns = _turns(request)
        if self.render is not None and p.shots and (text := plain_text(request)) is not None:
            turns = example_turns(self.render, p, text) or turns
        if self.system is None:
            return turns
        return (Message("system", self.system), *(turn for turn in turns if turn.role != "system"))

    def _through_template(self, turns: Sequence[Message]) -> str:
        if not self.tokenizer.has_chat_template:
            raise UsageError(
                "--chat: the model's tokenizer has no chat template, as those of base models; "
                "use --no-chat, or a model that was trained on conversations"
            )
        text = self.tokenizer.chat(turns)
        if self.system is not None and self.system.strip() not in text:
            raise UsageError(
                "--system: the model's chat template leaves the system prompt out; leave out --system"
            )
        return text

    def _as_turn(self, p: PromptInput, request: ScoreRequest | SpanRequest) -> ScoreRequest | SpanRequest:
        """Put the context of a scored request into the chat template where that is asked for."""
        if not self.chat:
            return request
        if isinstance(request, SpanRequest):
            raise UsageError("--chat: this protocol compares whole texts, which have no turns; use --no-chat")
        options = tuple(c.lstrip() if isinstance(c, str) else c for c in request.continuations)
        context = self._through_template(self._conversation(p, request)) + self.answer_prefix
        if self.reasoning is not None and context.rstrip().endswith(self.reasoning[0]):
            raise UsageError(
                f"--chat: the prompt ends with {self.reasoning[0]}, and options are no reasoning; end that "
                f"with --answer-prefix '{self.reasoning[1]}', or use a protocol that generates text"
            )
        return ScoreRequest(context, options)


def prompt_text(request: Request) -> str:
    """The prompt as published: context of the options, part the whole texts share, or all turns."""
    if isinstance(request, ScoreRequest):
        return request.context
    if isinstance(request, GenerateRequest):
        return "".join(message.content for message in _turns(request))
    # Character by character is what is meant here: these are texts, not paths.
    return os.path.commonprefix(request.texts)  # noqa: RUF071


def render(
    resolved: ResolvedTask, samples: Iterable[Sample], shots: Iterable[Sequence[Sample]]
) -> list[tuple[PromptInput, Request]]:
    """Render samples of one subset, each with its few-shot examples."""
    inputs = [
        PromptInput(sample.subset, resolved.task.subsets[sample.subset], tuple(examples), sample)
        for sample, examples in zip(samples, shots, strict=True)
    ]
    return [(p, resolved.protocol.render(p)) for p in inputs]


def prepare(resolved: ResolvedTask, rendered: Rendered, encoder: Encoder) -> list[Prompt]:
    """Encode rendered prompts, applying the protocol's overlong policy.

    Raises:
        UsageError: a prompt does not fit and the protocol has no way to shorten it, or an option
            tokenises to nothing.
    """
    fitting = _Fitting(resolved, encoder)
    return [
        Prompt(p.sample, request, encoded, truncated=False)
        if fitting.fits(encoded)
        else fitting.shortened(p, request, encoded)
        for (p, request), encoded in zip(rendered, encoder.encode_all(rendered), strict=True)
    ]


class _Fitting:
    """A protocol's overlong policy for one model."""

    def __init__(self, resolved: ResolvedTask, encoder: Encoder) -> None:
        self.resolved, self.encoder = resolved, encoder
        limit = resolved.protocol.overlong.limit
        published = limit(encoder.window) if callable(limit) else limit
        self.limit = min(encoder.window, published or encoder.window)

    def fits(self, encoded: Encoded) -> bool:
        return encoded.n_inputs <= self.room(encoded)

    def room(self, encoded: Encoded) -> int:
        """Tokens the prompt may have: of the window, what is generated comes on top."""
        new = encoded.max_new_tokens if isinstance(encoded, EncodedPrompt) else 0
        return max(0, min(self.limit, self.encoder.window - new))

    def shortened(self, p: PromptInput, request: Request, encoded: Encoded) -> Prompt:
        overlong = self.resolved.protocol.overlong
        room = self.room(encoded)
        if overlong.policy == "left" and room > 0:
            return Prompt(p.sample, request, encoded.kept_right(room), truncated=True)
        if overlong.policy == "middle" and isinstance(request, GenerateRequest):
            return self._cut_in_the_middle(p, request, encoded)
        for candidate in self._with_fewer_shots(p):
            fewer = self.resolved.protocol.render(candidate)
            shorter = self.encoder.encode_one(candidate, fewer)
            if self.fits(shorter):
                return Prompt(p.sample, fewer, shorter, truncated=True)
        if overlong.bare is not None:
            bare = overlong.bare(p)
            shorter = self.encoder.encode_one(p, bare)
            new = shorter.max_new_tokens if isinstance(shorter, EncodedPrompt) else 0
            if shorter.n_inputs <= self.encoder.window - new:
                return Prompt(p.sample, bare, shorter, truncated=True)
        raise self._too_long(p, encoded)

    def _too_long(self, p: PromptInput, encoded: Encoded) -> UsageError:
        return UsageError(
            f"{self.resolved.name}: the prompt of {p.subset} sample {p.sample.id} has {encoded.n_inputs} "
            f"tokens, {self.room(encoded)} fit, and the protocol has no way to shorten it further; use "
            "fewer --shots, a protocol that cuts (such as lm-eval) or a model with a longer context"
        )

    def _cut_in_the_middle(self, p: PromptInput, request: GenerateRequest, encoded: Encoded) -> Prompt:
        """Keep the first and the last half of the bare prompt's tokens; the chat template comes after."""
        room = self.encoder.window - request.max_new_tokens
        frame = 0
        if self.encoder.uses_template(request):
            frame = self.encoder.prompt(p, replace(request, prompt=(Message("user", ""),))).n_inputs
        cap = min(self.limit, room - frame)
        if cap < 2:
            raise self._too_long(p, encoded)
        tokenizer, text = self.encoder.tokenizer, prompt_text(request)
        ids = encode_prompt(tokenizer, text)
        if len(ids) <= cap:  # only the template makes it longer than the published limit
            return Prompt(p.sample, request, encoded.kept_right(room), truncated=encoded.n_inputs > room)
        text = tokenizer.decode(ids[: cap // 2].tolist()) + tokenizer.decode(ids[-(cap // 2) :].tolist())
        cut = replace(request, prompt=text if isinstance(request.prompt, str) else (Message("user", text),))
        shorter = self.encoder.prompt(p, cut)
        # Two halves put together may tokenise to a little more than they had.
        kept = shorter if shorter.n_inputs <= room else shorter.kept_right(room)
        return Prompt(p.sample, cut, kept, truncated=True)

    def _with_fewer_shots(self, p: PromptInput) -> Iterator[PromptInput]:
        policy = self.resolved.protocol.overlong.policy
        if policy == "drop_last_shot":
            yield from (replace(p, shots=p.shots[:k]) for k in reversed(range(len(p.shots))))
        elif policy == "drop_longest_shot":
            lengths = [self._shot_tokens(p, shot) for shot in p.shots]
            by_length = sorted(range(len(p.shots)), key=lambda i: -lengths[i])
            for gone in range(1, len(p.shots) + 1):
                kept = tuple(s for i, s in enumerate(p.shots) if i not in by_length[:gone])
                yield replace(p, shots=kept)

    def _shot_tokens(self, p: PromptInput, shot: Sample) -> int:
        """Length of a prompt that asks the example itself: the header counts for all examples alike."""
        text = prompt_text(self.resolved.protocol.render(replace(p, shots=(), sample=shot)))
        return len(self.encoder.tokenizer.encode([text])[0])


def request_bytes(encoded: Encoded) -> Iterator[bytes]:
    """All that decides what an engine is asked, for the hash ladder."""
    if isinstance(encoded, EncodedPrompt):
        yield encoded.ids.tobytes()
        yield repr(replace(encoded, ids=encoded.ids[:0], turns=())).encode("utf-8", "surrogatepass")
    else:
        yield from (part.tobytes() for part in (encoded.base, *encoded.tails))


def _joined(request: GenerateRequest) -> str:
    """The prompt without a template: turns are joined as OpenCompass does for base models."""
    return "\n".join(message.content for message in _turns(request))


def _turns(request: ScoreRequest | GenerateRequest) -> tuple[Message, ...]:
    prompt = request.context if isinstance(request, ScoreRequest) else request.prompt
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def _seed(seed: int, sample: Sample) -> int:
    """A seed of the sample's own, whatever the order of samples."""
    text = f"{seed}\0{sample.subset}\0{sample.id}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:7])

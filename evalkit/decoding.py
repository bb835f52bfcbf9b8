"""Planning and bookkeeping of text generation: what shares a prefill, and when a completion is done.

Pure Python and numpy: no engine is imported here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from evalkit.reasoning import Reasoning
from evalkit.tokens import EncodedPrompt, Tokenizer, common_prefix, sort_key
from evalkit.types import Completion, Failure, FinishReason, GenerateResponse, Response

MIN_SHARED = 64
"""Tokens prompts must have in common for their prefix to be computed apart."""

_ANCHOR = 4
"""Prompt tokens decoded along with a completion: tokenizers drop a leading blank from the first token."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One completion to be generated: number `k` of request `index`."""

    index: int
    k: int
    prompt: EncodedPrompt

    @property
    def longest(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return self.prompt.n_inputs + self.prompt.max_new_tokens


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """Drafts whose prompts begin with the same `shared` tokens; each has at least one token more."""

    shared: int
    drafts: list[Draft]


def drafts(requests: Sequence[EncodedPrompt], done: Collection[int]) -> list[Draft]:
    """Every completion that is asked for, requests in `done` left out."""
    wanted = ((i, request) for i, request in enumerate(requests) if i not in done)
    return [Draft(i, k, request) for i, request in wanted for k in range(request.n_completions)]


class Collected:
    """Puts finished completions together to responses."""

    def __init__(self) -> None:
        self._of_request: dict[int, dict[int, Completion | Failure]] = {}

    def add(self, draft: Draft, completion: Completion | Failure) -> Iterator[tuple[int, Response]]:
        """Take one; yields the response it makes whole, if any. One failure fails its request."""
        found = self._of_request.setdefault(draft.index, {})
        found[draft.k] = completion
        if len(found) < draft.prompt.n_completions:
            return
        ordered = [found[k] for k in sorted(found)]
        del self._of_request[draft.index]
        failure = next((c for c in ordered if isinstance(c, Failure)), None)
        completions = tuple(c for c in ordered if isinstance(c, Completion))
        yield draft.index, failure or GenerateResponse(completions)


def buckets(drafts: Sequence[Draft]) -> Iterator[list[Draft]]:
    """Split drafts, longest first, so that none has room for more than twice its tokens."""
    bucket: list[Draft] = []
    for draft in sorted(drafts, key=lambda d: (-d.longest, d.index, d.k)):
        if bucket and 2 * draft.longest < bucket[0].longest:
            yield bucket
            bucket = []
        bucket.append(draft)
    if bucket:
        yield bucket


def prompt_groups(drafts: Sequence[Draft], batch_tokens: int) -> list[PromptGroup]:
    """Group drafts by a common beginning of their prompts that is worth computing once.

    What a prompt has beyond it is at most `batch_tokens` long; a longer prompt is a group of its own, so
    that its beginning can be computed piece by piece.
    """
    groups: list[PromptGroup] = []
    members: list[Draft] = []
    shared = 0
    for draft in sorted(drafts, key=lambda d: (sort_key(d.prompt.ids), d.index, d.k)):
        if not members:
            members, shared = [draft], draft.prompt.n_inputs - 1
            continue
        common = min(
            shared, common_prefix(members[0].prompt.ids, draft.prompt.ids), draft.prompt.n_inputs - 1
        )
        # A prefix is given up for a shorter one only once, when a second prompt shows what is shared.
        if common >= MIN_SHARED and (len(members) == 1 or 2 * common >= shared):
            members.append(draft)
            shared = common
        else:
            groups += _closed(members, shared, batch_tokens)
            members, shared = [draft], draft.prompt.n_inputs - 1
    groups += _closed(members, shared, batch_tokens) if members else []
    # What may take longest begins first, so that nothing is left to run alone at the end.
    return sorted(groups, key=lambda group: -group.drafts[0].longest)


def _closed(members: list[Draft], shared: int, batch_tokens: int) -> list[PromptGroup]:
    if len(members) == 1:
        shared = 0
    members.sort(key=lambda d: -d.longest)
    long = [d for d in members if d.prompt.n_inputs - shared > batch_tokens]
    short = [d for d in members if d.prompt.n_inputs - shared <= batch_tokens]
    alone = [PromptGroup(d.prompt.n_inputs - 1, [d]) for d in long]
    return ([PromptGroup(shared, short)] if short else []) + alone


@dataclass(slots=True)
class Growing:
    """A completion while it grows."""

    draft: Draft
    end_ids: frozenset[int]
    """Tokens with which the model ends its answer."""
    tokenizer: Tokenizer
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    stop_ids: frozenset[int] = field(init=False)
    """Stop texts of one token."""
    _stops: tuple[str, ...] = field(init=False)
    _longest_stop: int = field(init=False)
    _reasoning: Reasoning | None = field(init=False)

    def __post_init__(self) -> None:
        self._stops = tuple(filter(None, self.draft.prompt.stop))
        self._longest_stop = max(map(len, self._stops), default=0)
        encoded = zip(self._stops, self.tokenizer.encode(self._stops), strict=True)
        # Some tokenizers put a token of their own before a lone character.
        single = [(s, int(ids[-1])) for s, ids in encoded if len(ids) == 1 or (len(s) == 1 and len(ids))]
        # The last of a character's several bytes is the last of others, too.
        self.stop_ids = frozenset(i for s, i in single if self.tokenizer.decode([i]) in ("", s))
        prompt = self.draft.prompt
        self._reasoning = (
            Reasoning(prompt.reasoning, prompt.ids, self.tokenizer) if prompt.reasoning else None
        )

    @property
    def closing_ids(self) -> frozenset[int]:
        """Tokens that end the answer by themselves: end marks, and after the reasoning stop texts too."""
        return self.end_ids | self.stop_ids if self._is_answering else self.end_ids

    @property
    def _is_answering(self) -> bool:
        return self._reasoning is None or self._reasoning.is_over

    @property
    def forbidden(self) -> frozenset[int]:
        """Tokens that may not come next: those that would end an answer shorter than asked for."""
        return self.closing_ids if len(self.ids) < self.draft.prompt.min_new_tokens else frozenset()

    def add(self, token: int, logprob: float) -> Completion | None:
        """Take the next token; returns the completion when that finished it."""
        self.ids.append(token)
        self.logprob += logprob
        prompt = self.draft.prompt
        if token in self.end_ids:
            return self._completion(self.ids[:-1], "eos")
        if self._reasoning is not None:
            self._reasoning.follow(self.ids)
        if self._is_answering and self._is_stopped(token):
            return self._completion(self.ids, "stop")
        if len(self.ids) >= prompt.max_new_tokens:
            return self._completion(self.ids, "length")
        return None

    def replay(self, tokens: Iterable[tuple[int, float]], ended: FinishReason) -> Completion:
        """Take (token, log-probability) pairs generated elsewhere, so that text and stops are ours.

        Args:
            tokens: all that was generated.
            ended: why it ended, unless one of our own stops comes first.
        """
        for token, logprob in tokens:
            if completion := self.add(token, logprob):
                return completion
        return self._completion(self.ids, ended)

    def text(self, ids: Sequence[int]) -> str:
        """Text of `ids` as they follow the prompt."""
        anchor = self.draft.prompt.ids[-_ANCHOR:].tolist()
        before = self.tokenizer.decode(anchor)
        whole = self.tokenizer.decode([*anchor, *ids])
        return whole[len(before) :] if whole.startswith(before) else self.tokenizer.decode(ids)

    def _is_stopped(self, token: int) -> bool:
        if self._longest_stop and self._stop_is_near() and self._parts(self.ids).stopped:
            return True
        # A stop text that is a special token leaves no trace in the text.
        enough = len(self.ids) > self.draft.prompt.min_new_tokens
        return enough and token in self.stop_ids and not self.tokenizer.decode([token])

    def _stop_is_near(self) -> bool:
        """Whether the last tokens may hold a stop text; every token is at least one byte of it."""
        recent = self.tokenizer.decode(self.ids[-(4 * self._longest_stop + 4) :])
        # On their own these tokens may lack a blank in front.
        return any(stop.lstrip(" ") in recent for stop in self._stops)

    def _parts(self, ids: Sequence[int]) -> _Parts:
        """What `ids` say. The answer ends at its first stop; the fewest tokens asked for hold none."""
        text = self.text(ids)
        reasoning, begin = self._reasoning.split(ids, self.text) if self._reasoning else ("", 0)
        least = self.draft.prompt.min_new_tokens
        searched = max(begin, len(self.text(self.ids[:least])) if least else 0)
        places = [place for stop in self._stops if (place := text.find(stop, searched)) >= 0]
        return _Parts(reasoning, text[begin : min(places, default=len(text))], bool(places))

    def _completion(self, ids: Sequence[int], reason: FinishReason) -> Completion:
        parts = self._parts(ids)
        # Where tags were expected but none came, a stop shows only now that all is known to be answer.
        if reason == "length" and parts.stopped:
            reason = "stop"
        return Completion(parts.answer, reason, len(self.ids), tuple(self.ids), self.logprob, parts.reasoning)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A completion taken apart."""

    reasoning: str
    answer: str
    stopped: bool
    """Whether the answer ended at a stop text."""

"""From text requests to token ids: where a continuation begins, and what is cut when it does not fit.

The boundary between context and continuation is found on the tokens of the *whole* string (longest
common prefix with the context's own tokens), because tokenising the pieces apart can insert or merge
tokens that the model never sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from evalkit.errors import UsageError
from evalkit.types import Message, NextToken, Sampling, ScoreRequest, SpanRequest

Ids = npt.NDArray[np.int32]

_TAIL_CHARS = 48
"""How much of a context is tokenised again together with each continuation."""

_CHUNK = 256
"""Requests tokenised per call: enough to keep the tokenizer's threads busy, little to hold in memory."""


class Tokenizer(Protocol):
    """What the encoder needs from a tokenizer."""

    leading_ids: tuple[int, ...]
    """Ids the tokenizer itself puts in front of a text (BOS), possibly none."""
    prefix_id: int
    """Stands in front where a context leaves no token of its own: BOS, else EOS."""

    bos_id: int | None
    """Id that begins a text (BOS), where the vocabulary has one; it need not be among `leading_ids`."""
    end_ids: tuple[int, ...]
    """Ids that end a text (EOS), possibly none."""
    has_chat_template: bool
    """Whether the model was trained on conversations in a format the tokenizer knows."""
    chat_template: str | None
    """Text of the chat template, where it is known."""

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, without special tokens added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        ...

    def chat(self, messages: Sequence[Message]) -> str:
        """Text of a conversation up to where the assistant's next turn begins."""
        ...


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """Token ids of one request: sequence j is `base` followed by `tails[j]`."""

    base: Ids
    """Ids shared by all sequences of the request."""
    tails: tuple[Ids, ...]
    starts: tuple[int, ...]
    """Per sequence, the index of its first scored token; at least 1."""
    whole: bool = False
    """Whether the sequences are whole texts rather than continuations of a context."""

    def sequence(self, j: int) -> Ids:
        """All ids of sequence j."""
        return np.concatenate([self.base, self.tails[j]])

    def length(self, j: int) -> int:
        """Number of ids of sequence j."""
        return len(self.base) + len(self.tails[j])

    def n_scored(self, j: int) -> int:
        """Tokens of sequence j that are scored."""
        return self.length(j) - self.starts[j]

    def reported_tokens(self, j: int) -> int:
        """Tokens of continuation j; of a whole text all tokens, the unscored first one included."""
        return self.length(j) if self.whole else self.n_scored(j)

    @property
    def n_inputs(self) -> int:
        """Tokens the longest sequence feeds to the model (its last token is only predicted)."""
        return max(self.length(j) for j in range(len(self.tails))) - 1

    @property
    def n_logical(self) -> int:
        """Tokens a plain harness computes: each distinct input of this request once, nothing shared."""
        inputs = {tail[:-1].tobytes(): len(tail) - 1 for tail in self.tails}
        return sum(len(self.base) + n for n in inputs.values())

    def kept_right(self, n_inputs: int) -> EncodedRequest:
        """The same request with ids cut from the left until every sequence feeds at most `n_inputs`."""
        cut = max(0, self.n_inputs - n_inputs)
        if cut == 0:
            return self
        starts = tuple(start - cut for start in self.starts)
        if min(starts) < 1 or cut >= len(self.base):
            raise UsageError(
                f"an answer option alone is longer than the model's context of {n_inputs} tokens; "
                "use a model with a longer context"
            )
        return EncodedRequest(self.base[cut:], self.tails, starts, self.whole)


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Token ids of a prompt to be continued, and when to stop."""

    ids: Ids
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling | None = None
    """None decodes greedily."""
    seed: int = 0
    """Of the first completion; completion k draws with `seed + k`."""
    min_new_tokens: int = 0
    reasoning: tuple[str, str] | None = None
    """Texts (begin, end) between which the model reasons; stop texts count in its answer only."""
    turns: tuple[Message, ...] = ()
    """The conversation behind `ids`, for servers that put it into a chat template of their own.

    An assistant's turn at its end is the beginning of the answer, not a whole one.
    """

    @property
    def n_completions(self) -> int:
        """How many completions are asked for."""
        return self.sampling.n if self.sampling else 1

    @property
    def n_inputs(self) -> int:
        """Tokens of the prompt."""
        return len(self.ids)

    @property
    def n_logical(self) -> int:
        """Prompt tokens a plain harness computes: the prompt once per completion."""
        return len(self.ids) * self.n_completions

    def kept_right(self, n_inputs: int) -> EncodedPrompt:
        """The same prompt with ids cut from the left until `n_inputs` are left."""
        return replace(self, ids=self.ids[-n_inputs:])


def encode(
    tokenizer: Tokenizer, requests: Sequence[ScoreRequest | SpanRequest], *, templated: bool = False
) -> Iterator[EncodedRequest]:
    """Tokenise requests in order.

    Args:
        tokenizer: the model's.
        requests: what is to be scored.
        templated: the contexts came out of a chat template. Such a text spells out its special tokens, so
            nothing is put in front, and its last blanks are the template's own and not the option's.

    Raises:
        UsageError: a continuation tokenises to nothing.
    """
    for begin in range(0, len(requests), _CHUNK):
        chunk = requests[begin : begin + _CHUNK]
        score = iter(_encode_scores(tokenizer, [r for r in chunk if isinstance(r, ScoreRequest)], templated))
        span = iter(_encode_spans(tokenizer, [r for r in chunk if isinstance(r, SpanRequest)]))
        for request in chunk:
            yield next(score if isinstance(request, ScoreRequest) else span)


def has_leading_ids(tokenizer: Tokenizer, ids: Ids) -> bool:
    """Whether a text already spells out the tokenizer's own leading tokens (as chat templates do)."""
    n = len(tokenizer.leading_ids)
    return n > 0 and tuple(int(i) for i in ids[:n]) == tokenizer.leading_ids


def encode_prompt(tokenizer: Tokenizer, text: str, *, templated: bool = False) -> Ids:
    """Token ids of a text that is continued, after the tokenizer's own leading tokens.

    A text that came out of a chat template (`templated`) is taken as it stands.
    """
    (ids,) = tokenizer.encode([text])
    if not templated:
        ids = with_leading(tokenizer, ids)
    return ids if len(ids) else np.asarray([tokenizer.prefix_id], np.int32)


def with_leading(tokenizer: Tokenizer, ids: Ids) -> Ids:
    """Put the tokenizer's own leading tokens in front, unless the text spells them out."""
    if not tokenizer.leading_ids or has_leading_ids(tokenizer, ids):
        return ids
    return np.concatenate([np.asarray(tokenizer.leading_ids, np.int32), ids])


def bos_at_start(tokenizer: Tokenizer, encoded: EncodedRequest | EncodedPrompt) -> int:
    """How many BOS tokens the ids begin with: 0 or 1, unless something was written twice."""
    if isinstance(encoded, EncodedPrompt):
        sequences = [encoded.ids]
    elif len(encoded.base) and encoded.base[-1] != tokenizer.bos_id:
        sequences = [encoded.base]
    else:
        sequences = [encoded.sequence(j) for j in range(len(encoded.tails))]
    return max(_leading_run(ids, tokenizer.bos_id) for ids in sequences)


def _leading_run(ids: Ids, wanted: int | None) -> int:
    return next((i for i, found in enumerate(ids) if found != wanted), len(ids))


def _encode_spans(tokenizer: Tokenizer, requests: Sequence[SpanRequest]) -> Iterator[EncodedRequest]:
    encoded = iter(tokenizer.encode([text for r in requests for text in r.texts]))
    for request in requests:
        sequences = [with_leading(tokenizer, next(encoded)) for _ in request.texts]
        if min(map(len, sequences)) < 2:
            raise UsageError(f"a text of {request.texts!r:.80} has no token that could be scored")
        # Keep at least one token in every tail, so that a sequence's last token is never in the base.
        shared = min(common_prefix(sequences[0], s) for s in sequences)
        shared = min(shared, min(map(len, sequences)) - 1)
        yield EncodedRequest(
            sequences[0][:shared], tuple(s[shared:] for s in sequences), (1,) * len(sequences), whole=True
        )


def _encode_scores(
    tokenizer: Tokenizer, requests: Sequence[ScoreRequest], templated: bool
) -> Iterator[EncodedRequest]:
    splits = [(r.context, "") if templated else _split_trailing_space(r) for r in requests]
    contexts = tokenizer.encode([context for context, _ in splits])
    boundary = _Boundary(
        tokenizer, [context for context, _ in splits], [space for _, space in splits], requests
    )
    for i, (request, ids) in enumerate(zip(requests, contexts, strict=True)):
        tails = [boundary.tail(i, j, ids) for j in range(len(request.continuations))]
        full = ids if templated else with_leading(tokenizer, ids)
        yield _join(tokenizer, request, ids, full, tails)


def _split_trailing_space(request: ScoreRequest) -> tuple[str, str]:
    """Trailing blanks of a context belong to the continuation: tokens carry blanks in front."""
    if any(isinstance(c, NextToken) for c in request.continuations):
        return request.context, ""
    stripped = request.context.rstrip()
    return stripped, request.context[len(stripped) :]


def _join(
    tokenizer: Tokenizer, request: ScoreRequest, context: Ids, full: Ids, tails: list[tuple[int, Ids]]
) -> EncodedRequest:
    """Put (kept context ids, tail) pairs over one common base; `full` is the context with what leads it."""
    for (_, tail), continuation in zip(tails, request.continuations, strict=True):
        if len(tail) == 0:
            raise UsageError(
                f"the option {continuation!r} tokenises to nothing after the context "
                f"'…{request.context[-40:]}'; give it a text the tokenizer can encode"
            )
    base = min(kept for kept, _ in tails)
    if len(context) == 0 or (base == 0 and len(full) == len(context)):
        # An empty context, or one that merges into an option whole, leaves nothing to predict from.
        full = np.concatenate([np.asarray([tokenizer.prefix_id], np.int32), context])
    lead = len(full) - len(context)
    joined = tuple(np.concatenate([context[base:kept], tail]) for kept, tail in tails)
    starts = tuple(lead + kept for kept, _ in tails)
    return EncodedRequest(full[: lead + base], joined, starts)


class _Boundary:
    """Finds each continuation's ids by tokenising the end of its context together with it.

    Tokenising the whole string once per option would cost several times the context. The end of the
    context, cut at a line break, is enough whenever its tokens on their own agree with the context's
    last tokens; otherwise the whole string is tokenised.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        contexts: Sequence[str],
        spaces: Sequence[str],
        requests: Sequence[ScoreRequest],
    ) -> None:
        self._tokenizer = tokenizer
        self._contexts = contexts
        self._spaces = spaces
        self._requests = requests
        self._endings = [context[_ending_start(context) :] for context in contexts]
        texts = dict.fromkeys(self._endings)
        for ending, space, request in zip(self._endings, spaces, requests, strict=True):
            texts.update(dict.fromkeys(_piece(c, ending, space) for c in request.continuations))
        self._ids = dict(zip(texts, tokenizer.encode(list(texts)), strict=True))

    def tail(self, i: int, j: int, context: Ids) -> tuple[int, Ids]:
        """(number of context ids kept, ids that follow them) for continuation j of request i."""
        continuation = self._requests[i].continuations[j]
        ending = self._endings[i]
        if isinstance(continuation, NextToken):
            return len(context), self._ids[continuation.text][-1:]
        ending_ids = self._ids[ending]
        joined = self._ids[_piece(continuation, ending, self._spaces[i])]
        shared = common_prefix(ending_ids, joined)
        before = len(context) - len(ending_ids)
        whole_context = len(ending) == len(self._contexts[i])
        if whole_context or (
            shared > 1 and before > 0 and np.array_equal(ending_ids[1:], context[before + 1 :])
        ):
            return before + shared, joined[shared:]
        (whole,) = self._tokenizer.encode([self._contexts[i] + self._spaces[i] + continuation])
        shared = common_prefix(context, whole)
        return shared, whole[shared:]


def _piece(continuation: str | NextToken, ending: str, space: str) -> str:
    return continuation.text if isinstance(continuation, NextToken) else ending + space + continuation


def _ending_start(context: str) -> int:
    return max(0, context.rfind("\n", 0, max(0, len(context) - _TAIL_CHARS)))


def sort_key(ids: Ids) -> bytes:
    """Bytes that sort as the ids do, one after the other."""
    return ids.astype(">i4").tobytes()


def common_prefix(a: Ids, b: Ids) -> int:
    """Length of the longest common prefix of two id arrays."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n

"""The completions endpoint: what is asked of it, and what is believed of its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from evalkit.backends.base import Usage
from evalkit.backends.openai.client import USUAL, Client, Effort, InvalidAnswer, Unusable
from evalkit.backends.openai.tokenizer import ServerTokenizer
from evalkit.backends.tokenizer import HfTokenizer
from evalkit.tokens import Ids

_ROUNDING = 1e-4
"""How far above zero rounding may lift a log-probability."""
_LABEL = "token_id:"
_PLACEHOLDER = -9000.0
"""Servers put -9999 where they have no number; no real log-probability comes near it."""
_FORCE = 100
"""Added to a logit so that its token is chosen; the largest value the protocol allows."""
MOST_IDS = 100
"""Ids asked about in one request; vLLM takes 128."""

Body = dict[str, Any]


class MisreadPrompt(Unusable):
    """The server counts other tokens than those that were meant."""


class Scored(NamedTuple):
    """One token: its log-probability, and whether no other is more likely."""

    logprob: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class Habits:
    """How one server wants to be asked."""

    takes_ids: bool = True
    labels_ids: bool = True
    """Whether it says which token ids it means, not only their text."""
    lead: tuple[int, ...] = ()
    """Ids the tokenizer would put in front of a text, which is left to a server that takes only text."""
    added_tokens: int = 0
    """Tokens such a server puts in front of a text of its own accord."""
    counts: bool = False
    """Whether it tells how many tokens it reads."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A request, and what its answer must be about."""

    body: Body
    n_sent: int
    """Tokens whose ids or text are sent."""
    n_prompt: int
    """Tokens the server must count."""
    text: str = ""
    """What is sent, where it is no ids."""


@dataclass(frozen=True, slots=True)
class Continued:
    """What a server generated."""

    text: str
    ids: tuple[int, ...]
    """Empty where the server does not tell."""
    labels: tuple[str, ...]
    logprobs: tuple[float, ...]
    """Of each token; empty where none were asked for or told."""
    top: Mapping[str, float]
    """The most likely first tokens by label, as far as told."""
    finish_reason: str
    stop_reason: Any
    n_tokens: int
    n_prompt: int | None


class Completions:
    """Asks one model of one server to complete token ids."""

    def __init__(
        self,
        client: Client,
        model: str,
        tokenizer: HfTokenizer | ServerTokenizer,
        usage: Usage,
        habits: Habits,
    ) -> None:
        """`usage` grows with every answer."""
        self._client, self._model, self._tokenizer, self._usage = client, model, tokenizer, usage
        self.habits = habits

    async def generate(
        self,
        ids: Ids,
        max_tokens: int,
        *,
        logprobs: int | None = None,
        effort: Effort = USUAL,
        **more: Any,
    ) -> Continued:
        """Continue a prompt; `more` are further fields of the request."""
        if logprobs is not None:
            more["logprobs"] = logprobs
        question = await self._question(ids, max_tokens=max_tokens, **more)
        return await self._client.ask(
            "completions",
            question.body,
            lambda answer: _continued(self._choice(answer, question), answer, logprobs is not None),
            effort=effort,
        )

    async def next_by_ids(
        self, ids: Ids, targets: Sequence[int], *, effort: Effort = USUAL
    ) -> dict[int, Scored]:
        """Scores of tokens that could come next, named by `logprob_token_ids` (vLLM)."""
        question = await self._question(
            ids, max_tokens=1, temperature=0, logprobs=1, logprob_token_ids=[int(t) for t in targets]
        )

        def read(answer: Any) -> dict[int, Scored]:
            logprobs = self._choice(answer, question)["logprobs"]
            top = {_id_of(label): _logprob(value) for label, value in logprobs["top_logprobs"][0].items()}
            if missing := [t for t in targets if t not in top]:
                raise InvalidAnswer(f"no log-probability of token {missing[0]}, which was asked for")
            highest = max(top.values())  # the generated token is among them
            return {t: Scored(top[t], top[t] >= highest) for t in targets}

        return await self._client.ask("completions", question.body, read, effort=effort)

    async def next_by_bias(
        self, ids: Ids, targets: Sequence[int], *, effort: Effort = USUAL
    ) -> dict[int, Scored]:
        """The same by forcing each token in turn, where log-probabilities are those before the bias.

        llama-cpp-python needs it for models whose tokenizer puts nothing in front of a text: its echo then
        gives every token the log-probability of its successor's place.
        """
        question = await self._question(ids, max_tokens=1, temperature=0, logprobs=1)

        def read(answer: Any) -> Scored:
            logprobs = self._choice(answer, question)["logprobs"]
            return _scored(logprobs["token_logprobs"][0], logprobs["top_logprobs"][0])

        return {
            target: await self._client.ask(
                "completions",
                question.body | {"logit_bias": {str(int(target)): _FORCE}},
                read,
                effort=effort,
            )
            for target in targets
        }

    async def echo(self, ids: Ids, *, effort: Effort = USUAL) -> list[Scored]:
        """Scores of every token of `ids` but the first, as the server echoes them; NaN where it does not."""
        # One token is generated as well: some servers take a limit of 0 for none at all.
        question = await self._question(ids, max_tokens=1, temperature=0, echo=True, logprobs=1)
        # Labels that are no ids are compared with the text, of which a leading token need not be part.
        text = question.text
        if not (text or self.habits.labels_ids):
            text = await self.text_of(self._without_lead(ids))

        def read(answer: Any) -> list[Scored]:
            counted = (answer.get("usage") or {}).get("completion_tokens")
            n_new = 1 if counted is None else counted
            scored = self._echoed(self._choice(answer, question)["logprobs"], n_new, ids, question, text)
            return [Scored(math.nan, False)] * (len(ids) - 1 - len(scored)) + scored

        return await self._client.ask("completions", question.body, read, effort=effort)

    async def _question(self, ids: Ids, **fields: Any) -> _Question:
        body: Body = {"model": self._model, **fields}
        if self.habits.labels_ids:
            body |= {"return_tokens_as_token_ids": True, "return_token_ids": True}
        if self.habits.takes_ids:
            return _Question(body | {"prompt": ids.tolist()}, len(ids), len(ids))
        rest = self._without_lead(ids)
        text = await self.text_of(rest)
        if "\ufffd" in text:
            raise Unusable("the server takes only text, and these tokens end within a character")
        return _Question(body | {"prompt": text}, len(rest), len(rest) + self.habits.added_tokens, text)

    def _without_lead(self, ids: Ids) -> Ids:
        lead = self.habits.lead or self._tokenizer.leading_ids
        return ids[len(lead) :] if tuple(ids[: len(lead)].tolist()) == lead else ids

    async def text_of(self, ids: Ids) -> str:
        """The text that a server should tokenise to `ids`; how many it counts tells whether it does."""
        if isinstance(self._tokenizer, ServerTokenizer):
            return await self._tokenizer.text_of(ids.tolist())
        return str(
            self._tokenizer.tokenizer.decode(
                ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def _choice(self, answer: Any, question: _Question) -> Mapping[str, Any]:
        """The only choice of an answer about as many prompt tokens as were sent."""
        usage = answer.get("usage") or {}
        counted = usage.get("prompt_tokens")
        if counted is None and self.habits.counts:
            raise InvalidAnswer("the server does not tell how many tokens it read")
        if counted is not None and counted != question.n_prompt:
            raise MisreadPrompt(
                f"the server reads the prompt as {counted} tokens, not as the {question.n_prompt} that were "
                "meant: its text does not tokenise to the same ids again, or it was cut"
            )
        (choice,) = answer["choices"]
        if not isinstance(choice["text"], str):
            raise InvalidAnswer("no text")
        details = usage.get("prompt_tokens_details") or {}
        self._usage.tokens_computed += question.n_prompt - (details.get("cached_tokens") or 0)
        self._usage.tokens_generated += usage.get("completion_tokens") or 0
        result: Mapping[str, Any] = choice
        return result

    def _echoed(
        self, logprobs: Mapping[str, Any], n_new: int, ids: Ids, question: _Question, text: str
    ) -> list[Scored]:
        """Scores of the sent tokens but the first, once they are proven to be the echoed ones."""
        labels, values, tops = (logprobs[k] for k in ("tokens", "token_logprobs", "top_logprobs"))
        # Some servers show the BOS that they put in front themselves, and a generated end mark; some do not.
        beyond = len(labels) - question.n_sent
        shown = beyond - min(n_new, beyond)
        if beyond < 0 or shown not in (0, self.habits.added_tokens):
            raise InvalidAnswer(
                f"{len(values)} log-probabilities for {question.n_sent} tokens of the prompt and {n_new} "
                "generated: the prompt is not echoed"
            )
        if not len(labels) == len(values) == len(tops):
            raise InvalidAnswer(f"{len(values)} log-probabilities of {len(labels)} tokens")
        end = shown + question.n_sent
        echoed = labels[shown:end]
        if self.habits.labels_ids:
            if [_id_of(label) for label in echoed] != ids.tolist():
                raise InvalidAnswer("the echoed token ids are not those of the prompt")
        elif not _in_order(echoed[len(echoed) - len(self._without_lead(ids)) :], text):
            raise InvalidAnswer("the echoed tokens are not those of the prompt")
        pairs = zip(values[shown + 1 : end], tops[shown + 1 : end], strict=True)
        return [_scored(value, top) for value, top in pairs]


def _continued(choice: Mapping[str, Any], answer: Any, wants_logprobs: bool) -> Continued:
    logprobs = (choice.get("logprobs") if wants_logprobs else None) or {}
    labels = tuple(logprobs.get("tokens") or ())
    values = tuple(map(_logprob, logprobs.get("token_logprobs") or ()))
    ids = tuple(choice.get("token_ids") or ())
    if len(labels) != len(values) or (ids and values and len(ids) != len(values)):
        raise InvalidAnswer(f"{len(values)} log-probabilities of {len(labels)} tokens")
    top = (logprobs.get("top_logprobs") or [{}])[0] or {}
    usage = answer.get("usage") or {}
    return Continued(
        choice["text"],
        ids,
        labels,
        values,
        {label: _logprob(value) for label, value in top.items()},
        str(choice["finish_reason"]),
        choice.get("stop_reason"),
        usage.get("completion_tokens") or len(ids) or len(labels),
        usage.get("prompt_tokens"),
    )


def _in_order(labels: Sequence[str], text: str) -> bool:
    """Whether the labels stand in the text one after the other; part of a character has no label."""
    place = 0
    for label in labels:
        if "\ufffd" not in label:
            place = text.find(label, place)
            if place < 0:
                return False
            place += len(label)
    return True


def _scored(value: Any, top: Mapping[str, Any] | None) -> Scored:
    logprob = _logprob(value)
    return Scored(logprob, logprob >= max(map(_logprob, (top or {}).values()), default=math.inf))


def _id_of(label: str) -> int:
    if not label.startswith(_LABEL):
        raise InvalidAnswer(f"a token is called {label!r}, not by its id")
    return int(label.removeprefix(_LABEL))


def _logprob(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidAnswer(f"{value!r} is no log-probability")
    if not math.isfinite(value) or value > _ROUNDING:
        raise InvalidAnswer(f"{value} is no log-probability")
    if value <= _PLACEHOLDER:
        raise InvalidAnswer(f"{value} is a placeholder, no log-probability")
    return float(value)


def id_of_label(label: str) -> int | None:
    """The id a label names; None where it is the token's text."""
    return _id_of(label) if label.startswith(_LABEL) else None

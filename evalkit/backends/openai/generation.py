"""Completions from a server, ended where evalkit's own stop rule ends them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evalkit.backends.base import Usage
from evalkit.backends.openai.client import Client, GaveUp, InvalidAnswer, Refused, Unusable
from evalkit.backends.openai.completions import Completions, Continued
from evalkit.backends.openai.scoring import failure_text
from evalkit.backends.openai.tokenizer import ServerTokenizer, Utf8Tokenizer
from evalkit.backends.tokenizer import HfTokenizer
from evalkit.decoding import Draft, Growing
from evalkit.errors import UsageError
from evalkit.reasoning import Reasoning
from evalkit.tokens import EncodedPrompt, encode_prompt
from evalkit.types import Completion, Failure, FinishReason, GenerateResponse, Response

_MOST_STOPS = 4
"""Stop texts the protocol allows; the others are looked for here."""
_ANCHOR = 4
"""Prompt tokens decoded along with a completion: tokenizers drop a leading blank from the first token."""
_LAST_IDS = 64
"""Tokens at the end of a prompt among which a reasoning tag and blanks after it stand."""
_SEEDS = 1 << 31
"""Some servers keep seeds in 32 bits."""

_OWN_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "vllm": {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "min_tokens": 0},
    # Its `repeat_penalty` sees only the last tokens, which is not the penalty a protocol asks for.
    "llama-cpp-python": {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
}
"""Fields of a kind of server beyond the protocol, at the values that change nothing: its defaults may."""


class Generator:
    """Generates completions; several of its coroutines may run side by side."""

    def __init__(
        self,
        client: Client,
        model: str,
        kind: str,
        tokenizer: HfTokenizer | ServerTokenizer | Utf8Tokenizer,
        completions: Completions | None,
        usage: Usage,
        *,
        with_logprobs: bool,
    ) -> None:
        """Without `completions`, prompts go to the chat endpoint."""
        self._client, self._model, self._kind, self._tokenizer = client, model, kind, tokenizer
        self._completions, self._usage, self._with_logprobs = completions, usage, with_logprobs
        self._limit_field = "max_tokens"
        self._stop_ids: dict[str, int] = {}
        """Stop texts of one token."""

    def prepare(self, prompts: Sequence[EncodedPrompt]) -> None:
        """Refuse what this server cannot keep to, and get ready for the rest.

        Raises:
            UsageError: naming the setting.
        """
        known = self._own_fields()
        if self._completions is None:  # a chat answer comes without ids: what its first tokens say is unknown
            known = {field: value for field, value in known.items() if field != "min_tokens"}
        penalised = any(p.sampling and p.sampling.repetition_penalty != 1.0 for p in prompts)
        asked = {
            "a fewest number of new tokens": ("min_tokens", any(p.min_new_tokens for p in prompts)),
            "a repetition penalty": ("repetition_penalty", penalised),
            "top-k sampling": ("top_k", any(p.sampling and p.sampling.top_k for p in prompts)),
        }
        for what, (field, wanted) in asked.items():
            if wanted and field not in known:
                raise UsageError(
                    f"the protocol asks for {what}, which a server of this kind ({self._kind}) cannot be "
                    "told; use another protocol, or --backend hf"
                )
        if self._kind == "vllm" and self._completions is not None:
            stops = sorted({stop for p in prompts for stop in p.stop if stop} - self._stop_ids.keys())
            encoded = zip(stops, self._tokenizer.encode(stops), strict=True)
            self._stop_ids |= {stop: int(ids[0]) for stop, ids in encoded if len(ids) == 1}

    async def greet(self) -> str | None:
        """Have one message answered; why the server does not, if it does not."""
        try:
            await self._by_chat(EncodedPrompt(self._tokenizer.encode(["Hello"])[0], 1), 0)
        except (Refused, Unusable, GaveUp, InvalidAnswer) as error:
            return f"the server's chat endpoint does not answer ({failure_text(error)})"
        return None

    async def generate(self, prompt: EncodedPrompt) -> Response:
        """All completions of one prompt, one request each."""
        n = prompt.sampling.n if prompt.sampling else 1
        try:
            if self._completions is None:
                return GenerateResponse(tuple([await self._by_chat(prompt, k) for k in range(n)]))
            return GenerateResponse(
                tuple([await self._by_completion(self._completions, prompt, k) for k in range(n)])
            )
        except (Refused, Unusable, GaveUp, InvalidAnswer) as error:
            return Failure(failure_text(error))

    def _own_fields(self) -> Mapping[str, Any]:
        return _OWN_FIELDS.get(self._kind, {})

    def _fields(self, prompt: EncodedPrompt, k: int) -> dict[str, Any]:
        fields: dict[str, Any] = dict(self._own_fields())
        if "min_tokens" in fields:
            fields["min_tokens"] = prompt.min_new_tokens
        fields["temperature"] = 0
        if sampling := prompt.sampling:
            fields |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
            fields["seed"] = (prompt.seed + k) % _SEEDS
            settings = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
            fields |= {name: value for name, value in settings.items() if name in fields}
        # A server would find them in the reasoning as well.
        if not prompt.reasoning and (stops := [stop for stop in prompt.stop if stop][:_MOST_STOPS]):
            fields["stop"] = stops
            # A special token leaves no trace in the text, where the server looks for stop texts.
            if tokens := [self._stop_ids[stop] for stop in prompt.stop if stop in self._stop_ids]:
                fields["stop_token_ids"] = tokens
        return fields

    async def _by_completion(self, completions: Completions, prompt: EncodedPrompt, k: int) -> Completion:
        answer = await completions.generate(
            prompt.ids,
            prompt.max_new_tokens,
            logprobs=0 if self._with_logprobs and completions.habits.labels_ids else None,
            **self._fields(prompt, k),
        )
        if answer.ids and isinstance(self._tokenizer, HfTokenizer):
            return self._replayed(self._tokenizer, prompt, answer)
        ids = answer.ids if answer.logprobs else ()
        ended = self._reason(answer.finish_reason, answer.stop_reason, prompt)
        least = await self._least(completions, prompt, answer)
        before = ""
        if prompt.reasoning:
            before = await completions.text_of(prompt.ids[-_LAST_IDS:])
        text, reason, reasoning = _taken_apart(prompt, answer.text, ended, before, least)
        return Completion(text, reason, max(1, answer.n_tokens), ids, sum(answer.logprobs), reasoning)

    def _replayed(self, tokenizer: HfTokenizer, prompt: EncodedPrompt, answer: Continued) -> Completion:
        """Go through the server's tokens as if they were generated here, one by one."""
        growing = Growing(Draft(0, 0, prompt), frozenset(tokenizer.end_ids), tokenizer)
        logprobs = answer.logprobs or (0.0,) * len(answer.ids)
        # The server knows of more ways to end, such as further end marks.
        ended = self._reason(answer.finish_reason, answer.stop_reason, prompt)
        completion = growing.replay(zip(answer.ids, logprobs, strict=True), ended)
        # Ids count as scored, which without log-probabilities they are not.
        return completion if answer.logprobs else replace(completion, token_ids=(), logprob=0.0)

    async def _least(self, completions: Completions, prompt: EncodedPrompt, answer: Continued) -> int:
        """Characters of the fewest tokens asked for, which hold no stop text."""
        if not (prompt.min_new_tokens and prompt.stop and answer.ids):
            return 0
        last = prompt.ids[-_ANCHOR:]
        first = np.asarray(answer.ids[: prompt.min_new_tokens], np.int32)
        before, whole = [await completions.text_of(ids) for ids in (last, np.concatenate([last, first]))]
        return len(whole) - len(before)

    def _reason(self, finish_reason: str, stop_reason: Any, prompt: EncodedPrompt) -> FinishReason:
        if finish_reason == "length":
            return "length"
        if finish_reason != "stop":
            raise Unusable(f"the server ended the completion for the reason '{finish_reason}'")
        stops = [*prompt.stop, *(self._stop_ids[stop] for stop in prompt.stop if stop in self._stop_ids)]
        return "stop" if stop_reason in stops else "eos"

    async def _by_chat(self, prompt: EncodedPrompt, k: int) -> Completion:
        body = {"model": self._model, "messages": self._messages(prompt), **self._fields(prompt, k)}

        def read(answer: Any) -> Completion:
            return self._spoken(prompt, answer)

        try:
            return await self._client.ask(
                "chat/completions", body | {self._limit_field: prompt.max_new_tokens}, read
            )
        except Refused as error:
            if "max_completion_tokens" not in str(error) or self._limit_field == "max_completion_tokens":
                raise
        self._limit_field = "max_completion_tokens"
        return await self._client.ask(
            "chat/completions", body | {self._limit_field: prompt.max_new_tokens}, read
        )

    def _messages(self, prompt: EncodedPrompt) -> list[dict[str, str]]:
        ids = prompt.ids.tolist()
        if not prompt.turns:
            return [{"role": "user", "content": self._tokenizer.decode(ids)}]
        if ids != encode_prompt(self._tokenizer, self._tokenizer.chat(prompt.turns), templated=True).tolist():
            raise Unusable("a chat server cannot continue an answer that is begun for it, or a cut prompt")
        return [{"role": turn.role, "content": turn.content} for turn in prompt.turns]

    def _spoken(self, prompt: EncodedPrompt, answer: Any) -> Completion:
        (choice,) = answer["choices"]
        message, usage = choice["message"], answer.get("usage") or {}
        text = message.get("content") or ""
        if not isinstance(text, str):
            raise InvalidAnswer("no text")
        n_tokens = usage.get("completion_tokens") or 0
        details = usage.get("prompt_tokens_details") or {}
        self._usage.tokens_computed += (usage.get("prompt_tokens") or 0) - (details.get("cached_tokens") or 0)
        self._usage.tokens_generated += n_tokens
        ended = self._reason(str(choice["finish_reason"]), choice.get("stop_reason"), prompt)
        told = message.get("reasoning_content") or message.get("reasoning")
        cut, reason, reasoning = _taken_apart(prompt, text, ended)
        if prompt.reasoning and ended == "length" and not (told or any(t in text for t in prompt.reasoning)):
            # The server's template may have begun the reasoning, whose end was not reached.
            cut, reason, reasoning = "", ended, text
        return Completion(cut, reason, max(1, n_tokens), reasoning=str(told or reasoning))


def _taken_apart(
    prompt: EncodedPrompt, text: str, reason: FinishReason, before: str = "", least: int = 0
) -> tuple[str, FinishReason, str]:
    """Answer, how it ended, and the reasoning before it; cut at a stop text that the server missed.

    Args:
        prompt: whose completion it is.
        text: the completion.
        reason: why the server ended it.
        before: what the prompt ends with, which may have begun or closed the reasoning.
        least: how many characters hold no stop text.
    """
    reasoning, begin = "", 0
    if prompt.reasoning:
        bytes_ = Utf8Tokenizer()
        last, ids = bytes_.encode([before, text])
        reasoning, begin = Reasoning(prompt.reasoning, last, bytes_).split(ids.tolist(), bytes_.decode)
    searched = max(begin, least)
    places = [place for stop in prompt.stop if stop and (place := text.find(stop, searched)) >= 0]
    return (text[begin : min(places)], "stop", reasoning) if places else (text[begin:], reason, reasoning)

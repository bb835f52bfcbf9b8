"""Where token ids come from when the model is behind a server: the server, a local copy, or plain bytes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from evalkit.backends.openai.bridge import LoopThread
from evalkit.backends.openai.client import SHORT_S, Client, Effort, GaveUp, InvalidAnswer, Refused
from evalkit.backends.tokenizer import HfTokenizer
from evalkit.errors import UntrustedResultError, UsageError
from evalkit.tokens import Ids
from evalkit.types import Message

T = TypeVar("T")

PROBE_TEXT = "The 3 quick foxes — naïve?\n\tx  =  42;\n题目：哪一个是首都？ 開羅 에펠탑 🙂"
"""Told apart by what tokenizers differ in: blanks, digits, line breaks, scripts."""

_AT_ONCE = 64
_END_MARKS = ("<|endoftext|>", "</s>", "<|im_end|>", "<|end_of_text|>", "<eos>")
_KEPT_CHARS = 64
_KEPT_TEXTS = 4096


class Utf8Tokenizer:
    """Bytes for ids: for servers that take messages and keep their tokens to themselves.

    Nothing is ever sent as these ids. They let prompts be encoded, hashed and measured like any other;
    a limit in tokens reads as one in bytes, of which a text has more.
    """

    leading_ids: tuple[int, ...] = ()
    prefix_id = 0
    bos_id: int | None = None
    end_ids: tuple[int, ...] = ()
    has_chat_template = True
    chat_template: str | None = None

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The UTF-8 bytes of each text."""
        return [np.frombuffer(t.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int32) for t in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the bytes; what is no UTF-8 is left out."""
        return bytes(ids).decode("utf-8", "ignore")

    def chat(self, messages: Sequence[Message]) -> str:
        """One line per turn: what the server makes of the turns is not known."""
        return "".join(f"{m.role}: {m.content}\n" for m in messages)


@dataclass(frozen=True)
class _Endpoints:
    """How one kind of server tokenises."""

    encode: str
    decode: str
    text: Callable[[str, bool], Mapping[str, Any]]
    """Body of an encoding request: the text, and whether special tokens are added."""
    decoded: str
    """Field of the decoded text."""
    adds_specials: bool = False
    """Whether the server's own leading tokens come with every text."""


_VLLM = _Endpoints(
    "tokenize", "detokenize", lambda text, special: {"prompt": text, "add_special_tokens": special}, "prompt"
)
_LLAMA = _Endpoints(
    "extras/tokenize", "extras/detokenize", lambda text, special: {"input": text}, "text", adds_specials=True
)


_LLAMA_CPP = _Endpoints(
    "tokenize", "detokenize", lambda text, special: {"content": text, "add_special": special}, "content"
)
_EFFORT = Effort(timeout_s=SHORT_S)


class ServerTokenizer:
    """The tokenizer a server gives access to; texts are sent side by side."""

    def __init__(self, bridge: LoopThread, client: Client, model: str, endpoints: _Endpoints) -> None:
        """Ask the server what it puts in front of texts and whether it has a chat template."""
        self._bridge, self._client, self._model, self._endpoints = bridge, client, model, endpoints
        self._kept: dict[str, Ids] = {}
        plain, full = (self._run(self._encode("a", special)) for special in (False, True))
        if endpoints.adds_specials:
            plain = plain[-1:]
        lead = len(full) - len(plain)
        self.leading_ids: tuple[int, ...] = tuple(full[:lead]) if full[lead:] == plain else ()
        self._n_own = len(self.leading_ids) if endpoints.adds_specials else 0
        self.prefix_id = self.leading_ids[-1] if self.leading_ids else self._end_mark()
        self.bos_id = self.leading_ids[0] if self.leading_ids else None
        self.end_ids: tuple[int, ...] = ()
        self._template_error: str | None = None
        self.has_chat_template = self._has_template()
        self.chat_template: str | None = None

    def check(self) -> None:
        """Make sure that tokens and texts become each other.

        Raises:
            UntrustedResultError: they do not.
        """
        text = self.decode(self.encode([PROBE_TEXT])[0].tolist())
        if not text.endswith(PROBE_TEXT):
            raise UntrustedResultError(
                f"the server's tokenizer ({self._url(self._endpoints.encode)}) turns a test text into tokens "
                f"that its /{self._endpoints.decode} reads as {text[:60]!r}; give the model's own with "
                "--tokenizer"
            )

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, without special tokens added."""
        missing = [text for text in dict.fromkeys(texts) if text and text not in self._kept]
        fresh = {"": np.zeros(0, np.int32)}
        try:
            for text, ids in self._bridge.each(self._ids_of, missing, _AT_ONCE):
                fresh[text] = np.asarray(ids, np.int32)
        except (Refused, GaveUp) as error:
            raise _unusable(error) from error
        found = [fresh[text] if text in fresh else self._kept[text] for text in texts]
        if len(self._kept) < _KEPT_TEXTS:
            self._kept |= {text: ids for text, ids in fresh.items() if 0 < len(text) <= _KEPT_CHARS}
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; whether special tokens show in it is the server's choice."""
        return self._run(self.text_of(ids))

    def chat(self, messages: Sequence[Message]) -> str:
        """Text of a conversation up to where the assistant's next turn begins.

        Raises:
            UsageError: the server's chat template fails.
        """
        if self._template_error:
            raise UsageError(
                f"the chat template of the server at {self._client.address.url} fails: "
                f"{self._template_error}; mend it, or ask without it (--no-chat)"
            )
        return self.decode(self._run(self._chat_ids(messages)))

    async def text_of(self, ids: Sequence[int]) -> str:
        """As `decode`, for code that runs in the client's own loop."""
        body = {"model": self._model, "tokens": [int(i) for i in ids]}
        field = self._endpoints.decoded
        url = self._url(self._endpoints.decode)
        # A server that cannot decode part of a character says so with an error 500: ask only once more.
        return await self._client.ask(url, body, lambda answer: _text(answer[field]), Effort(2, SHORT_S))

    async def _ids_of(self, text: str) -> list[int]:
        ids = await self._encode(text, False)
        return ids[self._n_own :]

    async def _encode(self, text: str, special: bool) -> list[int]:
        body = {"model": self._model, **self._endpoints.text(text, special)}
        return await self._client.ask(self._url(self._endpoints.encode), body, _tokens, _EFFORT)

    async def _chat_ids(self, messages: Sequence[Message]) -> list[int]:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        body = {"model": self._model, "messages": turns, "add_generation_prompt": True}
        return await self._client.ask(self._url(self._endpoints.encode), body, _tokens, _EFFORT)

    def _has_template(self) -> bool:
        """Whether a conversation becomes a text that tokenises to the same ids again."""
        if self._endpoints is not _VLLM:
            return False
        try:
            ids = self._bridge.run(self._chat_ids([Message("user", "a")]))
            text = self._bridge.run(self.text_of(ids))
        except (Refused, GaveUp) as error:
            # Only a template that is there can fail: `chat` says how, once it is needed.
            self._template_error = str(error) if _is_of_template(error) else None
            return self._template_error is not None
        again = [int(i) for i in self.encode([text])[0]]
        return ids in (again, [*self.leading_ids, *again])

    def _end_mark(self) -> int:
        """What stands in front of a text that has nothing before it, where there is no BOS: EOS."""
        for mark in (*_END_MARKS, "\n"):
            if len(ids := self.encode([mark])[0]) == 1:
                return int(ids[0])
        return 0

    def _url(self, path: str) -> str:
        return f"{self._client.address.root}/{path}"

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._bridge.run(work)
        except (Refused, GaveUp) as error:
            raise _unusable(error) from error


def find_tokenizer(
    bridge: LoopThread, client: Client, model: str, local: HfTokenizer | None, source: str | None
) -> tuple[HfTokenizer | ServerTokenizer | None, str]:
    """The tokenizer to use and a word on where it is from; None where nobody knows one.

    Raises:
        UsageError: the local tokenizer is not that of the served model.
    """
    offered = next((e for e in (_VLLM, _LLAMA_CPP, _LLAMA) if bridge.run(_offers(client, model, e))), None)
    served = ServerTokenizer(bridge, client, model, offered) if offered else None
    if local is None:
        if served is None:
            return None, "none"
        served.check()
        return served, "the server's"
    if served is None:
        return local, f"'{source}', not compared: the server offers none"
    ours, theirs = (t.encode([PROBE_TEXT])[0].tolist() for t in (local, served))
    if ours != theirs:
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
        raise UsageError(
            f"--tokenizer {source} is not that of the model '{model}': of a test text the server makes "
            f"{len(theirs)} tokens, it makes {len(ours)}, and they part at token {at}; leave the option out "
            "to use the server's own"
        )
    return local, f"'{source}', which agrees with the server's"


async def _offers(client: Client, model: str, endpoints: _Endpoints) -> bool:
    url, body = f"{client.address.root}/{endpoints.encode}", {"model": model, **endpoints.text("a", True)}
    try:
        # A server that takes the text from another field finds none in this one.
        return bool(await client.ask(url, body, _tokens, Effort(3, SHORT_S)))
    except Refused:
        return False
    except GaveUp as error:
        if error.passing:
            raise UntrustedResultError(
                f"the server does not tell whether it tokenises: {error}; try again when it answers"
            ) from error
        return False


def _tokens(answer: Any) -> list[int]:
    tokens = answer["tokens"]
    if not isinstance(tokens, list) or not all(isinstance(i, int) for i in tokens):
        raise InvalidAnswer("no token ids")
    return tokens


def _is_of_template(error: Exception) -> bool:
    """Whether the server has a chat template and fails at it, as far as its words tell."""
    words = str(error).lower()
    missing = ("must provide a chat template", "is not set", "no chat template", "not have a chat template")
    return "template" in words and not any(sign in words for sign in missing)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidAnswer("no text")
    return value


def _unusable(error: Exception) -> UntrustedResultError:
    return UntrustedResultError(
        f"the server's tokenizer does not answer: {error}; give the model's own with --tokenizer"
    )

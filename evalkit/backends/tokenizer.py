"""Tokenizers in transformers format, for every backend that runs such models; torch is not imported."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalkit import demo_models
from evalkit.errors import UsageError
from evalkit.tokens import Ids, Tokenizer
from evalkit.types import Message

_log = logging.getLogger(__name__)


def load_tokenizer(
    source: str, *, chat_template: str | None = None, stop: Sequence[str] = (), **options: Any
) -> HfTokenizer:
    """Load a tokenizer from a folder in transformers format, a GGUF file or the hub.

    Args:
        source: folder, GGUF file or hub id.
        chat_template: Jinja2 text of the conversation format, for a tokenizer that has none.
        stop: texts of special tokens that end a turn, beside the end of text.
        options: `revision`, `trust_remote_code`, `local_files_only`, as transformers takes them.

    Raises:
        UsageError: there is none.
    """
    import transformers

    if (folder := Path(source)).is_dir() and not (folder / "config.json").is_file():
        raise UsageError(f"the folder '{source}' holds no model (no config.json in it)")
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(**pretrained(source), **options)
        return HfTokenizer(loaded, chat_template, stop)
    except Exception as error:
        raise UsageError(
            f"cannot load a tokenizer for '{source}': {reason(source, error)}; a model needs its tokenizer "
            "files (tokenizer.json or tokenizer.model) beside its weights"
        ) from error


def pretrained(source: str) -> dict[str, str]:
    """A folder, GGUF file or hub id as arguments of transformers' `from_pretrained`."""
    if source.endswith(".gguf"):
        return {"pretrained_model_name_or_path": str(Path(source).parent), "gguf_file": Path(source).name}
    return {"pretrained_model_name_or_path": source}


def reason(name: str, error: Exception) -> str:
    """One line on what went wrong, with the remedy where it is known."""
    message = str(error).strip() or type(error).__name__
    if "trust_remote_code" in message:
        return "it needs Python code of its own; --trust-remote-code lets it run, if you trust its authors"
    near = difflib.get_close_matches(name, demo_models.NAMES)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{message.splitlines()[0]}{hint}"


class HfTokenizer:
    """A transformers tokenizer as the encoder wants it."""

    def __init__(self, tokenizer: Any, chat_template: str | None = None, stop: Sequence[str] = ()) -> None:
        """Work out what the tokenizer puts in front of a text of its own accord.

        Args:
            tokenizer: of transformers; its own chat template goes before `chat_template`.
            chat_template: Jinja2 text of the conversation format.
            stop: texts of special tokens that end a turn, beside the end of text.
        """
        self.tokenizer = tokenizer
        tokenizer.chat_template = tokenizer.chat_template or chat_template
        plain = tokenizer.encode("a", add_special_tokens=False)
        full = tokenizer.encode("a")
        lead = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
        self.leading_ids: tuple[int, ...] = tuple(full[:lead])
        self.prefix_id: int = _first_of(tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
        self.bos_id: int | None = tokenizer.bos_token_id
        self.end_ids: tuple[int, ...] = _end_ids(tokenizer, stop)
        self.chat_template = _template(tokenizer.chat_template)
        self.has_chat_template = self.chat_template is not None
        self._rust = getattr(tokenizer, "_tokenizer", None)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, without special tokens added."""
        if self._rust is not None:
            batch = self._rust.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.asarray(encoding.ids, np.int32) for encoding in batch]
        return [np.asarray(self.tokenizer.encode(t, add_special_tokens=False), np.int32) for t in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out and blanks exactly as generated."""
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def chat(self, messages: Sequence[Message]) -> str:
        """Text of a conversation up to where the assistant's next turn begins.

        Raises:
            UsageError: the template refuses the conversation.
        """
        turns = [{"role": m.role, "content": m.content} for m in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program and fails as it likes
            raise UsageError(
                f"the model's chat template refuses the prompt: {error}; {_way_out(messages)}"
            ) from error
        return text


def _template(found: str | dict[str, str] | None) -> str | None:
    """The template of conversations: of several, the one that transformers takes if none is named."""
    return (found.get("default") if isinstance(found, dict) else found) or None


def _way_out(messages: Sequence[Message]) -> str:
    """What to do where a template refuses a conversation."""
    if messages[0].role == "system":
        return "many templates know no system prompt: leave out --system, or --no-chat sends plain text"
    return "--no-chat sends it as plain text"


def _first_of(*ids: int | None) -> int:
    return next(i for i in ids if i is not None)


def _end_ids(tokenizer: Any, stop: Sequence[str]) -> tuple[int, ...]:
    vocabulary = tokenizer.get_vocab() if stop else {}
    for text in stop:
        if text not in vocabulary:
            _log.warning("the tokenizer has no token %s, which ends a turn: answers may run on", text)
    found = [tokenizer.eos_token_id, *(vocabulary.get(text) for text in stop)]
    return tuple(dict.fromkeys(i for i in found if i is not None))


def end_ids(configured: Sequence[int] | int | None, tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end an answer: those of the model's generation settings and the tokenizer's own."""
    listed = configured if isinstance(configured, Sequence) else [configured]
    return frozenset(int(i) for i in (*listed, *tokenizer.end_ids) if i is not None)

"""Telling what a model thinks from what it answers, where it puts the one between tags."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from evalkit.tokens import Ids, Tokenizer

_BLANK_LINES = re.compile(r"(?:[^\S\n]*\n)*")

_NEAR = 8
"""Tokens of white space that may follow a tag at the end of a prompt."""


class Reasoning:
    """The reasoning in one completion.

    A prompt may end with the begin tag (many chat templates do), or with both (where a template asks for no
    reasoning), so that the completion has only the end tag or none.
    """

    def __init__(self, tags: tuple[str, str], prompt: Ids, tokenizer: Tokenizer) -> None:
        """`tags` are the texts (begin, end), `prompt` the ids that the completion follows."""
        self._begin, self._end = (_Tag(tag, tokenizer) for tag in tags)
        self.is_over = self._end.ends(prompt)
        """Whether what comes now is the answer."""
        self._opened = not self.is_over and self._begin.ends(prompt)

    def follow(self, ids: Sequence[int]) -> None:
        """Take notice of the newest token."""
        self.is_over = self.is_over or self._end.is_near(ids)

    def split(self, ids: Sequence[int], text_of: Callable[[Sequence[int]], str]) -> tuple[str, int]:
        """The reasoning in `text_of(ids)`, and where in that text the answer begins.

        Without the end tag of what was begun all is reasoning, and without any tag none. Blank lines
        between the end tag and the answer belong to neither: they are no first line of an answer.
        """
        text = text_of(ids)
        begin, end = (tag.find(ids, text, text_of) for tag in (self._begin, self._end))
        if begin is None or text[: begin[0]].strip():  # a tag amid other text begins nothing
            begin = (0, 0) if self._opened or end is not None else None
        if begin is None:
            return "", 0
        if end is None:
            return text[begin[1] :], len(text)
        blank = _BLANK_LINES.match(text, end[1])
        return text[begin[1] : end[0]], end[1] if blank is None else blank.end()


class _Tag:
    """A tag in generated text: found by its text, or by its token where decoding leaves that out."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        (ids,) = tokenizer.encode([text])
        hidden = len(ids) > 0 and not tokenizer.decode(ids.tolist()).strip()
        self._text, self._tokenizer = text, tokenizer
        self._id = int(ids[-1]) if hidden else None

    def find(
        self, ids: Sequence[int], text: str, text_of: Callable[[Sequence[int]], str]
    ) -> tuple[int, int] | None:
        """Where in `text`, that of `ids`, the tag begins and ends."""
        if self._id is None:
            at = text.find(self._text)
            return None if at < 0 else (at, at + len(self._text))
        if self._id not in ids:
            return None
        at = len(text_of(ids[: ids.index(self._id)]))
        return at, at

    def is_near(self, ids: Sequence[int]) -> bool:
        """Whether the last tokens hold the tag; every token is at least one byte of it."""
        if self._id is not None:
            return ids[-1] == self._id
        return self._text in self._tokenizer.decode(ids[-4 * len(self._text) :])

    def ends(self, prompt: Ids) -> bool:
        """Whether nothing but white space follows the tag in a prompt."""
        last = prompt[-(4 * len(self._text) + _NEAR) :].tolist()
        if self._id is None:
            return self._tokenizer.decode(last).rstrip().endswith(self._text)
        shown = (i for i in reversed(last) if i == self._id or self._tokenizer.decode([i]).strip())
        return next(shown, None) == self._id

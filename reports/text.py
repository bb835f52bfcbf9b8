"""Text of unknown origin, such as what a model wrote, made to appear as text and do nothing else."""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_MARKDOWN = re.compile(r"[\\`*|<>~$&]|^\[|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])|(?<!\S)#|^[-+=](?!\w)")
"""Underscores inside words, number signs behind text and brackets that refer to nothing are plain to
GitHub's Markdown."""
_NUMBERED = re.compile(r"^(\d+)([.)])(?!\S)")
"""What would begin a numbered list."""
_MENTION = re.compile(r"(?<![\w/])@(?=\w)")
"""What would notify a user of GitHub."""
_LINK = re.compile(r"(?<=\w:)(?=//)|(?i:(?<=\bwww))(?=\.)|(?<=[\w.+-]@)(?=[\w\\-]+\.\w)|(?<=/@)(?=\w)")
"""Where GitHub would see the address of a page or mailbox, or a mention that looks like part of one."""
_NOTHING = "&#8203;"
"""A space of no width."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    # Behind the end of a line these would be its options.
    "[": "{[}",
    "*": "{*}",
    **{character: f"\\{character}" for character in "#$%&_"},
}


def visible(text: str) -> str:
    """Show control characters, direction marks and halves of surrogate pairs; tabs and line breaks stay."""
    return _CONTROLS.sub(_picture, text.replace("\r\n", "\n"))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def one_line(text: str) -> str:
    """The same in one line, as a cell of a table needs it."""
    return " ".join(visible(text).split())


def markdown(text: str, *, links: bool = False) -> str:
    """One line that Markdown shows as it is: it ends no cell and starts no list, emphasis, code or HTML.

    Nor does it notify anyone or, unless `links` are wanted, become a link.
    """
    escaped = _NUMBERED.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\g<0>", one_line(text)))
    escaped = _MENTION.sub(f"@{_NOTHING}", escaped)
    return escaped if links else _LINK.sub(_NOTHING, escaped)


def escaped_json(text: str) -> str:
    """JSON that means the same, with escapes for what `visible` shows; it holds no control characters."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def latex(text: str) -> str:
    """One line that LaTeX shows as it is."""
    escaped = "".join(_LATEX.get(character, character) for character in one_line(text))
    return escaped.replace("--", "-{}-").replace("--", "-{}-")

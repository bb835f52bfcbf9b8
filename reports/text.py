"""Text of unknown origin, such as what a model wrote, made to appear as text and do nothing else."""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)
_MARKDOWN = re.compile(r"[\\`*|<>~\[\]$&]|(?<!\w)_|_(?!\w)|(?<!\S)#")
"""Underscores inside words and number signs behind text are plain to GitHub's Markdown."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "#$%&_"},
}


def visible(text: str) -> str:
    """Show control characters and direction marks instead of obeying them; tabs and line breaks stay."""
    return _CONTROLS.sub(_picture, text.replace("\r\n", "\n"))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def one_line(text: str) -> str:
    """The same in one line, as a cell of a table needs it."""
    return " ".join(visible(text).split())


def markdown(text: str) -> str:
    """One line that Markdown shows as it is: it ends no cell and starts no emphasis, code or HTML."""
    return _MARKDOWN.sub(r"\\\g<0>", one_line(text))


def latex(text: str) -> str:
    """One line that LaTeX shows as it is."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))

"""Metrics of Japanese extractive question answering (JSQuAD), each in [0, 1].

Source: lm_eval/jasquad (Stability-AI/lm-evaluation-harness@effdbea, branch jp-stable).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from evalkit.metrics._text import PUNCTUATION, library, overlap_f1

_EMOJI_BLOCKS = re.compile(
    "[\U0001f600-\U0001f64f\U0001f300-\U0001f5ff\U0001f680-\U0001f6ff\U0001f1e0-\U0001f1ff\u2702-\u27b0]"
)


_PIECE = 30_000
"""Characters that MeCab reads at once.

A word and its connection cost less than 2^16 in all, and where a text costs 2^31 MeCab crashes the process.
"""


def normalize(text: str) -> str:
    """Remove emoji, apply neologdn, and make every run of white space one space.

    Case and punctuation stay. neologdn deletes tildes (`1〜3` becomes `13`) and joins Japanese text across
    spaces.
    """
    return " ".join(_neologdn()(_EMOJI_BLOCKS.sub("", _without_emoji(text))).split())


def _without_emoji(text: str) -> str:
    is_emoji = _is_emoji()
    return "".join(c for c in text if not is_emoji(c))


@cache
def _is_emoji() -> Callable[[str], bool]:
    function: Callable[[str], bool] = library("emoji").is_emoji
    return function


@cache
def _neologdn() -> Callable[[str], str]:
    function: Callable[[str], str] = library("neologdn").normalize
    return function


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1 if the normalised prediction equals a normalised gold answer, else 0.

    Raises:
        ValueError: if there are no gold answers.
    """
    return _best(lambda a, b: float(a == b), prediction, golds)


def token_f1(prediction: str, golds: Sequence[str]) -> float:
    """Highest F1 over the gold answers, of MeCab tokens that are no punctuation mark.

    The tokens are those of the dictionary unidic-lite, whatever other dictionary is installed; published
    numbers depend on the dictionary that was used for them.

    Raises:
        ValueError: if there are no gold answers.
    """
    return _best(lambda a, b: overlap_f1(_tokens(a), _tokens(b)), prediction, golds)


def char_f1(prediction: str, golds: Sequence[str]) -> float:
    """Highest F1 over the gold answers, of the characters that are no white space.

    No published number of the harness; for comparison where token boundaries should not matter.

    Raises:
        ValueError: if there are no gold answers.
    """
    return _best(lambda a, b: overlap_f1("".join(a.split()), "".join(b.split())), prediction, golds)


def _best(metric: Callable[[str, str], float], prediction: str, golds: Sequence[str]) -> float:
    if not golds:
        raise ValueError("a question without gold answers cannot be judged")
    normalised = normalize(prediction)
    return max(metric(normalised, normalize(gold)) for gold in golds)


def _tokens(normalised: str) -> list[str]:
    pieces = (normalised[i : i + _PIECE] for i in range(0, len(normalised), _PIECE))
    return [token for piece in pieces for token in _mecab()(piece).split() if token not in PUNCTUATION]


@cache
def _mecab() -> Callable[[str], str]:
    """Text to its tokens with spaces between."""
    folder = library("unidic_lite").DICDIR
    # Named, because fugashi prefers the full unidic where both are installed.
    dictionary = f'-r "{folder}/mecabrc" -d "{folder}"'
    parse: Callable[[str], str] = library("fugashi").Tagger(f"-Owakati {dictionary}").parse
    return parse

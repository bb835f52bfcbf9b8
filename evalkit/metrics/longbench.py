"""Metrics of LongBench v1: one prediction against one gold answer, each in [0, 1].

Source: LongBench/metrics.py and LongBench/eval.py (THUDM/LongBench@2e00731).
"""

from __future__ import annotations

import logging
import re
import string
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType

from evalkit.metrics._text import PUNCTUATION, library, overlap_f1

METRICS: Mapping[str, str] = MappingProxyType(
    {
        dataset: metric
        for metric, datasets in {
            "qa_f1": "narrativeqa qasper multifieldqa_en hotpotqa 2wikimqa musique triviaqa",
            "qa_f1_zh": "multifieldqa_zh",
            "rouge_l": "gov_report qmsum multi_news samsum",
            "rouge_zh": "dureader vcsum",
            "classification": "trec lsht",
            "retrieval": "passage_retrieval_en",
            "retrieval_zh": "passage_retrieval_zh",
            "count": "passage_count",
            "code_sim": "lcc repobench-p",
        }.items()
        for dataset in datasets.split()
    }
)
"""Dataset to the name of its metric, a function of this module."""

FIRST_LINE_ONLY = frozenset({"trec", "triviaqa", "samsum", "lsht"})
"""Datasets whose predictions are cut to their first line."""


def score(dataset: str, prediction: str, answers: Sequence[str], all_classes: Sequence[str] | None) -> float:
    """Official score in [0, 1] of one example: the dataset's metric, the best over its answers.

    Args:
        dataset: name of a LongBench dataset, or of its LongBench-E version with the suffix `_e`.
        prediction: the whole generated text.
        answers: gold answers; without any the score is 0.
        all_classes: class names, needed for trec and lsht.

    Raises:
        ValueError: if there is no such dataset, or the class names it needs are missing.
    """
    name = dataset.removesuffix("_e")
    if name not in METRICS:
        raise ValueError(f"LongBench has no dataset '{dataset}'")
    if name in FIRST_LINE_ONLY:
        prediction = first_line(prediction)
    return max((_metric(METRICS[name], prediction, gold, all_classes) for gold in answers), default=0.0)


def _metric(name: str, prediction: str, gold: str, all_classes: Sequence[str] | None) -> float:
    if name == "classification":
        if all_classes is None:
            raise ValueError("the classification metric needs the names of all classes")
        return classification(prediction, gold, all_classes)
    return _PAIRWISE[name](prediction, gold)


def first_line(prediction: str) -> str:
    """Text up to its first newline, newlines in front left out."""
    return prediction.lstrip("\n").partition("\n")[0]


def qa_f1(prediction: str, gold: str) -> float:
    """F1 of words in lower case, without ASCII punctuation and articles."""
    return overlap_f1(_words(prediction), _words(gold))


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def _words(text: str) -> list[str]:
    return _ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def qa_f1_zh(prediction: str, gold: str) -> float:
    """F1 of jieba's words in lower case, without ASCII and CJK punctuation and white space."""
    return overlap_f1(_words_zh(prediction), _words_zh(gold))


def _words_zh(text: str) -> list[str]:
    kept = ("".join(c for c in word.lower() if c not in PUNCTUATION) for word in _jieba()(text))
    return [word for word in ("".join(word.split()) for word in kept) if word]


def rouge_l(prediction: str, gold: str) -> float:
    """Summary-level ROUGE-L F of sets of words, case-sensitive; sentences end at ASCII `.`.

    The union of the words in the longest common subsequences of every pair of sentences, over the number of
    distinct words on either side. At most 1 - 5e-9, for the source adds 1e-8 to a denominator. A text of
    nothing, or of dots only, scores 0.

    Where the source recurses deeper than Python allows (sentences of some 1,000 words together) it fails and
    LongBench scores 0; here such texts get their score.

    Source: `rouge_l_summary_level` of rouge 1.0.1 (pltrdy/rouge@c1b90a7).
    """
    hypothesis, reference = list(_sentences(prediction)), _sentences(gold)
    if not hypothesis or not reference:
        return 0.0
    holding: dict[str, set[int]] = {}
    for number, words_of_it in enumerate(hypothesis):
        for word in words_of_it:
            holding.setdefault(word, set()).add(number)
    union: set[str] = set()
    for wanted in reference:
        words = set(wanted)
        # Only sentences that may add a word; the order makes no difference to the union.
        for number in set().union(*(holding.get(word, ()) for word in words - union)):
            sentence = hypothesis[number]
            if not union.issuperset(words.intersection(sentence)):
                union |= _common_subsequence(wanted, sentence)
    precision = len(union) / len(holding)
    recall = len(union) / len(set().union(*reference))
    return 2 * precision * recall / (precision + recall + 1e-8)


def _sentences(text: str) -> set[tuple[str, ...]]:
    """Words of each sentence; one of white space only has a single empty word, as in the source."""
    return {tuple(sentence.split()) or ("",) for sentence in text.split(".") if sentence}


def _common_subsequence(reference: Sequence[str], hypothesis: Sequence[str]) -> set[str]:
    """Words of that longest common subsequence which the source finds.

    Bit-parallel (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004): bit j of row i is 0 where
    the length grows from hypothesis[:j] to hypothesis[:j+1] within reference[:i+1].
    """
    full = (1 << len(hypothesis)) - 1
    places = _places(hypothesis, frozenset(reference))
    rows = [full]
    for word in reference:
        row, match = rows[-1], places.get(word, 0)
        rows.append(((row + (row & match)) | (row & ~match)) & full if match else row)
    # Back from the end; of two ways without loss the source drops the word of the hypothesis.
    found = set()
    i, j = len(reference), len(hypothesis)
    row_bits = _bits(rows[i], j)
    while i and j:
        if reference[i - 1] == hypothesis[j - 1]:
            found.add(reference[i - 1])
            i, j = i - 1, j - 1
            row_bits = _bits(rows[i], j)
        elif row_bits[j - 1 >> 3] >> (j - 1 & 7) & 1:
            j -= 1
        else:
            i -= 1
            row_bits = _bits(rows[i], j)
    return found


def _places(words: Sequence[str], wanted: frozenset[str]) -> dict[str, int]:
    """Word to an integer whose bit j says whether it is word number j; made in linear time."""
    masks: dict[str, bytearray] = {}
    for j, word in enumerate(words):
        if word in wanted:
            mask = masks.setdefault(word, bytearray(len(words) // 8 + 1))
            mask[j >> 3] |= 1 << (j & 7)
    return {word: int.from_bytes(mask, "little") for word, mask in masks.items()}


def _bits(row: int, n: int) -> bytes:
    """The lowest n bits of a row, eight to a byte, to be looked up one by one."""
    return (row & ((1 << n) - 1)).to_bytes(n // 8 + 1, "little")


def rouge_zh(prediction: str, gold: str) -> float:
    """`rouge_l` of jieba's words; a Chinese full stop ends no sentence."""
    return rouge_l(" ".join(_jieba()(prediction)), " ".join(_jieba()(gold)))


@cache
def _jieba() -> Callable[[str], list[str]]:
    """Text to its words: accurate mode with the hidden Markov model, default dictionary."""
    jieba = library("jieba")
    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    # Read from the installed dictionary: the cache that jieba shares between all programs may be another's.
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.tmp_dir = folder
        tokenizer.initialize()
    words: Callable[[str], list[str]] = tokenizer.lcut
    return words


def classification(prediction: str, gold: str, all_classes: Sequence[str]) -> float:
    """Share of the gold class among the class names found in the prediction; 0 if it is not found.

    Found names that are part of the gold name are dropped. As published, whatever follows a dropped name is
    not looked at, so that the second of two such names in a row stays and halves the score.
    """
    found = [name for name in all_classes if name in prediction]
    place = 0
    while place < len(found):
        name = found[place]
        if name in gold and name != gold:
            found.remove(name)
        place += 1
    return 1 / len(found) if gold in found else 0.0


def retrieval(prediction: str, gold: str) -> float:
    """Share of the numbers in the prediction that name the gold paragraph, given as `Paragraph 3`.

    Raises:
        ValueError: if `gold` names no paragraph.
    """
    return count(prediction, _paragraph(r"Paragraph (\d+)", gold))


def retrieval_zh(prediction: str, gold: str) -> float:
    """Share of the numbers in the prediction that name the gold paragraph, given as `段落3`.

    Raises:
        ValueError: if `gold` names no paragraph.
    """
    return count(prediction, _paragraph(r"段落(\d+)", gold))


def _paragraph(pattern: str, gold: str) -> str:
    match = re.search(pattern, gold)
    if match is None:
        raise ValueError(f"the gold answer {gold!r} names no paragraph")
    return match[1]


def count(prediction: str, gold: str) -> float:
    """Share of the numbers in the prediction that equal `gold` as text; 0 if there are none."""
    numbers: list[str] = re.findall(r"\d+", prediction)
    return numbers.count(gold) / len(numbers) if numbers else 0.0


def code_sim(prediction: str, gold: str) -> float:
    """Edit similarity of the first line of code and the gold line, in whole percent.

    The first line without `` ` ``, `#` and `//` counts, indentation included; it is empty if there is none.
    The similarity is 2·LCS / (sum of lengths) in characters: `fuzz.ratio` of fuzzywuzzy with
    python-Levenshtein installed, which differs from the fallback on difflib.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((x for x in lines if not any(mark in x for mark in ("`", "#", "//"))), "")
    if line == gold:
        return 1.0
    total = len(line) + len(gold)
    distance: int = library("rapidfuzz.distance").Indel.distance(line, gold)
    return round(100 * ((total - distance) / total)) / 100


_PAIRWISE: Mapping[str, Callable[[str, str], float]] = MappingProxyType(
    {f.__name__: f for f in (qa_f1, qa_f1_zh, rouge_l, rouge_zh, retrieval, retrieval_zh, count, code_sim)}
)

"""Final answers of GSM8K: how each published protocol extracts and compares them."""

from __future__ import annotations

import re
from collections import deque

_OFFICIAL = re.compile(r"#### (\-?[0-9\.\,]+)")
_STRICT_COT = re.compile(r"The answer is (\-?[0-9\.\,]+).")
_STRICT_FIXED_COT = re.compile(r"The answer is (\-?[0-9\.\,]*[0-9]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_OPENCOMPASS = re.compile(r"\-?\d+\.\d+|\-?\d+")


def official(text: str) -> str | None:
    """Number after the first `#### `, commas removed; None if there is none.

    `#### ,` gives an empty string, an answer that is wrong but not invalid.

    Source: grade_school_math/dataset.py (openai/grade-school-math@3101c7d).
    """
    match = _OFFICIAL.search(text)
    return match[1].replace(",", "") if match else None


def strict_cot(text: str) -> str | None:
    """Number after the first `The answer is `, as the strict filter of `gsm8k_cot` reads it.

    As published it wants one more character on the same line after the number, and gives up the last digit
    where there is none: `The answer is 18` at the end of a line is read as `1`, `The answer is 5` as None.

    Source: lm_eval/tasks/gsm8k/gsm8k-cot.yaml (EleutherAI/lm-evaluation-harness@4e7e0d4).
    """
    match = _STRICT_COT.search(text)
    return match[1] if match else None


def strict_fixed_cot(text: str) -> str | None:
    """Number after the first `The answer is `, ending in a digit; None if there is none.

    Source: lm_eval/tasks/gsm8k/gsm8k-cot-self-consistency.yaml (EleutherAI/lm-evaluation-harness@4e7e0d4).
    """
    match = _STRICT_FIXED_COT.search(text)
    return match[1] if match else None


def flexible(text: str) -> str | None:
    """Last thing like a number, with its `$`, commas and dots; None if there is none.

    Dots alone (`...`) count as a number here, and then compare unequal to any.

    Source: filter `flexible-extract` of lm_eval/tasks/gsm8k (EleutherAI/lm-evaluation-harness@4e7e0d4).
    """
    return _last(_FLEXIBLE, text)


def opencompass_4c87e77(text: str) -> str | None:
    """Digits and dots of the last space-separated token with a digit, before the first blank line.

    Loses the sign, joins `3/4` into `34` and keeps `1234.50` as it stands. None if there is no digit.

    Source: opencompass/datasets/gsm8k.py (open-compass/opencompass@4c87e77).
    """
    for token in reversed(text.partition("\n\n")[0].split(" ")):
        if any(map(str.isdigit, token)):
            return "".join(c for c in token if c == "." or c.isdigit()).strip(".")
    return None


def opencompass_head(text: str) -> str | None:
    """Last integer or decimal before the first `Question:`, thousands commas not understood.

    None if there is none, where the source says `NULL`.

    Source: opencompass/datasets/gsm8k.py (open-compass/opencompass@a5acc4b).
    """
    return _last(_OPENCOMPASS, text.partition("Question:")[0])


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    for match in deque(pattern.finditer(text), maxlen=1):
        return match[0]
    return None


def same_lm_eval(prediction: str, gold: str) -> bool:
    """Whether two answers are equal once case, commas, `$` and one final dot are left out.

    Either may be a whole worked solution, of which only the part after the last `#### ` counts.

    Source: exact_match with ignore_case and regexes_to_ignore `,` `\\$` `(?s).*#### ` `\\.$`
    of lm_eval/tasks/gsm8k (EleutherAI/lm-evaluation-harness@4e7e0d4).
    """
    return _cleaned(prediction) == _cleaned(gold)


def _cleaned(text: str) -> str:
    # The published `(?s).*#### ` removes up to the last marker too, in quadratic time where there is none.
    number = text.replace(",", "").replace("$", "").rpartition("#### ")[2]
    return re.sub(r"\.$", "", number).lower()


def same_number(prediction: str, gold: str) -> bool:
    """Whether two answers are equal strings, or a decimal within 1e-6 of an integer `gold`.

    Source: `Gsm8kEvaluator` of opencompass/datasets/gsm8k.py (open-compass/opencompass@a5acc4b).
    """
    if prediction == gold:
        return True
    try:
        return abs(float(prediction) - int(gold)) < 1e-6
    except (ValueError, OverflowError):
        return False

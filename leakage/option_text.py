"""What decides where a publisher prints an option: its number, or that it speaks of the others."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = {"万": 10**4, "亿": 10**8}

_PLAIN = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d+(?:\.\d+)?|\.\d+"
_CHINESE = f"[{''.join(_DIGITS)}{''.join(_UNITS)}]+"
_NUMBER = re.compile(
    rf"(?P<before>公元前)?(?:约|大约|about|approximately|第)?\s*(?P<sign>[-+−–]?)\s*[$€£¥]?\s*"
    rf"(?:(?P<plain>{_PLAIN})(?:\s*/\s*(?P<divisor>\d+))?"
    rf"(?:\s*[x×*]\s*10\s*\^?\s*[({{]?(?P<exponent>[-+−–]?\d+)|e(?P<e>[-+]?\d+))?"
    rf"|(?P<chinese>{_CHINESE}))\s*(?P<myriad>[万亿])?(?P<rest>.*)",
    re.DOTALL,
)

_CATCH_ALL = re.compile(
    r"""
      (?:all|none|any|both|neither|either)(?:\ one)?(?:\ of)?(?:\ the)?
      (?:\ (?:above|these|those|them|others?|given|options?|choices?|answers?|statements?)){0,3}
      (?:\ (?:is|are)\ (?:correct|true|right|wrong|false|incorrect))?
    | (?:both\ |either\ |neither\ )?[a-e]\ (?:and|or|nor|&)\ [a-e](?:\ only|\ are\ correct)?
    | (?:it\ )?(?:cannot|can\ not|can't)\ be\ (?:determined|known)(?:\ from\ .*)?
    | not\ enough\ information(?:\ .*)?
    | (?:以上|上述|前述|其他|其它|另外).{0,8}?(?:都|均|皆|全|所有|任何|无|没有).{0,8}
    | (?:都|均|皆)(?:不?是|不?对|不?正确|可以?|有?可能)
    | (?:无法|不能)(?:确定|判断|比较)
    | (?:上記|以上).{0,4}(?:すべて|全て|いずれ|どれ).{0,8}
    | (?:すべて|全て)正しい | (?:どれ|いずれ)でもない
    | (?:위|이상)(?:의)?\ ?(?:것|보기)?\ ?(?:모두|모든|어느|전부).{0,8}
    | 모두\ ?(?:맞|옳).{0,6} | (?:해당|정답)\ ?없음
    """,
    re.VERBOSE,
)


def number(text: str) -> float | None:
    """The number a text begins with; None where it begins with none.

    Understands full-width and Chinese digits, thousands separators, simple fractions, powers of ten, 万 and
    亿, and years before Christ (公元前). Units are not looked at: mostly the options of an item share theirs.
    """
    found = _NUMBER.match(unicodedata.normalize("NFKC", text).strip().casefold())
    if found is None:
        return None
    if chinese := found["chinese"]:
        value: float = _chinese(chinese)
    else:
        value = float(found["plain"].replace(",", ""))
        exponent = found["exponent"] or found["e"]
        if exponent is not None:
            value *= 10.0 ** min(300, max(-300, int(re.sub("[−–]", "-", exponent))))
        if found["divisor"] and int(found["divisor"]):
            value /= int(found["divisor"])
    value *= _MYRIADS.get(found["myriad"] or "", 1)
    return -value if found["before"] or found["sign"] in ("-", "−", "–") else value


def all_numbers(options: Sequence[str]) -> list[float] | None:
    """The options' numbers, where all have one and all differ."""
    values = [value for text in options if (value := number(text)) is not None]
    return values if len(set(values)) == len(options) else None


def is_catch_all(text: str) -> bool:
    """Whether an option speaks of the others, as "all of the above" or 以上都不对, in four languages."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = re.sub(r"[().,;:!。、]", "", plain).strip()
    return _CATCH_ALL.fullmatch(re.sub(r"\s+", " ", plain)) is not None


def _chinese(digits: str) -> int:
    """Value of a numeral such as 二十三 or 一九四九."""
    if not set(digits) & set(_UNITS):
        return int("".join(str(_DIGITS[digit]) for digit in digits))
    total = current = 0
    for character in digits:
        if character in _UNITS:
            total += max(current, 1) * _UNITS[character]
            current = 0
        else:
            current = _DIGITS[character]
    return total + current

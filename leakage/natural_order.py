"""Does a publisher shuffle the options, or print them in a natural order?

Where numbers ascend and "all of the above" comes last, a model prefers the published order without having
seen it, and the exact test (`evalkit.leakage.order_test`), which assumes a shuffle, is not valid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from evalkit.leakage import convolution
from evalkit.leakage.items import Item
from evalkit.leakage.option_text import all_numbers, is_catch_all

NOT_RANDOM = 1e-3
"""Level at which a publisher's order counts as natural, over all checks together (Holm)."""


@dataclass(frozen=True, slots=True)
class OrderCheck:
    """How often published orders follow one habit of publishers."""

    habit: str
    count: int
    n: int
    """Items on which the habit could show."""
    expected: float
    """Count to expect of a shuffle."""
    p: float
    """Exact one-sided p-value of `count` under a shuffle."""


@dataclass(frozen=True, slots=True)
class Uniformity:
    """How evenly published orders are spread: shown, but not decided by."""

    what: str
    counts: tuple[int, ...]
    chi2: float
    df: int
    p: float


@dataclass(frozen=True, slots=True)
class OrderDiagnostic:
    """Whether a publisher's order of options looks like a shuffle."""

    random: bool
    """Whether no habit stands out; the exact test may then be used."""
    p: float
    """Smallest p-value of the checks, corrected for their number (Holm)."""
    checks: tuple[OrderCheck, ...]
    spread: tuple[Uniformity, ...]


def diagnose(items: Sequence[Item]) -> OrderDiagnostic:
    """Look for natural order in published orders alone.

    Each habit's count is compared with the law of a shuffle, in which an item of n options is in any one
    order with probability 1/n!. The order counts as random unless a habit is followed more often than that
    with p < 0.001 after correction. A benchmark without numbers, catch-all options and the like may pass
    unseen.

    Args:
        items: items of one benchmark; those with two options that read the same are left out.
    """
    clean = [item for item in items if item.n_distinct == len(item.options)]
    numbers, lengths, texts = [], [], []
    catch_alls: list[tuple[int, int]] = []
    for item in clean:
        if (values := all_numbers(item.options)) is not None:
            numbers.append(_ranks(values))
        if len({len(text) for text in item.options}) == len(item.options):
            lengths.append(_ranks([len(text) for text in item.options]))
        texts.append(_ranks(item.options))
        places = [place for place, text in enumerate(item.options) if is_catch_all(text)]
        if len(places) == 1:
            catch_alls.append((places[0], len(item.options)))
    last = [place == n - 1 for place, n in catch_alls]
    checks = (
        _sorted_check("numbers ascend", numbers),
        _sorted_check("numbers descend", numbers, reverse=True),
        _check("catch-all option last", last, [1 / n for _, n in catch_alls]),
        _sorted_check("lengths ascend", lengths),
        _sorted_check("lengths descend", lengths, reverse=True),
        _sorted_check("texts in alphabetical order", texts),
    )
    p = min(1.0, len(checks) * min(check.p for check in checks))
    spread = (*_place_of_catch_all(catch_alls), *_order_of_lengths(lengths))
    return OrderDiagnostic(p >= NOT_RANDOM, p, checks, spread)


def _ranks(values: Sequence[float] | Sequence[str]) -> tuple[int, ...]:
    """Places of distinct values among each other, from 0."""
    return tuple(int(place) for place in np.argsort(np.argsort(np.array(values))))


def _sorted_check(habit: str, ranked: Sequence[tuple[int, ...]], reverse: bool = False) -> OrderCheck:
    hits = [list(ranks) == sorted(ranks, reverse=reverse) for ranks in ranked]
    return _check(habit, hits, [1 / math.factorial(len(ranks)) for ranks in ranked])


def _check(habit: str, hits: Sequence[bool], chances: Sequence[float]) -> OrderCheck:
    count = sum(hits)
    laws = np.column_stack([1 - np.array(chances), chances]) if chances else np.ones((1, 1))
    return OrderCheck(habit, count, len(hits), sum(chances), math.exp(convolution.log_tail(laws, count)))


def _place_of_catch_all(places: Sequence[tuple[int, int]]) -> list[Uniformity]:
    return [
        _uniformity(f"place of the catch-all option among {n}", [place for place, of in places if of == n], n)
        for n in sorted({n for _, n in places})
    ]


def _order_of_lengths(ranked: Sequence[tuple[int, ...]]) -> list[Uniformity]:
    found = []
    for n in sorted({len(ranks) for ranks in ranked}):
        names = {ranks: index for index, ranks in enumerate(itertools.permutations(range(n)))}
        seen = [names[ranks] for ranks in ranked if len(ranks) == n]
        found.append(_uniformity(f"order of {n} lengths", seen, len(names)))
    return found


def _uniformity(what: str, seen: Sequence[int], cells: int) -> Uniformity:
    counts = np.bincount(seen, minlength=cells)
    chi2 = float(((counts - counts.mean()) ** 2).sum() / counts.mean())
    return Uniformity(what, tuple(counts.tolist()), chi2, cells - 1, float(stats.chi2.sf(chi2, cells - 1)))

"""Leakage rates printed in model cards, with the column they lack: what the rule flags of clean items."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evalkit.errors import unknown_name
from evalkit.leakage.published import outlier_scores, scenario_b
from evalkit.reports import published

_TABLE = "/leakage"
"""Which table of a card it is."""

_NOISE_ITEMS = 20_000
"""Items of noise behind a floor: a standard error of 0.3 points."""


@dataclass(frozen=True)
class Card:
    """A leakage table of a model card."""

    name: str
    source: str
    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    """Flagged fractions by benchmark, one per column."""
    threshold: float
    """Of rule b."""
    options: int
    """Options of the benchmarks' items."""

    @cached_property
    def floor(self) -> float:
        """What the rule flags of pure noise."""
        n_orders = math.factorial(self.options)
        noise = np.random.default_rng(n_orders).standard_normal((_NOISE_ITEMS, n_orders))
        return float(np.mean(scenario_b(outlier_scores(noise), self.threshold)))


def cards() -> dict[str, Card]:
    """Read the published leakage tables that ship with evalkit, by name."""
    tables = published.tables()
    return {
        name.removesuffix(_TABLE): _card(table) for name, table in tables.items() if name.endswith(_TABLE)
    }


def _card(table: published.Published) -> Card:
    return Card(
        name=table.name.removesuffix(_TABLE),
        source=table.source,
        title=table.more["title"],
        columns=table.columns,
        rows={row: tuple(map(float, cells)) for row, cells in table.rows.items()},
        threshold=float(table.more["threshold"]),
        options=int(table.more["options"]),
    )


def markdown(name: str) -> str:
    """Render a card's table as Markdown, its null floor in the last column.

    Raises:
        UsageError: no card of this name.
    """
    known = cards()
    if name not in known:
        raise unknown_name("published leakage table", name, known)
    return "\n".join(_lines(known[name]))


def _lines(card: Card) -> Iterator[str]:
    yield f"| {card.title} | {' | '.join(card.columns)} | null floor |"
    yield f"|:--|{'--:|' * (len(card.columns) + 1)}"
    for benchmark, values in card.rows.items():
        yield f"| {benchmark} | {' | '.join(f'{v:.2f}' for v in values)} | {card.floor:.2f} |"
    yield ""
    yield (
        f"Share of items flagged by scenario b at threshold {card.threshold:g}, as printed in {card.source}. "
        f"Null floor: what the same rule (forest of seed 42) flags of independent normal noise over the "
        f"{math.factorial(card.options)} orders of {card.options} options, in which nothing has leaked."
    )

"""Numbers printed in public model cards, as printed, with where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from evalkit.errors import unknown_name


@dataclass(frozen=True, slots=True)
class Published:
    """One table of a model card."""

    name: str
    """Card and table, for example `orion-moe8x7b/base`."""
    card: str
    """Title of the model card."""
    source: str
    """Its address."""
    where: str
    """Section or heading of the table there."""
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]
    """Cells as printed, without emphasis, one per column; marks such as `*` stand behind the number."""
    marks: Mapping[str, str]
    """What marks behind numbers mean."""
    notes: tuple[str, ...]
    """What a reader should know of these numbers, for example that they contradict others."""
    more: Mapping[str, Any]
    """Further facts that some tables have, for example the threshold of a leakage rule."""


def load(name: str) -> Published:
    """Read one table, `card/table`.

    Raises:
        UsageError: there is none of this name.
    """
    known = tables()
    if name not in known:
        raise unknown_name("published table", name, known)
    return known[name]


@cache
def tables() -> dict[str, Published]:
    """Every published table that ships with evalkit, by name."""
    folder = resources.files("evalkit.configs") / "published"
    found = {}
    for file in sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name):
        # As text, so that 82.0 stays as printed.
        card = yaml.load(file.read_text("utf-8"), yaml.BaseLoader)
        for key, content in card["tables"].items():
            table = _table(f"{file.name.removesuffix('.yaml')}/{key}", card, content)
            found[table.name] = table
    return found


def _table(name: str, card: Mapping[str, Any], content: dict[str, Any]) -> Published:
    columns, rows = tuple(content.pop("columns")), content.pop("rows")
    for label, cells in rows.items():
        if len(cells) != len(columns):
            raise ValueError(
                f"published table {name}, row '{label}': {len(cells)} cells for {len(columns)} columns"
            )
    return Published(
        name=name,
        card=card["title"],
        source=content.pop("source", card["source"]),
        where=content.pop("where"),
        columns=columns,
        rows={label: tuple(cells) for label, cells in rows.items()},
        marks=content.pop("marks", {}),
        notes=tuple(content.pop("notes", ())),
        more=content,
    )

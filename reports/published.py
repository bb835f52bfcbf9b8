"""Numbers printed in public model cards, as printed, with where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from evalkit.configs import shipped
from evalkit.errors import unknown_name
from evalkit.reports.layouts import Label


@dataclass(frozen=True, slots=True)
class Added:
    """A line beside the models of a card that its authors did not print."""

    label: Label
    note: Label
    """What it is."""
    cells: Mapping[str, str]
    """Numbers by name of the benchmark."""


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
    names: Mapping[str, str]
    """Names of models as printed, where the card gives one name to several lines."""
    marks: Mapping[str, Label]
    """What marks behind numbers mean."""
    notes: tuple[Label, ...]
    """What a reader should know of these numbers, for example that they contradict others."""
    added: tuple[Added, ...]
    """What belongs beside these numbers, for example what a rule flags where nothing leaked."""
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
    found = {}
    for name, text in shipped("published").items():
        # As text, so that 82.0 stays as printed.
        card = yaml.load(text, yaml.BaseLoader)
        for key, content in card["tables"].items():
            table = _table(f"{name}/{key}", card, content)
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
        names=content.pop("names", {}),
        marks={mark: Label.model_validate(text) for mark, text in content.pop("marks", {}).items()},
        notes=tuple(map(Label.model_validate, content.pop("notes", ()))),
        added=tuple(map(_added, content.pop("added", ()))),
        more=content,
    )


def _added(line: Mapping[str, Any]) -> Added:
    return Added(Label.model_validate(line["label"]), Label.model_validate(line["note"]), line["cells"])

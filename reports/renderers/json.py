"""JSON with everything tables know: values, intervals, samples, protocols, sources and notes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from evalkit.reports.table import Table
from evalkit.reports.text import escaped_json

SCHEMA_VERSION = 1


def render(tables: Sequence[Table]) -> str:
    """The tables, ready to be read by programs."""
    document = {"schema_version": SCHEMA_VERSION, "tables": [asdict(table) for table in tables]}
    return escaped_json(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)) + "\n"

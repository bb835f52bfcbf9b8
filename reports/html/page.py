"""One self-contained page in HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from evalkit.reports import plots, summary
from evalkit.reports.html.charts import charts
from evalkit.reports.html.samples import compressed, pack
from evalkit.reports.pairs import pairs
from evalkit.reports.runs import Entrant, Run, entrants
from evalkit.reports.table import Cell, Heading, Table
from evalkit.reports.text import visible

_SCRIPTS = ("text.js", "data.js", "tables.js", "pairs.js", "detail.js", "samples.js", "main.js")
"""Parts of our script, in one scope."""

_SOURCE_MAP = re.compile(r"\n(//|/\*)# sourceMappingURL=.*")


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is said of a run above all numbers."""

    name: str
    run_id: str
    lines: list[tuple[str, str]]
    warnings: list[str]
    contamination: list[str]


def render(tables: Sequence[Table], runs: Sequence[Run]) -> str:
    """The page: it needs no network and no other file.

    Its policy (CSP) lets nothing run or load but what stands in it; every text of a run appears as text.

    Args:
        tables: shown at the top.
        runs: whose samples can be browsed.
    """
    models = entrants(runs)
    packed = pack(models)
    names = ", ".join(model.name for model in models)
    compared = [pair.to_json() for pair in pairs(models)]
    scripts, styles = [_library(), _script()], [_style()]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=f"Evaluation of {names}" if names else "Published results",
            tables=tables,
            model_of=partial(_model_of, models),
            facts=[_facts(model, run) for model in models for run in model.runs],
            charts=list(charts(runs)),
            install=None if plots.HAS_MATPLOTLIB else plots.INSTALL,
            n_samples=len(packed.index["rows"]["item"]),
            n_models=len(models),
            has_pairs=bool(compared),
            index=compressed({**packed.index, "pairs": compared}),
            chunks=packed.chunks,
            scripts=[Markup(text) for text in scripts],
            styles=[Markup(text) for text in styles],
            policy=_policy(scripts, styles),
        )
    )


def _model_of(models: Sequence[Entrant], row: Heading, column: Heading, cell: Cell) -> int | None:
    """Place among the models of the one whose score a cell is; runs of several may have the same id."""
    for k, model in enumerate(models):
        run = model.find(cell.protocol) if cell.origin == "run" and cell.protocol else None
        if run and run.run_id == cell.source and model.name in (row.label, column.label):
            return k
    return None


def _facts(model: Entrant, run: Run) -> _Facts:
    described = run.results["model"]
    lines = [
        *((key, str(described[key])) for key in ("backend", "dtype", "fingerprint") if described.get(key)),
        ("cost", summary.cost_line(run.results["cost"])),
        ("evalkit", str(run.results["evalkit_version"])),
    ]
    warnings = list(summary.warnings(run.results, run.manifest))
    return _Facts(model.name, run.run_id, lines, warnings, list(summary.contamination(run.results)))


def _policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """Content security policy under which these inline texts work and nothing else."""
    of_scripts, of_styles = (" ".join(map(_hash, texts)) for texts in (scripts, styles))
    return (
        f"default-src 'none'; script-src {of_scripts}; style-src {of_styles}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _library() -> str:
    """Tabulator, with the licence it is passed on under."""
    return f"/*!\n{_asset('vendor/tabulator.LICENSE')}*/\n{_vendored('vendor/tabulator.min.js')}"


def _script() -> str:
    parts = "\n".join(_asset(name) for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def _style() -> str:
    return _vendored("vendor/tabulator_simple.min.css") + _asset("report.css")


def _vendored(name: str) -> str:
    """A file as published, without the reference to a source map that the page does not carry."""
    return _SOURCE_MAP.sub("", _asset(name))


@cache
def _asset(name: str) -> str:
    return resources.files("evalkit.reports").joinpath("assets", name).read_text("utf-8")


@cache
def _environment() -> Environment:
    """The templates of this package: every value appears as text, whatever it holds."""
    return Environment(
        loader=PackageLoader("evalkit.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )


def _shown(value: object) -> object:
    """Text whose control characters are pictures; markup of ours stays as it is."""
    return value if isinstance(value, Markup) else escape(visible(str(value)))

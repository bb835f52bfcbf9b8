"""The validation's figures, drawn from its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_DPI = 110
_SHOWN = ("residual gap", "raw gap", "scenario b", "likelihood")


def draw(tier2: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ROC curves, power curves and the null's quantiles; return their paths."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        for name, figure in (("roc", _roc), ("power", _power), ("null", _null)):
            drawn = figure(tier2)
            found.append(folder / f"leakage-{name}.png")
            drawn.savefig(found[-1], dpi=_DPI, metadata={"Software": None})
    return found


def _panels(n: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * n + 0.6, 2.7), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, n, sharey=True)))


def _roc(tier2: Mapping[str, Any]) -> Any:
    """ROC curves of the detectors, one panel per dose."""
    doses = [dose for dose in tier2["doses"] if dose != "0"]
    figure, panels = _panels(len(doses))
    for dose, axes in zip(doses, panels, strict=True):
        found = tier2["doses"][dose]
        for name in _SHOWN:
            curve = found["roc"][name]
            label = f"{name} ({found['detectors'][name]['auc']:.2f})"
            axes.plot(np.linspace(0, 1, len(curve)), curve, label=label, linewidth=1.2)
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        axes.set(title=f"{dose} exposure{'s' if dose != '1' else ''}", xlabel="false-positive rate")
        axes.legend(fontsize=6, frameon=False, loc="lower right")
    panels[0].set_ylabel("true-positive rate")
    return figure


def _power(tier2: Mapping[str, Any]) -> Any:
    """Power of the dataset test against exposures, one panel per share of members, one line per size."""
    doses = [dose for dose in tier2["doses"] if dose != "0"]
    rows = {dose: tier2["doses"][dose]["power"] for dose in doses}
    fractions = sorted({row["fraction"] for row in rows[doses[0]]}, reverse=True)
    sizes = sorted({row["n"] for row in rows[doses[0]]})
    figure, panels = _panels(len(fractions))
    for fraction, axes in zip(fractions, panels, strict=True):
        for k, n in enumerate(sizes):
            for statistic, style in (("raw", "-"), ("residual", ":")):
                power = [_find(rows[dose], statistic, n, fraction) for dose in doses]
                label = f"n = {n}" if style == "-" else None
                axes.plot(doses, power, style, marker="o", markersize=3, color=f"C{k}", label=label)
        axes.set(title=f"{fraction:.0%} of the items leaked", xlabel="exposures", ylim=(-0.03, 1.03))
    panels[0].set_ylabel("power at p ≤ 0.01 (dotted: residual)")
    panels[-1].legend(fontsize=6, frameon=False)
    return figure


def _find(rows: list[dict[str, Any]], statistic: str, n: int, fraction: float) -> float:
    wanted = (statistic, n, fraction)
    return next(float(r["power"]) for r in rows if (r["statistic"], r["n"], r["fraction"]) == wanted)


def _null(tier2: Mapping[str, Any]) -> Any:
    """Quantiles of p-values of random unexposed sets, before training and after each dose."""
    nulls = tier2["null"]
    figure, panels = _panels(2)
    for statistic, axes in zip(("raw", "residual"), panels, strict=True):
        for k, (dose, found) in enumerate(nulls.items()):
            colour = f"C{k}"
            for kind, style in (("sets", "-"), ("redrawn", ":")):
                quantiles = found[statistic][kind]["quantiles"]
                label = f"{dose} exposures" if kind == "sets" else None
                axes.plot(np.linspace(0, 1, len(quantiles)), quantiles, style, color=colour, label=label)
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        axes.set(title=f"{statistic} ranks", xlabel="uniform quantile")
    panels[0].set_ylabel("p-value of unexposed sets")
    panels[0].legend(fontsize=6, frameon=False)
    return figure

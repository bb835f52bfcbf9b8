"""The log-probabilities of two sides against each other, as figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from evalkit.diff.document import matched
from evalkit.diff.ladder import pair
from evalkit.diff.logprobs import Options, options, spread
from evalkit.diff.sides import Side
from evalkit.reports.figures import INK, SERIES, Drawing
from evalkit.reports.files import slug
from evalkit.reports.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (9.0, 4.4)
_MOST_POINTS = 2000
"""Points that are kept as shapes in an SVG; more become a picture in it."""
_BINS = 40
_DECADES = 8
"""Orders of magnitude of the differences that are told apart."""


def drawings(a: Side, b: Side) -> Iterator[Drawing]:
    """One figure per task that scores options on both sides. Call it, and save them, in our style."""
    for mine, theirs in matched(a, b):
        found = options(mine, theirs, pair(mine, theirs))
        if found is None:
            continue
        names = list(dict.fromkeys([mine.name, theirs.name]))
        yield Drawing(
            f"logprobs-{slug(' '.join(names))}",
            f"{' against '.join(names)}: log-probabilities of {len(found.a):,} options",
            "Left, every option's log-probability in A and in B; right, how far the two lie apart.",
            logprobs(found, f"A: {one_line(a.name)}", f"B: {one_line(b.name)}"),
        )


def logprobs(found: Options, a: str, b: str) -> Figure:
    """Options in A against B, and how their differences are distributed; `a` and `b` name the axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    _scatter(left, found)
    left.set_xlabel(f"{a} (nat)")
    left.set_ylabel(f"{b} (nat)")
    _differences(right, found)
    figure.legend(*left.get_legend_handles_labels(), frameon=False, loc="outside lower left", ncols=3)
    return figure


def _scatter(axes: Axes, found: Options) -> None:
    ends = [min(found.a.min(), found.b.min()), max(found.a.max(), found.b.max())]
    axes.plot(ends, ends, color=INK, linewidth=0.8, alpha=0.5)
    many = len(found.a) > _MOST_POINTS
    for chosen, colour, marker, label in (
        (found.gain == 0, SERIES[0], "o", "as right in both"),
        (found.gain < 0, SERIES[1], "v", "of samples A does better"),
        (found.gain > 0, SERIES[2], "^", "of samples B does better"),
    ):
        axes.plot(
            found.a[chosen],
            found.b[chosen],
            color=colour,
            marker=marker,
            linestyle="none",
            markersize=2 if many else 4,
            markeredgewidth=0,
            alpha=0.3 if many else 0.8,
            rasterized=many,
            label=f"{label} ({chosen.sum():,})",
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title("options")


def _differences(axes: Axes, found: Options) -> None:
    """Sizes of the differences on a logarithmic axis, one line for each sign."""
    gaps = found.b - found.a
    sizes = np.abs(gaps)
    largest = sizes.max()
    equal = int((sizes == 0).sum())
    axes.set_title(f"differences ({equal:,} options are exactly equal)")
    axes.set_xlabel("|B - A| (nat)")
    axes.set_ylabel("options")
    if largest == 0:
        return
    smallest = max(sizes[sizes > 0].min(), largest * 10.0**-_DECADES)
    bins = np.geomspace(smallest / 1.5, largest * 1.5, _BINS + 1)
    for sign, colour, style, label in ((1, SERIES[2], "-", "B higher"), (-1, SERIES[1], "--", "A higher")):
        counts, _ = np.histogram(np.maximum(sizes[sign * gaps > 0], smallest), bins)
        axes.stairs(counts, bins, color=colour, linestyle=style, label=f"{label} ({counts.sum():,})")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    _mark_quantiles(axes, found)
    axes.legend(frameon=False, loc="upper left")


def _mark_quantiles(axes: Axes, found: Options) -> None:
    quantiles = spread(found)
    for value, label in ((quantiles.median, "median"), (quantiles.p99, "99 %"), (quantiles.largest, "most")):
        if value > 0:
            axes.axvline(value, color=INK, linewidth=0.8, linestyle=":")
            axes.annotate(
                label, (value, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", ha="right"
            )

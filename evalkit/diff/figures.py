"""The log-probabilities of two sides against each other, as figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from evalkit.diff.logprobs import Options, options, spread
from evalkit.diff.pairing import pairs
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
_MOST_BINS = 40
_LABEL = 36
_DECADES = 8
"""Orders of magnitude of the differences that are told apart."""


def drawings(a: Side, b: Side) -> Iterator[Drawing]:
    """One figure per task that scores options on both sides. Call it, and save them, in our style."""
    for pair in pairs(a, b):
        found = options(pair)
        if found is None:
            continue
        names = list(dict.fromkeys([pair.a.name, pair.b.name]))
        yield Drawing(
            f"logprobs-{slug(' '.join(names))}",
            f"{' against '.join(names)}: log-probabilities of {len(found.a):,} options",
            "Left, every option's log-probability in A and in B; right, how far the two lie apart.",
            logprobs(found, f"A: {_end(a.name)}", f"B: {_end(b.name)}"),
        )


def logprobs(found: Options, a: str, b: str) -> Figure:
    """Options in A against B, and how their differences are distributed; `a` and `b` name the axes.

    Options of samples that one side answers better are marked.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    _scatter(left, found)
    left.set_xlabel(f"{a} (nat)")
    left.set_ylabel(f"{b} (nat)")
    handles, labels = left.get_legend_handles_labels()
    legend = figure.legend(handles, labels, frameon=False, loc="outside lower left", ncols=3)
    for line in legend.get_lines():
        line.set(markersize=5, alpha=1)
    _differences(right, found)
    return figure


def _scatter(axes: Axes, found: Options) -> None:
    both = np.concatenate([found.a, found.b])
    margin = 0.04 * (np.ptp(both) or 1)
    ends = (both.min() - margin, both.max() + margin)
    axes.plot(ends, ends, color=INK, linewidth=0.8, alpha=0.5)
    axes.set(xlim=ends, ylim=ends, box_aspect=1, title="options")
    many = len(found.a) > _MOST_POINTS
    for chosen, colour, marker, label in (
        (found.gain == 0, SERIES[0], "o", "judged alike"),
        (found.gain < 0, SERIES[1], "v", "A judged better"),
        (found.gain > 0, SERIES[2], "^", "B judged better"),
    ):
        n = int(chosen.sum())
        axes.plot(
            found.a[chosen],
            found.b[chosen],
            color=colour,
            marker=marker,
            linestyle="none",
            markersize=2 if many else 4,
            markeredgewidth=0,
            alpha=float(np.clip(_MOST_POINTS / 2 / max(n, 1), 0.1, 0.8)),
            rasterized=many,
            label=f"{label} ({n:,})",
        )


def _differences(axes: Axes, found: Options) -> None:
    """Sizes of the differences on a logarithmic axis, a line for each sign, and their quantiles."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    gaps = found.b - found.a
    sizes = np.abs(gaps)
    largest = sizes.max()
    axes.set_title(f"differences ({int((sizes == 0).sum()):,} options are equal)")
    if largest == 0:
        axes.set_axis_off()
        return
    smallest = max(sizes[sizes > 0].min(), largest * 10.0**-_DECADES)
    n_bins = int(np.clip(np.sqrt(len(sizes)), 8, _MOST_BINS))
    bins = np.geomspace(smallest / 1.5, largest * 1.5, n_bins + 1)
    for sign, colour, style, label in ((-1, SERIES[1], "--", "A higher"), (1, SERIES[2], "-", "B higher")):
        counts, _ = np.histogram(np.maximum(sizes[sign * gaps > 0], smallest), bins)
        axes.stairs(counts, bins, color=colour, linestyle=style, label=f"{label} ({counts.sum():,})")
    axes.set(xscale="log", xlabel="|B - A| (nat)", ylabel="options")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    # matplotlib's own labels of logarithmic axes are formulas, which our style shows as they are written.
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(sizes) > _MOST_POINTS:
        axes.set(yscale="log", ylim=(0.7, None))
        axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    quantiles = spread(found)
    for value, style, label in (
        (quantiles.median, "-", "median"),
        (quantiles.p99, "-.", "99 %"),
        (quantiles.largest, ":", "most"),
    ):
        if value > 0:
            axes.axvline(value, color=INK, linewidth=0.8, linestyle=style, label=f"{label} {value:.2g}")
    axes.legend(frameon=False, loc="best", fontsize="small")


def _end(name: str) -> str:
    """The end of a path, which tells it from its neighbours, as long as the axis has room for it."""
    line = one_line(name)
    return line if len(line) <= _LABEL else "…" + line[-_LABEL + 1 :]

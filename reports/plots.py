"""The figures as files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError
from evalkit.reports import figures
from evalkit.reports.runs import Run
from evalkit.reports.text import one_line

HAS_MATPLOTLIB = find_spec("matplotlib") is not None
INSTALL = "pip install 'evalkit[report]'"

_DPI = 150
_FAMILIES = (
    "DejaVu Sans",
    *(f"Noto Sans CJK {region}" for region in ("SC", "JP", "KR", "TC")),
    *("Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans", "WenQuanYi Zen Hei"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
    *("Noto Sans Arabic", "Geeza Pro", "Arial Unicode MS"),
)
"""Fonts that have Chinese, Japanese, Korean and Arabic somewhere; those that are installed are used."""


def draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write every figure of the runs, as `write` does."""
    return write(figures.drawings(runs), folder)


def write(drawings: Iterator[figures.Drawing], folder: Path) -> list[Path]:
    """Write figures as PNG and SVG; return their paths. They are drawn one by one, in our style.

    The SVG keeps its texts, so that whoever shows it needs the fonts. A PNG shows a box for a character that
    no installed font has.

    Raises:
        UsageError: matplotlib is not installed, or the folder cannot be written to.
    """
    if not HAS_MATPLOTLIB:
        raise UsageError(f"--plots needs matplotlib: {INSTALL}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return list(_write(drawings, folder))
    except OSError as error:
        raise UsageError(f"--plots {folder}: {error.strerror}; name another folder") from error


def _write(drawings: Iterator[figures.Drawing], folder: Path) -> Iterator[Path]:
    with style():
        for drawing in drawings:
            drawing.figure.suptitle(one_line(drawing.title), size="medium")
            for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                path = folder / f"{drawing.name}.{suffix}"
                drawing.figure.savefig(path, dpi=_DPI, metadata=metadata)
                yield path


@contextmanager
def style() -> Iterator[None]:
    """Draw as our figures are drawn: texts stay texts, in fonts that are installed, without warnings."""
    import matplotlib as mpl
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    fonts = [family for family in _FAMILIES if family in installed]
    ours: Any = {**figures.STYLE, "font.family": fonts, "svg.fonttype": "none", "svg.hashsalt": "evalkit"}
    with mpl.rc_context(ours), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*Glyph .* missing from")
        warnings.filterwarnings("ignore", r"(?s).*Matplotlib currently does not support .* natively")
        yield

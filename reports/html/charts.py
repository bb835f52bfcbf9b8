"""Figures as SVG inside the page: in its fonts and colours, without what its policy forbids."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

from evalkit.reports import figures, plots
from evalkit.reports.runs import Run

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
_COLOURS = {figures.INK: "currentColor"} | {
    colour: f"var(--series-{k})" for k, colour in enumerate(figures.SERIES, 1)
}
_FONT = re.compile(r"(?P<size>[\d.]+)px")


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure of the page."""

    title: str
    description: str
    svg: Markup


def charts(runs: Sequence[Run]) -> Iterator[Chart]:
    """Every figure there is to draw; none without matplotlib."""
    if not plots.HAS_MATPLOTLIB:
        return
    with plots.style():
        for drawing in figures.drawings(runs):
            file = io.StringIO()
            drawing.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
            svg = _for_page(ET.fromstring(file.getvalue()), drawing.name)
            yield Chart(drawing.title, drawing.description, svg)


def _for_page(root: ET.Element, name: str) -> Markup:
    """Markup of an SVG that takes fonts and colours from the page around it."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_SVG}style" or child.tag.endswith("metadata"):
                parent.remove(child)
    used = {reference for element in root.iter() for reference in _references(element)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _restyle(element)
        _rename(element, used, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img"}
    return Markup(ET.tostring(root, encoding="unicode"))


def _restyle(element: ET.Element) -> None:
    """Style as attributes, since the page's policy ignores `style`."""
    declarations = (part.partition(":") for part in element.attrib.pop("style", "").split(";"))
    style = {key.strip(): value.strip() for key, _, value in declarations if value}
    font = style.pop("font", "")
    if size := _FONT.search(font):
        element.set("font-size", size["size"])
    for key, value in style.items():
        if key != "font-family":
            element.set(key, value)
    for key in ("fill", "stroke"):
        if ours := _COLOURS.get(element.get(key, "")):
            element.set(key, ours)
    if element.tag == "text" and "fill" not in element.attrib:
        element.set("fill", "currentColor")


def _references(element: ET.Element) -> Iterator[str]:
    if href := element.get(f"{_XLINK}href"):
        yield href.removeprefix("#")
    for value in element.attrib.values():
        yield from re.findall(r"url\(#([^)]+)\)", value)


def _rename(element: ET.Element, used: set[str], name: str) -> None:
    """Make ids unique in the page; drop those that nothing refers to."""
    id_ = element.attrib.pop("id", None)
    if id_ in used:
        element.set("id", f"{name}-{id_}")
    if href := element.attrib.pop(f"{_XLINK}href", None):
        element.set("href", f"#{name}-{href.removeprefix('#')}")
    for key, value in element.attrib.items():
        element.set(key, re.sub(r"url\(#", f"url(#{name}-", value))

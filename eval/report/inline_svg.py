"""Makes a matplotlib figure part of a page: colours follow the page's theme, ids stay apart, points get tooltips."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INK", "LINE", "MUTED", "SERIES", "SURFACE", "inline_svg"]

INK, MUTED, LINE, SURFACE = "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04"
SERIES = tuple(f"#0a0b{number:02x}" for number in range(8))
"""Colours that stand for the page's own: a figure drawn with them turns with the theme."""

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    SURFACE: "var(--surface)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES)},
}
_COLOR = re.compile("#0a0[ab][0-9a-f]{2}")
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"


def inline_svg(figure: Figure, *, name: str, title: str, tooltips: Mapping[str, str]) -> str:
    """The figure as an `<svg>` element for HTML. `name` keeps its ids apart from other figures' and makes them stable;
    `title` is what a screen reader says; `tooltips` maps the gid of an artist to what pointing at it shows."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(buffer.getvalue())
    _strip(root)
    for element in root.iter():
        _adapt(element, name)
        tooltip = tooltips.get((element.get("id") or "").removeprefix(f"{name}-"))
        if tooltip is not None:
            _first(element, "title", tooltip)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", title)
    return _written(root)


def _strip(root: ET.Element) -> None:
    """Without metadata, and without the style sheet, which in a page would reach beyond the figure."""
    for child in list(root):
        if child.tag == f"{_SVG}metadata" or (child.tag == f"{_SVG}defs" and child.find(f"{_SVG}style") is not None):
            root.remove(child)


def _adapt(element: ET.Element, name: str) -> None:
    if element.get("id"):
        element.set("id", f"{name}-{element.get('id')}")
    link = element.attrib.pop(_LINK, None)
    if link is not None:
        element.set("href", f"#{name}-{link.removeprefix('#')}")
    if clip := element.get("clip-path"):
        element.set("clip-path", clip.replace("url(#", f"url(#{name}-"))
    if style := element.get("style"):
        style = re.sub(r"font-family:[^;]*;?\s*", "", style)
        element.set("style", _COLOR.sub(lambda found: _VARIABLES[found[0]], style))


def _first(element: ET.Element, tag: str, text: str) -> None:
    child = ET.Element(f"{_SVG}{tag}")
    child.text = text
    element.insert(0, child)


def _written(root: ET.Element) -> str:
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
    return ET.tostring(root, encoding="unicode")

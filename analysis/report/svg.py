"""Matplotlib figures as SVG inside a page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

_SIZE = re.compile(r'^<svg [^>]*?viewBox="(?P<box>[^"]*)"[^>]*>', re.DOTALL)
_ID = re.compile(r' id="(?P<id>[^"]*)"')
_REFERENCE = re.compile(r'(?P<before>href="#|url\(#)(?P<id>[^")]*)')
_FINE = re.compile(r"-?[1-9]\d*\.\d{3,}")  # of a point, which no eye and no printer tells apart
_DRAWN = re.compile(r'( d="| style=")([^"]*)')
_COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)

RASTER_DPI = 220
"""Resolution of the parts of a figure that are drawn as pixels: clouds of thousands of points."""


def inline_svg(figure: Figure, prefix: str, label: str) -> Markup:
    """Turn a figure into an ``<svg>`` element of the page.

    Text becomes outlines, so that it looks the same everywhere; the same figure gives the same
    bytes. Its size is the page's matter, the view box keeps the proportions.

    Parameters
    ----------
    prefix : str
        Goes before the number of every id that is used, so that several figures fit one page.
    label : str
        What people hear who cannot see it.
    """
    from markupsafe import Markup, escape
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    from ..plots.style import house_style

    buffer = io.StringIO()
    with house_style(), rc_context({"svg.hashsalt": "opbyte", "svg.fonttype": "path"}):
        # Not by `savefig`, which draws twice: once to lay out what is laid out.
        canvas, dpi = figure.canvas, figure.dpi
        figure.dpi = RASTER_DPI
        own: Any = FigureCanvasSVG(figure)  # its methods have no types
        own.print_svg(buffer, metadata={"Date": None, "Creator": None})
        figure.dpi = dpi
        figure.set_canvas(canvas)
    text = buffer.getvalue()
    text = _COMMENT.sub("", text[text.index("<svg") :])
    text = _FINE.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), text)
    text = re.sub(r">\s+<", "><", text).replace("xlink:href", "href")
    text = _DRAWN.sub(lambda m: m[1] + re.sub(r"\s*([A-Za-z:;])\s*", r"\1", m[2]), text)
    known = dict.fromkeys(match["id"] for match in _REFERENCE.finditer(text))
    used = {name: f"{prefix}-{i}" for i, name in enumerate(known)}
    text = _ID.sub(lambda m: f' id="{used[m["id"]]}"' if m["id"] in used else "", text)
    text = _REFERENCE.sub(lambda m: m["before"] + used[m["id"]], text)
    match = _SIZE.match(text)
    assert match is not None
    head = f'<svg viewBox="{match["box"]}" role="img" aria-label="{escape(label)}">'
    return Markup(head + text[match.end() :])  # drawn here, its texts are outlines

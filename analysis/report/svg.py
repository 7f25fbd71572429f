"""Matplotlib plots as SVG in a page."""

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
_TAG = re.compile(r"<[^>]*>")
_FINE = re.compile(r"-?[1-9]\d*\.\d{2,}")  # of a point, which no eye and no printer tells apart
_FONT = re.compile(r"font-family: [^;\"]*;? ?|; font-family: [^;\"]*(?=\")| transform=\"rotate\(-?0 [^\"]*\"")
_DRAWN = re.compile(r'( d="| style=")([^"]*)')
_STEP = re.compile(r"([ML])([-.\d]+) ([-.\d]+)|[Zz]")
_LINES = re.compile(rf"({_STEP.pattern})+")
_COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)

FONTS = "DejaVu Sans, Verdana, sans-serif"
"""The plots' font, and one of equal width on other machines."""
RASTER_DPI = 220
"""Resolution of rasterised parts: clouds of thousands of points."""


def inline_svg(figure: Figure, prefix: str, label: str) -> Markup:
    """Turn a plot into an ``<svg>`` element of the page.

    Text remains text, in a font as wide as the one used for the layout; equal plots give equal bytes. The page sets the
    size, the view box keeps the proportions.

    Parameters
    ----------
    prefix : str
        Prefix of every id, so that several plots fit one page.
    label : str
        What people hear who cannot see it.
    """
    from markupsafe import Markup, escape
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    from ..plots.style import house_style

    buffer = io.StringIO()
    with house_style(), rc_context({"svg.hashsalt": "opbyte", "svg.fonttype": "none"}):
        # Not by `savefig`, which draws twice: once to lay out what is laid out.
        canvas, dpi = figure.canvas, figure.dpi
        figure.dpi = RASTER_DPI
        svg_canvas: Any = FigureCanvasSVG(figure)  # its methods have no types
        svg_canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
        figure.dpi = dpi
        figure.set_canvas(canvas)
    text = buffer.getvalue()
    text = _COMMENT.sub("", text[text.index("<svg") :])
    text = _TAG.sub(lambda tag: _FONT.sub("", _FINE.sub(_rounded, tag[0])), text)
    text = re.sub(r">\s+<", "><", text).replace("xlink:href", "href")
    text = _DRAWN.sub(lambda m: m[1] + _stepwise(re.sub(r"\s*([A-Za-z:;])\s*", r"\1", m[2])), text)
    known = dict.fromkeys(match["id"] for match in _REFERENCE.finditer(text))
    used = {name: f"{prefix}-{i}" for i, name in enumerate(known)}
    text = _ID.sub(lambda m: f' id="{used[m["id"]]}"' if m["id"] in used else "", text)
    text = _REFERENCE.sub(lambda m: m["before"] + used[m["id"]], text)
    match = _SIZE.match(text)
    assert match is not None
    head = f'<svg viewBox="{match["box"]}" role="img" aria-label="{escape(label)}" font-family="{FONTS}">'
    return Markup(head + text[match.end() :])  # drawn here, by what escapes its texts


def _stepwise(path: str) -> str:
    """A path of straight lines by their steps; anything else as it is. Tenths of a point, which add up exactly.

    Examples
    --------
    >>> _stepwise("M10 20.5L11 20.5L11 30Z"), _stepwise("fill:none")
    ('M10 20.5l1 0l0 9.5Z', 'fill:none')
    """
    if not _LINES.fullmatch(path.strip()):
        return path
    out, x, y = "", 0, 0
    for step in _STEP.finditer(path):
        if step[1] is None:
            out += step[0]
            continue
        a, b = round(10 * float(step[2])), round(10 * float(step[3]))
        out += f"M{a / 10:g} {b / 10:g}" if step[1] == "M" else f"l{(a - x) / 10:g} {(b - y) / 10:g}"
        x, y = a, b
    return out


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")

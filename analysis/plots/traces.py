"""Conversion of single matplotlib artists to Plotly.js traces with hover texts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import matplotlib.colors
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection, PathCollection, PolyCollection
from matplotlib.container import BarContainer
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle, StepPatch

from ...workloads.errors import visible
from .looks import ArtistText, Looks, hover_of, ink, symbol

MOST_NAME = 80
"""Maximum number of characters of a name in a plot; the tables contain the full name."""
GAP = None
"""Value that interrupts a line in Plotly.js."""

Trace = dict[str, Any]


def clean(text: str) -> str:
    """Return a text for Plotly.js: markup is escaped, and long text is cut.

    >>> clean("<b>x</b>")
    '&lt;b&gt;x&lt;/b&gt;'
    """
    short = text if len(text) <= MOST_NAME else text[: MOST_NAME - 1] + "…"
    return html.escape(visible(short), quote=False).replace("\n", " ")


def lines(text: str) -> str:
    """Return a text of several lines for Plotly.js; each line is made safe by `clean`."""
    return "<br>".join(clean(line) for line in text.split("\n"))


def _base(artist: Artist | BarContainer, name: str) -> tuple[Trace, ArtistText]:
    """Return the common fields of a trace, and the hover text of its artist."""
    hover = hover_of(artist)
    called = clean(hover.name or name)
    return {"name": called, "legendgroup": called}, hover


def line_trace(axes: Axes, line: Line2D, looks: Looks) -> Trace:
    """Return a line, its markers, or both; one across the axes spans all data."""
    trace, hover = _base(line, looks.name(line))
    in_x, in_y = line.get_transform().contains_branch_seperately(axes.transData)
    x = np.atleast_1d(np.asarray(line.get_xdata()))
    y = np.atleast_1d(np.asarray(line.get_ydata()))
    if not in_x:
        x = np.array(axes.get_xlim())
    if not in_y:
        y = np.array(axes.get_ylim())
    dashes, marker = line.get_linestyle(), line.get_marker()
    drawn, dotted = (dashes not in ("None", "none", "", " "), marker not in (None, "None", "none", ""))
    size = len(x)
    trace |= {
        "type": "scatter", "x": numbers(x), "y": numbers(y),
        "mode": "+".join([*["lines"] * drawn, *["markers"] * dotted]) or "lines",
    }  # fmt: skip
    if drawn:
        shape = {"steps-post": "hv", "steps-pre": "vh", "steps-mid": "hvh"}
        trace["line"] = {
            "color": ink(line.get_color()), "width": round(1.4 * line.get_linewidth(), 2),
            "dash": looks.dash(line), "shape": shape.get(line.get_drawstyle(), "linear"),
        }  # fmt: skip
    if dotted:
        trace["marker"] = {
            "symbol": [symbol(str(marker), line.get_fillstyle())] * size,
            "size": [round(max(1.35 * float(line.get_markersize()), 5.0), 1)] * size,
            "color": [ink(_face(line))] * size,
            "line": {"color": [ink(line.get_markeredgecolor())] * size, "width": 1},
            "opacity": 1.0 if line.get_alpha() is None else float(line.get_alpha() or 1.0),
        }
    _hover(trace, hover, silent=not hover.texts and not trace["name"] and not dotted)
    return trace


def _face(line: Line2D) -> Any:
    return line.get_markeredgecolor() if line.get_fillstyle() == "none" else (line.get_markerfacecolor())


def bars_trace(container: BarContainer, looks: Looks) -> Trace:
    """Return the trace of bars that one call drew, at their positions in the plot."""
    patches: Sequence[Rectangle] = container.patches
    first = patches[0] if patches else Rectangle((0, 0), 0, 0)
    label = str(container.get_label())
    trace, hover = _base(container, looks.name(first, "" if label.startswith("_") else label))
    flat = container.orientation == "horizontal"
    lows = [p.get_x() if flat else p.get_y() for p in patches]
    lengths = [p.get_width() if flat else p.get_height() for p in patches]
    middles = [p.get_y() + p.get_height() / 2 if flat else p.get_x() + p.get_width() / 2 for p in patches]
    along, across = ("x", "y") if flat else ("y", "x")
    trace |= {
        "type": "bar", "orientation": "h" if flat else "v",
        along: numbers(lengths), across: numbers(middles), "base": numbers(lows),
        "width": numbers([abs(p.get_height() if flat else p.get_width()) for p in patches]),
        "marker": {
            "color": [ink(p.get_facecolor()) for p in patches],
            "pattern": {"shape": [looks.pattern(p) for p in patches], "fgcolor": "ink",
                        "fillmode": "overlay", "size": 6, "solidity": 0.25},
            "line": {"color": "ink", "width": 0.5 if first.get_linewidth() else 0},
        },
    }  # fmt: skip
    _hover(trace, hover, silent=False)
    if not hover.texts:
        trace["hovertemplate"] = f"%{{{along}}}" + _extra(trace["name"])
    return trace


def stairs_trace(patch: StepPatch, looks: Looks) -> Trace:
    """Return stairs as the trace of a line with horizontal and vertical steps."""
    values, edges, _ = patch.get_data()
    trace, hover = _base(patch, looks.name(patch))
    trace |= {
        "type": "scatter", "mode": "lines", "x": numbers(edges),
        "y": numbers([*values, values[-1]] if len(values) else []),
        "line": {"color": ink(patch.get_edgecolor()), "width": 1.6,
                 "dash": looks.dash(patch), "shape": "hv"},
    }  # fmt: skip
    _hover(trace, hover, silent=False)
    return trace


def cloud_trace(collection: Collection, looks: Looks) -> Trace | None:
    """Return a collection of points, line segments or filled bands as a trace; None for other collections."""
    trace, hover = _base(collection, looks.name(collection))
    trace["type"] = "scatter"
    if isinstance(collection, PathCollection):
        at = np.asarray(collection.get_offsets(), dtype=float)
        sizes = np.resize(1.5 * np.sqrt(np.maximum(collection.get_sizes(), 1.0)), len(at))
        trace |= {
            "mode": "markers", "x": numbers(at[:, 0]), "y": numbers(at[:, 1]),
            "marker": {"size": numbers(sizes), **_shades(collection, len(at))},
        }  # fmt: skip
        _hover(trace, hover, silent=False)
        return trace
    if isinstance(collection, (LineCollection, PolyCollection)):
        xs: list[Any] = []
        ys: list[Any] = []
        for path in collection.get_paths():
            xs += [*np.asarray(path.vertices)[:, 0], GAP]
            ys += [*np.asarray(path.vertices)[:, 1], GAP]
        trace |= {"mode": "lines", "x": numbers(xs), "y": numbers(ys)}
        if isinstance(collection, PolyCollection):
            color = ink(np.atleast_2d(collection.get_facecolor())[0])
            trace |= {"fill": "toself", "fillcolor": color, "line": {"width": 0, "color": color}}
        else:
            color = ink(np.atleast_2d(collection.get_edgecolor())[0])
            trace["line"] = {"color": color, "width": 1}
        _hover(trace, hover, silent=True)
        return trace
    return None


def _shades(points: PathCollection, count: int) -> dict[str, Any]:
    """Return the colours of a scatter plot's points: fixed colours, or values with a colour scale."""
    values = points.get_array()
    if values is None:
        colors = [ink(color) for color in np.atleast_2d(points.get_facecolor())]
        return {"color": colors if len(colors) == count else colors * count}
    steps = np.linspace(0.0, 1.0, 9)
    bar = getattr(points, "colorbar", None)
    label = "" if bar is None else bar.ax.get_ylabel()
    return {
        "color": numbers(np.asarray(values, dtype=float)), "showscale": bar is not None,
        "cmin": numbers([points.norm.vmin])[0], "cmax": numbers([points.norm.vmax])[0],
        "colorscale": [[float(at), matplotlib.colors.to_hex(points.cmap(at))] for at in steps],
        "colorbar": {"title": {"text": clean(label), "side": "right"}, "thickness": 12},
    }  # fmt: skip


def _hover(trace: Trace, hover: ArtistText, silent: bool) -> None:
    """Set the hover text of a trace: the given texts, else nothing if `silent`, else its name and position."""
    if hover.texts:
        trace["hovertext"] = [lines(text) for text in hover.texts]
        trace["hovertemplate"] = "%{hovertext}" + _extra("")
    elif silent:
        trace["hoverinfo"] = "skip"
    else:
        trace["hovertemplate"] = "%{x}, %{y}" + _extra(trace["name"])


def _extra(name: str) -> str:
    return f"<extra>{name}</extra>"


def numbers(values: Any) -> list[Any]:
    """Return numbers with six significant digits; values that are not finite numbers become gaps.

    >>> numbers([1.0, float("nan"), 1 / 3])
    [1, None, 0.333333]
    """
    out: list[Any] = []
    for value in values:
        if not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
            out.append(GAP)
            continue
        real = float(f"{float(value):.6g}")
        out.append(int(real) if real.is_integer() and abs(real) < 2**53 else real)
    return out

"""A matplotlib plot as data for Plotly.js, one description per axes.

A plot is made once, by matplotlib; its artists are read here: lines, markers, bars, stairs, bands (`traces`). `told`
sets the hover text of an artist. If an axes has an artist without a counterpart, the whole plot has no interactive
form, so that it never shows less data than the picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator

from ...workloads.errors import visible
from .looks import Looks, ink
from .traces import Trace, bars_trace, cloud_trace, line_trace, lines, numbers, stairs_trace

PIXELS = 96
"""Pixels per inch."""
NUMBER = re.compile(r"[-+\u2212]?[\d,.]*")
"""Pattern of a tick label that is only a number; the minus sign is matplotlib's."""
WIDE = 30.0
"""Ratio of an axis's ends from which only powers of ten are labelled."""
MOST_EDGED = 300
"""Maximum number of bars with edges; with more bars, the edges would cover them at full view."""
COLORBAR = "<colorbar>"
"""Label that matplotlib gives the axes of a colour bar."""


def interactive(figure: Figure) -> list[dict[str, Any]] | None:
    """Describe a plot's axes for Plotly.js.

    Returns
    -------
    list of dict or None
        For each axes: ``data`` and ``layout`` of Plotly.js, ``title``, ``wide`` if it takes all of the width, ``tall``
        if it is next to two others, ``linked`` if its x axis is zoomed with others'; None if an artist has no
        counterpart.
    """
    panels = [axes for axes in figure.axes if axes.get_visible() and axes.axison and axes.get_label() != COLORBAR]
    looks = Looks(figure)
    out = []
    for axes in panels:
        data = _traces(axes, looks)
        if data is None:
            return None
        out.append(
            {
                "title": visible(axes.get_title(loc="left") or axes.get_title()),
                "data": data,
                "layout": _layout(axes, data, figure),
                "wide": len({round(a.get_position().x0, 2) for a in panels}) == 1,
                "tall": _rows(axes) > 1,
                "linked": _shares_x(axes),
            }
        )
    return out or None


def _rows(axes: Axes) -> int:
    """Return the rows of the plot's grid that an axes spans."""
    spec = axes.get_subplotspec()
    return 1 if spec is None else len(spec.rowspan)


def _shares_x(axes: Axes) -> bool:
    shared: Any = axes.get_shared_x_axes()
    return len(shared.get_siblings(axes)) > 1


def _traces(axes: Axes, looks: Looks) -> list[Trace] | None:
    """Return the traces of an axes in drawing order; None if an artist is unknown."""
    layered: list[tuple[float, Trace]] = []
    bars = {id(p) for c in axes.containers if isinstance(c, BarContainer) for p in c.patches}
    for container in axes.containers:
        if isinstance(container, BarContainer):
            layered.append((container.patches[0].get_zorder() if container.patches else 1.0,
                          bars_trace(container, looks)))  # fmt: skip
    for line in axes.lines:
        if line.get_visible() and len(np.atleast_1d(line.get_xdata())):
            layered.append((line.get_zorder(), line_trace(axes, line, looks)))
    for patch in axes.patches:
        if id(patch) in bars or not patch.get_visible():
            continue
        if not isinstance(patch, StepPatch):
            return None
        layered.append((patch.get_zorder(), stairs_trace(patch, looks)))
    for collection in axes.collections:
        trace = cloud_trace(collection, looks)
        if trace is None:
            return None
        layered.append((collection.get_zorder(), trace))
    if axes.images or axes.tables or axes.child_axes:
        return None
    if len(bars) > MOST_EDGED:
        for _, trace in layered:
            if trace["type"] == "bar":
                trace["marker"]["line"]["width"] = 0
    layered.sort(key=lambda pair: pair[0])
    return _named_once(_joined([trace for _, trace in layered]))


def _joined(traces: Sequence[Trace]) -> list[Trace]:
    """Merge markers, and bars, with the same name into one trace, which has one legend entry."""
    out: list[Trace] = []
    for trace in traces:
        kind = (trace["type"], trace.get("mode"), trace.get("orientation"))
        same = trace["name"] and (kind[1] == "markers" or kind[0] == "bar")
        for other in out if same else []:
            if (other["name"], other["type"], other.get("mode"), other.get("orientation")) == (
                trace["name"], *kind
            ) and ("hovertext" in other) == ("hovertext" in trace):  # fmt: skip
                _append(other, trace)
                break
        else:
            out.append(trace)
    return out


def _append(to: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, list):
            to[key] = [*to[key], *value]
        elif isinstance(value, dict):
            _append(to[key], value)


def _named_once(traces: list[Trace]) -> list[Trace]:
    """Show each name once in the legend, and hide traces without a name."""
    seen: set[str] = set()
    for trace in traces:
        name = trace["name"]
        if "marker" in trace:
            trace["marker"] = _once(trace["marker"])
        trace["showlegend"] = bool(name) and name not in seen
        seen.add(name)
    return traces


def _once(looks: dict[str, Any]) -> dict[str, Any]:
    """Replace lists of equal values in the style of a trace's points by the single value."""
    out: dict[str, Any] = {}
    for key, value in looks.items():
        if isinstance(value, dict):
            out[key] = _once(value)
        elif isinstance(value, list) and value and value == value[:1] * len(value):
            shaded = key == "color" and not isinstance(value[0], str)  # by a scale
            out[key] = value if shaded else value[0]
        else:
            out[key] = value
    return out


def _layout(axes: Axes, data: Sequence[Trace], figure: Figure) -> dict[str, Any]:
    box = axes.get_position()
    high = box.height * float(figure.get_size_inches()[1]) * PIXELS
    return {
        "height": round(max(high, 110) + 110),
        "xaxis": _axis(axes.xaxis, axes.get_xlim()),
        "yaxis": _axis(axes.yaxis, axes.get_ylim()),
        "showlegend": sum(trace["showlegend"] for trace in data) > 0,
        "annotations": [a for t in axes.texts if (a := _annotation(axes, t)) is not None],
    }


def _axis(axis: Axis, limits: tuple[float, float]) -> dict[str, Any]:
    """Return an axis; one with zero next to large numbers becomes logarithmic."""
    low, high = (float(value) for value in limits)
    log = axis.get_scale() in ("log", "symlog")
    if axis.get_scale() == "symlog":
        low = max(low, 0.8)
    out: dict[str, Any] = {
        "title": {"text": lines(axis.get_label_text())},
        "type": "log" if log else "linear",
        "range": numbers(np.log10([low, high]) if log and low > 0 < high else [low, high]),
    }
    if log and low > 0 and high / low > WIDE:
        out["dtick"] = 1  # labels of 2 and 5 beside those of 10 would meet on a narrow page
    formatter = axis.get_major_formatter()
    if not log and isinstance(axis.get_major_locator(), FixedLocator):
        marks = list(axis.get_majorticklocs())
        names = [lines(text) for text in formatter.format_ticks(marks)]
        if not all(NUMBER.fullmatch(name) for name in names):
            return {**out, "tickvals": numbers(marks), "ticktext": names}
    one = formatter(1.0, 0).replace("\u00a0", " ")
    if "%" in one and "100" in one:
        return {**out, "tickformat": "+.0%" if "+" in one else ".0%", "hoverformat": ".3p"}
    if match := re.fullmatch(r"1 (\w+)", one):
        return {**out, "tickformat": "~s", "ticksuffix": match[1], "hoverformat": ".4~s"}
    return {**out, "hoverformat": ",.4~r", "exponentformat": "SI" if log else "none"}


def _annotation(axes: Axes, text: Text) -> dict[str, Any] | None:
    """Return a label next to its point; None for labels elsewhere."""
    words = text.get_text()
    if not words.strip() or not text.get_visible() or text.get_alpha() == 0.0:
        return None
    out: dict[str, Any] = {
        "text": lines(words),
        "font": {"color": ink(text.get_color()), "size": 11},
        "showarrow": False,
        "xanchor": {"center": "center", "left": "left", "right": "right"}[text.get_horizontalalignment()],
        "yanchor": {"center": "middle", "top": "top", "bottom": "bottom"}.get(text.get_verticalalignment(), "middle"),
    }
    if isinstance(text, Annotation):
        if text.xycoords != "data" or text.anncoords != "offset points":
            return None
        shift = text.get_position()
        at: tuple[float, float] = text.xy
        out |= {"xshift": round(shift[0] * PIXELS / 72), "yshift": round(shift[1] * PIXELS / 72)}
    elif text.get_transform() == axes.transData:
        x, y = text.get_position()
        at = (float(x), float(y))
    else:
        return None
    for name, value, axis in (("x", at[0], axes.xaxis), ("y", at[1], axes.yaxis)):
        if axis.get_scale() != "linear" and not value > 0:
            return None
        out[name] = numbers([np.log10(value) if axis.get_scale() != "linear" else value])[0]
    return out

"""Plots of ops over time, one row per processor or link, and of requests over time, one row per request."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .looks import hover
from .style import (
    BLACK,
    BLUE,
    GREEN,
    LIGHT,
    ORANGE,
    SMALL,
    VERMILLION,
    finish,
    grid,
    house_figure,
    layer_order,
    layer_styles,
    legend_above,
    plain_numbers,
    quantity,
    renderer,
    require,
    say_empty,
    scale,
)

SPAN_COLUMNS = ("request", "what", "start_s", "end_s", "tokens")
LOOKS = {
    "queued": (LIGHT, ""), "prompt": (ORANGE, "///"), "decodes": (BLUE, ""),
    "preempted": (VERMILLION, "xx"), "passed over": ("white", ""),
}  # fmt: skip
OTHER = (GREEN, "..")
MOST_ROWS = 40
"""Maximum number of plotted requests; the first requests of a window are plotted."""
ROW_INCHES = 0.14


def lanes(spans: pd.DataFrame, title: str) -> Figure:
    """Plot spans as bars over time, one row per request.

    Parameters
    ----------
    spans : DataFrame
        Columns request, what ("queued", "prompt", "decodes", "preempted" or "passed over"), start_s and
        end_s [s], and tokens.
    """
    require(spans, SPAN_COLUMNS, "spans")
    requests = list(dict.fromkeys(spans["request"]))
    shown_rows = requests[:MOST_ROWS]
    with house_figure(title, height=1.5 + ROW_INCHES * max(len(shown_rows), 6)) as figure:
        axes = figure.add_subplot()
        axes.set(xlabel="Time since the first arrival (s)", ylabel="Request")
        axes.set_yticks(range(len(shown_rows)), [f"#{name}" for name in shown_rows])
        axes.set_ylim(max(len(shown_rows), 1) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelsize=6)
        grid(axes, "x")
        plain_numbers(axes.xaxis)
        if not shown_rows:
            say_empty(axes, "No request in this window")
            return figure
        shown = spans[spans["request"].isin(shown_rows)]
        row_of = {name: row for row, name in enumerate(shown_rows)}
        for what in [*(w for w in LOOKS if (shown["what"] == w).any()), *sorted(set(shown["what"]) - set(LOOKS))]:
            rows = shown[shown["what"] == what]
            color, hatch = LOOKS.get(what, OTHER)
            start = rows["start_s"].to_numpy(dtype=np.float64)
            took = rows["end_s"].to_numpy(dtype=np.float64) - start
            bars = axes.barh(
                [row_of[name] for name in rows["request"]], took, 0.8, start, color=color,
                hatch=hatch, edgecolor=BLACK, linewidth=0.25, label=what, gid="span",
            )  # fmt: skip
            hover(bars, what, [
                f"request {name}: {what}{f', {tokens:,} tokens' if tokens else ''}\n"
                f"{quantity(float(seconds), 's', 1.0)}"
                for name, tokens, seconds in zip(rows["request"], rows["tokens"], took, strict=True)
            ])  # fmt: skip
        axes.set_xlim(float(shown["start_s"].min()), float(shown["end_s"].max()))
        legend_above(axes, 5)
        left = len(requests) - len(shown_rows)
        finish(figure, f"{left:,} more requests are not plotted." if left else "")
    return figure


COLUMNS = ("lane", "op", "kind", "chunk", "layer", "bound", "start_s", "end_s")
CHUNK_HATCHES = ("", "///", "...", "xx")
"""Hatches that distinguish the chunks of a batch; they repeat if there are more chunks."""
HEIGHT_OF_BAR = 0.72
INK = "#111111"
"""Colour of text on a bright bar; it stays dark on a dark page."""
LETTERS = 24
"""Maximum number of characters of an op's name in its bar."""


def gantt(
    bars: pd.DataFrame, window: tuple[float, float], title: str, note: str = "", since: str = "the step began"
) -> Figure:
    """Plot ops as bars over time, one row per processor or link, coloured by the part of the model.

    Parameters
    ----------
    bars : DataFrame
        Columns lane, op, kind (part of the model), chunk (-1 = all of the batch), layer (-1 = none),
        bound, start_s and end_s [s].
    window : (float, float)
        The displayed time range [s]; the interactive plot has all of it.
    since : str
        What times count from.
    """
    require(bars, COLUMNS, "bars")
    lanes = list(dict.fromkeys(bars["lane"]))
    kinds = layer_order(bars["kind"])
    with house_figure(title, height=1.75 + 0.5 * max(len(lanes), 2)) as figure:
        axes = figure.add_subplot()
        low, high = window
        factor, prefix = scale(high - low, 1.0)
        axes.set_xlabel(f"Time since {since} ({prefix}s)")
        axes.set_yticks(range(len(lanes)), lanes)
        axes.set_ylim(max(len(lanes), 1) - 0.5, -0.5)
        axes.set_xlim(low / factor, (high if high > low else low + factor) / factor)
        axes.tick_params(axis="y", length=0)
        grid(axes, "x")
        plain_numbers(axes.xaxis)
        if not len(bars):
            say_empty(axes, "Nothing runs")
            finish(figure, note)
            return figure
        styles = layer_styles(kinds)
        for kind in kinds:
            for chunk in sorted(set(bars["chunk"][bars["kind"] == kind])):
                rows = bars[(bars["kind"] == kind) & (bars["chunk"] == chunk)]
                _draw(axes, rows, lanes, styles[kind].color, factor, kind, int(chunk))
        handles = [Patch(facecolor=styles[k].color, edgecolor=BLACK, label=k) for k in kinds]
        handles += [
            Patch(facecolor="white", edgecolor=BLACK, hatch=_hatch(c), label=f"chunk {c + 1}")
            for c in sorted(set(bars["chunk"])) if c >= 0
        ]  # fmt: skip
        legend_above(axes, 6, handles=handles)
        finish(figure, note)
        inside = (bars["end_s"] > low) & (bars["start_s"] < high)
        _name(axes, bars[inside], lanes, {k: styles[k].color for k in kinds}, factor)
    return figure


def _hatch(chunk: int) -> str:
    return "" if chunk < 0 else CHUNK_HATCHES[chunk % len(CHUNK_HATCHES)]


def _draw(axes: Axes, bars: pd.DataFrame, lanes: list[str], color: str, factor: float, kind: str, chunk: int) -> None:
    """Plot the bars of all ops that belong to one part of the model and one chunk, with their hover texts."""
    start = bars["start_s"].to_numpy(dtype=np.float64)
    took = bars["end_s"].to_numpy(dtype=np.float64) - start
    drawn = axes.barh(
        [lanes.index(lane) for lane in bars["lane"]], took / factor, HEIGHT_OF_BAR, start / factor,
        color=color, edgecolor=BLACK, linewidth=0.3, hatch=_hatch(chunk), gid="op",
    )  # fmt: skip
    texts = []
    for row, seconds in zip(bars.to_dict("records"), took, strict=True):
        where = "" if row["layer"] < 0 else f", layer {row['layer']}"
        part = "" if chunk < 0 else f", chunk {chunk + 1}"
        texts.append(
            f"{row['op']} on {row['lane']}{where}{part}\n{quantity(float(seconds), 's', 1.0)}, bound by {row['bound']}"
        )
    hover(drawn, kind if chunk < 0 else f"{kind}, chunk {chunk + 1}", texts)


def _name(axes: Axes, shown: pd.DataFrame, lanes: list[str], colors: dict[str, str], factor: float) -> None:
    """Write each op's name into its bar; names that are wider than the bar are left out."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    render = renderer(figure)
    left, right = axes.get_xlim()
    pixels = axes.get_window_extent().width / (right - left)
    for row in shown.to_dict("records"):
        begin = max(row["start_s"] / factor, left)
        end = min(row["end_s"] / factor, right)
        words = str(row["op"]).replace("_", " ")[:LETTERS]
        bright = np.dot(to_rgb(colors[row["kind"]]), [0.299, 0.587, 0.114]) > 0.45
        text = axes.text(
            (begin + end) / 2, lanes.index(row["lane"]), words, ha="center", va="center",
            fontsize=SMALL - 1, color=INK if bright else "white", gid="name",
        )  # fmt: skip
        if row["chunk"] > 0:
            text.set_bbox({"facecolor": colors[row["kind"]], "edgecolor": "none", "pad": 0.6})
        if text.get_window_extent(render).width > (end - begin) * pixels - 6:
            text.remove()

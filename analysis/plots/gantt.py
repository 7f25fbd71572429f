"""Which op runs on which processor or link, when: a row a unit, side by side what runs side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .hover import hover
from .style import (
    BLACK,
    LIGHT,
    SMALL,
    finish,
    house_figure,
    layer_order,
    layer_styles,
    number,
    quantity,
    renderer,
    require,
    say_empty,
    scale,
)

COLUMNS = ("lane", "op", "kind", "chunk", "layer", "bound", "start_s", "end_s")
CHUNK_HATCHES = ("", "///", "...", "xx")
"""Of the chunks of a batch, in turn."""
HEIGHT_OF_BAR = 0.72
INK = "#111111"
"""On a bright bar, be the page dark or not."""
LETTERS = 24
"""Of an op's name within its bar."""


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
        axes.grid(True, axis="x", color=LIGHT, linewidth=0.5)
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
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
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=6,
                    handlelength=1.3, columnspacing=1.1, borderaxespad=0.3)  # fmt: skip
        finish(figure, note)
        inside = (bars["end_s"] > low) & (bars["start_s"] < high)
        _name(axes, bars[inside], lanes, {k: styles[k].color for k in kinds}, factor)
    return figure


def _hatch(chunk: int) -> str:
    return "" if chunk < 0 else CHUNK_HATCHES[chunk % len(CHUNK_HATCHES)]


def _draw(axes: Axes, bars: pd.DataFrame, lanes: list[str], color: str, factor: float, kind: str, chunk: int) -> None:
    """The bars of one part of the model and chunk."""
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
    """Write names into the bars that have room for them."""
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

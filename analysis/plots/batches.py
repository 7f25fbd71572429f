"""How Op/B grows with the batch or the context, against the ridge points of processors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from .labels import spread
from .looks import hover
from .style import (
    HEIGHT,
    NORMAL,
    OP_PER_BYTE,
    finish,
    house_figure,
    layer_order,
    layer_styles,
    log_axis,
    number,
    processor_styles,
    renderer,
    require,
    say_empty,
    wrapped,
)

LINE = 10.5
"""Height of a line of text [pt]."""
LABEL_WIDTH = 110.0
GAP = 16.0
"""Distance between the axes and the labels at their right [pt]."""


@dataclass(frozen=True, slots=True)
class _Label:
    """A label right of the axes for the end of a line; `x` is None for a line that ends at the axes' edge."""

    x: float | None
    y: float
    text: str
    color: str


AGAINST = {"batch": "Batch (sequences decoded together)", "context": "Context (tokens of each sequence)"}


def op_per_byte_vs_batch(table: pd.DataFrame, ridges: pd.DataFrame, title: str, against: str = "batch") -> Figure:
    """Plot Op/B of layers against batch size or context, with the ridge points of processors as lines.

    A layer below a processor's ridge is bound by that processor's memory, above it by its arithmetic.

    Parameters
    ----------
    table : DataFrame
        Columns layer, `against` and op_per_byte [FLOP/B]; rows without Op/B are left out.
    ridges : DataFrame
        Columns name and op_per_byte [FLOP/B].
    against : str
        ``batch`` [sequences] or ``context`` [tokens].
    """
    require(table, ("layer", against, "op_per_byte"), "table")
    require(ridges, ("name", "op_per_byte"), "ridges")
    rows = pd.DataFrame(
        {
            "layer": table["layer"].astype(str),
            "batch": pd.to_numeric(table[against]).astype(float),
            "op_per_byte": pd.to_numeric(table["op_per_byte"]).astype(float).fillna(0.0),
        }
    )
    shown = rows[(rows["op_per_byte"] > 0) & (rows["batch"] > 0)]
    layers = layer_order(shown["layer"])
    levels = {str(n): float(v) for n, v in zip(ridges["name"], ridges["op_per_byte"], strict=True)}
    count = len(layers) + len(levels)
    with house_figure(title, height=max(HEIGHT, 1.2 + count * 2 * LINE / 72)) as figure:
        axes = figure.add_subplot()
        axes.set(xlabel=AGAINST[against], ylabel=OP_PER_BYTE)
        _limits(axes, shown, list(levels.values()))
        labels = _draw_layers(axes, shown, layers) + _draw_levels(axes, levels)
        texts = [wrapped(n.text, LABEL_WIDTH, renderer(figure), NORMAL) for n in labels]
        # Invisible stand-ins make the layout leave room for the labels, whose height is not known.
        stand_ins = [
            axes.annotate(t, (1, 0.5), (GAP, 0), "axes fraction", "offset points", alpha=0.0, va="center")
            for t in texts
        ]
        absent = layer_order(set(rows["layer"]) - set(layers))
        note = f"Not on the plot, no FLOP or no memory traffic: {', '.join(absent)}."
        finish(figure, note if absent else "")
        for artist in stand_ins:
            artist.remove()
        _write(axes, labels, texts)
        if not layers:
            say_empty(axes, "No layers with FLOP and memory traffic")
    return figure


def _limits(axes: Axes, shown: pd.DataFrame, levels: list[float]) -> None:
    """Set logarithmic axes that contain all points and levels; put ticks at the batch sizes if there are few."""
    batches = sorted(set(shown["batch"])) or [1.0, 64.0]
    values = [*shown["op_per_byte"], *levels] or [1.0, 100.0]
    low, high = batches[0], batches[-1]
    room = max((high / low) ** 0.03, 1.05)
    log_axis(axes, "x", low / room, high * room)
    log_axis(axes, "y", min(values) / 1.8, max(values) * 1.8)
    ticks = batches[:: -(-len(batches) // 10)]
    if np.diff(np.log(ticks)).min(initial=1.0) > 0.06 * np.log(high * room**2 / low):
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.xaxis.set_major_formatter(lambda batch, _: f"{batch:,.7g}")


def _draw_layers(axes: Axes, shown: pd.DataFrame, layers: list[str]) -> list[_Label]:
    styles = layer_styles(layers)
    labels = []
    for layer in layers:
        line = shown[shown["layer"] == layer].sort_values("batch", kind="stable")
        (drawn,) = axes.plot(
            line["batch"], line["op_per_byte"], color=styles[layer].color, gid="layer",
            marker=styles[layer].marker, markersize=5, markeredgecolor="black",
            markeredgewidth=0.4,
        )  # fmt: skip
        hover(drawn, layer)
        end = line.iloc[-1]
        labels.append(_Label(float(end["batch"]), float(end["op_per_byte"]), layer, styles[layer].color))
    return labels


def _draw_levels(axes: Axes, levels: dict[str, float]) -> list[_Label]:
    styles = processor_styles(levels)
    labels = []
    for name, value in levels.items():
        color = styles[name].color
        ridge = axes.axhline(value, color=color, linestyle=(0, (4, 2)), linewidth=1.0, gid="ridge")
        hover(ridge, f"{name} ridge", [f"{name} ridge, {number(value)} Op/B"] * 2)
        labels.append(_Label(None, value, f"{name} ridge, {number(value)} Op/B", color))
    return labels


def _write(axes: Axes, labels: list[_Label], texts: list[str]) -> None:
    """Write labels right of the axes without overlap, and join each to the end of its line by a thin line."""
    figure = axes.get_figure()
    assert figure is not None
    box = axes.get_window_extent()
    pt = figure.dpi / 72
    height = LINE * pt * max((t.count("\n") + 1 for t in texts), default=1)
    wanted = [float(axes.transData.transform((1.0, n.y))[1]) for n in labels]
    placed = spread(wanted, height, box.y0, box.y1)
    right = axes.get_xlim()[1]
    for label, text, to in zip(labels, texts, placed, strict=True):
        high = (to - box.y0) / box.height
        axes.annotate(text, (1, high), (GAP, 0), "axes fraction", "offset points", va="center", gid="op-label")
        end = right if label.x is None else label.x
        axes.annotate(
            "", (end, label.y), (1 + (GAP - 2) * pt / box.width, high), "data", "axes fraction",
            arrowprops={"arrowstyle": "-", "color": label.color, "linewidth": 0.8,
                        "shrinkA": 0, "shrinkB": 0 if label.x is None else 3},
        )  # fmt: skip

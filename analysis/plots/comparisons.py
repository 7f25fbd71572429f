"""Plots that compare systems: time and energy of one item, and shares of the time."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .looks import hover
from .style import (
    BLACK,
    GREY,
    finish,
    grid,
    house_figure,
    layer_order,
    layer_styles,
    processor_styles,
    quantity,
    require,
    say_empty,
)

BAR = 0.55
COLUMNS = ("system", "kinds", "fits", "latency_s", "joules_per_item")


def comparison(rows: pd.DataFrame, layers: pd.DataFrame, title: str, item: str) -> Figure:
    """Plot a comparison: time of the step and energy of an item, shares of time.

    Parameters
    ----------
    rows : DataFrame
        Columns system, kinds, fits, latency_s [s] and joules_per_item [J], a row a system.
        Systems that the model does not fit on have a name and no bars.
    layers : DataFrame
        Columns system, layer, seconds [s] and bound ("memory" parts are hatched).
    title, item : str
        Title, and what energy is counted for ("image", "token").
    """
    require(rows, COLUMNS, "rows")
    require(layers, ("system", "layer", "seconds", "bound"), "layers")
    names = [str(name) for name in rows["system"]]
    with house_figure(title, height=1.75 + 0.34 * max(len(names), 2)) as figure:
        time, energy, share = figure.subplots(1, 3, sharey=True, width_ratios=[1, 1, 1.25])
        kinds = [str(kind) for kind in rows["kinds"]]
        styles = processor_styles(kinds)
        colors = [styles[kind].color for kind in kinds]
        _bars(time, rows["latency_s"], names, colors, "s", "Time of the step")
        _bars(energy, rows["joules_per_item"], names, colors, "J", f"Energy per {item}")
        _shares(share, layers, names)
        time.set_yticks(range(len(names)), names)
        time.set_ylim(max(len(names), 1) - 0.5, -0.5)
        for axes in (time, energy, share):
            axes.tick_params(axis="y", length=0)
        for i, fits in enumerate(rows["fits"]):
            if not fits:
                time.text(0.03, i, "does not fit", transform=time.get_yaxis_transform(), va="center", color=GREY)
        if not len(layers):
            say_empty(share, "No system fits")
        finish(figure, "Bars of one kind of device share a colour; hatched: bound by memory.")
    return figure


def _bars(axes: Axes, values: pd.Series, names: list[str], colors: list[str], unit: str, label: str) -> None:
    """Plot horizontal bars from zero, each with its value; skip unknown and non-positive values."""
    numbers = pd.to_numeric(values).to_numpy(dtype=np.float64)
    known = numbers[np.isfinite(numbers) & (numbers > 0)]
    axes.set_xlim(0.0, 1.6 * float(known.max()) if len(known) else 1.0)  # room for the values behind the bars
    axes.locator_params(axis="x", nbins=3)
    axes.xaxis.set_major_formatter(lambda x, _: quantity(x, unit, 1.0))
    axes.set_xlabel(label)
    for i, (value, color) in enumerate(zip(numbers, colors, strict=True)):
        if not np.isfinite(value) or value <= 0:
            continue
        bar = axes.barh(i, value, height=BAR, color=color, edgecolor=BLACK, linewidth=0.5, gid="bar")
        hover(bar, texts=[f"{names[i]}: {quantity(float(value), unit, 1.0)}"])
        axes.annotate(quantity(float(value), unit, 1.0), (float(value), i), (3, 0),
                      textcoords="offset points", va="center")  # fmt: skip


def _shares(axes: Axes, table: pd.DataFrame, names: list[str]) -> None:
    """Plot each system's time as stacked shares by layer; memory-bound parts are hatched."""
    order = layer_order(table["layer"])
    styles = layer_styles(order)
    for i, name in enumerate(names):
        rows = table[table["system"] == name]
        total, left = float(rows["seconds"].sum()), 0.0
        for layer in order:
            for _, part in rows[rows["layer"] == layer].iterrows():
                width = 100 * float(part["seconds"]) / total
                bar = axes.barh(i, width, left=left, height=BAR, color=styles[layer].color,
                                edgecolor=BLACK, linewidth=0.5, gid="share",
                                hatch="////" if part["bound"] == "memory" else "")  # fmt: skip
                took = quantity(float(part["seconds"]), "s", 1.0)
                text = f"{name}, {layer}: {took}, {width:.1f} %, bound by {part['bound']}"
                hover(bar, layer, [text])
                left += width
    axes.set_xlim(0, 100)
    axes.set_xlabel("Share of time (%)")
    grid(axes, "x")
    handles = [Patch(facecolor=styles[x].color, edgecolor=BLACK, label=x) for x in order]
    if handles:
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3,
                    columnspacing=0.9, handlelength=1.2)  # fmt: skip

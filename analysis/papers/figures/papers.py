"""Plots of papers by the names of their tables: ratios, parts of a step, and what single papers show."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opbyte.extend.figures import (
    BLACK,
    BLUE,
    COLORS,
    GREEN,
    GREY,
    HATCHES,
    LIGHT,
    ORANGE,
    PURPLE,
    SKY,
    SMALL,
    VERMILLION,
    gantt,
    house_figure,
    log_axis,
    ratios,
    stacked,
)

Look = tuple[str, str, str]
"""Colour, dashes and marker."""
CACHES: tuple[Look, ...] = (
    (GREY, ":", "s"), (BLUE, "-", "o"), (SKY, "--", "v"), (BLACK, "-", "D"), (GREEN, "--", "^"),
    (VERMILLION, "-", "X"), (PURPLE, ":", "P"), (ORANGE, "-.", "*"),
)  # fmt: skip
MODELS: tuple[Look, ...] = tuple(zip(COLORS, ("-", "--", "-.", ":", "-"), "osD^v", strict=True))
RATIOS = {"FLOPs": "o", "bytes": "s", "time": "D"}
"""Columns of a table of ratios, and their markers."""
RIGHT: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}


def draw(frames: Mapping[str, tuple[str, pd.DataFrame]]) -> dict[str, Figure]:
    """Plots by table; tables without a function here are stacked bars."""
    return {name: DRAWN.get(name, stacked)(table, title) for name, (title, table) in frames.items()}


def _curves(axes: Axes, x: Any, curves: Iterable[tuple[Hashable, Any]], looks: Iterable[Look], label: str) -> None:
    """Draw curves by name over `x`, which `label` names."""
    for (name, y), (color, line, marker) in zip(curves, looks, strict=False):
        axes.plot(x, y, color=color, linestyle=line, marker=marker, markersize=4, label=name)
    axes.set_xlabel(label)
    axes.grid(True, color=LIGHT, linewidth=0.5)


def hits(table: pd.DataFrame, title: str) -> Figure:
    """Plot hit rates against slots, one panel per batch, of a table with batch, slots and one column a policy."""
    batches = list(table.groupby("batch", sort=False))
    with house_figure(title, height=3.2) as figure:
        panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
        for axes, (batch, rows) in zip(panels, batches, strict=True):
            rates = 100 * rows.drop(columns=["batch", "slots"])
            _curves(axes, rows["slots"], rates.items(), CACHES, "Experts of a layer that are kept")
            axes.set_title(f"{batch:,.0f} tokens a step" if batch != 1 else "one access a step")
            axes.set_xlim(left=0)
            axes.set_ylim(0, 103)
        panels[0].set_ylabel("Hit rate (%)")
        panels[-1].legend(**RIGHT)
    return figure


def times(table: pd.DataFrame, title: str) -> Figure:
    """Plot time per token against the batch, of a table with batch and one column a way of storing experts [ms].

    Columns from ``distinct experts a layer`` on are not plotted.
    """
    ways = table.set_index("batch").loc[:, :"distinct experts a layer"].iloc[:, :-1]
    with house_figure(title, height=3.4) as figure:
        axes = figure.add_subplot()
        _curves(axes, table["batch"], ((way, y.to_numpy()) for way, y in ways.items()), CACHES, "Tokens of a step")
        log_axis(axes, "x", float(table["batch"].min()), float(table["batch"].max()))
        log_axis(axes, "y", float(ways.to_numpy().min()) / 1.3, float(ways.to_numpy().max()) * 1.3)
        axes.set_ylabel("Time per token (ms)")
        axes.legend(**RIGHT)
    return figure


def skew(table: pd.DataFrame, title: str) -> Figure:
    """Plot gains against the exponent, one panel per cluster, of a table with cluster, model and one column an exponent."""
    clusters = list(table.groupby("cluster", sort=False))
    with house_figure(title, height=3.0) as figure:
        panels = figure.subplots(1, len(clusters), sharey=True, squeeze=False)[0]
        for axes, (cluster, rows) in zip(panels, clusters, strict=True):
            gains = rows.drop(columns="cluster").set_index("model")
            curves = ((model, row.to_numpy()) for model, row in gains.iterrows())
            _curves(axes, [float(str(name)) for name in gains], curves, MODELS, "Exponent of the power law")
            axes.axhline(1.0, color=BLACK, linewidth=0.7)
            axes.set_title(cluster)
        panels[0].set_ylabel("Gain over expert parallelism")
        panels[-1].legend(**RIGHT)
    return figure


def schedules(table: pd.DataFrame, title: str) -> Figure:
    """Plot mean gains as bars by reading, with the published ones as lines.

    Parameters
    ----------
    table : DataFrame
        Columns reading, schedule, gain, and published (NaN where none is given).
    """
    readings = list(dict.fromkeys(table["reading"]))
    names = list(dict.fromkeys(table["schedule"]))
    width, marked = 0.8 / len(names), False
    with house_figure(title, height=3.4) as figure:
        axes = figure.add_subplot()
        for i, name in enumerate(names):
            rows = table[table["schedule"] == name].set_index("reading").loc[readings]
            at = np.arange(len(readings)) + (i - (len(names) - 1) / 2) * width
            axes.bar(at, rows["gain"] - 1.0, width, bottom=1.0, color=COLORS[i], hatch=HATCHES[i],
                     edgecolor=BLACK, linewidth=0.4, label=name)  # fmt: skip
            for x, gain, published in zip(at.tolist(), rows["gain"], rows["published"].astype(float), strict=True):
                axes.text(x, np.fmax(gain, published) + 0.005, f"{gain:.2f}", ha="center", fontsize=SMALL - 1)
                if not np.isnan(published):
                    axes.plot([x - width / 2, x + width / 2], [published] * 2, color=BLACK, linewidth=1.8,
                              label=None if marked else "published")  # fmt: skip
                    marked = True
        axes.set_xticks(range(len(readings)), [r.replace(", ", ",\n") for r in readings])
        axes.set_ylabel("Gain over Tutel, mean of 1,458 layers")
        axes.set_ylim(1.0, float(table["gain"].max()) + 0.05)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def layer_streams(table: pd.DataFrame, title: str) -> Figure:
    """Plot a layer's tasks on streams."""
    note = "Lines as printed, the all-gather's a tenth."
    return gantt(table, (0.0, float(table["end_s"].max())), title, note, "the layer began")


def bought(table: pd.DataFrame, title: str) -> Figure:
    """Plot the savings or additions of each design, on a logarithmic axis around 1.

    Parameters
    ----------
    table : DataFrame
        Columns design, beside, step and `RATIOS`.
    """
    steps = list(table.groupby("step", sort=False))
    beside = dict(zip(table["design"], table["beside"], strict=True))
    with house_figure(title, height=0.6 + 0.3 * len(beside), width=9.5) as figure:
        panels = figure.subplots(1, len(steps), sharey=True, sharex=True, squeeze=False)[0]
        for axes, (step, rows) in zip(panels, steps, strict=True):
            values = rows.set_index("design").loc[list(beside), list(RATIOS)]
            for row, (low, high) in enumerate(zip(values.min(axis=1), values.max(axis=1), strict=True)):
                axes.plot([low, high], [row, row], color=LIGHT, zorder=1)
            for (ratio, marker), color in zip(RATIOS.items(), COLORS, strict=False):
                axes.plot(values[ratio], range(len(values)), marker, color=color, label=ratio, markersize=5)
            axes.axvline(1.0, color=BLACK, linewidth=0.8)
            axes.set_xscale("log", base=2)
            axes.set_title(step, fontsize="medium")
            axes.set_xlabel("of the other model's")
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        panels[0].set_yticks(range(len(beside)), [f"{n}\n(beside {other})" for n, other in beside.items()])
        panels[0].tick_params(axis="y", labelsize="x-small")
        panels[0].invert_yaxis()
        panels[0].legend(loc="lower left", fontsize="small")
    return figure


DRAWN: dict[str, Callable[[pd.DataFrame, str], Figure]] = {
    "given": ratios, "hit_rates": hits, "token_times": times, "skew": skew, "schedules": schedules,
    "streams-tutel": layer_streams, "streams-fsmoe": layer_streams,
}  # fmt: skip

"""Plots of bars: side by side within groups, and systems compared by time, energy and shares of the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .looks import hover
from .style import (
    BLACK,
    BLUE,
    GREY,
    SMALL,
    VERMILLION,
    Style,
    finish,
    grid,
    house_figure,
    layer_order,
    layer_styles,
    legend_right,
    number,
    processor_styles,
    quantity,
    require,
    say_empty,
)

BAR = 0.55
SYSTEM_COLUMNS = ("system", "kinds", "fits", "latency_s", "joules_per_item")


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
    require(rows, SYSTEM_COLUMNS, "rows")
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


class MeasuredStep(Protocol):
    """Measured and simulated seconds of a step at one batch and context."""

    @property
    def batch(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def measured_s(self) -> float: ...
    @property
    def p10_s(self) -> float: ...
    @property
    def p90_s(self) -> float: ...
    @property
    def simulated_s(self) -> float: ...


def step_times(steps: Sequence[MeasuredStep], device: str) -> Figure:
    """Plot measured step times with their spread, and simulated ones, by batch and context."""
    with house_figure(f"A small MoE model on {device}: steps run here and simulated") as figure:
        axes = figure.add_subplot()
        at = np.arange(len(steps))
        measured = np.array([s.measured_s for s in steps]) * 1e3
        low = measured - np.array([s.p10_s for s in steps]) * 1e3
        high = np.array([s.p90_s for s in steps]) * 1e3 - measured
        axes.bar(at - 0.2, measured, 0.38, color=BLUE, label="measured: median, 10th to 90th")
        spread = [low.clip(0), high.clip(0)]
        axes.errorbar(at - 0.2, measured, spread, fmt="none", ecolor=BLACK, elinewidth=0.8)
        simulated = np.array([s.simulated_s for s in steps]) * 1e3
        axes.bar(at + 0.2, simulated, 0.38, color=VERMILLION, hatch="///", label="simulated")
        top = float(max(measured.max(initial=0.0), simulated.max(initial=0.0)))
        for x, m, s in zip(at.tolist(), measured, simulated, strict=True):
            text = f"{s / m - 1.0:+.0%}"
            axes.text(x, max(m, s) + 0.06 * top, text, ha="center", fontsize=SMALL)
        axes.set_ylim(0.0, max(1.2 * top, 1.05 * float((measured + spread[1]).max(initial=0.0))))
        axes.set_xticks(at, [f"{s.batch} x {s.context:,}" for s in steps])
        axes.set(xlabel="sequences x context [tokens]", ylabel="time of a decode step [ms]")
        axes.legend(loc="upper left")
        finish(figure, "Above the bars: simulated over measured, less one.")
        return figure


LOAD_COLUMNS = ("layer", "device", "before", "after")


def device_loads(table: pd.DataFrame, title: str) -> Figure:
    """Plot the most loaded device by layer, and all devices of the most skewed layer.

    Parameters
    ----------
    table : DataFrame
        Columns layer, device, and before and after: load over the mean.
    """
    require(table, LOAD_COLUMNS, "device_loads")
    worst = table.groupby("layer")[["before", "after"]].max()
    skewed = int(worst.index[int(worst["before"].to_numpy().argmax())])
    one = table[table["layer"] == skewed]
    with house_figure(title, height=3.2) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        left.axhline(1.0, color=BLACK, linewidth=0.7)
        for name, color, marker, line in (("before", VERMILLION, "o", "-"), ("after", BLUE, "s", "--")):
            left.plot(worst.index, worst[name], color=color, marker=marker, markersize=3, linestyle=line, label=name)
        left.set_title("Most loaded device of each layer")
        left.set(xlabel="MoE layer", ylabel="Tokens over the mean of devices")
        at, width = np.arange(len(one)), 0.4
        right.axhline(1.0, color=BLACK, linewidth=0.7)
        right.bar(at - width / 2, one["before"], width, color=VERMILLION, label="before")
        right.bar(at + width / 2, one["after"], width, color=BLUE, hatch="///", label="after",
                  edgecolor="white", linewidth=0)  # fmt: skip
        right.set_title(f"Devices in layer {skewed}, the most skewed")
        right.set_xlabel("Device (group that holds the same experts)")
        for axes in (left, right):
            grid(axes, "y")
            axes.set_ylim(bottom=0.0)
        legend_right(right)
    return figure


def bars(
    axes: Axes, frame: pd.DataFrame, groups: Sequence[str], by: str, value: str, styles: Mapping[str, Style]
) -> list[str]:
    """Draw bars side by side within groups; return the series in order of their styles.

    Parameters
    ----------
    groups : sequence of str
        Columns whose combinations are the groups, in order of appearance.
    by : str
        Column of the series within a group.
    value : str
        Column of the heights. A column "printed", where there is one, is drawn as diamonds on the bars.
    """
    keys = list(dict.fromkeys(map(tuple, frame[list(groups)].to_numpy().tolist())))
    series = [name for name in styles if name in set(frame[by])]
    wide = 0.8 / len(series)
    table = {(*k, s): v for *k, s, v in frame[[*groups, by, value]].to_numpy().tolist()}
    for i, name in enumerate(series):
        style = styles[name]
        at = np.arange(len(keys)) + (i - (len(series) - 1) / 2) * wide
        heights = [table[(*k, name)] for k in keys]
        drawn = axes.bar(at, heights, wide, color=style.color, edgecolor=BLACK, linewidth=0.4, hatch=style.hatch)
        texts = [
            f"{', '.join(_tick(part) for part in key)}\n{name}: {number(float(height))}"
            for key, height in zip(keys, heights, strict=True)
        ]
        hover(drawn, name, texts)
        if "printed" in frame:
            marks = frame[frame[by] == name]["printed"]
            axes.plot(at, marks, "D", color="#FFFFFF", markeredgecolor=BLACK, markersize=4, zorder=5)
    axes.set_xticks(range(len(keys)), ["\n".join(_tick(x) for x in key) for key in keys])
    axes.tick_params(axis="x", length=0)
    grid(axes, "y")
    return series


def _tick(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Bars side by side within groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .looks import hover
from .style import BLACK, BLUE, SMALL, VERMILLION, Style, finish, grid, house_figure, legend_right, number, require


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


COLUMNS = ("layer", "device", "before", "after")


def device_loads(table: pd.DataFrame, title: str) -> Figure:
    """Plot the most loaded device by layer, and all devices of the most skewed layer.

    Parameters
    ----------
    table : DataFrame
        Columns layer, device, and before and after: load over the mean.
    """
    require(table, COLUMNS, "device_loads")
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

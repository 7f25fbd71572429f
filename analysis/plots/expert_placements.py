"""Load of devices by the experts that they hold, before and after these are placed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import BLACK, BLUE, LIGHT, VERMILLION, house_figure, require

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
        left.set_xlabel("MoE layer")
        left.set_ylabel("Tokens over the mean of devices")
        at, width = np.arange(len(one)), 0.4
        right.axhline(1.0, color=BLACK, linewidth=0.7)
        right.bar(at - width / 2, one["before"], width, color=VERMILLION, label="before")
        right.bar(at + width / 2, one["after"], width, color=BLUE, hatch="///", label="after",
                  edgecolor="white", linewidth=0)  # fmt: skip
        right.set_title(f"Devices in layer {skewed}, the most skewed")
        right.set_xlabel("Device (group that holds the same experts)")
        for axes in (left, right):
            axes.grid(True, axis="y", color=LIGHT, linewidth=0.5)
            axes.set_ylim(bottom=0.0)
        right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure

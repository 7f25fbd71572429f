"""FSMoE: gains of its schedules by reading of the lines, and a layer's tasks on streams."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from opbyte.extend.figures import BLACK, COLORS, HATCHES, SMALL, house_figure, ratios, require, streams


def draw(frames: Mapping[str, tuple[str, pd.DataFrame]]) -> dict[str, Figure]:
    """Plots by table: ratios, gains, and streams."""
    out = {}
    for name, (title, table) in frames.items():
        if name == "given":
            out[name] = ratios(table, title)
        elif name == "schedules":
            out[name] = gains(table, title)
        else:
            out[name] = streams(table, title, "Lines as printed, the all-gather's a tenth.")
    return out


def gains(table: pd.DataFrame, title: str) -> Figure:
    """Plot mean gains as bars by interpretation, with the published ones as lines.

    Parameters
    ----------
    table : DataFrame
        Columns reading, schedule, gain, and published (NaN where none is given).
    title : str
    """
    require(table, ("reading", "schedule", "gain", "published"), "gains")
    readings = list(dict.fromkeys(table["reading"]))
    names = list(dict.fromkeys(table["schedule"]))
    width = 0.8 / len(names)
    with house_figure(title, height=3.4) as figure:
        axes = figure.add_subplot()
        marked = False
        for i, name in enumerate(names):
            rows = table[table["schedule"] == name].set_index("reading").loc[readings]
            at = np.arange(len(readings)) + (i - (len(names) - 1) / 2) * width
            gain = rows["gain"].to_numpy(dtype=np.float64)
            axes.bar(at, gain - 1.0, width, bottom=1.0, color=COLORS[i], hatch=HATCHES[i],
                     edgecolor=BLACK, linewidth=0.4, label=name)  # fmt: skip
            published = rows["published"].to_numpy(dtype=np.float64)
            tops = np.fmax(gain, published)
            for x, y, top in zip(at.tolist(), gain.tolist(), tops.tolist(), strict=True):
                axes.text(x, top + 0.005, f"{y:.2f}", ha="center", fontsize=SMALL - 1)
            for x, y in zip(at.tolist(), published.tolist(), strict=True):
                if not np.isnan(y):
                    axes.plot([x - width / 2, x + width / 2], [y, y], color=BLACK, linewidth=1.8,
                              label=None if marked else "published")  # fmt: skip
                    marked = True
        axes.set_xticks(range(len(readings)), [r.replace(", ", ",\n") for r in readings])
        axes.set_ylabel("Gain over Tutel, mean of 1,458 layers")
        axes.set_ylim(1.0, float(table["gain"].max()) + 0.05)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure

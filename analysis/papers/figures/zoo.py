"""Designs against their baselines: FLOPs, bytes and time as ratios, one panel per step."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from opbyte.extend.figures import BLACK, COLORS, LIGHT, house_figure, require

RATIOS = {"FLOPs": "o", "bytes": "s", "time": "D"}
"""Columns of a table of ratios, and their markers."""


def bought(table: pd.DataFrame, title: str) -> Figure:
    """Plot the savings or additions of each design, on a logarithmic axis around 1.

    Parameters
    ----------
    table : DataFrame
        Columns design, beside, step and `RATIOS`.
    """
    require(table, ("design", "beside", "step", *RATIOS), "bought")
    steps, names = list(dict.fromkeys(table["step"])), list(dict.fromkeys(table["design"]))
    beside = dict(zip(table["design"], table["beside"], strict=True))
    with house_figure(title, height=0.6 + 0.3 * len(names), width=9.5) as figure:
        panels = figure.subplots(1, len(steps), sharey=True, sharex=True, squeeze=False)[0]
        for axes, step in zip(panels, steps, strict=True):
            rows = table[table["step"] == step].set_index("design")
            for row, name in enumerate(names):
                values = [float(rows.loc[name, ratio]) for ratio in RATIOS]
                axes.plot([min(values), max(values)], [row, row], color=LIGHT, zorder=1)
            for (ratio, marker), color in zip(RATIOS.items(), COLORS, strict=False):
                axes.plot([rows.loc[name, ratio] for name in names], range(len(names)), marker,
                          color=color, label=ratio, markersize=5)  # fmt: skip
            axes.axvline(1.0, color=BLACK, linewidth=0.8)
            axes.set_xscale("log", base=2)
            axes.set_title(step, fontsize="medium")
            axes.set_xlabel("of the other model's")
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        panels[0].set_yticks(range(len(names)), [f"{n}\n(beside {beside[n]})" for n in names])
        panels[0].tick_params(axis="y", labelsize="x-small")
        panels[0].invert_yaxis()
        panels[0].legend(loc="lower left", fontsize="small")
    return figure

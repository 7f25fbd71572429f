"""Simulated against measured metrics of replayed runs and static batches."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import BLUE, GREY, LIGHT, ORANGE, PERCENT, finish, house_figure, log_axis, number, require, say_empty

PANELS = {"ttft": "Time to first token", "tpot": "Time per output token", "e2e": "End to end",
          "prefill": "Prefill", "decode": "Decode step", "total": "Whole batch"}  # fmt: skip
"""Metrics of a panel, by the start of their name, in order."""
STATISTICS = {"mean": "o", "p50": "s", "p90": "^", "p99": "v"}
MOST_WIDE = 3


def replays(table: pd.DataFrame, title: str) -> Figure:
    """A panel a quantity, a mark a metric of a stage or batch; on the line it is predicted exactly.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns metric, measured, simulated [s] and error.
    """
    require(table, ("metric", "measured", "simulated", "error"), "table")
    quantity = table["metric"].str.partition("_")[0]
    shown = [name for name in PANELS if (quantity == name).any()]
    wide = min(len(shown), MOST_WIDE) or 1
    deep = -(-len(shown) // wide) or 1
    with house_figure(title, height=1.0 + 2.7 * deep) as figure:
        panels = np.atleast_1d(figure.subplots(deep, wide)).ravel()
        if not shown:
            say_empty(panels[0], "no metrics")
        for axes, name in zip(panels, shown, strict=False):
            _panel(axes, table[quantity == name], PANELS[name])
        for axes in panels[len(shown) or 1 :]:
            axes.set_visible(False)
        finish(figure, "seconds; a mark is a stage of a run or a static batch; dotted: 10" + PERCENT)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, label: str) -> None:
    pair = rows[["measured", "simulated"]].to_numpy(np.float64)
    low, high = pair.min() / 1.3, pair.max() * 1.3
    ends = np.array([low, high])
    axes.plot(ends, ends, color=GREY, linewidth=1)
    for factor in (1 / 1.1, 1.1):
        axes.plot(ends, factor * ends, color=LIGHT, linewidth=1, linestyle=":")
    statistic = rows["metric"].str.partition("_")[2]
    for name, marker in {**STATISTICS, "": "o"}.items():
        points = pair[(statistic == name).to_numpy()]
        if len(points):
            axes.plot(*points.T, marker, color=ORANGE if name == "p99" else BLUE, markersize=3,
                      alpha=0.6, linewidth=0, markeredgewidth=0, label=name or None)  # fmt: skip
    log_axis(axes, "x", low, high)
    log_axis(axes, "y", low, high)
    away = 100 * float(rows["error"].abs().median())
    axes.set_title(f"{label}: {number(away)}{PERCENT}")
    axes.set(xlabel="Measured (s)", ylabel="Simulated (s)")
    if statistic.any():
        axes.legend(loc="upper left", frameon=False)

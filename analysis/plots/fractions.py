"""Fraction of the roofline that kernels reach, by Op/B: a panel a device and kind of kernel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .style import BLUE, GREY, LIGHT, OP_PER_BYTE, VERMILLION, house_figure, require, say_empty

COLUMNS = ("device", "family", "title", "op_per_byte", "roofline_s", "measured", "predicted")
SHORT_S = 1e-5
"""Calls with a shorter roofline are mostly launch time and are plotted separately."""
PER_BIN = 6
"""Fewest calls of a median."""
BINS = 6
LOWEST, HIGHEST = 0.01, 3.0
"""Range of fractions; lower values are at the edge."""


def roofline_fractions(rows: pd.DataFrame, title: str) -> Figure:
    """Plot measured fractions of the roofline against Op/B, with medians of the models.

    One point a call: blue where its roofline is at least 10 us, grey where launches dominate. Lines are
    medians of the blue calls in bins of equally many: full what was measured, dashed what is predicted.
    The dotted line is the roofline itself; above it a cache held what repeated calls read.

    Parameters
    ----------
    rows : DataFrame
        As `validate.fractions.fractions` gives it.
    """
    require(rows, COLUMNS, "rows")
    devices = sorted(rows["device"].unique())
    titles = dict(zip(rows["family"], rows["title"], strict=True))
    with house_figure(title, height=1.1 + 1.35 * max(len(titles), 1)) as figure:
        if not titles:
            say_empty(figure.add_subplot(), "no rows")
            return figure
        grid = figure.subplots(len(titles), len(devices), sharex=True, sharey=True, squeeze=False)
        for i, family in enumerate(titles):
            for j, device in enumerate(devices):
                rows_of = rows[(rows["family"] == family) & (rows["device"] == device)]
                _panel(grid[i, j], rows_of)
                if i == 0:
                    grid[i, j].set_title(device)
            grid[i, 0].set_ylabel(titles[family])
        grid[-1, len(devices) // 2].set_xlabel(OP_PER_BYTE)
        _legend(figure)
    return figure


def _panel(axes: Axes, panel_rows: pd.DataFrame) -> None:
    axes.axhline(1.0, color=GREY, linestyle=(0, (2, 2)), linewidth=0.7)
    axes.set(xscale="log", yscale="log", ylim=(LOWEST, HIGHEST), xlim=(0.3, 3e4))
    axes.set_yticks([0.01, 0.1, 1.0], ["0.01", "0.1", "1"])
    axes.minorticks_off()
    axes.set_xticks([1.0, 100.0, 10_000.0], ["1", "100", "10,000"])
    if panel_rows.empty:
        axes.text(0.5, 0.5, "no rows", transform=axes.transAxes, ha="center", color=GREY)
        return
    x = panel_rows["op_per_byte"].to_numpy(dtype=float)
    measured = panel_rows["measured"].to_numpy(dtype=float)
    predicted = panel_rows["predicted"].to_numpy(dtype=float)
    long = panel_rows["roofline_s"].to_numpy(dtype=float) >= SHORT_S
    low = np.clip(measured, LOWEST * 1.05, HIGHEST)
    axes.plot(x[~long], low[~long], "o", color=LIGHT, markersize=2.2, markeredgewidth=0)
    axes.plot(x[long], low[long], "o", color=BLUE, markersize=2.2, markeredgewidth=0, alpha=0.45)
    for values, color, style in ((measured, BLUE, "-"), (predicted, VERMILLION, (0, (4, 1.5)))):
        middle = _medians(x[long], values[long])
        axes.plot(*middle, color=color, linestyle=style, linewidth=1.4)


def _medians(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Medians of bins of equally many points along x."""
    bins = min(BINS, len(x) // PER_BIN)
    parts = np.array_split(np.argsort(x, kind="stable"), bins) if bins else []
    return (
        np.array([float(np.median(x[part])) for part in parts]),
        np.array([float(np.median(y[part])) for part in parts]),
    )


def _legend(figure: Figure) -> None:
    looks = [
        Line2D([], [], color=LIGHT, marker="o", linestyle="", markersize=4, label="roofline under 10 us"),
        Line2D([], [], color=BLUE, marker="o", linestyle="", markersize=4, label="measured call"),
        Line2D([], [], color=BLUE, label="median, measured"),
        Line2D([], [], color=VERMILLION, linestyle=(0, (4, 1.5)), label="median, model"),
    ]
    figure.legend(handles=looks, loc="outside lower center", ncols=len(looks))

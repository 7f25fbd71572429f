"""Simulated against measured TTFT and TPOT of serving points."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import (
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    ORANGE,
    VERMILLION,
    Style,
    finish,
    house_figure,
    log_axis,
    require,
    say_empty,
)

PANELS = {"tpot": ("Time per output token (ms)", 1e3), "ttft": ("Time to first token (s)", 1.0)}
STYLES = (Style(BLUE, "o"), Style(ORANGE, "s"), Style(GREEN, "^"), Style(VERMILLION, "D"))


def points(predictions: pd.DataFrame, title: str) -> Figure:
    """One mark a deployment; points on the line are predicted exactly.

    Parameters
    ----------
    predictions : pandas.DataFrame
        Columns framework, and ``<quantity>_measured_s``, ``<quantity>_simulated_s`` and
        ``<quantity>_error`` of tpot and ttft [s]; rows without an error are left out.
    """
    columns = [f"{q}_{w}" for q in PANELS for w in ("measured_s", "simulated_s", "error")]
    require(predictions, ["framework", *columns], "predictions")
    with house_figure(title, height=4.4) as figure:
        for axes, (quantity, (label, scale)) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            known = predictions[predictions[f"{quantity}_error"].notna()]
            axes.set(xlabel=f"{label}, measured", ylabel="Simulated")
            if known.empty:
                say_empty(axes, "no points")
                continue
            _scatter(axes, known, quantity, scale)
        finish(figure, "each mark is one deployment at one load; dotted: a factor of 1.25")
    return figure


def _scatter(axes: Axes, table: pd.DataFrame, quantity: str, scale: float) -> None:
    pair = table[[f"{quantity}_measured_s", f"{quantity}_simulated_s"]].to_numpy(np.float64) * scale
    low, high = pair.min() / 1.3, pair.max() * 1.3
    ends = np.array([low, high])
    axes.plot(ends, ends, color=GREY, linewidth=1)
    for factor in (0.8, 1.25):
        axes.plot(ends, factor * ends, color=LIGHT, linewidth=1, linestyle=":")
    for i, (name, rows) in enumerate(table.groupby("framework", sort=True)):
        style = STYLES[i % len(STYLES)]
        points = pair[table.index.get_indexer(rows.index)]
        axes.plot(*points.T, style.marker, color=style.color, markersize=3, alpha=0.6, linewidth=0,
                  markeredgewidth=0, label=str(name))  # fmt: skip
    log_axis(axes, "x", low, high)
    log_axis(axes, "y", low, high)
    axes.legend(loc="upper left", frameon=False)

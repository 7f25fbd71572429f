"""Simulated against measured latencies of a serving run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import BLUE, GREY, ORANGE, finish, house_figure, require, say_empty

PANELS = {"ttft": "Time to first token (s)", "tpot": "Time per output token (ms)", "latency": "End to end (s)"}
SCALES = {"ttft": 1.0, "tpot": 1e3, "latency": 1.0}


def serving(requests: pd.DataFrame, title: str) -> Figure:
    """One dot a request, and the distributions below.

    Parameters
    ----------
    requests : pandas.DataFrame
        Columns ``<quantity>_measured_s`` and ``<quantity>_simulated_s`` of ttft, tpot, latency.
    """
    columns = [f"{q}_{w}_s" for q in PANELS for w in ("measured", "simulated")]
    require(requests, columns, "requests")
    with house_figure(title, height=5.6) as figure:
        axes = figure.subplots(2, 3)
        for i, (quantity, label) in enumerate(PANELS.items()):
            pair = [
                requests[f"{quantity}_{w}_s"].to_numpy(np.float64) * SCALES[quantity] for w in ("measured", "simulated")
            ]
            known = ~np.isnan(pair[0]) & ~np.isnan(pair[1])
            if not known.any():
                say_empty(axes[0, i], "no requests")
                say_empty(axes[1, i], "no requests")
                continue
            measured, simulated = pair[0][known], pair[1][known]
            _scatter(axes[0, i], measured, simulated, label)
            _distribution(axes[1, i], measured, simulated, label)
        axes[1, 0].legend(loc="lower right", frameon=False)  # the first panel has room there
        finish(figure, "each dot is one request; the grey line is perfect agreement")
    return figure


def _scatter(axes: Axes, measured: np.ndarray, simulated: np.ndarray, label: str) -> None:
    top = 1.05 * max(measured.max(), simulated.max())
    axes.plot([0, top], [0, top], color=GREY, linewidth=1)
    axes.plot(measured, simulated, ".", color=BLUE, markersize=3, alpha=0.6)
    axes.set(xlim=(0, top), ylim=(0, top), xlabel=f"{label}, measured", ylabel="Simulated")


def _distribution(axes: Axes, measured: np.ndarray, simulated: np.ndarray, label: str) -> None:
    share = np.arange(1, len(measured) + 1) / len(measured)
    axes.plot(np.sort(measured), share, color=ORANGE, label="measured")
    axes.plot(np.sort(simulated), share, color=BLUE, linestyle="--", label="simulated")
    axes.set(xlim=(0, None), ylim=(0, 1), xlabel=label, ylabel="Share of requests")

"""Replicas over time under the requests that made them come and go."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import BLUE, GREEN, GREY, LIGHT, ORANGE, finish, house_figure, number, require

BINS = 96
LINES = (("ready", BLUE, "-"), ("starting", ORANGE, "--"), ("draining", GREEN, ":"))


def replicas_over_time(replicas: pd.DataFrame, arrival_s: pd.Series, title: str) -> Figure:
    """Arrivals per second above, replicas by phase below.

    Parameters
    ----------
    replicas : DataFrame
        Columns from_s [s], ready, starting, draining: counts from that time on, the last row being the end of the run.
    arrival_s : Series
        Of all requests [s].
    """
    require(replicas, ("from_s", *(name for name, _, _ in LINES)), "replicas")
    times = replicas["from_s"].to_numpy(dtype=float)
    with house_figure(title, height=4.2) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.0, 1.4])
        edges = np.linspace(0.0, max(times[-1], 1e-9), BINS + 1)
        counts = np.histogram(arrival_s.to_numpy(dtype=float), edges)[0]
        above.stairs(counts / np.diff(edges), edges, color=GREY, linewidth=1.1, gid="bins")
        above.set_ylabel("Arrivals (1/s)")
        for name, color, dashes in LINES:
            values = replicas[name].to_numpy(dtype=float)
            below.step(times, values, where="post", color=color, linestyle=dashes, linewidth=1.4, label=name)
        below.set_ylabel("Replicas")
        below.set_xlabel("Time since first arrival (s)")
        below.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.0)
        for axes in (above, below):
            axes.grid(True, color=LIGHT, linewidth=0.5)
            axes.set_ylim(bottom=0.0)
            axes.xaxis.set_major_formatter(lambda value, _: number(value))
            axes.yaxis.set_major_formatter(lambda value, _: number(value))
        below.set_xlim(0.0, edges[-1])
        finish(figure, "Starting and draining replicas hold their devices, too.")
    return figure

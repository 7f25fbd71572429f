"""Designs of an FPGA: what time costs in multipliers and on-chip memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import BLACK, LIGHT, VERMILLION, finish, house_figure, log_axis, require

MIB = 2.0**20


def pareto_front(front: pd.DataFrame, published: Mapping[str, Any], best: Mapping[str, Any], title: str) -> Figure:
    """Plot latency against DSPs, on-chip bytes as colour.

    Parameters
    ----------
    front : DataFrame
        Columns latency_s [s], dsp and on_chip_bytes [B], a row a design.
    published, best : mapping
        The same keys, of the board's own design (cross) and of the best one (ring).
    """
    require(front, ("latency_s", "dsp", "on_chip_bytes"), "front")
    size = front["on_chip_bytes"].to_numpy(dtype=np.float64) / MIB
    with house_figure(title) as figure:
        axes = figure.add_subplot()
        points = axes.scatter(
            front["dsp"], front["latency_s"] * 1e3, c=size, s=26, edgecolors=BLACK,
            linewidths=0.4, vmin=0.0, vmax=max([1e-3, *size, published["on_chip_bytes"] / MIB]), cmap=matplotlib.colormaps["cividis"], gid="front",
        )  # fmt: skip
        axes.plot(published["dsp"], published["latency_s"] * 1e3, "x", color=VERMILLION,
                  markersize=9, markeredgewidth=2, linestyle="none",
                  label="the board's own design", gid="published")  # fmt: skip
        axes.plot(best["dsp"], best["latency_s"] * 1e3, "o", markerfacecolor="none",
                  markeredgecolor=VERMILLION, markersize=10, markeredgewidth=1.5,
                  linestyle="none", label="best found", gid="best")  # fmt: skip
        times = 1e3 * np.array([*front["latency_s"], published["latency_s"]])
        log_axis(axes, "y", float(times.min()) / 1.3, float(times.max()) * 1.3)
        axes.set_xlim(left=0)
        axes.set_xlabel("DSP slices of all arrays")
        axes.set_ylabel("Latency (ms)")
        axes.grid(True, color=LIGHT, linewidth=0.5)
        axes.legend(loc="upper right")
        figure.colorbar(points, ax=axes, label="On-chip buffers (MiB)")
        finish(figure, "A design is on the front if no other is at least as good in all three.")
    return figure

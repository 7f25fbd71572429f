"""A memory's bandwidth against the stride and against the size of random blocks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import BLUE, GREY, LIGHT, VERMILLION, finish, house_style, new_figure, require

KINDS = {"stride": ("Stride of accesses", BLUE, "o"), "rand": ("Block at random", VERMILLION, "s")}


def bandwidth(table: pd.DataFrame, title: str, note: str = "") -> Figure:
    """Draw the fraction of the pins' rate over bytes, one panel a kind.

    Parameters
    ----------
    table : DataFrame
        Columns kind (stride, rand), bytes, fraction.
    title, note : str

    Raises
    ------
    ValueError
        A column is missing.
    """
    require(table, ("kind", "bytes", "fraction"), "table")
    with house_style():
        figure = new_figure(title)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (kind, (label, color, marker)) in zip(panels, KINDS.items(), strict=True):
            rows = table[table["kind"] == kind].sort_values("bytes")
            at = np.log2(rows["bytes"].to_numpy(dtype=np.float64))
            axes.plot(
                at, 100 * rows["fraction"], "-", color=color, marker=marker, markersize=4, gid=kind
            )
            axes.set_xlabel(f"{label} (bytes)")
            ticks = np.arange(np.ceil(at.min()), at.max() + 0.5, 2) if len(at) else np.array([])
            axes.set_xticks(ticks, [_bytes(2**tick) for tick in ticks])
            axes.axhline(100, color=GREY, linewidth=0.8, linestyle="--")
            axes.grid(True, color=LIGHT, linewidth=0.5)
            axes.set_ylim(0, 106)
        panels[0].set_ylabel("Share of the pins' rate (%)")
        finish(figure, note)
    return figure


def _bytes(value: float) -> str:
    """A size as an axis names it."""
    return f"{value:.0f}" if value < 1024 else f"{value / 1024:.0f} K"

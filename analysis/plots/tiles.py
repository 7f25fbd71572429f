"""Kernel configurations by predicted time: their terms, tiles against tokens, and devices that change."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    ORANGE,
    PURPLE,
    SKY,
    SMALL,
    VERMILLION,
    YELLOW,
    grid,
    house_figure,
    log_axis,
    quantity,
    require,
)

TERMS = {
    "memory": BLUE, "cache": SKY, "latency": GREEN, "matrix": VERMILLION, "shared": ORANGE,
    "step": PURPLE, "start": YELLOW,
}  # fmt: skip
"""Plotted terms with their colours; launches and idle cores of the last wave are not plotted."""
MOST_ROWS = 14
LARGEST_RATIO = 3.0


def ranked_terms(frame: pd.DataFrame, title: str) -> Figure:
    """Plot configurations as rows: the time as a grey bar, each term in isolation as a thin one.

    Parameters
    ----------
    frame : DataFrame
        Columns label, seconds and ``TERM_s`` of `TERMS` [s]; one row per configuration, the first at the top; at most
        `MOST_ROWS` are plotted.
    """
    require(frame, ["label", "seconds", *(f"{t}_s" for t in TERMS)], "the ranking")
    frame = frame.head(MOST_ROWS)
    with house_figure(title, height=1.3 + 0.42 * len(frame)) as figure:
        axes = figure.add_subplot()
        thin = 0.8 / len(TERMS)
        for i, (_, row) in enumerate(frame.iterrows()):
            axes.barh(i, row["seconds"] * 1e6, 0.9, color=LIGHT)
            for j, (term, color) in enumerate(TERMS.items()):
                axes.barh(i - 0.4 + (j + 0.5) * thin, row[f"{term}_s"] * 1e6, thin, color=color)
            axes.text(row["seconds"] * 1e6, i, f" {quantity(row['seconds'], 's', 1.0)}", va="center", fontsize=SMALL)
        axes.set_yticks(range(len(frame)), list(frame["label"]))
        axes.set_ylim(len(frame) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("Predicted time, and each term in isolation (µs)")
        axes.set_xlim(0, 1.16e6 * float(frame["seconds"].max()))
        grid(axes, "x")
        handles = [Patch(color=LIGHT, label="time"), *(Patch(color=c, label=t) for t, c in TERMS.items())]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=SMALL,
                      handlelength=1.0, columnspacing=1.0)  # fmt: skip
    return figure


def tile_map(frame: pd.DataFrame, along: str, title: str) -> Figure:
    """Plot tiles against one dimension of the shape: best time with each tile over the best time of all tiles.

    Parameters
    ----------
    frame : DataFrame
        Columns tile (rows x columns), `along` and ratio (at least 1).
    """
    require(frame, ["tile", along, "ratio"], "the map")
    tiles = list(dict.fromkeys(frame["tile"]))
    values = sorted(set(frame[along]))
    table = frame.groupby(["tile", along])["ratio"].min().unstack().reindex(tiles)[values].to_numpy()
    with house_figure(title, height=1.5 + 0.22 * len(tiles)) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(table, aspect="auto", cmap="cividis_r", vmin=1.0, vmax=LARGEST_RATIO)
        axes.set_xticks(range(len(values)), [f"{v:,}" for v in values], rotation=45, ha="right")
        axes.set_yticks(range(len(tiles)), tiles)
        for j, column in enumerate(table.T):
            if not np.isnan(column).all():
                axes.plot(j, int(np.nanargmin(column)), marker="o", color=BLACK, markersize=3.5)
        axes.set(xlabel=along, ylabel="Tile, rows x columns")
        bar = figure.colorbar(image, ax=axes, extend="max")
        bar.set_label("Time over the best (dot: the best)")
    return figure


def best_over(frame: pd.DataFrame, label: str, here: float, title: str) -> Figure:
    """Plot the predicted time over one device parameter, with the kernel kept and with the best kernel for each value.

    Parameters
    ----------
    frame : DataFrame
        Columns value, best_s, kept_s (NaN where the kept configuration cannot run) and config, by rising value.
    label : str
        What `value` is, with its unit.
    here : float
        The device's own value.
    """
    require(frame, ["value", "best_s", "kept_s", "config"], "the curve")
    with house_figure(title) as figure:
        axes = figure.add_subplot()
        axes.plot(frame["value"], frame["kept_s"] * 1e6, color=VERMILLION, linestyle="--")
        axes.plot(frame["value"], frame["best_s"] * 1e6, color=BLUE)
        axes.axvline(here, color=GREY, linewidth=0.8, linestyle=":")
        _name_changes(axes, frame)
        log_axis(axes, "x", float(frame["value"].min()), float(frame["value"].max()))
        highest = float(np.nanmax(frame[["best_s", "kept_s"]].to_numpy())) * 1e6
        axes.set_ylim(0, 1.12 * highest)
        axes.set(xlabel=label, ylabel="Predicted time (µs)")
        handles = [Line2D([], [], color=BLUE, label="kernel re-chosen"),
                   Line2D([], [], color=VERMILLION, linestyle="--", label="kernel kept"),
                   Line2D([], [], color=GREY, linestyle=":", label="the device as it is")]  # fmt: skip
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _name_changes(axes: Axes, frame: pd.DataFrame) -> None:
    """Mark where another configuration becomes best, with a number that a list explains."""
    before = None
    lines: list[str] = []
    for value, seconds, config in zip(frame["value"], frame["best_s"], frame["config"], strict=True):
        if config != before:
            lines.append(f"{len(lines) + 1}: {config}")
            axes.annotate(str(len(lines)), (value, seconds * 1e6), (0, -11), textcoords="offset points",
                          ha="center", fontsize=SMALL)  # fmt: skip
            axes.plot(value, seconds * 1e6, marker="o", color=BLUE, markersize=4)
        before = config
    axes.text(0.02, 0.03, "\n".join(lines), transform=axes.transAxes, fontsize=SMALL, va="bottom", color=BLACK)

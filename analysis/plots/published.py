"""Plots of predictions over published values, and of the parts of a step's time."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .looks import hover
from .style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    grid,
    house_figure,
    legend_right,
    number,
    require,
)

COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
HATCHES = ("", "///", "...", "\\\\\\", "xxx")
ROW_INCHES, LEAST_INCHES = 0.17, 1.6


def ratios(table: pd.DataFrame, title: str) -> Figure:
    """Plot simulated over published values, with the tolerance.

    Parameters
    ----------
    table : DataFrame
        Columns id, ratio, and tolerance (a fraction; NaN where nothing is judged).
    """
    require(table, ("id", "ratio", "tolerance"), "given")
    places = np.arange(len(table))[::-1]
    off = table["ratio"].to_numpy(dtype=np.float64) - 1
    allowed = table["tolerance"].to_numpy(dtype=np.float64)
    with house_figure(title, height=_height(len(table))) as figure:
        axes = figure.add_subplot()
        axes.barh(places, 200 * np.nan_to_num(allowed), left=-100 * np.nan_to_num(allowed),
                  height=0.7, color=LIGHT, label="allowed")  # fmt: skip
        missed = np.abs(off) > np.where(np.isnan(allowed), np.inf, allowed)
        for which, color, marker, label in (
            (~missed & ~np.isnan(allowed), BLUE, "o", "judged"),
            (np.isnan(allowed), GREY, "D", "reported"), (missed, VERMILLION, "X", "missed"),
        ):  # fmt: skip
            if which.any():
                marks = axes.plot(100 * off[which], places[which], marker, color=color,
                                  markersize=4, linestyle="none", label=label)  # fmt: skip
                rows = zip(table["id"][which], 100 * off[which], strict=True)
                hover(marks[0], label, [f"{name}: {away:+.2f} %" for name, away in rows])
        axes.axvline(0, color=BLACK, linewidth=0.7)
        axes.set_yticks(places, list(table["id"]))
        axes.set_ylim(-0.8, len(table) - 0.2)
        axes.set_xlabel("Simulated against published (%)")
        legend_right(axes)
    return figure


def stacked(table: pd.DataFrame, title: str) -> Figure:
    """Plot parts as stacked bars, and the published sum as a line if it is given.

    Parameters
    ----------
    table : DataFrame
        Column ``case``, one column a part, and optionally ``published``.
    title : str
        Says the unit.
    """
    require(table, ("case",), "parts")
    parts = [name for name in table.columns if name not in ("case", "published")]
    places = np.arange(len(table))[::-1]
    with house_figure(title, height=_height(len(table))) as figure:
        axes = figure.add_subplot()
        left = np.zeros(len(table))
        handles: list[Artist] = []
        for i, part in enumerate(parts):
            width = table[part].to_numpy(dtype=np.float64)
            color, hatch = COLORS[i % 5], HATCHES[(i + i // 5) % 5]  # from the sixth part on, another hatch
            bars = axes.barh(places, width, left=left, height=0.7, linewidth=0, color=color,
                             hatch=hatch, edgecolor="white")  # fmt: skip
            cases = zip(table["case"], width, strict=True)
            hover(bars, part, [f"{case}, {part}: {number(float(size))}" for case, size in cases])
            handles.append(Patch(label=part, facecolor=color, hatch=hatch, edgecolor="white"))
            left += width
        if "published" in table:
            given = table["published"].to_numpy(dtype=np.float64)
            there = ~np.isnan(given)
            marks = axes.plot(given[there], places[there], "|", color=BLACK, markersize=9,
                              markeredgewidth=1.8, label="published")  # fmt: skip
            handles += marks if there.any() else []
        axes.set_yticks(places, list(table["case"]))
        axes.set_ylim(-0.8, len(table) - 0.2)
        axes.set_xlim(left=0)
        if len(handles) > 1:
            legend_right(axes, handles=handles)
        grid(axes, "x")
    return figure


def _height(rows: int) -> float:
    """Return the height of a plot with that number of bars [inches]."""
    return max(LEAST_INCHES, 1.0 + ROW_INCHES * rows)

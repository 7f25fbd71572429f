"""Plots of memory bandwidth by stride and block size, by access pattern, and with two masters at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import BLUE, GREY, VERMILLION, finish, grid, house_figure, require, say_empty

KINDS = {"stride": ("Stride of accesses", BLUE, "o"), "rand": ("Block at random", VERMILLION, "s")}


def bandwidth(table: pd.DataFrame, title: str, note: str = "") -> Figure:
    """Plot the fraction of the pins' rate over bytes, one panel per kind.

    Parameters
    ----------
    table : DataFrame
        Columns kind (stride, rand), bytes, fraction.

    Raises
    ------
    ValueError
        A column is missing.
    """
    require(table, ("kind", "bytes", "fraction"), "table")
    with house_figure(title) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (kind, (label, color, marker)) in zip(panels, KINDS.items(), strict=True):
            rows = table[table["kind"] == kind].sort_values("bytes")
            at = np.log2(rows["bytes"].to_numpy(dtype=np.float64))
            axes.plot(at, 100 * rows["fraction"], "-", color=color, marker=marker, markersize=4, gid=kind)
            axes.set_xlabel(f"{label} (bytes)")
            ticks = np.arange(np.ceil(at.min()), at.max() + 0.5, 2) if len(at) else np.array([])
            axes.set_xticks(ticks, [f"{2**tick:.0f}" if tick < 10 else f"{2 ** (tick - 10):.0f} K" for tick in ticks])
            axes.axhline(100, color=GREY, linewidth=0.8, linestyle="--")
            grid(axes)
            axes.set_ylim(0, 106)
        panels[0].set_ylabel("Share of the pins' rate (%)")
        finish(figure, note)
    return figure


def shares(table: pd.DataFrame, title: str, flat: float | None = None, note: str = "") -> Figure:
    """Plot a bar for each share of a bandwidth, in order.

    Parameters
    ----------
    table : DataFrame
        Columns label and fraction.
    flat : float, optional
        An assumed share, plotted as a line.
    """
    require(table, ("label", "fraction"), "table")
    with house_figure(title, height=max(1.8, 0.9 + 0.28 * len(table))) as figure:
        axes = figure.subplots()
        values = 100 * table["fraction"].to_numpy(dtype=np.float64)
        at = np.arange(len(table))[::-1]
        axes.barh(at, values, height=0.62, color=BLUE, gid="shares")
        for y, value in zip(at, values, strict=True):
            axes.text(value + 1, y, f"{value:.1f}", va="center")
        axes.set_yticks(at, [str(label) for label in table["label"]])
        axes.set_xlim(0, 106)
        axes.set_xlabel("Share of the bandwidth (%)")
        if flat is not None:
            axes.axvline(100 * flat, color=VERMILLION, linewidth=1.2, linestyle="--", gid="flat")
            top = len(table) - 0.45
            axes.text(100 * flat - 1, top, f"assumed: {flat:g}", color=VERMILLION, ha="right")
            axes.set_ylim(-0.6, len(table))
        if not len(table):
            say_empty(axes, "no patterns")
        finish(figure, note)
    return figure


def two_masters(table: pd.DataFrame, title: str, note: str = "") -> Figure:
    """Plot the time of two masters on one stack by how often they need the same bundle.

    Parameters
    ----------
    table : DataFrame
        Columns share, longer_s, sum_s, together_s, as `answers.memory_rows` returns them.
    """
    require(table, ("share", "longer_s", "sum_s", "together_s"), "table")
    with house_figure(title, height=3.2) as figure:
        axes = figure.subplots()
        at = 100 * table["share"]
        for column, label, style, color in (
            ("together_s", "together", "-o", BLUE),
            ("sum_s", "one after the other", "--", VERMILLION),
            ("longer_s", "the longer alone", ":", GREY),
        ):
            axes.plot(at, 1e6 * table[column], style, color=color, markersize=4, label=label, gid=column)
        axes.set(xlabel="Visits of the xPU to the bundle that the Logic-PIM reads (%)", ylabel="Time (µs)")
        axes.set_ylim(0, None)
        grid(axes)
        axes.legend(loc="lower right")
        finish(figure, note)
    return figure

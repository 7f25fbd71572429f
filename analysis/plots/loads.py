"""What load costs in latency: one curve per system, the limits of a service as levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...workloads.pareto import unbeaten
from .looks import hover
from .style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    NORMAL,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Style,
    grid,
    house_figure,
    log_axis,
    number,
    plain_numbers,
    quantity,
    renderer,
    require,
    say_empty,
    wrapped,
)
from .tradeoffs import design_of, metric_label

X, Y = "tokens_per_s_per_user", "tokens_per_s_per_device"
COSTS = ("usd_per_million_tokens", "joules_per_token")
"""Columns with costs per token, which are shown in a point's hover text."""


def throughput_pace(
    table: pd.DataFrame, columns: Sequence[str], title: str, measured: pd.DataFrame | None = None
) -> Figure:
    """Plot every point of several runs; a line joins the Pareto front of each run.

    Parameters
    ----------
    table : DataFrame
        Columns run, `X`, `Y`, `COSTS`, within (whether the SLO is met) and `columns`; rows without `X` or `Y` are
        skipped.
    columns : sequence of str
        Columns that distinguish the designs of a run.
    measured : DataFrame, optional
        Columns run, `X` and `Y` of measured points; without it, what none beats is marked.

    Raises
    ------
    ValueError
        A missing column.
    """
    require(table, ("run", X, Y, *COSTS, "within", *columns), "table")
    runs = list(dict.fromkeys(table["run"].astype(str)))
    rows = table.dropna(subset=[X, Y])
    with house_figure(title, height=3.8 + 0.2 * -(-len(runs) // 3)) as figure:
        axes = figure.add_subplot()
        axes.set(xlabel=f"{metric_label(X)}, more is better", ylabel=f"{metric_label(Y)}, more is better")
        grid(axes)
        plain_numbers(axes.xaxis, axes.yaxis)
        for i, run in enumerate(runs):
            _run(axes, rows[rows["run"].astype(str) == run], columns, i, run)
            _measured(axes, measured, run, run_look(i)[0], X, Y)
        if len(rows):
            axes.set_xlim(0, 1.08 * float(axes.dataLim.xmax))
            axes.set_ylim(0, 1.08 * float(axes.dataLim.ymax))
        else:
            say_empty(axes, "Nothing to draw")
        handles = [
            Line2D([], [], color=style.color, marker=style.marker, linestyle=dashes, label=run)
            for run, (style, dashes) in ((run, run_look(i)) for i, run in enumerate(runs))
        ]
        if measured is not None:
            handles += [_mark("measured", BLACK, 8)]
        elif len(rows):
            _ring(axes, rows)
            handles += [_mark("none within the SLO beats it", BLACK, 8)]
            if not rows["within"].all():
                handles += [_mark("exceeds the SLO", GREY, 5)]
        if handles:
            figure.legend(handles=handles, loc="outside lower left", ncols=3, handlelength=2.6)
    return figure


def _measured(axes: Axes, measured: pd.DataFrame | None, run: str, style: Style, x: str, y: str) -> None:
    """Plot the measured points of a run as hollow marks in its colour."""
    if measured is None or not {x, y} <= {*measured.columns}:
        return
    at = measured.loc[measured["run"].astype(str) == run, [x, y]].to_numpy(dtype=np.float64)
    (drawn,) = axes.plot(
        *at.T, linestyle="none", marker=style.marker, color=style.color, markersize=9, markerfacecolor="none", gid="measured"
    )  # fmt: skip
    hover(drawn, f"{run}, measured")


def _mark(label: str, color: str, size: float) -> Line2D:
    """Return the legend handle of measured points: a hollow circle."""
    return Line2D([], [], linestyle="none", marker="o", color=color, markerfacecolor="none",
                  markersize=size, markeredgewidth=0.8, label=label)  # fmt: skip


def _run(axes: Axes, rows: pd.DataFrame, columns: Sequence[str], i: int, run: str) -> None:
    """Plot the points of one run; a line joins its Pareto front within the SLO."""
    style, dashes = run_look(i)
    for within in (False, True):
        part = rows[rows["within"].astype(bool) == within]
        if not len(part):
            continue
        at = part[[X, Y]].to_numpy(dtype=np.float64)
        if within:
            line = at[sorted(unbeaten(-at, once=True), key=lambda k: at[k, 0])]
            (joined,) = axes.plot(*line.T, color=style.color, linestyle=dashes, linewidth=1.1, gid="front")
            hover(joined, run)
        (drawn,) = axes.plot(
            *at.T, linestyle="none", marker=style.marker, color=style.color, markersize=5,
            markerfacecolor=style.color if within else "none", markeredgewidth=0.8,
            alpha=1.0 if within else 0.55, gid="within" if within else "beyond",
        )  # fmt: skip
        texts = [
            f"{run}\n" + design_of(row, columns, (X, Y, *COSTS)) + ("" if within else "\nexceeds the SLO")
            for row in part.to_dict("records")
        ]
        hover(drawn, run if within else f"{run}, too slow", texts)


def _ring(axes: Axes, rows: pd.DataFrame) -> None:
    """Mark the Pareto front over all runs: the points within the SLO that no other point beats."""
    good = rows[rows["within"].astype(bool)]
    at: npt.NDArray[np.float64] = good[[X, Y]].to_numpy(dtype=np.float64)
    if len(at):
        best = at[unbeaten(-at, once=True)]
        (drawn,) = axes.plot(
            *best.T, "o", markerfacecolor="none", markeredgecolor=BLACK, markersize=9, markeredgewidth=0.7, gid="best"
        )
        hover(drawn, "none beats these")


RUNS = (
    Style(BLUE, "o"), Style(VERMILLION, "s"), Style(GREEN, "D"), Style(ORANGE, "^"),
    Style(PURPLE, "v"), Style(SKY, "P"), Style("#4D4D4D", "X"), Style("#999999", "p"),
)  # fmt: skip
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)))
PANELS = 3


def throughput_latency(
    table: pd.DataFrame,
    latencies: tuple[str, ...],
    title: str,
    *,
    load: str = "output_tokens_per_s",
    limits: Mapping[str, float] | None = None,
    measured: pd.DataFrame | None = None,
) -> Figure:
    """Plot latencies against load, one curve per run and one panel per latency.

    Parameters
    ----------
    table : DataFrame
        Columns run, `load` and `latencies` [s]; rows without a number are left out. Columns ``<latency>_low`` and
        ``<latency>_high``, where there are some, are the ends of a band.
    latencies : tuple of str
        One to three columns.
    load : str
        Column of the x axis.
    limits : mapping of str to float, optional
        Latency -> limit [s], plotted as a dashed line.
    measured : DataFrame, optional
        The same columns of measured points.

    Raises
    ------
    ValueError
        A missing column, or too many latencies.
    """
    require(table, ("run", load, *latencies), "table")
    if not 1 <= len(latencies) <= PANELS:
        raise ValueError(f"one to {PANELS} latencies fit a plot, not {len(latencies)}")
    runs = list(dict.fromkeys(table["run"].astype(str)))
    rows = -(-len(runs) // 3)
    with house_figure(title, height=3.1 + 0.2 * rows) as figure:
        panels = figure.subplots(1, len(latencies), sharex=True, squeeze=False)[0]
        for axes, name in zip(panels, latencies, strict=True):
            _panel(axes, table, runs, load, name, (limits or {}).get(name), len(latencies), measured)
        handles = [
            Line2D([], [], color=s.color, marker=s.marker, linestyle=d, markersize=5, label=run)
            for run in runs
            for s, d in [run_look(runs.index(run))]
        ]
        handles += [] if measured is None else [_mark("measured", BLACK, 8)]
        if handles:
            figure.legend(handles=handles, loc="outside lower left", ncols=3, handlelength=2.6)
    return figure


def run_look(i: int) -> tuple[Style, Any]:
    """Return marker, colour and dashes of the i-th run of a plot."""
    return RUNS[i % len(RUNS)], DASHES[i // len(RUNS) % len(DASHES)]


def _panel(
    axes: Axes, table: pd.DataFrame, runs: list[str], load: str, name: str, limit: float | None, panels: int,
    measured: pd.DataFrame | None,
) -> None:  # fmt: skip
    """Plot one metric of every run against load: curves, bands, measured points, and the limit."""
    axes.set_xlabel(metric_label(load))
    label = metric_label(name)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    axes.set_title(wrapped(label, 430 / panels, renderer(figure), NORMAL), fontsize=NORMAL)
    grid(axes, "x")
    plain_numbers(axes.xaxis)
    rows = table.dropna(subset=["run", load, name])
    rows = rows[rows[name] > 0]
    if not len(rows):
        say_empty(axes, "Nothing to draw")
        return
    axes.set_yscale("log")
    for run in runs:
        curve = rows[rows["run"].astype(str) == run].sort_values(load, kind="stable")
        style, dashes = run_look(runs.index(run))
        if f"{name}_low" in curve:
            low, high = (curve[f"{name}_{end}"].astype(float) for end in ("low", "high"))
            axes.fill_between(
                curve[load].astype(float), low, high, color=style.color, alpha=0.15, linewidth=0, gid="band"
            )
        _measured(axes, measured, run, style, load, name)
        (drawn,) = axes.plot(
            curve[load].astype(float), curve[name].astype(float), color=style.color,
            marker=style.marker, linestyle=dashes, markersize=4.5, markeredgecolor="white",
            markeredgewidth=0.4, gid="curve",
        )  # fmt: skip
        hover(drawn, run, [
            f"{run}\n{metric_label(load)}: {number(x)}\n{label}: {quantity(y, 's', 1.0)}"
            for x, y in zip(curve[load].astype(float), curve[name].astype(float), strict=True)
        ])  # fmt: skip
    axes.set_xlim(left=0, right=float(rows[load].max()) * 1.06)
    if limit:
        axes.axhline(limit, color=GREY, linestyle="--", linewidth=0.9, gid="limit")
    log_axis(axes, "y", axes.dataLim.ymin / 1.4, axes.dataLim.ymax * 1.4)
    if limit:
        # Above the line, at the end where fewer points are just as high.
        near = rows[(rows[name] > 0.9 * limit) & (rows[name] < 1.6 * limit)][load].astype(float)
        left = float((near < 0.5 * axes.get_xlim()[1]).sum()) <= 0.5 * len(near)
        axes.annotate(
            f"limit {quantity(limit, 's', 1.0)}", (0 if left else 1, limit), (3 if left else -3, 2),
            ("axes fraction", "data"), "offset points", color=GREY, va="bottom",
            ha="left" if left else "right",
        )  # fmt: skip

"""What load costs in latency: one curve per system, the limits of a service as levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .looks import hover
from .style import (
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
from .tradeoffs import metric_label

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
) -> Figure:
    """Plot latencies against load, one curve per run and one panel per latency.

    Parameters
    ----------
    table : DataFrame
        Columns run, `load` and `latencies` [s]; rows without a number are left out.
    latencies : tuple of str
        One to three columns.
    load : str
        Column of the x axis.
    limits : mapping of str to float, optional
        Latency -> limit [s], plotted as a dashed line.

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
            _panel(axes, table, runs, load, name, (limits or {}).get(name), len(latencies))
        handles = [
            Line2D([], [], color=s.color, marker=s.marker, linestyle=d, markersize=5, label=run)
            for run in runs
            for s, d in [run_look(runs.index(run))]
        ]
        if handles:
            figure.legend(handles=handles, loc="outside lower left", ncols=3, handlelength=2.6)
    return figure


def run_look(i: int) -> tuple[Style, Any]:
    """Return marker, colour and dashes of the i-th run of a plot."""
    return RUNS[i % len(RUNS)], DASHES[i // len(RUNS) % len(DASHES)]


def _panel(
    axes: Axes, table: pd.DataFrame, runs: list[str], load: str, name: str, limit: float | None, panels: int
) -> None:
    axes.set_xlabel(metric_label(load))
    label = metric_label(name)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    axes.set_title(wrapped(label, 430 / panels, renderer(figure), NORMAL), fontsize=NORMAL)
    grid(axes, "x")
    plain_numbers(axes.xaxis)
    rows = table[["run", load, name]].dropna()
    rows = rows[rows[name] > 0]
    values = [*rows[name].astype(float), *([limit] if limit else [])]
    if not len(rows):
        say_empty(axes, "Nothing to draw")
        return
    log_axis(axes, "y", min(values) / 1.4, max(values) * 1.4)
    for run in runs:
        curve = rows[rows["run"].astype(str) == run].sort_values(load, kind="stable")
        style, dashes = run_look(runs.index(run))
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
        # Above the line, at the end where fewer points are just as high.
        near = rows[(rows[name] > 0.9 * limit) & (rows[name] < 1.6 * limit)][load].astype(float)
        left = float((near < 0.5 * axes.get_xlim()[1]).sum()) <= 0.5 * len(near)
        axes.annotate(
            f"limit {quantity(limit, 's', 1.0)}", (0 if left else 1, limit), (3 if left else -3, 2),
            ("axes fraction", "data"), "offset points", color=GREY, va="bottom",
            ha="left" if left else "right",
        )  # fmt: skip

"""The front that deployments are judged by: what a device puts out against what a user gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...workloads.pareto import unbeaten
from .loads import run_look
from .looks import hover
from .style import BLACK, GREY, grid, house_figure, plain_numbers, require, say_empty
from .tradeoffs import design_of, metric_label

X, Y = "tokens_per_s_per_user", "tokens_per_s_per_device"
COSTS = ("usd_per_million_tokens", "joules_per_token")
"""What a token takes: said of each point that is pointed at."""


def throughput_pace(table: pd.DataFrame, columns: Sequence[str], title: str) -> Figure:
    """Plot every point of several runs; a line joins the Pareto front of each run.

    Parameters
    ----------
    table : DataFrame
        Columns run, `X`, `Y`, `COSTS`, within (whether the SLO is met) and `columns`; rows without `X` or `Y` are
        skipped.
    columns : sequence of str
        Columns that distinguish the designs of a run.

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
        if len(rows):
            axes.set_xlim(0, 1.08 * float(rows[X].max()))
            axes.set_ylim(0, 1.08 * float(rows[Y].max()))
        else:
            say_empty(axes, "Nothing to draw")
        handles = [
            Line2D([], [], color=style.color, marker=style.marker, linestyle=dashes, label=run)
            for run, (style, dashes) in ((run, run_look(i)) for i, run in enumerate(runs))
        ]
        if len(rows):
            _ring(axes, rows)
            handles += [_mark("none within the SLO beats it", BLACK, 8)]
            if not rows["within"].all():
                handles += [_mark("exceeds the SLO", GREY, 5)]
        if handles:
            figure.legend(handles=handles, loc="outside lower left", ncols=3, handlelength=2.6)
    return figure


def _mark(label: str, color: str, size: float) -> Line2D:
    """A hollow circle in the legend."""
    return Line2D([], [], linestyle="none", marker="o", color=color, markerfacecolor="none",
                  markersize=size, markeredgewidth=0.8, label=label)  # fmt: skip


def _run(axes: Axes, rows: pd.DataFrame, columns: Sequence[str], i: int, run: str) -> None:
    """Points of one run, its own front joined."""
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
    """Mark what no point of any run beats."""
    good = rows[rows["within"].astype(bool)]
    at: npt.NDArray[np.float64] = good[[X, Y]].to_numpy(dtype=np.float64)
    if len(at):
        best = at[unbeaten(-at, once=True)]
        (drawn,) = axes.plot(
            *best.T, "o", markerfacecolor="none", markeredgecolor=BLACK, markersize=9, markeredgewidth=0.7, gid="best"
        )
        hover(drawn, "none beats these")

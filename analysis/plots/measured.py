"""Simulated against measured times: of replayed runs and static batches, and of a run's requests."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import BLUE, GREY, LIGHT, ORANGE, PERCENT, finish, house_figure, log_axis, number, require, say_empty

F8 = npt.NDArray[np.float64]
REQUESTS = {"ttft": ("Time to first token (s)", 1.0), "tpot": ("Time per output token (ms)", 1e3),
            "e2e": ("End to end (s)", 1.0)}  # fmt: skip
"""Plotted latencies: the axis label with its unit, and the factor from seconds to this unit."""
RUNS = {"ttft": "Time to first token", "tpot": "Time per output token", "e2e": "End to end",
        "prefill": "Prefill", "decode": "Decode step", "total": "Whole batch"}  # fmt: skip
"""Plotted quantities in the order of their panels: the start of the metrics' names, and the panel's title."""
STATISTICS = {"mean": "o", "p50": "s", "p90": "^", "p99": "v", "": "o"}
MOST_WIDE = 3


def replays(table: pd.DataFrame, title: str) -> Figure:
    """Plot simulated over measured times, one panel per quantity; points on the diagonal are predicted exactly.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns metric, measured, simulated [s] and error.
    """
    require(table, ("metric", "measured", "simulated", "error"), "table")
    quantity = table["metric"].str.partition("_")[0]
    shown = [name for name in RUNS if (quantity == name).any()]
    wide = min(len(shown), MOST_WIDE) or 1
    deep = -(-len(shown) // wide) or 1
    with house_figure(title, height=1.0 + 2.7 * deep) as figure:
        panels = np.atleast_1d(figure.subplots(deep, wide)).ravel()
        if not shown:
            say_empty(panels[0], "no metrics")
        for axes, name in zip(panels, shown, strict=False):
            rows = table[quantity == name]
            statistic = rows["metric"].str.partition("_")[2]
            groups = [
                (part, STATISTICS.get(part, "D"), ORANGE if part == "p99" else BLUE, _pair(rows[statistic == part], "{}"))
                for part in dict.fromkeys((*STATISTICS, *statistic)) if (statistic == part).any()
            ]  # fmt: skip
            _diagonal(axes, groups, 1.1)
            axes.set_title(f"{RUNS[name]}: {number(100 * float(rows['error'].abs().median()))}{PERCENT}")
            axes.set(xlabel="Measured (s)", ylabel="Simulated (s)")
        for axes in panels[len(shown) or 1 :]:
            axes.set_visible(False)
        finish(figure, "seconds; a mark is a stage of a run or a static batch; dotted: 10" + PERCENT)
    return figure


def _pair(rows: pd.DataFrame, column: str) -> F8:
    """Return measured and simulated values as an array of shape (rows, 2)."""
    return rows[[column.format("measured"), column.format("simulated")]].to_numpy(np.float64)


def _diagonal(axes: Axes, groups: Iterable[tuple[str, str, str, F8]], factor: float) -> None:
    """Draw groups (label, marker, colour, pairs) on logarithmic axes, with the diagonal and a factor on both sides."""
    groups = list(groups)
    every = np.concatenate([pairs for *_, pairs in groups])
    low, high = every.min() / 1.3, every.max() * 1.3
    ends = np.array([low, high])
    axes.plot(ends, ends, color=GREY, linewidth=1)
    for times in (1 / factor, factor):
        axes.plot(ends, times * ends, color=LIGHT, linewidth=1, linestyle=":")
    for label, marker, color, pairs in groups:
        axes.plot(*pairs.T, marker, color=color, markersize=3, alpha=0.6, linewidth=0,
                  markeredgewidth=0, label=label or None)  # fmt: skip
    log_axis(axes, "x", low, high)
    log_axis(axes, "y", low, high)
    if any(label for label, *_ in groups):
        axes.legend(loc="upper left", frameon=False)


def serving(requests: pd.DataFrame, title: str) -> Figure:
    """Plot simulated over measured latencies of single requests, and below their cumulative distributions.

    Parameters
    ----------
    requests : pandas.DataFrame
        Columns ``<quantity>_measured_s`` and ``<quantity>_simulated_s`` of ttft, tpot, e2e.
    """
    require(requests, [f"{q}_{w}_s" for q in REQUESTS for w in ("measured", "simulated")], "requests")
    with house_figure(title, height=5.6) as figure:
        above, below = figure.subplots(2, 3)
        for dots, shares, (quantity, (label, scale)) in zip(above, below, REQUESTS.items(), strict=True):
            pairs = _pair(requests, f"{quantity}_{{}}_s") * scale
            pairs = pairs[~np.isnan(pairs).any(axis=1)]
            if not len(pairs):
                say_empty(dots, "no requests")
                say_empty(shares, "no requests")
                continue
            top = 1.05 * float(pairs.max())
            dots.plot([0, top], [0, top], color=GREY, linewidth=1)
            dots.plot(*pairs.T, ".", color=BLUE, markersize=3, alpha=0.6)
            dots.set(xlim=(0, top), ylim=(0, top), xlabel=f"{label}, measured", ylabel="Simulated")
            share = np.arange(1, len(pairs) + 1) / len(pairs)
            for values, color, line, name in zip(
                pairs.T, (ORANGE, BLUE), ("-", "--"), ("measured", "simulated"), strict=True
            ):
                shares.plot(np.sort(values), share, color=color, linestyle=line, label=name)
            shares.set(xlim=(0, None), ylim=(0, 1), xlabel=label, ylabel="Share of requests")
        below[0].legend(loc="lower right", frameon=False)  # the first panel has room there
        finish(figure, "each dot is one request; the grey line is perfect agreement")
    return figure

"""Plots of an engine over time: sequences, tokens per step, KV cache and power."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    finish,
    grid,
    house_figure,
    plain_numbers,
    quantity,
    require,
    say_empty,
)

ARRIVAL_BINS = 96
LINES = (("ready", BLUE, "-"), ("starting", ORANGE, "--"), ("draining", GREEN, ":"))


def replicas_over_time(replicas: pd.DataFrame, arrival_s: pd.Series, title: str) -> Figure:
    """Plot arrivals per second, and below them the number of replicas by phase, over time.

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
        edges = np.linspace(0.0, max(times[-1], 1e-9), ARRIVAL_BINS + 1)
        counts = np.histogram(arrival_s.to_numpy(dtype=float), edges)[0]
        above.stairs(counts / np.diff(edges), edges, color=GREY, linewidth=1.1, gid="bins")
        above.set_ylabel("Arrivals (1/s)")
        for name, color, dashes in LINES:
            values = replicas[name].to_numpy(dtype=float)
            below.step(times, values, where="post", color=color, linestyle=dashes, linewidth=1.4, label=name)
        below.set(ylabel="Replicas", xlabel="Time since first arrival (s)")
        below.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.0)
        for axes in (above, below):
            grid(axes)
            axes.set_ylim(bottom=0.0)
            plain_numbers(axes.xaxis, axes.yaxis)
        below.set_xlim(0.0, edges[-1])
        finish(figure, "Starting and draining replicas hold their devices, too.")
    return figure


COLUMNS = ("start_s", "end_s", "steps", "decodes", "prefill_tokens", "running", "waiting", "kv_bytes", "watts")
BINS = 240
"""Bins over time, so that a plot has the same size for any run."""

Array = npt.NDArray[np.float64]


def timeline(
    stages: pd.DataFrame, kv_capacity_bytes: float | None, title: str, idle_W: float = 0.0, engines: int = 1
) -> Figure:
    """Plot running and waiting sequences, tokens per step, the KV cache and power over time.

    Values are means over bins of equal time, weighted by duration; idle time counts as zero, and as
    idle power. The thin lines of the KV cache and of power are the most in each bin.

    Parameters
    ----------
    stages : DataFrame
        Columns of stages.csv: groups of equal batches, times in seconds, kv_bytes used on the fullest device.
    kv_capacity_bytes : float or None
        Most a device can hold [B]; None leaves the axis in bytes.
    idle_W : float
        Power of an idle device, between groups of steps.
    engines : int
        Over whose devices power is averaged.
    """
    require(stages, COLUMNS, "stages")
    table = {name: stages[name].to_numpy(dtype=float) for name in COLUMNS}
    with house_figure(title, height=5.8) as figure:
        counts, tokens, kv, power = figure.subplots(4, 1, sharex=True)
        counts.set_ylabel("Sequences")
        tokens.set_yscale("symlog", linthresh=1.0)  # prompts outnumber decodes by far
        tokens.set_ylabel("Tokens per step")
        kv.set_ylabel("KV cache (%)" if kv_capacity_bytes else "KV cache (bytes)")
        power.set(ylabel="Power (W a device)", xlabel="Time since first arrival (s)")
        for axes in (counts, tokens, kv, power):
            grid(axes)
            plain_numbers(axes.xaxis, axes.yaxis)
        if not len(stages):
            for axes in (counts, tokens, kv, power):
                axes.set_yticks([])
                say_empty(axes, "No stages were kept")
            return figure
        edges = np.linspace(0.0, float(table["end_s"].max()), BINS + 1)
        steps = np.maximum(table["steps"], 1.0)
        _stairs(counts, table, edges, [
            ("running", table["running"], BLUE, "-"),
            ("waiting", table["waiting"], VERMILLION, "--"),
        ])  # fmt: skip
        _stairs(tokens, table, edges, [
            ("decoded", table["decodes"], GREEN, "-"),
            ("of prompts", table["prefill_tokens"] / steps, ORANGE, "--"),
        ])  # fmt: skip
        used = table["kv_bytes"] * (100.0 / kv_capacity_bytes if kv_capacity_bytes else 1.0)
        _stairs(kv, table, edges, [("mean", used, BLUE, "-")], peak=used)
        above = (table["watts"] - idle_W) / engines
        _stairs(power, table, edges, [("mean", above, ORANGE, "-")], peak=above, base=idle_W)
        power.set_xlim(0.0, edges[-1])
        width = quantity(edges[1] - edges[0], "s", 1.0)
        finish(figure, f"{len(stages):,} groups of equal batches, plotted in bins of {width}.")
    return figure


def _stairs(
    axes: Axes,
    table: dict[str, Array],
    edges: Array,
    curves: list[tuple[str, Array, str, str]],
    peak: Array | None = None,
    base: float = 0.0,
) -> None:
    """Plot the binned means of curves over time, and the binned maximum of `peak` if it is given."""
    for label, values, color, dashes in curves:
        mean = base + binned_mean(table["start_s"], table["end_s"], values, edges)
        axes.stairs(mean, edges, color=color, linestyle=dashes, linewidth=1.2, label=label, gid="bins", baseline=None)
    if peak is not None:
        most = base + binned_max(table["start_s"], table["end_s"], peak, edges)
        axes.stairs(most, edges, color=BLUE, linewidth=0.5, label="most", baseline=None, gid="peak")
    axes.set_ylim(bottom=0.0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.0)


def binned_mean(start: Array, end: Array, values: Array, edges: Array) -> Array:
    """Return the time-weighted mean of a step function in each bin; time outside all intervals counts as zero.

    Parameters
    ----------
    start, end : float64 array, shape (n,)
        Intervals in order of start; intervals of several engines may overlap, and then add up.
    values : float64 array, shape (n,)
    edges : float64 array, shape (bins + 1,)

    Examples
    --------
    >>> two = np.array([0.0, 1.0]), np.array([1.0, 3.0]), np.array([4.0, 1.0])
    >>> binned_mean(*two, np.array([0.0, 2.0, 4.0])).tolist()
    [2.5, 0.5]
    """
    times = np.concatenate([start, end])
    jumps = np.concatenate([values, -values])
    order = np.argsort(times, kind="stable")
    times, level = times[order], np.cumsum(jumps[order])
    area = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(times))])
    mean: Array = np.diff(np.interp(edges, times, area, left=0.0)) / np.diff(edges)
    return mean


def binned_max(start: Array, end: Array, values: Array, edges: Array) -> Array:
    """Return the largest value of the intervals that touch each bin; 0 if there is none."""
    bins = len(edges) - 1
    first = np.clip(np.searchsorted(edges, start, side="right") - 1, 0, bins - 1)
    last = np.clip(np.searchsorted(edges, end, side="left") - 1, 0, bins - 1)
    most = np.zeros(bins)
    np.maximum.at(most, first, values)
    np.maximum.at(most, last, values)
    for i in np.flatnonzero(last - first > 1):  # at most a bin each in all
        most[first[i] + 1 : last[i]] = np.maximum(most[first[i] + 1 : last[i]], values[i])
    return most

"""Plots of predicted against measured times: of kernels, replayed runs, static batches, and a run's requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    OP_PER_BYTE,
    ORANGE,
    PERCENT,
    PURPLE,
    SKY,
    VERMILLION,
    Style,
    finish,
    house_figure,
    log_axis,
    number,
    require,
    say_empty,
    scale,
)

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


FRACTION_COLUMNS = ("device", "family", "title", "op_per_byte", "roofline_s", "measured", "predicted")
SHORT_S = 1e-5
"""Calls with a shorter roofline are mostly launch time and are plotted separately."""
PER_MEDIAN = 6
"""Minimum number of calls for a median."""
BINS = 6
LOWEST, HIGHEST = 0.01, 3.0
"""Range of fractions; lower values are at the edge."""


def roofline_fractions(rows: pd.DataFrame, title: str) -> Figure:
    """Plot measured fractions of the roofline against Op/B, with medians of the models.

    One point a call: blue where its roofline is at least 10 us, grey where launches dominate. Lines are
    medians of the blue calls in bins of equally many: full what was measured, dashed what is predicted.
    The dotted line is the roofline itself; above it a cache held what repeated calls read.

    Parameters
    ----------
    rows : DataFrame
        As `validate.kernels.fractions` gives it.
    """
    require(rows, FRACTION_COLUMNS, "rows")
    devices = sorted(rows["device"].unique())
    titles = dict(zip(rows["family"], rows["title"], strict=True))
    with house_figure(title, height=1.1 + 1.35 * max(len(titles), 1)) as figure:
        if not titles:
            say_empty(figure.add_subplot(), "no rows")
            return figure
        grid = figure.subplots(len(titles), len(devices), sharex=True, sharey=True, squeeze=False)
        for i, family in enumerate(titles):
            for j, device in enumerate(devices):
                rows_of = rows[(rows["family"] == family) & (rows["device"] == device)]
                _panel(grid[i, j], rows_of)
                if i == 0:
                    grid[i, j].set_title(device)
            grid[i, 0].set_ylabel(titles[family])
        grid[-1, len(devices) // 2].set_xlabel(OP_PER_BYTE)
        _legend(figure)
    return figure


def _panel(axes: Axes, panel_rows: pd.DataFrame) -> None:
    """Plot attained shares of the roofline over Op/B, measured and predicted."""
    axes.axhline(1.0, color=GREY, linestyle=(0, (2, 2)), linewidth=0.7)
    axes.set(xscale="log", yscale="log", ylim=(LOWEST, HIGHEST), xlim=(0.3, 3e4))
    axes.set_yticks([0.01, 0.1, 1.0], ["0.01", "0.1", "1"])
    axes.minorticks_off()
    axes.set_xticks([1.0, 100.0, 10_000.0], ["1", "100", "10,000"])
    if panel_rows.empty:
        axes.text(0.5, 0.5, "no rows", transform=axes.transAxes, ha="center", color=GREY)
        return
    x = panel_rows["op_per_byte"].to_numpy(dtype=float)
    measured = panel_rows["measured"].to_numpy(dtype=float)
    predicted = panel_rows["predicted"].to_numpy(dtype=float)
    long = panel_rows["roofline_s"].to_numpy(dtype=float) >= SHORT_S
    low = np.clip(measured, LOWEST * 1.05, HIGHEST)
    axes.plot(x[~long], low[~long], "o", color=LIGHT, markersize=2.2, markeredgewidth=0)
    axes.plot(x[long], low[long], "o", color=BLUE, markersize=2.2, markeredgewidth=0, alpha=0.45)
    for values, color, style in ((measured, BLUE, "-"), (predicted, VERMILLION, (0, (4, 1.5)))):
        middle = _medians(x[long], values[long])
        axes.plot(*middle, color=color, linestyle=style, linewidth=1.4)


def _medians(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the medians of x and y in bins of equally many points along x."""
    bins = min(BINS, len(x) // PER_MEDIAN)
    parts = np.array_split(np.argsort(x, kind="stable"), bins) if bins else []
    return (
        np.array([float(np.median(x[part])) for part in parts]),
        np.array([float(np.median(y[part])) for part in parts]),
    )


def _legend(figure: Figure) -> None:
    looks = [
        Line2D([], [], color=LIGHT, marker="o", linestyle="", markersize=4, label="roofline under 10 us"),
        Line2D([], [], color=BLUE, marker="o", linestyle="", markersize=4, label="measured call"),
        Line2D([], [], color=BLUE, label="median, measured"),
        Line2D([], [], color=VERMILLION, linestyle=(0, (4, 1.5)), label="median, model"),
    ]
    figure.legend(handles=looks, loc="outside lower center", ncols=len(looks))


COLUMNS = ("device", "source", "measured_s", "predicted_s")
MAX_POINTS = 600
"""Points of a device in the scatter; of more, evenly spaced ones by measured time."""
MOST = 7
"""Maximum devices with a separate colour, and sources with a separate row; the rest are combined."""
PER_BIN = 20
"""Minimum number of rows for a bin of sizes."""
REST = "others"
LOOKS = (
    Style(BLUE, "o"), Style(VERMILLION, "s"), Style(GREEN, "^"), Style(ORANGE, "D"),
    Style(PURPLE, "v"), Style(SKY, "P"), Style(BLACK, "X"), Style(GREY, "."),
)  # fmt: skip

Array = npt.NDArray[np.float64]


def kernel_errors(rows: pd.DataFrame, title: str) -> Figure:
    """Plot predicted against measured times, and the error by size and by source.

    Left: one point a row on logarithmic axes; on the diagonal a prediction is exact, in the grey band it is within a
    factor 1.5. Top right: median error of groups of equally many rows ordered by their measured time, by device. Bottom
    right: error of each source, median and the middle 80 % of the rows. An error is predicted / measured - 1.

    Parameters
    ----------
    rows : DataFrame
        device, source, measured_s, predicted_s [s], one row a measurement.
    """
    require(rows, COLUMNS, "rows")
    measured = rows["measured_s"].to_numpy(dtype=float)
    predicted = rows["predicted_s"].to_numpy(dtype=float)
    devices = _grouped(rows["device"])
    sources = _grouped(rows["source"])
    with house_figure(title, height=4.6) as figure:
        grid = figure.add_gridspec(2, 2, width_ratios=[1.15, 1.0])
        scatter = figure.add_subplot(grid[:, 0])
        size, source = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
        if len(rows) == 0:
            for axes in (scatter, size, source):
                say_empty(axes, "no rows")
            return figure
        looks = dict(zip(_names(devices), LOOKS, strict=False))
        _scatter(scatter, measured, predicted, devices, looks)
        _by_size(size, measured, predicted / measured - 1.0, devices, looks)
        _by_source(source, predicted / measured - 1.0, sources)
        away = np.abs(predicted / measured - 1.0)
        finish(
            figure,
            f"{len(rows):,} rows: median of |error| {number(100 * float(np.median(away)))}{PERCENT}"
            f", 90th percentile {number(100 * float(np.quantile(away, 0.9)))}{PERCENT}. Grey: within a "
            "factor 1.5. By source: median and the middle 80" + PERCENT + " of the rows.",
        )
    return figure


def _grouped(labels: pd.Series) -> npt.NDArray[np.object_]:
    """Return the labels; if there are more than `MOST` + 1 distinct ones, the rare ones become `REST`."""
    counts = labels.value_counts()
    devices = set(counts.index[: MOST if len(counts) > MOST + 1 else MOST + 1])
    return np.array([name if name in devices else REST for name in labels], dtype=object)


def _names(labels: npt.NDArray[np.object_]) -> list[str]:
    """Return the distinct labels by falling number of rows, with `REST` last."""
    counts = pd.Series(labels).value_counts()
    return sorted(counts.index, key=lambda name: (name == REST, -counts[name], name))


def _scatter(
    axes: Axes, measured: Array, predicted: Array, devices: npt.NDArray[np.object_], looks: dict[str, Style]
) -> None:
    """Plot predicted over measured seconds, by device, with a band of 1.5 times."""
    ends = np.array([min(measured.min(), predicted.min()), max(measured.max(), predicted.max())])
    ends = ends * np.array([0.8, 1.25])
    axes.fill_between(ends, ends / 1.5, ends * 1.5, color=LIGHT, linewidth=0, zorder=0)
    axes.plot(ends, ends, color=BLACK, linewidth=0.7, zorder=1)
    for name, look in looks.items():
        mine = np.flatnonzero(devices == name)
        mine = mine[np.argsort(measured[mine], kind="stable")]
        picked = mine[np.unique(np.linspace(0, len(mine) - 1, MAX_POINTS).astype(int))]
        axes.plot(
            measured[picked], predicted[picked], look.marker, color=look.color, markersize=2.6,
            markeredgewidth=0, alpha=0.6, linestyle="none", label=name, zorder=2, rasterized=True,
        )  # fmt: skip
    _time_axis(axes, "x", *ends)
    _time_axis(axes, "y", *ends)
    axes.set(xlabel="measured time", ylabel="predicted time")
    axes.legend(loc="upper left", handletextpad=0.2, borderaxespad=0.2, markerscale=1.6)


def _by_size(
    axes: Axes, measured: Array, error: Array, devices: npt.NDArray[np.object_], looks: dict[str, Style]
) -> None:
    """Plot the median error over measured seconds, by device."""
    axes.axhline(0.0, color=BLACK, linewidth=0.7)
    for name, look in looks.items():
        mine = np.flatnonzero(devices == name)
        bins = min(10, len(mine) // PER_BIN)
        if bins < 2:
            continue
        parts = np.array_split(mine[np.argsort(measured[mine], kind="stable")], bins)
        axes.plot(
            [float(np.exp(np.mean(np.log(measured[p])))) for p in parts],
            [float(np.median(error[p])) for p in parts],
            color=look.color, marker=look.marker, markersize=3, linewidth=0.9,
        )  # fmt: skip
    _time_axis(axes, "x", 0.9 * float(measured.min()), 1.1 * float(measured.max()))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    axes.set_title("median error by measured time")


def _by_source(axes: Axes, error: Array, sources: npt.NDArray[np.object_]) -> None:
    names = _names(sources)
    axes.axvline(0.0, color=BLACK, linewidth=0.7)
    for at, name in enumerate(names):
        mine = error[sources == name]
        low, middle, high = np.quantile(mine, [0.1, 0.5, 0.9])
        axes.plot([low, high], [at, at], color=BLUE, linewidth=2.2, solid_capstyle="butt")
        axes.plot([middle], [at], "o", color=VERMILLION, markersize=4)
    axes.set_yticks(range(len(names)), _short(names))
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.set_title("error by source")


def _short(names: Sequence[str]) -> list[str]:
    """Return the names of sources without the prefix of the most frequent repository."""
    heads = [name.partition("/")[0] for name in names if "/" in name]
    common = max(set(heads), key=lambda head: (heads.count(head), head), default="") + "/"
    return [name.removeprefix(common) for name in names]


def _time_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """Set a logarithmic axis of seconds, with at most five labels at powers of ten."""
    log_axis(axes, which, low, high)
    first, last = int(np.ceil(np.log10(low))), int(np.floor(np.log10(high)))
    step = max(1, -(-(last - first + 1) // 5))
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator([10.0**n for n in range(first, last + 1, step)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_time))


def _time(value: float, _: int) -> str:
    factor, prefix = scale(value)
    return f"{number(value / factor)} {prefix}s"


def _percent(value: float, _: int) -> str:
    return f"{100 * value:+.0f}{PERCENT}" if value else f"0{PERCENT}"

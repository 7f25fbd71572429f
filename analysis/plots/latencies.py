"""How long requests waited, and what the system delivered over time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .labels import LabelledPoint, place
from .looks import hover
from .style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    Style,
    finish,
    grid,
    house_figure,
    log_axis,
    number,
    plain_numbers,
    quantity,
    require,
    say_empty,
)

REQUEST_COLUMNS = (
    "request_id", "arrival_s", "input_tokens", "output_tokens", "scheduled_s", "first_token_s",
    "last_token_s", "preemptions",
)  # fmt: skip
QUANTILES = (0.5, 0.9, 0.99)
MAX_POINTS = 400
MAX_BINS = 120
SHORTEST = 1e-6
"""Lower latencies are plotted at this value [s]: the axis is logarithmic."""

FIRST = "time to first token (TTFT)"
LAST = "end-to-end, arrival to last token"
CURVES = {FIRST: (Style(BLUE, "o"), "-"), LAST: (Style(VERMILLION, "s"), "--")}

Array = npt.NDArray[np.float64]


def latency(requests: pd.DataFrame, title: str) -> Figure:
    """Plot latency distributions of a run's requests, its throughput and its arrivals.

    Left: cumulative share of requests by latency, with the 50th, 90th and 99th percentile (p50, p90, p99; interpolated
    linearly between requests). Right: output tokens and arrivals per second in bins. A request's first token counts at
    its time; the others are spread evenly up to its last.

    Parameters
    ----------
    requests : DataFrame
        One row a request: request_id, arrival_s, input_tokens, output_tokens, scheduled_s,
        first_token_s, last_token_s [s] and preemptions. Requests without a last token are
        counted as arrivals and in the note, and left out of the rest.
    """
    require(requests, REQUEST_COLUMNS, "requests")
    stamps = [
        pd.to_numeric(requests[name]).to_numpy(dtype=float, na_value=np.nan)
        for name in ("arrival_s", "first_token_s", "last_token_s", "output_tokens")
    ]
    done = np.isfinite(np.array(stamps)).all(axis=0)
    arrivals = stamps[0][np.isfinite(stamps[0])]
    arrival, first, last, tokens = (column[done] for column in stamps)
    with house_figure(title) as figure:
        grid = figure.add_gridspec(2, 2, width_ratios=[1.15, 1.0])
        cdf = figure.add_subplot(grid[:, 0])
        output = figure.add_subplot(grid[0, 1])
        rate = figure.add_subplot(grid[1, 1], sharex=output)
        curves = {FIRST: first - arrival, LAST: last - arrival}
        points, lines = _distributions(cdf, curves)
        width = _throughput(output, rate, arrivals, first, last, tokens)
        note = f"{len(arrival):,} finished request{'' if len(arrival) == 1 else 's'}."
        if len(requests) > len(arrival):
            note += f" {len(requests) - len(arrival):,} unfinished: in the arrivals only."
        if width:
            note += (
                f" Rates in bins of {quantity(width, 's', 1.0)}, dotted: mean over the time shown."
                " A request's tokens after the first are spread evenly up to its last."
            )
        finish(figure, note)
        place(cdf, points, points, (), lines)
    return figure


def _distributions(axes: Axes, curves: dict[str, Array]) -> tuple[list[LabelledPoint], list[Array]]:
    """Plot cumulative distributions; return the percentiles to label and the polylines."""
    axes.set(xlabel="Latency (s)", ylabel="Requests at or below this latency (%)")
    axes.set_ylim(0, 104)
    axes.set_yticks([0, 25, 50, 75, 90, 99])
    grid(axes, "y")
    points: list[LabelledPoint] = []
    lines: list[Array] = []
    if not all(len(values) for values in curves.values()):
        log_axis(axes, "x", 0.1, 10.0)
        say_empty(axes, "No finished requests")
        return points, lines
    for name, values in curves.items():
        style, dashes = CURVES[name]
        ordered = np.sort(np.maximum(values, SHORTEST))
        line = _steps(ordered)
        (curve,) = axes.plot(
            *line.T, color=style.color, linestyle=dashes, drawstyle="steps-post", label=name, gid="cdf"
        )
        hover(curve, texts=[f"{name}\n{number(p)} % within {quantity(x, 's', 1.0)}" for x, p in line])
        lines.append(line)
        for q in QUANTILES:
            x = float(np.quantile(ordered, q))
            (dot,) = axes.plot(
                [x], [100 * q], style.marker, color=style.color, markersize=4.5, gid="quantile",
                markeredgecolor="white", markeredgewidth=0.5, zorder=3,
            )  # fmt: skip
            text = f"p{100 * q:.0f} {quantity(x, 's', 1.0)}"
            hover(dot, texts=[f"{name}\n{text}"])
            points.append(LabelledPoint(x, 100 * q, 2.3, text, style.color))
    ends = [x for line in lines for x in (line[0, 0], line[-1, 0])]
    low, high = min(ends), max(ends)
    room = max((high / low) ** 0.12, 1.5)
    log_axis(axes, "x", low / room, high * room)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, handlelength=2.2, labelspacing=0.3)
    return points, lines


def _steps(ordered: Array) -> Array:
    """Return at most `MAX_POINTS` points (latency, percent) of a cumulative distribution, both ends included."""
    n = len(ordered)
    rank = np.unique(np.linspace(0, n - 1, min(n, MAX_POINTS - 1)).round().astype(np.int64))
    xs = np.concatenate([ordered[:1], ordered[rank]])
    return np.stack([xs, np.concatenate([[0.0], 100.0 * (rank + 1) / n])], axis=1)


def _throughput(output: Axes, rate: Axes, arrivals: Array, first: Array, last: Array, tokens: Array) -> float:
    """Plot output tokens and arrivals per second; return the width of a bin [s]."""
    output.set_ylabel("Output (tokens/s)")
    rate.set(ylabel="Arrivals (requests/s)", xlabel="Time since first arrival (s)")
    output.tick_params(labelbottom=False)
    for axes in (output, rate):
        grid(axes)
        plain_numbers(axes.xaxis, axes.yaxis)
    if not len(arrivals):
        say_empty(output, "No requests")
        output.set_xlim(0, 1)
        return 0.0
    start = float(arrivals.min())
    end = max(float(arrivals.max()), float(last.max()) if len(last) else start)
    width = _bin_width(end - start)
    edges = width * np.arange(max(int(np.ceil((end - start) / width * (1 - 1e-12))), 1) + 1)
    made = np.diff(_tokens_by(edges, first - start, last - start, tokens))
    came, _ = np.histogram(arrivals - start, edges)
    for axes, values, color in ((output, made, GREEN), (rate, came, ORANGE)):
        axes.stairs(values / width, edges, color=color, linewidth=1.1, gid="bins")
        mean = float(values.sum()) / max(end - start, width)
        axes.axhline(mean, color=GREY, linewidth=0.8, linestyle=":", gid="mean")
        axes.set_title(f"mean {number(mean)} per s", fontsize="medium", color=GREY)
        axes.set_ylim(0, max(float(values.max()) / width, 1e-9) * 1.08)
    output.set_xlim(0, edges[-1])
    return width


def _bin_width(span: float) -> float:
    """Return the smallest round bin width (1, 2 or 5 times a power of ten) with at most `MAX_BINS` bins [s]."""
    if span <= 0:
        return 1.0
    least = span / MAX_BINS
    decade = 10.0 ** np.floor(np.log10(least))
    return float(next(s * decade for s in (1, 2, 5, 10, 20) if s * decade >= least))


def _tokens_by(edges: npt.NDArray[np.floating], first: Array, last: Array, tokens: Array) -> Array:
    """Return the number of output tokens before each edge, and by the last edge; O(requests + edges).

    A request makes one token at `first` and the others at an even rate until `last`: the sum of
    a step and of a ramp that starts at `first` and is taken back at `last`.
    """
    long = (last > first) & (tokens > 1)
    slope = (tokens[long] - 1) / (last[long] - first[long])

    def before(times: Array, weights: Array) -> Array:
        counts, _ = np.histogram(times, edges, weights=weights)
        return np.concatenate([[0.0], np.cumsum(counts)])

    at_once = before(first, np.where(long, 1.0, tokens))
    ramp = edges * before(first[long], slope) - before(first[long], slope * first[long])
    stop = edges * before(last[long], slope) - before(last[long], slope * last[long])
    return np.asarray(at_once + ramp - stop, dtype=np.float64)

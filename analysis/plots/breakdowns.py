"""Plots of a run's time and energy by op."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.colors
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation

from ...devices.cost import PATHS
from .looks import hover
from .style import (
    BLACK,
    NORMAL,
    finish,
    greys,
    grid,
    house_figure,
    layer_order,
    layer_styles,
    processor_styles,
    quantity,
    renderer,
    require,
    say_empty,
    scale,
    wrapped,
)

JOULES = [f"{path}_joules" for path in PATHS]
OP_COLUMNS = ("run", "layer", "name", "kind", "processor", "wall_s", "busy_s", "flops", "bytes", *JOULES)
Array = npt.NDArray[np.float64]

BAR = 0.55
RUN_WIDTH = 92.0
"""Width that is reserved for the name of a run, left of its bar [pt]."""
SMALLEST = 0.05
"""Segments below this share of a bar are not labelled."""


def breakdown(ops: pd.DataFrame, title: str) -> Figure:
    """Plot time and energy of one or more runs by op.

    Left: share of clock time by layer (colour) and processor (hatch); the run's total time is
    written under its name. Right: dynamic energy by path.

    Parameters
    ----------
    ops : DataFrame
        Columns run, layer, name, kind, processor, wall_s and busy_s [s], flops, bytes, and joules by path, such as
        dram_joules [J]. Runs are in order of appearance. Only wall_s is plotted as time: the clock time of an op.
    """
    require(ops, OP_COLUMNS, "ops")
    table = ops[["run", "layer", "processor"]].astype(str)
    for column in ("wall_s", *JOULES):
        table[column] = pd.to_numeric(ops[column]).astype(float).fillna(0.0)
    runs = list(dict.fromkeys(table["run"]))
    layers = layer_order(table["layer"])
    units = [p for p in dict.fromkeys(table["processor"]) if _computes(table, p)]
    rows = max(-(-len(layers) // 2) + len(units) + 1, 4)
    with house_figure(title, height=1.1 + 0.17 * rows + max(0.5 * len(runs), 0.7)) as figure:
        time, energy = figure.subplots(1, 2, sharey=True, width_ratios=[1.75, 1.0])
        time.set_xlabel("Share of clock time (%)")
        bars = _time(time, table, runs, layers, units) + _energy(energy, table, runs)
        names = _run_names(figure, table, runs)
        time.set_yticks(range(len(runs)), names)
        time.set_ylim(max(len(runs), 1) - 0.5, -0.5)
        for axes in (time, energy):
            axes.tick_params(axis="y", length=0)
            grid(axes, "x")
        if not runs:
            say_empty(time, "No ops")
        finish(figure)
        _drop_wide(bars)
    return figure


def _computes(table: pd.DataFrame, processor: str) -> bool:
    """Return whether a processor runs anything other than communication; a link does not."""
    return bool((table.loc[table["processor"] == processor, "layer"] != "communication").any())


def _run_names(figure: Figure, table: pd.DataFrame, runs: list[str]) -> list[str]:
    """Return the labels of the bars: name, wrapped to at most three lines, and total time of each run."""
    total = table.groupby("run")["wall_s"].sum()
    render = renderer(figure)
    names = [wrapped(run, RUN_WIDTH, render, NORMAL).split("\n") for run in runs]
    short = [[*n[:2], n[2] + "…"] if len(n) > 3 else n for n in names]
    return ["\n".join([*n, quantity(float(total[run]), "s", 1.0)]) for n, run in zip(short, runs, strict=True)]


Segment = tuple[Text, float, float]
"""A label, and the ends of its bar segment in data coordinates."""


def _time(axes: Axes, table: pd.DataFrame, runs: list[str], layers: Sequence[str], units: list[str]) -> list[Segment]:
    """Plot stacked shares of each run's time by layer and processor; return the labels of the segments."""
    styles, hatches = layer_styles(layers), processor_styles(units)
    total = table.groupby("run")["wall_s"].sum().reindex(runs).to_numpy()
    left = np.zeros(len(runs))
    labels: list[Segment] = []
    grouped = table.groupby(["layer", "processor", "run"])["wall_s"].sum()
    for layer in layers:
        of_layer = grouped[layer]
        on = list(of_layer.index.get_level_values("processor"))
        for processor in sorted(set(on), key=lambda p: (p not in units, [*units, p].index(p))):
            seconds = of_layer[processor].reindex(runs).fillna(0.0).to_numpy()
            share = 100 * np.divide(seconds, total, out=np.zeros(len(runs)), where=total > 0)
            hatch = hatches[processor].hatch if processor in hatches else ""
            name = f"{layer} on {processor}" if processor in units else layer
            labels += _bar(axes, left, share, styles[layer].color, hatch, name)
            left += share
    axes.set_xlim(0, 100)
    handles = [Patch(facecolor=styles[n].color, edgecolor=BLACK, label=n) for n in layers]
    if len(units) > 1:
        handles += [Patch(facecolor="white", edgecolor=BLACK, hatch=hatches[n].hatch, label=f"on {n}") for n in units]
    _legend_below(axes, handles, 3)
    return labels


def _energy(axes: Axes, table: pd.DataFrame, runs: list[str]) -> list[Segment]:
    """Plot stacked dynamic energy by path with each run's total; return the labels of the segments."""
    joules = table.groupby("run")[JOULES].sum().reindex(runs)
    total = joules.sum(axis=1).to_numpy()
    largest = float(total.max()) if len(runs) else 0.0
    factor, prefix = scale(largest)
    axes.set_xlabel(f"Dynamic energy ({prefix}J)")
    left = np.zeros(len(runs))
    labels: list[Segment] = []
    handles = []
    for fill, name, column in zip(greys(len(PATHS)), PATHS.values(), JOULES, strict=True):
        width = joules[column].to_numpy() / factor
        labels += _bar(axes, left, width, fill, "", name, total / factor)
        if width.any():
            handles.append(Patch(facecolor=fill, edgecolor=BLACK, label=name))
        left += width
    for y, value in enumerate(total):
        axes.annotate(
            quantity(float(value), "J"), (value / factor, y), (3, 0),
            textcoords="offset points", va="center", gid="total",
        )  # fmt: skip
    axes.set_xlim(0, 1.45 * largest / factor if largest else 1.0)
    _legend_below(axes, handles, 2)
    return labels


def _bar(
    axes: Axes, left: Array, width: Array, color: str, hatch: str, name: str, total: Array | None = None
) -> list[Segment]:
    """Add one segment per run; label it with its share of the bar [%] unless the share is small."""
    rows = range(len(width))
    shares = [width[y] / 100 if total is None else width[y] / total[y] if total[y] else 0.0 for y in rows]
    bars = axes.barh(rows, width, BAR, left, color=color, edgecolor=BLACK, linewidth=0.5, hatch=hatch, gid="segment")
    hover(bars, name, [f"{name}: {100 * share:.1f} %" for share in shares])
    labels: list[Segment] = []
    bright = np.dot(matplotlib.colors.to_rgb(color), [0.299, 0.587, 0.114]) > 0.45
    for y, share in enumerate(shares):
        if share < SMALLEST:
            continue
        text = axes.text(
            left[y] + width[y] / 2, y, f"{100 * share:.0f} %", ha="center", va="center",
            color=BLACK if bright else "white", gid="share",
        )  # fmt: skip
        if hatch:
            text.set_bbox({"facecolor": color, "edgecolor": "none", "pad": 1.0})
        labels.append((text, left[y], left[y] + width[y]))
    return labels


def _legend_below(axes: Axes, handles: list[Patch], columns: int) -> None:
    """Add the legend below the axis label, at a distance that does not depend on the plot's height."""
    figure = axes.get_figure()
    assert figure is not None
    if not handles:
        return
    shift = ScaledTranslation(0, -33 / 72, figure.dpi_scale_trans)
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.0, 0.0),
        bbox_transform=axes.transAxes + shift, ncols=columns, borderaxespad=0.0, handlelength=1.6,
        columnspacing=1.2, labelspacing=0.4,
    )  # fmt: skip


def _drop_wide(labels: Sequence[Segment]) -> None:
    """Remove the percentage labels that are wider than their segment."""
    for text, begin, end in labels:
        axes = text.axes
        assert axes is not None
        ends = axes.transData.transform([(begin, 0), (end, 0)])[:, 0]
        if text.get_window_extent().width > ends[1] - ends[0] - 4:
            text.remove()

"""Plots of trade-offs between two objectives: all points of a sweep, and the Pareto front."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...workloads.pareto import unbeaten
from ...workloads.yamlfile import read_yaml
from .labels import LabelledPoint, place
from .looks import hover
from .style import (
    BLACK,
    BLUE,
    GREY,
    HEIGHT,
    NORMAL,
    VERMILLION,
    finish,
    grid,
    house_figure,
    log_axis,
    number,
    plain_numbers,
    renderer,
    require,
    say_empty,
    wrapped,
)

MIB = 2.0**20


def pareto_front(front: pd.DataFrame, published: Mapping[str, Any], best: Mapping[str, Any], title: str) -> Figure:
    """Plot latency against DSPs, on-chip bytes as colour.

    Parameters
    ----------
    front : DataFrame
        Columns latency_s [s], dsp and on_chip_bytes [B], a row a design.
    published, best : mapping
        The same keys, of the board's own design (cross) and of the best one (ring).
    """
    require(front, ("latency_s", "dsp", "on_chip_bytes"), "front")
    size = front["on_chip_bytes"].to_numpy(dtype=np.float64) / MIB
    with house_figure(title) as figure:
        axes = figure.add_subplot()
        points = axes.scatter(
            front["dsp"], front["latency_s"] * 1e3, c=size, s=26, edgecolors=BLACK,
            linewidths=0.4, vmin=0.0, vmax=max([1e-3, *size, published["on_chip_bytes"] / MIB]), cmap=matplotlib.colormaps["cividis"], gid="front",
        )  # fmt: skip
        axes.plot(published["dsp"], published["latency_s"] * 1e3, "x", color=VERMILLION,
                  markersize=9, markeredgewidth=2, linestyle="none",
                  label="the board's own design", gid="published")  # fmt: skip
        axes.plot(best["dsp"], best["latency_s"] * 1e3, "o", markerfacecolor="none",
                  markeredgecolor=VERMILLION, markersize=10, markeredgewidth=1.5,
                  linestyle="none", label="best found", gid="best")  # fmt: skip
        times = 1e3 * np.array([*front["latency_s"], published["latency_s"]])
        log_axis(axes, "y", float(times.min()) / 1.3, float(times.max()) * 1.3)
        axes.set_xlim(left=0)
        axes.set(xlabel="DSP slices of all arrays", ylabel="Latency (ms)")
        grid(axes)
        axes.legend(loc="upper right")
        figure.colorbar(points, ax=axes, label="On-chip buffers (MiB)")
        finish(figure, "A design is on the front if no other is at least as good in all three.")
    return figure


Array = npt.NDArray[np.float64]

MAX_LABELS, MAX_PANELS = 12, 6
_LISTED = read_yaml(Path(__file__).parent / "labels.yaml")
METRICS: dict[str, str] = _LISTED["metrics"]
LATENCIES: dict[str, str] = _LISTED["latencies"]


def metric_label(name: str) -> str:
    """Return the axis label of a metric.

    >>> metric_label("ttft_s_p99"), metric_label("tsv_multiple")
    ('Time to first token, p99 (s)', 'tsv multiple')
    """
    stem, _, quantile = name.rpartition("_")
    if stem in LATENCIES:
        return f"{LATENCIES[stem]}, {quantile} (s)"
    return METRICS.get(name, name.replace("_", " "))


def trade_off(
    table: pd.DataFrame,
    objectives: Mapping[str, str],
    columns: Sequence[str],
    title: str,
    *,
    facets: Sequence[str] = (),
    named: str = "",
    reference: Mapping[str, Any] | None = None,
) -> Figure:
    """Plot rows over two objectives; a line joins the Pareto front.

    Parameters
    ----------
    table : DataFrame
        One row a design; the objectives' columns are numbers, rows without them are left out.
    objectives : mapping of str to str
        Column -> "max" or "min"; the first goes along x, the second along y.
    columns : sequence of str
        What labels of the best rows say.
    facets : sequence of str
        Columns whose values are not a choice, such as a workload's: one panel per value, with a separate front; the
        first `MAX_PANELS` of them.
    named : str
        Column of which every value has a label, at its first row along x.
    reference : mapping, optional
        The row of a reference, marked by a cross, which need not be among the rows.

    Raises
    ------
    ValueError
        A column is missing, or fewer than two objectives.
    """
    require(table, (*objectives, *columns, *facets), "table")
    if len(objectives) < 2:
        raise ValueError("a trade-off needs two objectives")
    pair = list(objectives)[:2]
    rows = pd.DataFrame(table[np.isfinite(table[pair].astype(float)).all(axis=1)])
    parts = _parts(rows, facets)
    told_columns = [name for name in columns if name not in facets]
    varying = _telling(rows, told_columns)
    shown = parts[:MAX_PANELS]
    across = min(len(shown), 2)
    down = -(-len(shown) // 2)
    with house_figure(title, height=HEIGHT if down == 1 else 1.0 + 2.7 * down) as figure:
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        for name, axis in ((pair[0], "x"), (pair[1], "y")):
            text = f"{metric_label(name)}, {'more' if objectives[name] == 'max' else 'less'} is better"
            _label_edges(grid, axis, text, len(shown))
        for axes, (name, part) in zip(panels, shown, strict=False):
            _panel(axes, part, objectives, told_columns, name)
        marked = [float(reference[name]) for name in pair] if reference and None not in map(reference.get, pair) else []
        at = rows[pair].to_numpy(dtype=np.float64)
        if marked:
            (drawn,) = panels[0].plot(
                *marked, "X", color=BLUE, markersize=8, linestyle="none", gid="reference", zorder=5
            )
            hover(drawn, "reference")
        _limits(panels[0], np.vstack([at, marked]) if marked else at)
        best = sum(len(_best(part, objectives)) for _, part in shown)
        note = f"{len(rows):,} feasible points; diamonds: the {best:,} that none beats in both."
        note += " Cross: the reference." if marked else ""
        if facets and len(parts) > 1:
            note += " Each panel has its own front."
        if len(parts) > len(shown):
            note += f" Not drawn: {len(parts) - len(shown):,} more panels."
        if varying and best:
            note += f" Labels: {', '.join(name.replace('_', ' ') for name in varying)}."
        if len(objectives) > 2:
            note += f" Not drawn: {', '.join(map(metric_label, list(objectives)[2:]))}."
        finish(figure, note)
        for axes, (_, part) in zip(panels, shown, strict=False):
            _labels(axes, part, objectives, varying, MAX_LABELS // across, named)
    return figure


def _parts(rows: pd.DataFrame, facets: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each panel under its name; all rows without facets."""
    facets = [name for name in facets if rows[name].nunique(dropna=False) > 1]
    if not facets:
        return [("", rows)]
    groups = rows.groupby(facets, sort=False, dropna=False)
    return [
        (", ".join(f"{n.replace('_', ' ')} {_cell(x)}" for n, x in zip(facets, key, strict=True)), part)
        for key, part in groups
    ]


def _label_edges(grid: npt.NDArray[Any], axis: str, text: str, shown: int) -> None:
    """Label the x axis of the lowest panels, or the y axis of the leftmost panels."""
    down, across = grid.shape
    for i, axes in enumerate(grid.flat[:shown]):
        if axis == "y" and i % across == 0:
            axes.set_ylabel(text if down == 1 else text.replace(", ", ",\n"))
        elif axis == "x" and i + across >= shown:
            axes.set_xlabel(text if across == 1 else text.replace(", ", ",\n"))
            axes.xaxis.set_tick_params(labelbottom=True)


def _best(rows: pd.DataFrame, objectives: Mapping[str, str]) -> list[int]:
    """Return the rows on the Pareto front of the first two objectives, ordered along x."""
    pair = list(objectives)[:2]
    at: Array = rows[pair].to_numpy(dtype=np.float64)
    sign = np.array([-1.0 if objectives[name] == "max" else 1.0 for name in pair])
    return sorted(unbeaten(at * sign, once=True), key=lambda i: at[i, 0])


def _panel(axes: Axes, rows: pd.DataFrame, objectives: Mapping[str, str], columns: Sequence[str], name: str) -> None:
    """Plot the points of one panel and their Pareto front."""
    first, second = list(objectives)[:2]
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    if name:
        axes.set_title(wrapped(name, 200, renderer(figure), NORMAL), fontsize=NORMAL)
    grid(axes)
    plain_numbers(axes.xaxis, axes.yaxis)
    at: Array = rows[[first, second]].to_numpy(dtype=np.float64)
    best = _best(rows, objectives)
    designs = [design_of(row, columns, objectives) for row in rows.to_dict("records")]
    (every,) = axes.plot(*at.T, "o", color=GREY, alpha=0.45, markersize=3.5, markeredgewidth=0, gid="row")
    hover(every, "feasible points", designs)
    (front,) = axes.plot(
        *at[best].T, "-D", color=VERMILLION, markersize=5, markeredgecolor="black",
        markeredgewidth=0.4, linewidth=1.0, gid="best",
    )  # fmt: skip
    hover(front, "none beats these in both", [designs[i] for i in best])
    if not len(at):
        say_empty(axes, "No feasible point")


def _labels(
    axes: Axes, rows: pd.DataFrame, objectives: Mapping[str, str], varying: Sequence[str], most: int, named: str
) -> None:
    """Label some of the best points, and one of every `named` value, with their distinguishing values."""
    best = _best(rows, objectives)
    at: Array = rows[list(objectives)[:2]].to_numpy(dtype=np.float64)
    line = at[best]
    shown = [best[i] for i in np.linspace(0, len(best) - 1, min(len(best), most)).astype(int)]
    if named:  # the first along x of each
        order = np.lexsort((at[:, 1], at[:, 0]))
        first = {rows.iloc[i][named]: int(i) for i in order[::-1]}
        without = first.keys() - {rows.iloc[i][named] for i in shown}
        shown += [first[name] for name in sorted(without)]
    texts = {i: ", ".join(_cell(rows.iloc[i][name]) for name in varying) for i in shown}
    places = {i: (float(at[i, 0]), float(at[i, 1])) for i in texts}
    dots = [LabelledPoint(*places[i], 2.5, text, BLUE) for i, text in texts.items() if text]
    markers = [LabelledPoint(float(x), float(y), 2.5, "") for x, y in at[sorted({*best, *shown})]]
    place(axes, dots, markers, (), [line] if len(line) > 1 else ())


def design_of(row: Mapping[Hashable, Any], columns: Sequence[str], figures: Iterable[str]) -> str:
    """Return the hover text of a point: its settings, then its metrics."""
    lines = [f"{name.replace('_', ' ')}: {_cell(row[name])}" for name in columns]
    known = [n for n in figures if row[n] is not None and np.isfinite(float(row[n]))]
    return "\n".join([*lines, *(f"{metric_label(n)}: {number(float(row[n]))}" for n in known)])


def _limits(axes: Axes, at: Array) -> None:
    """Set the limits of both axes with a margin around the points, which leaves space for labels."""
    if not len(at):
        return
    for values, set_limits in ((at[:, 0], axes.set_xlim), (at[:, 1], axes.set_ylim)):
        low, high = float(values.min()), float(values.max())
        room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        set_limits(low - room, high + room)


def _cell(value: object) -> str:
    """Return a setting as text without rounding, because it identifies the point.

    >>> _cell(1024), _cell(0.12345), _cell("h100-x4")
    ('1,024', '0.12345', 'h100-x4')
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        return str(value)
    return f"{float(value):,.12g}"


def _telling(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Return the columns that vary and that the earlier columns do not determine."""
    columns_kept: list[str] = []
    for name in columns:
        if rows[name].nunique() < 2:
            continue
        groups = rows.groupby(columns_kept, sort=False)[name] if columns_kept else None
        follows = groups is not None and groups.ngroups < len(rows) and (groups.nunique() < 2).all()
        if not follows:
            columns_kept.append(name)
    return columns_kept

"""Ops of a step under the roofs of the processors that run them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from .labels import LabelledPoint, place
from .looks import hover
from .style import (
    BLACK,
    GREY,
    HEIGHT,
    NORMAL,
    OP_PER_BYTE,
    PERCENT,
    Style,
    finish,
    house_style,
    layer_order,
    layer_styles,
    log_axis,
    new_figure,
    number,
    processor_styles,
    quantity,
    renderer,
    require,
    say_empty,
    wrapped,
)

PROCESSOR_COLUMNS = ("name", "peak_flops", "bandwidth", "compute_efficiency", "memory_efficiency")
OP_COLUMNS = ("name", "layer", "processor", "op_per_byte", "achieved_flops", "seconds_total", "bound")
TERA = 1e12
TOGETHER = 5.0
"""Ops of a processor that are closer than this distance share a label [pt]."""
LABEL_WIDTH = 105.0
LABEL_NAMES = 4
SIZES = (0.01, 0.1, 0.3)
SIDE = {"D": 0.8}
"""Size of a shape relative to a circle of about equal area."""
REACH = {"D": 1.15}
"""Half diagonal relative to the circle's radius."""
HEADINGS = ("Processor (line, fill)", "Roof", "Layer (shape, colour)", "Share of step time (area)")
FULL = Style(BLACK)
BREAK_EVEN: dict[str, Any] = {
    "marker": "D", "markersize": 4.5, "markerfacecolor": "white", "markeredgecolor": BLACK,
    "markeredgewidth": 0.8,
}  # fmt: skip
DASHES = (0, (4, 2))
LEGEND_GREY = "#BFBFBF"
LINE_INCHES, REST_INCHES = 0.163, 0.95
"""Height of a line of the legend, and of all that is not legend."""


@dataclass(frozen=True, slots=True)
class _Roof:
    """One processor's roof; the efficiencies are 1 for the nominal one."""

    name: str
    peak: float
    bandwidth: float
    compute_efficiency: float
    memory_efficiency: float

    @property
    def attainable(self) -> tuple[float, float]:
        """Attainable FLOP/s and B/s: the nominal rates times the efficiencies."""
        return self.peak * self.compute_efficiency, self.bandwidth * self.memory_efficiency

    @property
    def ridge(self) -> float:
        return self.peak / self.bandwidth


def roofline(processors: pd.DataFrame, ops: pd.DataFrame, title: str, *, label_share: float = 0.002) -> Figure:
    """Plot ops under the rooflines of their processors.

    Solid lines are nominal roofs, dashed ones attainable roofs (efficiencies applied). Dots mark
    nominal ridge points, diamonds the Op/B at which two processors are equally fast (from the
    attainable roofs). A marker's area is its op's share of the step's time; shape and colour say
    the layer, fill the processor. Ops without memory traffic or FLOP are listed in the note.

    Parameters
    ----------
    processors : DataFrame
        Columns name, peak_flops [FLOP/s], bandwidth [B/s], compute_efficiency and memory_efficiency [fractions].
    ops : DataFrame
        Columns name, layer, processor, op_per_byte [FLOP/B or None], achieved_flops [FLOP/s], seconds_total [s] and
        bound. Rows of one op (name, layer, processor) with equal coordinates are added up.
    label_share : float
        Ops below this share of the time get a marker but no label.

    References
    ----------
    S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009, https://doi.org/10.1145/1498765.1498785
    """
    require(processors, PROCESSOR_COLUMNS, "processors")
    require(ops, OP_COLUMNS, "ops")
    roofs = [
        _Roof(str(r[0]), *(float(v) for v in r[1:]))
        for r in processors[list(PROCESSOR_COLUMNS)].itertuples(index=False)
    ]
    table = _merge(ops)
    with house_style():
        figure, crowded = _draw(roofs, table, title, label_share, 0)
        if crowded:  # the note says so, which moves everything else
            figure, _ = _draw(roofs, table, title, label_share, crowded)
    return figure


def _draw(
    roofs: Sequence[_Roof], table: pd.DataFrame, title: str, label_share: float, crowded: int
) -> tuple[Figure, int]:
    """Return the whole plot and the number of labels without room. `crowded` only goes into the note."""
    drawable = (table["op_per_byte"] > 0) & (table["achieved_flops"] > 0)
    shown = table[drawable]
    colors = processor_styles([r.name for r in roofs] + list(shown["processor"]))
    entries = _legend(roofs, colors, layer_order(shown["layer"]))
    rows = sum(1 + text.count("\n") for _, text in entries)
    figure = new_figure(title, height=max(HEIGHT, rows * LINE_INCHES + REST_INCHES))
    axes = figure.add_subplot()
    axes.set(xlabel=OP_PER_BYTE, ylabel="Performance (TFLOP/s)")
    low, high = _limits(axes, roofs, shown)
    lines = [line for r in roofs for line in _draw_roof(axes, r, colors[r.name], low, high)]
    markers = _draw_ops(axes, shown, colors)
    legend = axes.legend(
        [handle for handle, _ in entries], [text for _, text in entries],
        loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0.0, handlelength=1.9,
        labelspacing=0.35, alignment="left",
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_fontweight("bold" if text.get_text() in HEADINGS else "normal")
    finish(figure, note(table, drawable, label_share, crowded))
    marks = _marks(axes, roofs, colors, lines, markers)
    if not len(shown):
        say_empty(axes, "No ops with FLOP and memory traffic")
        return figure, 0
    points = _labels(axes, shown, markers, label_share)
    return figure, len(points) - len(place(axes, points, markers, marks, lines))


def _merge(ops: pd.DataFrame) -> pd.DataFrame:
    """Add up rows of the same op at the same position, add their share of the time, and sort by it, largest first."""
    table = ops[list(OP_COLUMNS)].copy()
    for column in ("op_per_byte", "achieved_flops", "seconds_total"):
        table[column] = pd.to_numeric(table[column]).astype(float).fillna(0.0)
    for column in ("name", "layer", "processor"):
        table[column] = table[column].astype(str)
    place_of = {key: [f"{v:.3g}" for v in table[key]] for key in ("op_per_byte", "achieved_flops")}
    keys: list[Hashable] = ["name", "layer", "processor", "_x", "_y"]
    table["_x"], table["_y"] = place_of["op_per_byte"], place_of["achieved_flops"]
    merged = table.groupby(keys, sort=False, as_index=False).agg(
        {"op_per_byte": "first", "achieved_flops": "first", "seconds_total": "sum"}
    )
    total = float(merged["seconds_total"].sum())
    merged["share"] = merged["seconds_total"] / total if total > 0 else 0.0
    return merged.sort_values(["share", "name"], ascending=[False, True], ignore_index=True)


def _limits(axes: Axes, roofs: Sequence[_Roof], shown: pd.DataFrame) -> tuple[float, float]:
    """Set both axes so that ops, ridges and some of each roof show; returns the Op/B range."""
    xs = [*shown["op_per_byte"], *(r.ridge for r in roofs)] or [1.0, 100.0]
    low, high = min(*xs, 1.0) / 2.5, max(xs) * 5
    tops = [r.peak for r in roofs] + list(shown["achieved_flops"])
    floor = [min(p, low * b) for r in roofs for p, b in [r.attainable]]
    bottom = min([*floor, *shown["achieved_flops"]], default=TERA)
    log_axis(axes, "x", low, high)
    log_axis(axes, "y", bottom / TERA / 2, max(tops, default=100 * TERA) / TERA * 2.5)
    return low, high


def _corner(peak: float, bandwidth: float, low: float, high: float) -> npt.NDArray[np.float64]:
    """Return the polyline of a roof between two values of Op/B, as points (Op/B, TFLOP/s)."""
    ridge = min(max(peak / bandwidth, low), high)
    xs = np.array([low, ridge, high])
    return np.stack([xs, np.minimum(peak, xs * bandwidth) / TERA], axis=1)


def _draw_roof(axes: Axes, roof: _Roof, style: Style, low: float, high: float) -> list[npt.NDArray[np.float64]]:
    """Plot the nominal and the attainable roof of a processor; return their polylines."""
    nominal = _corner(roof.peak, roof.bandwidth, low, high)
    attainable = _corner(*roof.attainable, low, high)
    speeds = f"{quantity(roof.peak, 'FLOP/s')}, {quantity(roof.bandwidth, 'B/s')}"
    (line,) = axes.plot(*nominal.T, color=style.color, zorder=2, gid="roof-nominal")
    hover(line, f"roof of {roof.name}", [f"{roof.name}: {speeds}"] * 3)
    (part,) = axes.plot(
        *attainable.T, color=style.color, linestyle=DASHES, linewidth=1.0, zorder=2, gid="roof-attainable"
    )
    if roof.attainable != (roof.peak, roof.bandwidth):
        hover(part, f"attainable of {roof.name}")
    return [nominal, attainable]


def _diameter(share: float) -> float:
    """Return the diameter [pt] of a marker whose area is proportional to the share, at least 3.5 pt."""
    return max(3.5, 24.0 * float(np.sqrt(share)))


def _draw_ops(axes: Axes, shown: pd.DataFrame, colors: dict[str, Style]) -> list[LabelledPoint]:
    """Plot a marker per op, small ones on top; return them with their radius."""
    styles = layer_styles(layer_order(shown["layer"]))
    points = []
    for row in shown.to_dict("records"):
        size, style = _diameter(row["share"]), styles[row["layer"]]
        x, y = row["op_per_byte"], row["achieved_flops"] / TERA
        (marker,) = axes.plot(
            [x], [y], linestyle="none", gid="op", zorder=3, **_marker(style, colors[row["processor"]], size)
        )
        hover(marker, f"{row['layer']} on {row['processor']}", [op_text(row)])
        radius = size / 2 * REACH.get(style.marker, 1.0)
        points.append(LabelledPoint(x, y, radius, row["name"]))
    return points


def _marker(layer: Style, processor: Style, size: float = 5.5) -> dict[str, Any]:
    """Return the Line2D properties of an op's marker: the layer's shape and colour, the processor's fill."""
    empty = processor.fill == "none"
    return {
        "marker": layer.marker,
        "markersize": size * SIDE.get(layer.marker, 1.0),
        "fillstyle": processor.fill,
        "markerfacecolor": "white" if empty else layer.color,
        "markerfacecoloralt": "white",
        "markeredgecolor": layer.color if empty else BLACK,
        "markeredgewidth": 1.4 if empty else 0.5,
    }


def _marks(
    axes: Axes,
    roofs: Sequence[_Roof],
    colors: dict[str, Style],
    lines: Sequence[npt.NDArray[np.float64]],
    ops: Sequence[LabelledPoint],
) -> list[Text]:
    """Label the roofs, and mark ridge and break-even points with their values; return the texts."""
    points, order = [], []
    right = axes.get_xlim()[1]
    for roof in roofs:
        y = roof.peak / TERA
        order.append(LabelledPoint(right, y, 0.0, roof.name, colors[roof.name].color))
        (dot,) = axes.plot([roof.ridge], [y], "o", markersize=4, color=colors[roof.name].color, gid="ridge")
        text = f"ridge {number(roof.ridge)} Op/B"
        hover(dot, texts=[f"{text} of {roof.name}"])
        points.append(LabelledPoint(roof.ridge, y, 2.0, text, colors[roof.name].color))
    for a, b in combinations(roofs, 2):
        cross = _break_even(a.attainable, b.attainable)
        if cross is None:
            continue
        x, y = cross
        (dot,) = axes.plot([x], [y / TERA], linestyle="none", gid="break-even", zorder=4, **BREAK_EVEN)
        text = f"break-even {number(x)} Op/B"
        if len(roofs) > 2:
            text += f"\n{a.name} / {b.name}"
        hover(dot, "break-even", [f"{a.name} and {b.name} are equally fast at {number(x)} Op/B"])
        order.append(LabelledPoint(x, y / TERA, 2.3, text))
    points += order
    return [*place(axes, points, [*points, *ops], (), lines, gid="mark")]


def _break_even(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float] | None:
    """Op/B and FLOP/s at which two roofs cross, if one has the higher peak, the other the bandwidth.

    Left of it the processor with more bandwidth is faster, right of it the one with the higher peak.
    """
    if (a[0] - b[0]) * (a[1] - b[1]) >= 0:
        return None
    peak, bandwidth = min(a[0], b[0]), min(a[1], b[1])
    return peak / bandwidth, peak


def _labels(
    axes: Axes, shown: pd.DataFrame, markers: Sequence[LabelledPoint], label_share: float
) -> list[LabelledPoint]:
    """Return one label for each cluster of nearby markers of a processor."""
    figure = axes.get_figure()
    assert figure is not None
    at = axes.transData.transform([(m.x, m.y) for m in markers]) * 72 / figure.dpi
    clusters: list[list[int]] = []
    for i in np.flatnonzero(shown["share"].to_numpy() >= label_share):
        for members in clusters:
            same = shown["processor"].iloc[i] == shown["processor"].iloc[members[0]]
            if same and np.hypot(*(at[i] - at[members[0]])) < TOGETHER:
                members.append(int(i))
                break
        else:
            clusters.append([int(i)])
    points = []
    for members in clusters:
        names = list(dict.fromkeys(shown["name"].iloc[i].replace("_", " ") for i in members))
        text = ", ".join(names[:LABEL_NAMES])
        if len(names) > LABEL_NAMES:
            text += f" and {len(names) - LABEL_NAMES} more"
        first = markers[members[0]]
        text = wrapped(text, LABEL_WIDTH, renderer(figure.figure), NORMAL)
        points.append(LabelledPoint(first.x, first.y, first.radius, text))
    return points


def _legend(roofs: Sequence[_Roof], colors: dict[str, Style], layers: Sequence[str]) -> list[tuple[Line2D, str]]:
    """Return the legend's entries, a handle and a text each."""
    blank = Line2D([], [], linestyle="none")
    speeds = {r.name: f"{quantity(r.peak, 'FLOP/s')}, {quantity(r.bandwidth, 'B/s')}" for r in roofs}
    entries = [(blank, HEADINGS[0])] if colors else []
    for name, style in colors.items():
        fill = _marker(Style("#808080"), style) if layers else {}
        handle = Line2D([], [], color=style.color, **fill)
        handle.set_linestyle("-" if name in speeds else "none")
        entries.append((handle, "\n".join([name, speeds[name]] if name in speeds else [name])))
    entries.append((blank, HEADINGS[1]))
    entries.append((Line2D([], [], color=GREY), "nominal"))
    if any(r.attainable != (r.peak, r.bandwidth) for r in roofs):
        entries.append((Line2D([], [], color=GREY, linestyle=DASHES, linewidth=1.0), "attainable"))
    if any(_break_even(a.attainable, b.attainable) for a, b in combinations(roofs, 2)):
        even = Line2D([], [], linestyle="none", **BREAK_EVEN)
        entries.append((even, "break-even: equally fast"))
    if not layers:
        return entries
    styles = layer_styles(layers)
    entries.append((blank, HEADINGS[2]))
    for name in layers:
        entries.append((Line2D([], [], linestyle="none", **_marker(styles[name], FULL)), name))
    entries.append((blank, HEADINGS[3]))
    for share in SIZES:
        props = _marker(Style(LEGEND_GREY), FULL, _diameter(share))
        entries.append((Line2D([], [], linestyle="none", **props), f"{100 * share:.0f} %"))
    return entries


def op_text(row: Mapping[Hashable, Any]) -> str:
    """Return the hover text of an op's marker."""
    return (
        f"{row['name']} on {row['processor']}\n{quantity(row['seconds_total'], 's', 1.0)}, "
        f"{number(100 * row['share'])}{PERCENT} of the time\n{number(row['op_per_byte'])} Op/B, "
        f"{quantity(row['achieved_flops'], 'FLOP/s')}"
    )


def note(merged: pd.DataFrame, drawable: pd.Series[bool], label_share: float, crowded: int) -> str:
    """Return the note on omitted ops and labels."""
    parts = []
    absent = merged[~drawable].groupby("name", sort=False)["share"].sum()
    if len(absent):
        listed = [
            f"{str(name).replace('_', ' ')} {number(100 * share)}{PERCENT}" for name, share in absent.head(5).items()
        ]
        if len(absent) > 5:
            listed.append(f"{len(absent) - 5} more, {number(100 * float(absent[5:].sum()))}{PERCENT}")
        parts.append(f"Not on the plot, no FLOP or no memory traffic (share of step time): {'; '.join(listed)}.")
    small = drawable & (merged["share"] < label_share)
    if small.any():
        parts.append(f"Ops below {number(100 * label_share)}{PERCENT} of step time have no label.")
    if crowded:
        parts.append(f"{crowded} labels found no room.")
    return " ".join(parts)

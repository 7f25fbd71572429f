"""The style of all plots: colours, markers, hatches, type sizes, numbers.

Colours are from Okabe and Ito (https://jfly.uni-koeln.de/color/), distinguishable with any common colour vision;
shapes, hatches and line styles repeat the distinction for grey print.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import matplotlib
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine

DPI = 200
WIDTH, HEIGHT = 6.5, 4.2
"""Inches: the text width of a page with one-inch margins."""
SMALL, NORMAL, LARGE = 8.0, 8.0, 9.0
"""Type sizes [pt]: notes, everything else, titles."""
BLACK, GREY, LIGHT = "#000000", "#5F5F5F", "#D9D9D9"

BLUE, ORANGE, GREEN, SKY = "#0072B2", "#E69F00", "#009E73", "#56B4E9"
YELLOW, VERMILLION, PURPLE = "#F0E442", "#D55E00", "#CC79A7"

OP_PER_BYTE = "FLOP per byte of memory traffic (Op/B)"

PERCENT = "\u00a0%"
"""Percent sign that stays with its number."""

RC: dict[str, Any] = {
    "font.size": NORMAL, "axes.titlesize": LARGE, "axes.titlelocation": "left",
    "axes.labelsize": NORMAL, "axes.linewidth": 0.7, "axes.spines.top": False,
    "axes.spines.right": False, "axes.axisbelow": True, "xtick.labelsize": NORMAL,
    "ytick.labelsize": NORMAL, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "legend.fontsize": NORMAL, "legend.title_fontsize": NORMAL, "legend.frameon": False,
    "figure.titlesize": LARGE, "figure.titleweight": "bold", "figure.labelsize": SMALL,
    "hatch.linewidth": 0.6, "lines.linewidth": 1.3, "text.parse_math": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Style:
    """Colour, marker, fill and hatch of one layer kind or processor.

    Attributes
    ----------
    marker : str
        Of a layer's points.
    fill : str
        Marker fill of a processor's ops: "full", "none" or "left".
    hatch : str
        Of a processor's bars.
    """

    color: str
    marker: str = "o"
    fill: str = "full"
    hatch: str = ""


LAYERS = {
    "embedding": Style(YELLOW, "v"), "attention": Style(BLUE, "o"), "state": Style(SKY, "P"),
    "ffn": Style(GREEN, "s"), "moe": Style(ORANGE, "D"), "norm": Style("#999999", "^"),
    "head": Style("#4D4D4D", "p"), "communication": Style(PURPLE, "X"),
}  # fmt: skip
"""Layer kinds, in the order of plots and lists."""
OTHER_LAYERS = (
    Style(VERMILLION, "<"), Style(BLUE, ">"), Style(GREEN, "d"), Style(ORANGE, "h"),
    Style(PURPLE, "*"), Style(SKY, "8"),
)  # fmt: skip

PROCESSORS = {
    "xpu": Style(BLACK, fill="full", hatch=""),
    "logic-pim": Style(VERMILLION, fill="none", hatch="/////"),
    "bank-pim": Style(BLUE, fill="left", hatch="....."),
    "bank-group-pim": Style(PURPLE, fill="top", hatch="xxxxx"),
    "fpga": Style(GREEN, fill="right", hatch="-----"),
}
OTHER_PROCESSORS = (
    Style(SKY, fill="bottom", hatch="\\\\\\\\\\"),
    Style(ORANGE, fill="top", hatch="+++++"),
    Style("#4D4D4D", fill="right", hatch="ooo"),
)


def greys(number: int) -> list[str]:
    """Return fills for energy paths, from dark to white, distinct from layer colours."""
    levels = [77 + 178 * i // max(number - 1, 1) for i in range(number)]
    return [f"#{level:02X}{level:02X}{level:02X}" for level in levels]


def layer_styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each layer name: its kind's where known, else one not in use."""
    return _styles(names, LAYERS, OTHER_LAYERS)


def processor_styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each processor; of two of one kind, the first has the kind's."""
    return _styles(names, PROCESSORS, OTHER_PROCESSORS)


def _styles(names: Iterable[str], known: dict[str, Style], spare: Sequence[Style]) -> dict[str, Style]:
    out: dict[str, Style] = {}
    unused = [*spare, *known.values()]
    for name in dict.fromkeys(names):
        kinds = [k for k in sorted(known, key=len, reverse=True) if name.endswith(k)]
        style = known[kinds[0]] if kinds else None
        if style is None or style in out.values():
            free = [s for s in unused if s not in out.values()]
            style = free[0] if free else replace(spare[len(out) % len(spare)])
        out[name] = style
    return out


def layer_order(names: Iterable[str]) -> list[str]:
    """Return the layer names in the fixed order; unknown names come last, by name."""
    rank = {name: i for i, name in enumerate(LAYERS)}
    return sorted(set(names), key=lambda n: (rank.get(n, len(rank)), n))


@contextmanager
def house_style() -> Iterator[None]:
    """Set matplotlib's defaults plus `RC`, independent of the user's settings; restored after."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        cast(dict[str, Any], matplotlib.rcParams).update(RC)
        yield


@contextmanager
def house_figure(title: str, width: float = WIDTH, height: float = HEIGHT) -> Iterator[Figure]:
    """Open a plot in the common style; it is finished at the end of the block if the block did not `finish` it."""
    with house_style():
        figure = new_figure(title, width, height)
        yield figure
        if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
            finish(figure)


def new_figure(title: str, width: float = WIDTH, height: float = HEIGHT) -> Figure:
    """Return an empty plot on the Agg canvas, with constrained layout."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        text = wrapped(title, 72 * (width - 0.2), renderer(figure), LARGE, bold=True)
        figure.suptitle(text, x=0.012, ha="left")
    return figure


def finish(figure: Figure, note: str = "") -> None:
    """Add a note below the plot, compute its layout and fix this layout."""
    if note:
        text = wrapped(note, 72 * (figure.get_figwidth() - 0.3), renderer(figure), SMALL)
        figure.supxlabel(text, x=0.012, ha="left", color=GREY)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def renderer(figure: Figure) -> RendererAgg:
    """Return the Agg renderer of a plot, to measure text with."""
    canvas = cast(Any, figure.canvas)  # get_renderer has no types
    return cast(RendererAgg, canvas.get_renderer())


def wrapped(text: str, width_pt: float, render: RendererAgg, size: float, bold: bool = False) -> str:
    """Break a text at spaces so that no line is wider than `width_pt`.

    A longer word breaks after a hyphen if possible, else anywhere; a non-breaking space is part of a word.

    Parameters
    ----------
    width_pt : float
        Room for a line [pt].
    size : float
        Type size [pt].
    """
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    limit = width_pt * render.dpi / 72
    measure = cast(Any, render).get_text_width_height_descent

    def fits(line: str) -> bool:
        return bool(measure(line, font, ismath=False)[0] <= limit)

    lines = [""]
    for word in (w for w in text.replace("\n", " ").split(" ") if w):
        joined = f"{lines[-1]} {word}".strip()
        if fits(joined):
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and not fits(lines[-1] + letter):
                head, hyphen, tail = lines[-1].rpartition("-")
                lines[-1:] = [head + hyphen, tail] if hyphen and head else [lines[-1], ""]
            lines[-1] += letter
    return "\n".join(lines)


def number(value: float) -> str:
    """Return a number as text with three significant digits, without an exponent from 1e-4 to 1e9.

    >>> number(989.4), number(0.03204), number(12345.0)
    ('989', '0.032', '12,300')
    """
    rounded = float(f"{value:.3g}")
    if rounded and not 1e-4 <= abs(rounded) < 1e9:
        return f"{rounded:g}"
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.6g}"


SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def scale(value: float, largest: float = 1e12) -> tuple[float, str]:
    """Return the factor and the SI prefix that bring a quantity between 1 and 1000.

    >>> scale(0.0054), scale(0.0)
    ((0.001, 'm'), (1.0, ''))
    """
    if value <= 0:
        return 1.0, ""
    for factor, prefix in SCALES:
        if factor <= largest and value >= factor:
            return factor, prefix
    return 1e-9, "n"


def quantity(value: float, unit: str, largest: float = 1e12) -> str:
    """Return a quantity as text with an SI prefix and its unit.

    >>> quantity(3.352e12, "B/s"), quantity(0.0054, "s", largest=1.0)
    ('3.35 TB/s', '5.4 ms')
    """
    factor, prefix = scale(value, largest)
    return f"{number(value / factor)} {prefix}{unit}"


def log_ticks(low: float, high: float) -> list[float]:
    """Return round tick positions of a logarithmic axis: decades, or finer steps if the axis has few decades."""
    span = np.log10(high / low)
    steps: tuple[float, ...] = (1.0, 2.0, 5.0) if span < 1.7 else (1.0,)
    if span < 0.6:
        steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    stride = int(span // 8) + 1
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    decades = range(first - first % stride, last + 1, stride)
    ticks = [s * 10.0**d for d in decades for s in steps]
    return [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]


def log_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """Make an axis logarithmic from `low` to `high`, ticks written as plain numbers."""
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    if which == "x":
        axes.set_xscale("log")
        axes.set_xlim(low, high)
    else:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
    axis.set_major_locator(matplotlib.ticker.FixedLocator(log_ticks(low, high)))
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: number(x)))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axis.grid(True, which="major", color=LIGHT, linewidth=0.5)


def grid(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Add thin grid lines behind the data."""
    axes.grid(True, axis=axis, color=LIGHT, linewidth=0.5)


def plain_numbers(*axes: Axis) -> None:
    """Write ticks with all their digits and without exponents."""
    for axis in axes:
        axis.set_major_formatter(lambda value, _: f"{value:,.6g}" if abs(value) < 1e5 else f"{value:,.0f}")


def legend_right(axes: Axes, **more: Any) -> None:
    """Add the legend to the right of the axes, its top at theirs."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), **more)


def legend_above(axes: Axes, columns: int, **more: Any) -> None:
    """Add the legend above the axes, in some columns."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, handlelength=1.3,
                columnspacing=1.1, borderaxespad=0.3, **more)  # fmt: skip


def require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Refuse a table that lacks a column.

    Raises
    ------
    ValueError
        Naming the missing columns.
    """
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise ValueError(f"{what} lacks the columns {', '.join(missing)}")


def say_empty(axes: Axes, text: str) -> None:
    """Write into the lower right corner of an axes that there is nothing to plot."""
    axes.text(0.98, 0.04, text, transform=axes.transAxes, ha="right", color=GREY)

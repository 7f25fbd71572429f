"""The Duplex paper's figures 4, 5, 8 and 11 to 16 as our own plots of simulated points, with what it prints on top."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from opbyte.extend.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    OP_PER_BYTE,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH,
    YELLOW,
    Style,
    bars,
    finish,
    house_style,
    log_axis,
    new_figure,
)

DEVICES = {
    "GPU": Style("#4D4D4D", "o"),
    "2xGPU": Style("#BFBFBF", "s", hatch="....."),
    "hetero": Style(PURPLE, "v"),
    "Bank-PIM": Style(BLUE, "<"),
    "Duplex": Style(YELLOW, "^"),
    "Duplex+PE": Style(ORANGE, "D", hatch="/////"),
    "Duplex+PE+ET": Style(VERMILLION, "P"),
    "Duplex-Split": Style(SKY, "X", hatch="xxxxx"),
    "BankGroup-PIM": Style(GREEN, ">", hatch="-----"),
    "Logic-PIM": Style(YELLOW, "^"),
}
GROUPS = {
    "FC and other": Style(GREEN), "prefill attention": Style(SKY), "decode attention": Style(BLUE),
    "MoE": Style(ORANGE), "communication": Style(PURPLE, hatch="....."),
}  # fmt: skip
ENERGY = {
    ("fc", "dram"): Style(GREEN), ("fc", "compute"): Style(GREEN, hatch="/////"),
    ("attention", "dram"): Style(BLUE), ("attention", "compute"): Style(BLUE, hatch="/////"),
    ("moe", "dram"): Style(ORANGE), ("moe", "compute"): Style(ORANGE, hatch="/////"),
}  # fmt: skip
NAMES = {"fc": "FC and other", "attention": "attention", "moe": "MoE", "dram": "DRAM", "compute": "compute"}
OPS = {"qkv": ("FC (qkv)", GREEN, "s"), "attention_decode": ("decode attention", BLUE, "o"),
       "experts": ("MoE", ORANGE, "D")}  # fmt: skip

PRINTED = "Diamonds: printed."
FORMULA = "1 - (1 - 1/Lout)^B"
TIMES = ("TBT p50", "TBT p90", "TBT p99", "T2FT p50", "E2E p50")

K = TypeVar("K", str, tuple[str, str])

Draw = Callable[[str, pd.DataFrame], Figure]


def draw(tables: Mapping[str, tuple[str, pd.DataFrame]]) -> dict[str, Figure]:
    """Figures by name, of titles and tidy tables by name as `analysis.papers.duplex.figures` makes them."""
    with house_style():
        return {name: DRAWN[name](title, frame) for name, (title, frame) in tables.items()}


def _legend(figure: Figure, names: Sequence[K], styles: Mapping[K, Style], columns: int = 4, note: str = "") -> None:
    """One legend for the whole figure, below its axes, with a note above it."""
    handles = [Patch(facecolor=styles[n].color, hatch=styles[n].hatch, edgecolor=BLACK, label=_name(n)) for n in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=note or None)


def _name(key: object) -> str:
    return ", ".join(NAMES[k] for k in key) if isinstance(key, tuple) else str(key)


def _line(axes: Axes, at: float = 1.0) -> None:
    axes.axhline(at, color=GREY, linewidth=0.8, linestyle="--")


def _lines(axes: Axes, frame: pd.DataFrame, scale: float = 1.0) -> None:
    """What is printed of all of a panel's bars: its largest or lowest value."""
    for value in frame["printed"].dropna().unique():
        axes.axhline(scale * value, color=VERMILLION, linewidth=1.0, linestyle=":")


@dataclass(frozen=True, slots=True)
class BarPlot:
    """A plot of bars side by side, and the frame that it shows.

    Attributes
    ----------
    groups, by, value : str
        Columns of the groups, of the bars of a group, and of their heights.
    styles : mapping of str to Style
        Of the values of `by`.
    inches : (float, float)
        Height of a panel, and of the rest.
    panels, heading : str
        Column with a panel for each value, and the title of a panel.
    lines : bool
        Whether printed values are lines over all bars, not diamonds on single ones.
    log : (float, float, float), optional
        Ends of a logarithmic axis over the lowest and highest value, and what the lower end is at most.
    """

    groups: tuple[str, ...]
    by: str
    value: str
    styles: Mapping[str, Style]
    ylabel: str
    inches: tuple[float, float]
    xlabel: str = ""
    panels: str = ""
    heading: str = "{}"
    lines: bool = False
    log: tuple[float, float, float] | None = None
    reference: bool = True
    note: str = ""
    columns: int = 4

    def draw(self, title: str, frame: pd.DataFrame) -> Figure:
        """Draw the bars of a frame, one legend below."""
        parts = list(frame.groupby(self.panels, sort=False)) if self.panels else [("", frame)]
        figure = new_figure(title, height=self.inches[0] * len(parts) + self.inches[1])
        panels = figure.subplots(len(parts), 1, squeeze=False)[:, 0]
        used: list[str] = []
        for axes, (name, rows) in zip(panels, parts, strict=True):
            shown = rows.drop(columns="printed") if self.lines else rows
            used = bars(axes, shown, self.groups, self.by, self.value, self.styles)
            axes.set_title(self.heading.format(name))
            axes.set_ylabel(self.ylabel)
            if self.log is not None:
                low, high, most = self.log
                log_axis(axes, "y", min(most, low * rows[self.value].min()), high * rows[self.value].max())
            if self.reference:
                _line(axes)
            if self.lines:
                _lines(axes, rows)
        panels[-1].set_xlabel(self.xlabel)
        _legend(figure, used, self.styles, self.columns, self.note)
        finish(figure)
        return figure


BATCH_AND_LENGTH = "Batch (above) and mean prompt and output length (below)"
OVER_GPU = BarPlot(
    ("batch", "length"), "device", "ratio", DEVICES, "Throughput over GPU", (1.9, 0.8), BATCH_AND_LENGTH,
    panels="model", lines=True, note="Dotted: the largest value of Duplex+PE+ET that is printed, of any model.",
)  # fmt: skip
LATENCY = BarPlot(
    ("metric",), "device", "ratio", DEVICES, "Over GPU", (1.8, 0.8), panels="length", heading="Lin = Lout = {:,}",
    note=f"{PRINTED} Medians: of the mean over lengths. Tail: against 2xGPU as simulated.",
)  # fmt: skip
STAGES = BarPlot(
    ("batch", "length"), "series", "share", {"simulated": Style(ORANGE), FORMULA: Style("#FFFFFF", hatch="/////")},
    "Mixed stages (%)", (2.8, 0.0), BATCH_AND_LENGTH, reference=False,
)  # fmt: skip
HETERO = BarPlot(
    ("lengths",), "metric", "ratio",
    dict(zip(TIMES, map(Style, (SKY, BLUE, GREEN, ORANGE, PURPLE)), strict=True)),
    "hetero over GPU", (3.0, 0.0), "Mean prompt and output length", log=(0.8, 1.3, 0.5), columns=5,
)  # fmt: skip
EDAP = BarPlot(
    ("op_per_byte",), "device", "over_worst", DEVICES, "EDAP over the worst", (2.9, 0.0), OP_PER_BYTE,
    log=(0.6, 1.3, 1.0), reference=False, note=PRINTED,
)  # fmt: skip


def stages(title: str, frame: pd.DataFrame) -> Figure:
    """Share of mixed stages, simulated and by the formula (Fig. 5a)."""
    named = frame.rename(columns={"mixed": "simulated", "formula": FORMULA})
    both = named.melt(["batch", "length"], ["simulated", FORMULA], "series", "share")
    return STAGES.draw(title, both.assign(share=100 * both["share"]))


def split(title: str, frame: pd.DataFrame) -> Figure:
    """Duplex-Split over Duplex: throughput and latencies (Fig. 16)."""
    named = frame.assign(length=[f"Lin = Lout = {n:,}" for n in frame["length"]])
    styles = dict(zip(dict.fromkeys(named["length"]), map(Style, (SKY, BLUE, PURPLE)), strict=False))
    plot = BarPlot(
        ("metric",), "length", "split_over_duplex", styles, "Duplex-Split over Duplex", (3.0, 0.0),
        log=(0.7, 1.4, inf), note=PRINTED,
    )  # fmt: skip
    return plot.draw(title, named)


def time_shares(title: str, frame: pd.DataFrame) -> Figure:
    """Shares of a step's time by layer, a bar a model, batch and stage (Fig. 4a)."""
    figure = new_figure(title, height=4.4)
    axes = figure.subplots()
    keys = list(dict.fromkeys(map(tuple, frame[["stage", "model", "batch"]].to_numpy().tolist())))
    models = list(dict.fromkeys(frame["model"]))
    keys.sort(key=lambda k: (k[0], models.index(k[1])))
    table = {(s, m, b, g): v for s, m, b, g, v in frame[["stage", "model", "batch", "group", "share"]].to_numpy()}
    left = np.zeros(len(keys))
    for name, style in GROUPS.items():
        width = np.array([100 * table.get((*k, name), 0.0) for k in keys])
        axes.barh(
            range(len(keys)), width, 0.75, left, color=style.color, edgecolor=BLACK, linewidth=0.4, hatch=style.hatch
        )
        left += width
    axes.set_yticks(range(len(keys)), [f"{m}, batch {b}, {s}" for s, m, b in keys])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(keys) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("Share of the step's time (%)")
    _legend(figure, list(GROUPS), dict(GROUPS), 3)
    finish(figure)
    return figure


def roofs(title: str, frame: pd.DataFrame) -> Figure:
    """Utilisation over Op/B under the GPU's roof (Fig. 4b); larger markers, larger batches."""
    figure = new_figure(title, height=3.6)
    axes = figure.subplots()
    ridge = float((frame["op_per_byte"] / frame["utilisation"]).max())
    x = np.geomspace(0.3, 1000, 200)
    axes.plot(x, 100 * np.minimum(1, x / ridge), color=BLACK)
    sizes = {b: 4.0 + 2.0 * i for i, b in enumerate(sorted(set(frame["batch"])))}
    for _, row in frame.iterrows():
        _, color, marker = OPS[row["op"]]
        filled = row["model"] == frame["model"].iloc[0]
        axes.plot(
            row["op_per_byte"], 100 * row["utilisation"], marker, color=color,
            markersize=sizes[row["batch"]], fillstyle="full" if filled else "none",
            markeredgecolor=BLACK if filled else color, markeredgewidth=0.6 if filled else 1.2,
        )  # fmt: skip
    log_axis(axes, "x", 0.3, 1000)
    log_axis(axes, "y", 0.1, 130)
    axes.set_xlabel(OP_PER_BYTE)
    axes.set_ylabel("Share of peak compute (%)")
    _lines(axes, frame, 100)
    for label, color, marker in OPS.values():
        axes.plot([], [], marker, color=color, markeredgecolor=BLACK, markeredgewidth=0.6, label=label)
    axes.legend(loc="upper left")
    first, second = dict.fromkeys(frame["model"])
    batches = ", ".join(str(b) for b in sizes)
    finish(figure, f"Filled: {first}; hollow: {second}. Markers grow with the batch ({batches}). "
                   "The line is the bandwidth attained; dotted: the MoE layer is below, as printed.")  # fmt: skip
    return figure


def capacity(title: str, frame: pd.DataFrame) -> Figure:
    """Throughput of hetero over the GPU's where memory limits its batch (Fig. 5c)."""
    figure = new_figure(title, height=2.6)
    axes = figure.subplots()
    style = DEVICES["hetero"]
    axes.bar(range(len(frame)), frame["ratio"], 0.5, color=style.color, edgecolor=BLACK, linewidth=0.4)
    for i, row in frame.reset_index(drop=True).iterrows():
        axes.annotate(
            f"batch {row['hetero_batch']:.0f} (printed {row['printed']:.0f})", (float(str(i)), row["ratio"]), (0, 3),
            textcoords="offset points", ha="center",
        )  # fmt: skip
    axes.set_xticks(range(len(frame)), frame["lengths"].tolist())
    axes.set_ylim(0, max(1.15, 1.2 * float(frame["ratio"].max())))
    axes.set_ylabel("Throughput over GPU")
    axes.set_xlabel("Mean prompt and output length")
    _line(axes)
    finish(figure)
    return figure


def load(title: str, frame: pd.DataFrame) -> Figure:
    """Token gaps and time to first token over the load (Fig. 13)."""
    figure = new_figure(title, width=WIDTH, height=3.2)
    gaps, waits = figure.subplots(1, 2)
    handles = [Line2D([], [], color=BLACK, label="median"), Line2D([], [], color=BLACK, linestyle=":", label="p90")]
    for device, mine in frame.groupby("device", sort=False):
        style = DEVICES[str(device)]
        color = {"2xGPU": SKY}.get(str(device), style.color)
        look: dict[str, Any] = {"color": color, "marker": style.marker, "markersize": 4}
        gaps.plot(mine["qps"], 1e3 * mine["tbt_p50_s"], **look)
        gaps.plot(mine["qps"], 1e3 * mine["tbt_p90_s"], linestyle=":", **look)
        waits.plot(mine["qps"], mine["t2ft_p50_s"], **look)
        for load in mine["printed"].dropna().unique():
            gaps.axvline(load, color=color, linewidth=1.0, linestyle="-.")
            waits.axvline(load, color=color, linewidth=1.0, linestyle="-.")
        handles.append(Line2D([], [], label=str(device), **look))
    gaps.set_ylabel("Time between tokens (ms)")
    gaps.set_ylim(0)
    low, high = float(frame["t2ft_p50_s"].min()), float(frame["t2ft_p50_s"].max())
    log_axis(waits, "y", 0.7 * low, 1.5 * high)
    waits.set_ylabel("Median time to first token (s)")
    for axes in (gaps, waits):
        axes.set_xlabel("Load (requests per second)")
        axes.grid(True, color=LIGHT, linewidth=0.5)
    note = "Vertical lines: the highest loads that are printed as sustained."
    figure.legend(handles=handles, loc="outside lower center", ncols=5, title=note)
    finish(figure)
    return figure


def energy(title: str, frame: pd.DataFrame) -> Figure:
    """Energy per token by layer and path, over the GPU's (Fig. 15)."""
    models = list(frame.groupby("model", sort=False))
    figure = new_figure(title, height=1.9 * len(models) + 1.0)
    panels = figure.subplots(len(models), 1, squeeze=False)[:, 0]
    for axes, (model, mine) in zip(panels, models, strict=True):
        keys = list(dict.fromkeys(map(tuple, mine[["batch", "length"]].to_numpy().tolist())))
        for side, device in ((-0.2, "GPU"), (0.2, "Duplex+PE+ET")):
            bottom = np.zeros(len(keys))
            device_rows = mine[mine["device"] == device].set_index(["batch", "length", "group", "path"])
            for part, style in ENERGY.items():
                height = np.array([100 * float(device_rows["over_gpu"][(*k, *part)]) for k in keys])
                axes.bar(
                    np.arange(len(keys)) + side, height, 0.36, bottom, color=style.color,
                    edgecolor=BLACK, linewidth=0.4, hatch=style.hatch,
                )  # fmt: skip
                bottom += height
        axes.set_xticks(range(len(keys)), [f"{b}\n{n:,}" for b, n in keys])
        axes.tick_params(axis="x", length=0)
        axes.set_title(f"{model} (left bar of each pair: GPU, right: Duplex+PE+ET)")
        axes.set_ylabel("Over GPU (%)")
        _lines(axes, mine, 100)
    panels[-1].set_xlabel(BATCH_AND_LENGTH)
    _legend(figure, list(ENERGY), dict(ENERGY), 3, "Dotted: the lowest value of the model that is printed.")
    finish(figure)
    return figure


DRAWN: dict[str, Draw] = {
    "fig04a_time": time_shares,
    "fig04b_roofline": roofs,
    "fig05a_stages": stages,
    "fig05b_hetero": HETERO.draw,
    "fig05c_hetero": capacity,
    "fig08_edap": EDAP.draw,
    "fig11_throughput": OVER_GPU.draw,
    "fig12_latency": LATENCY.draw,
    "fig13_load": load,
    "fig14_bankpim": OVER_GPU.draw,
    "fig15_energy": energy,
    "fig16_split": split,
}

"""The Duplex paper's figures 4, 5, 8 and 11 to 16 as our own plots of simulated points, with what it prints on top."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def _panels(title: str, count: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = new_figure(title, height=height)
    axes = figure.subplots(count, 1, squeeze=False)[:, 0]
    return figure, list(axes)


def over_gpu(title: str, frame: pd.DataFrame) -> Figure:
    """Throughput over the GPU by batch and length, a panel a model (Figs. 11 and 14)."""
    models = list(dict.fromkeys(frame["model"]))
    figure, panels = _panels(title, len(models), 1.9 * len(models) + 0.8)
    for axes, model in zip(panels, models, strict=True):
        mine = frame[frame["model"] == model]
        used = bars(axes, mine.drop(columns="printed"), ("batch", "length"), "device", "ratio", DEVICES)
        axes.set_title(model)
        axes.set_ylabel("Throughput over GPU")
        _line(axes)
        _lines(axes, mine)
    panels[-1].set_xlabel("Batch (above) and mean prompt and output length (below)")
    _legend(figure, used, DEVICES, note="Dotted: the largest value of Duplex+PE+ET that is printed, of any model.")
    finish(figure)
    return figure


def latency(title: str, frame: pd.DataFrame) -> Figure:
    """Latencies over the GPU's, a panel a length (Fig. 12)."""
    lengths = list(dict.fromkeys(frame["length"]))
    figure, panels = _panels(title, len(lengths), 1.8 * len(lengths) + 0.8)
    for axes, length in zip(panels, lengths, strict=True):
        mine = frame[frame["length"] == length]
        used = bars(axes, mine, ("metric",), "device", "ratio", DEVICES)
        axes.set_title(f"Lin = Lout = {length:,}")
        axes.set_ylabel("Over GPU")
        _line(axes)
    _legend(
        figure, used, DEVICES, note=f"{PRINTED} Medians: of the mean over lengths. Tail: against 2xGPU as simulated."
    )
    finish(figure)
    return figure


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


def stages(title: str, frame: pd.DataFrame) -> Figure:
    """Share of mixed stages, simulated and by the formula (Fig. 5a)."""
    figure = new_figure(title, height=2.8)
    axes = figure.subplots()
    both = frame.melt(["batch", "length"], ["mixed", "formula"], "series", "share")
    both["share"] *= 100
    styles = {"mixed": Style(ORANGE), "formula": Style("#FFFFFF", hatch="/////")}
    used = bars(axes, both, ("batch", "length"), "series", "share", styles)
    axes.set_ylabel("Mixed stages (%)")
    axes.set_xlabel("Batch (above) and mean prompt and output length (below)")
    named = {"mixed": "simulated", "formula": "1 - (1 - 1/Lout)^B"}
    _legend(figure, [named[n] for n in used], {named[n]: styles[n] for n in used})
    finish(figure)
    return figure


def hetero(title: str, frame: pd.DataFrame) -> Figure:
    """Latencies of hetero over the GPU's (Fig. 5b)."""
    figure = new_figure(title, height=3.0)
    axes = figure.subplots()
    metrics = list(dict.fromkeys(frame["metric"]))
    colors = (SKY, BLUE, GREEN, ORANGE, PURPLE)
    styles = {m: Style(c) for m, c in zip(metrics, colors, strict=True)}
    used = bars(axes, frame, ("lengths",), "metric", "ratio", styles)
    low, high = float(frame["ratio"].min()), float(frame["ratio"].max())
    log_axis(axes, "y", min(0.5, 0.8 * low), 1.3 * high)
    axes.set_ylabel("hetero over GPU")
    axes.set_xlabel("Mean prompt and output length")
    _line(axes)
    _legend(figure, used, styles, 5)
    finish(figure)
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


def edap(title: str, frame: pd.DataFrame) -> Figure:
    """Energy x delay x area over the worst design at each Op/B (Fig. 8)."""
    figure = new_figure(title, height=2.9)
    axes = figure.subplots()
    used = bars(axes, frame, ("op_per_byte",), "device", "over_worst", DEVICES)
    low = float(frame["over_worst"].min())
    log_axis(axes, "y", 0.6 * low, 1.3)
    axes.set_xlabel(OP_PER_BYTE)
    axes.set_ylabel("EDAP over the worst")
    _legend(figure, used, DEVICES, note=PRINTED)
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
    models = list(dict.fromkeys(frame["model"]))
    figure, panels = _panels(title, len(models), 1.9 * len(models) + 1.0)
    for axes, model in zip(panels, models, strict=True):
        mine = frame[frame["model"] == model]
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
    panels[-1].set_xlabel("Batch (above) and mean prompt and output length (below)")
    _legend(figure, list(ENERGY), dict(ENERGY), 3, "Dotted: the lowest value of the model that is printed.")
    finish(figure)
    return figure


def split(title: str, frame: pd.DataFrame) -> Figure:
    """Duplex-Split over Duplex: throughput and latencies (Fig. 16)."""
    figure = new_figure(title, height=3.0)
    axes = figure.subplots()
    lengths = [str(n) for n in dict.fromkeys(frame["length"])]
    colors = (SKY, BLUE, PURPLE)
    styles = {n: Style(c) for n, c in zip(lengths, colors, strict=True)}
    mine = frame.assign(length=frame["length"].astype(str))
    used = bars(axes, mine, ("metric",), "length", "split_over_duplex", styles)
    low, high = (float(f) for f in frame["split_over_duplex"].agg(["min", "max"]))
    log_axis(axes, "y", 0.7 * low, 1.4 * high)
    axes.set_ylabel("Duplex-Split over Duplex")
    _line(axes)
    named = {n: f"Lin = Lout = {int(n):,}" for n in used}
    _legend(figure, list(named.values()), {named[n]: styles[n] for n in used}, note=PRINTED)
    finish(figure)
    return figure


DRAWN: dict[str, Draw] = {
    "fig04a_time": time_shares,
    "fig04b_roofline": roofs,
    "fig05a_stages": stages,
    "fig05b_hetero": hetero,
    "fig05c_hetero": capacity,
    "fig08_edap": edap,
    "fig11_throughput": over_gpu,
    "fig12_latency": latency,
    "fig13_load": load,
    "fig14_bankpim": over_gpu,
    "fig15_energy": energy,
    "fig16_split": split,
}

"""When the tasks of a step run on each stream."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from .style import (
    BLACK,
    BLUE,
    GREEN,
    LIGHT,
    ORANGE,
    PURPLE,
    SKY,
    SMALL,
    VERMILLION,
    YELLOW,
    finish,
    house_figure,
    number,
    require,
)

COLUMNS = ("stream", "name", "chunk", "start_s", "end_s")
CHUNKS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, YELLOW, LIGHT)
HATCHES = ("", "///", "...", "xx")


def streams(tasks: pd.DataFrame, title: str, note: str = "") -> Figure:
    """Plot tasks as bars over time, one row per stream, one colour and hatch per chunk.

    Parameters
    ----------
    tasks : DataFrame
        Columns stream, name, chunk (from 0; -1 = all of the batch), start_s and end_s [s].
    note : str
        Text under the plot.
    """
    require(tasks, COLUMNS, "tasks")
    names = list(dict.fromkeys(tasks["stream"]))
    with house_figure(title, height=1.3 + 0.5 * len(names)) as figure:
        axes = figure.add_subplot()
        low = float(tasks["start_s"].min()) if len(tasks) else 0.0
        high = float(tasks["end_s"].max()) if len(tasks) else 1.0
        drawn: set[str] = set()
        columns = (tasks[column].tolist() for column in COLUMNS)
        for stream, name, chunk, start, end in zip(*columns, strict=True):
            label = "whole batch" if chunk < 0 else f"chunk {chunk + 1}"
            at = names.index(stream)
            axes.barh(
                at, 1e3 * (end - start), left=1e3 * (start - low), height=0.7,
                color=LIGHT if chunk < 0 else CHUNKS[chunk % len(CHUNKS)],
                hatch="" if chunk < 0 else HATCHES[chunk % len(HATCHES)],
                edgecolor=BLACK, linewidth=0.3, label=None if label in drawn else label,
            )  # fmt: skip
            drawn.add(label)
            if end - start > 0.011 * len(name) * (high - low):
                middle = 1e3 * ((start + end) / 2 - low)
                axes.text(
                    middle, at, name, ha="center", va="center", fontsize=SMALL - 1,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
                )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0.0, 1e3 * (high - low) or 1.0)
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        axes.set_xlabel("time (ms)")
        if drawn:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        finish(figure, note)
    return figure

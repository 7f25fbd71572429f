"""Bars side by side within groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .hover import hover
from .style import BLACK, LIGHT, Style, number


def bars(
    axes: Axes, frame: pd.DataFrame, groups: Sequence[str], by: str, value: str, styles: Mapping[str, Style]
) -> list[str]:
    """Draw bars side by side within groups; return the series in order of their styles.

    Parameters
    ----------
    groups : sequence of str
        Columns whose combinations are the groups, in order of appearance.
    by : str
        Column of the series within a group.
    value : str
        Column of the heights. A column "printed", where there is one, is drawn as diamonds on the bars.
    """
    keys = list(dict.fromkeys(map(tuple, frame[list(groups)].to_numpy().tolist())))
    series = [name for name in styles if name in set(frame[by])]
    wide = 0.8 / len(series)
    table = {(*k, s): v for *k, s, v in frame[[*groups, by, value]].to_numpy().tolist()}
    for i, name in enumerate(series):
        style = styles[name]
        at = np.arange(len(keys)) + (i - (len(series) - 1) / 2) * wide
        heights = [table[(*k, name)] for k in keys]
        drawn = axes.bar(at, heights, wide, color=style.color, edgecolor=BLACK, linewidth=0.4, hatch=style.hatch)
        texts = [
            f"{', '.join(_tick(part) for part in key)}\n{name}: {number(float(height))}"
            for key, height in zip(keys, heights, strict=True)
        ]
        hover(drawn, name, texts)
        if "printed" in frame:
            marks = frame[frame[by] == name]["printed"]
            axes.plot(at, marks, "D", color="#FFFFFF", markeredgecolor=BLACK, markersize=4, zorder=5)
    axes.set_xticks(range(len(keys)), ["\n".join(_tick(x) for x in key) for key in keys])
    axes.tick_params(axis="x", length=0)
    axes.grid(True, axis="y", color=LIGHT, linewidth=0.5)
    return series


def _tick(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}" if isinstance(value, int) else str(value)

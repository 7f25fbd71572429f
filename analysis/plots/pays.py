"""Whether something pays: a ratio against a size, and the line from which on it does."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from .published import COLORS
from .style import BLACK, LIGHT, house_figure, log_axis, require

MARKERS, LINES = "osD^v", ("-", "--", "-.", ":", "-")


def pays(table: pd.DataFrame, x: str, y: str, title: str, labels: tuple[str, str], panel: str = "") -> Figure:
    """Draw ratios by case; 1 is where nothing is gained, or for shares of a whole the diagonal.

    Parameters
    ----------
    table : DataFrame
        Columns case, `x`, `y` and, where there is one, `panel`.
    x, y : str
        Sequences, drawn on a logarithmic axis, or a share from 0 to 1; and the ratio.
    labels : pair of str
        Of both axes.
    panel : str
        Column by whose values panels stand side by side.
    """
    require(table, ("case", x, y, *([panel] if panel else [])), "pays")
    names = list(dict.fromkeys(table[panel])) if panel else [""]
    shares = float(table[x].max()) <= 1.0
    with house_figure(title, height=3.2) as figure:
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            own = table[table[panel] == name] if panel else table
            for i, case in enumerate(dict.fromkeys(own["case"])):
                line = own[own["case"] == case]
                axes.plot(line[x], line[y], color=COLORS[i % 5], marker=MARKERS[i % 5],
                          linestyle=LINES[i % 5], markersize=4, label=case)  # fmt: skip
            if shares:
                axes.plot([0, 1], [0, 1], color=BLACK, linewidth=0.7, label="worth its memory")
                axes.set(xlim=(0, 1), ylim=(0, 1))
            else:
                axes.axhline(1.0, color=BLACK, linewidth=0.7)
                log_axis(axes, "x", float(table[x].min()) / 1.2, float(table[x].max()) * 1.2)
            axes.set_title(name)
            axes.set_xlabel(labels[0])
            axes.grid(True, color=LIGHT, linewidth=0.5)
        panels[0].set_ylabel(labels[1])
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure

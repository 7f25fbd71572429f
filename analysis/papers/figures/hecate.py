"""Hecate: gains by skew, and where an iteration's time goes."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from opbyte.extend.figures import BLACK, COLORS, LIGHT, house_figure, ratios, require, stacked

MARKERS = "osD^v"
LINES = ("-", "--", "-.", ":", "-")


def draw(frames: Mapping[str, tuple[str, pd.DataFrame]]) -> dict[str, Figure]:
    """Plots by table: ratios, gains, and parts of an iteration."""
    kinds = {"given": ratios, "skew": gains, "iteration": stacked}
    return {name: kinds[name](table, title) for name, (title, table) in frames.items()}


def gains(table: pd.DataFrame, title: str) -> Figure:
    """Plot gains against the exponent, one panel per cluster, one line per model.

    Parameters
    ----------
    table : DataFrame
        Columns cluster and model, and one an exponent.
    title : str
    """
    require(table, ("cluster", "model"), "gains")
    exponents = [name for name in table.columns if name not in ("cluster", "model")]
    clusters = list(dict.fromkeys(table["cluster"]))
    at = [float(name) for name in exponents]
    with house_figure(title, height=3.0) as figure:
        panels = figure.subplots(1, len(clusters), sharey=True, squeeze=False)[0]
        for axes, cluster in zip(panels, clusters, strict=True):
            rows = table[table["cluster"] == cluster]
            for i, (model, row) in enumerate(zip(rows["model"], rows[exponents].to_numpy(), strict=True)):
                axes.plot(at, row, color=COLORS[i % 5], marker=MARKERS[i % 5], markersize=4,
                          linestyle=LINES[i % 5], label=model)  # fmt: skip
            axes.axhline(1.0, color=BLACK, linewidth=0.7)
            axes.set_title(cluster)
            axes.set_xlabel("Exponent of the power law")
            axes.grid(True, color=LIGHT, linewidth=0.5)
        panels[0].set_ylabel("Gain over expert parallelism")
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure

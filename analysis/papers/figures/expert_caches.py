"""Expert caches: hit rates by policy and slots, and what a token takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd
from matplotlib.figure import Figure

from opbyte.extend.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    house_figure,
    log_axis,
    require,
)

LINES = (
    (GREY, ":", "s"), (BLUE, "-", "o"), (SKY, "--", "v"), (BLACK, "-", "D"), (GREEN, "--", "^"),
    (VERMILLION, "-", "X"), (PURPLE, ":", "P"), (ORANGE, "-.", "*"),
)  # fmt: skip


def draw(frames: Mapping[str, tuple[str, pd.DataFrame]]) -> dict[str, Figure]:
    """Figures by table: ``hit_rates`` and ``token_times``."""
    kinds: dict[str, Callable[[pd.DataFrame, str], Figure]] = {"hit_rates": hits, "token_times": times}
    return {name: kinds[name](table, title) for name, (title, table) in frames.items()}


def hits(table: pd.DataFrame, title: str) -> Figure:
    """Plot hit rates against slots, one panel per batch.

    Parameters
    ----------
    table : DataFrame
        Columns batch and slots, and one a policy.
    """
    require(table, ("batch", "slots"), "hits")
    policies = [name for name in table.columns if name not in ("batch", "slots")]
    batches = list(dict.fromkeys(table["batch"]))
    with house_figure(title, height=3.2) as figure:
        panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
        for axes, batch in zip(panels, batches, strict=True):
            rows = table[table["batch"] == batch]
            for policy, (color, line, marker) in zip(policies, LINES, strict=False):
                axes.plot(rows["slots"], 100 * rows[policy], color=color, linestyle=line,
                          marker=marker, markersize=4, label=policy)  # fmt: skip
            axes.set_title(f"{batch:,.0f} tokens a step" if batch != 1 else "one access a step")
            axes.set_xlabel("Experts of a layer that are kept")
            axes.set_xlim(left=0)
            axes.set_ylim(0, 103)
            axes.grid(True, color=LIGHT, linewidth=0.5)
        panels[0].set_ylabel("Hit rate (%)")
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def times(table: pd.DataFrame, title: str) -> Figure:
    """Plot time per token against the batch, one line per way of storing experts.

    Parameters
    ----------
    table : DataFrame
        Column batch, and one a way [ms]; other columns follow ``distinct experts a layer``.
    """
    require(table, ("batch",), "times")
    names = list(table.columns)
    ways = names[1 : names.index("distinct experts a layer")]
    with house_figure(title, height=3.4) as figure:
        axes = figure.add_subplot()
        for way, (color, line, marker) in zip(ways, LINES, strict=False):
            axes.plot(table["batch"], table[way], color=color, linestyle=line, marker=marker, markersize=4, label=way)
        log_axis(axes, "x", float(table["batch"].min()), float(table["batch"].max()))
        low, high = table[ways].to_numpy().min(), table[ways].to_numpy().max()
        log_axis(axes, "y", float(low) / 1.3, float(high) * 1.3)
        axes.set_xlabel("Tokens of a step")
        axes.set_ylabel("Time per token (ms)")
        axes.grid(True, color=LIGHT, linewidth=0.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure

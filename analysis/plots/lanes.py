"""What each request goes through: a row a request, from its arrival to its last token."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .hover import hover
from .style import (
    BLACK,
    BLUE,
    GREEN,
    LIGHT,
    ORANGE,
    VERMILLION,
    finish,
    house_figure,
    number,
    quantity,
    require,
    say_empty,
)

COLUMNS = ("request", "what", "start_s", "end_s", "tokens")
LOOKS = {
    "queued": (LIGHT, ""), "prompt": (ORANGE, "///"), "decodes": (BLUE, ""),
    "preempted": (VERMILLION, "xx"), "passed over": ("white", ""),
}  # fmt: skip
OTHER = (GREEN, "..")
MOST_ROWS = 40
"""Maximum number of plotted requests; the first of a window."""
ROW_INCHES = 0.14


def lanes(spans: pd.DataFrame, title: str) -> Figure:
    """Plot spans as bars over time, one row per request.

    Parameters
    ----------
    spans : DataFrame
        Columns request, what ("queued", "prompt", "decodes", "preempted" or "passed over"), start_s and
        end_s [s], and tokens.
    """
    require(spans, COLUMNS, "spans")
    requests = list(dict.fromkeys(spans["request"]))
    shown_rows = requests[:MOST_ROWS]
    with house_figure(title, height=1.5 + ROW_INCHES * max(len(shown_rows), 6)) as figure:
        axes = figure.add_subplot()
        axes.set_xlabel("Time since the first arrival (s)")
        axes.set_ylabel("Request")
        axes.set_yticks(range(len(shown_rows)), [f"#{name}" for name in shown_rows])
        axes.set_ylim(max(len(shown_rows), 1) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelsize=6)
        axes.grid(True, axis="x", color=LIGHT, linewidth=0.5)
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        if not shown_rows:
            say_empty(axes, "No request in this window")
            return figure
        shown = spans[spans["request"].isin(shown_rows)]
        row_of = {name: row for row, name in enumerate(shown_rows)}
        for what in [*(w for w in LOOKS if (shown["what"] == w).any()), *sorted(set(shown["what"]) - set(LOOKS))]:
            rows = shown[shown["what"] == what]
            color, hatch = LOOKS.get(what, OTHER)
            start = rows["start_s"].to_numpy(dtype=np.float64)
            took = rows["end_s"].to_numpy(dtype=np.float64) - start
            bars = axes.barh(
                [row_of[name] for name in rows["request"]], took, 0.8, start, color=color,
                hatch=hatch, edgecolor=BLACK, linewidth=0.25, label=what, gid="span",
            )  # fmt: skip
            hover(bars, what, [
                f"request {name}: {what}{f', {tokens:,} tokens' if tokens else ''}\n"
                f"{quantity(float(seconds), 's', 1.0)}"
                for name, tokens, seconds in zip(rows["request"], rows["tokens"], took, strict=True)
            ])  # fmt: skip
        axes.set_xlim(float(shown["start_s"].min()), float(shown["end_s"].max()))
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=5, handlelength=1.3,
                    columnspacing=1.1, borderaxespad=0.3)  # fmt: skip
        left = len(requests) - len(shown_rows)
        finish(figure, f"{left:,} more requests are not plotted." if left else "")
    return figure

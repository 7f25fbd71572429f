"""What a design gives up for what it gains: all points of a sweep, and those that none beats."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...workloads.pareto import unbeaten
from .labels import Point, place
from .style import (
    BLUE,
    GREY,
    LIGHT,
    VERMILLION,
    finish,
    house_style,
    new_figure,
    number,
    require,
    say_empty,
)
from .told import told

Array = npt.NDArray[np.float64]

MAX_LABELS = 12
METRICS = {
    "output_tokens_per_s": "Output (tokens/s)",
    "total_tokens_per_s": "Tokens, prompts too (tokens/s)",
    "joules_per_token": "Energy per output token (J)",
    "usd_per_million_tokens": "Price of a million output tokens (USD)",
    "processor_area_mm2": "Area of processors near memory (mm²)",
    "device_usd_per_hour": "Price of a device (USD/h)",
    "usd_per_hour": "Price of all devices (USD/h)",
    "devices": "Devices",
    "tokens_per_s_per_device": "Output of a device (tokens/s)",
    "tokens_per_s_per_user": "Pace of a user (tokens/s)",
    "kv_peak_fraction": "Most of the KV cache in use (fraction)",
    "load_per_s": "Load (requests/s)",
    "makespan_s": "Time of the whole run (s)",
}
LATENCIES = {
    "ttft_s": "Time to first token",
    "tbt_s": "Time between tokens",
    "tpot_s": "Time per output token",
    "e2e_s": "End-to-end latency",
    "client_ttft_s": "Time to first token at the client",
    "client_e2e_s": "End-to-end latency at the client",
}


def metric_label(name: str) -> str:
    """A metric as an axis names it.

    >>> metric_label("ttft_s_p99"), metric_label("tsv_multiple")
    ('Time to first token, p99 (s)', 'tsv multiple')
    """
    stem, _, quantile = name.rpartition("_")
    if stem in LATENCIES:
        return f"{LATENCIES[stem]}, {quantile} (s)"
    return METRICS.get(name, name.replace("_", " "))


def trade_off(
    table: pd.DataFrame, objectives: Mapping[str, str], columns: Sequence[str], title: str
) -> Figure:
    """Draw rows over two objectives; a line joins those that no other beats in both.

    Parameters
    ----------
    table : DataFrame
        One row a design; the objectives' columns are numbers, rows without them are left out.
    objectives : mapping of str to str
        Column -> "max" or "min"; the first goes along x, the second along y.
    columns : sequence of str
        What labels of the best rows say.
    title : str

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        A column is missing, or fewer than two objectives.
    """
    require(table, (*objectives, *columns), "table")
    if len(objectives) < 2:
        raise ValueError("a trade-off needs two objectives")
    first, second = list(objectives)[:2]
    rows = table[np.isfinite(table[[first, second]].astype(float)).all(axis=1)]
    at: Array = rows[[first, second]].to_numpy(dtype=np.float64)
    sign = np.array([-1.0 if objectives[name] == "max" else 1.0 for name in (first, second)])
    best = sorted(unbeaten(at * sign, once=True), key=lambda i: at[i, 0])
    varying = _telling(pd.DataFrame(rows), columns)
    with house_style():
        figure = new_figure(title)
        axes = figure.add_subplot()
        axes.set_xlabel(f"{metric_label(first)}, {_better(objectives[first])}")
        axes.set_ylabel(f"{metric_label(second)}, {_better(objectives[second])}")
        axes.grid(True, color=LIGHT, linewidth=0.5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: number(value))
        line = at[best]
        (every,) = axes.plot(
            *at.T, "o", color=GREY, alpha=0.45, markersize=3.5, markeredgewidth=0, gid="row"
        )
        designs = [
            _design(row, columns, (first, second)) for row in pd.DataFrame(rows).to_dict("records")
        ]
        told(every, "feasible points", designs)
        (front,) = axes.plot(
            *line.T, "-D", color=VERMILLION, markersize=5, markeredgecolor="black",
            markeredgewidth=0.4, linewidth=1.0, gid="best",
        )  # fmt: skip
        told(front, "none beats these in both", [designs[i] for i in best])
        _limits(axes, at)
        note = f"{len(at):,} feasible points; diamonds: the {len(best):,} that none beats in both."
        if varying and len(best):
            note += f" Labels: {', '.join(name.replace('_', ' ') for name in varying)}."
        if len(objectives) > 2:
            note += f" Not drawn: {', '.join(map(metric_label, list(objectives)[2:]))}."
        finish(figure, note)
        if not len(at):
            say_empty(axes, "No feasible point")
        texts = [", ".join(_cell(rows.iloc[i][name]) for name in varying) for i in best]
        shown = np.unique(np.linspace(0, len(best) - 1, min(len(best), MAX_LABELS)).astype(int))
        dots = [
            Point(float(line[i, 0]), float(line[i, 1]), 2.5, texts[i], BLUE)
            for i in shown
            if texts[i]
        ]
        markers = [Point(float(x), float(y), 2.5, "") for x, y in line]
        place(axes, dots, markers, (), [line] if len(line) > 1 else ())
    return figure


def _design(row: Mapping[Hashable, Any], columns: Sequence[str], shown: Sequence[str]) -> str:
    """What a row's point says: its settings, then what it reaches."""
    told = [f"{name.replace('_', ' ')}: {_cell(row[name])}" for name in columns]
    return "\n".join([*told, *(f"{metric_label(n)}: {number(float(row[n]))}" for n in shown)])


def _better(goal: str) -> str:
    return "more is better" if goal == "max" else "less is better"


def _limits(axes: Axes, at: Array) -> None:
    """Room around the points, for labels."""
    if not len(at):
        return
    for values, set_limits in ((at[:, 0], axes.set_xlim), (at[:, 1], axes.set_ylim)):
        low, high = float(values.min()), float(values.max())
        room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        set_limits(low - room, high + room)


def _cell(value: object) -> str:
    if not isinstance(value, (int, float, np.number)):
        return str(value)
    real = float(value)
    if real.is_integer() and abs(real) < 1e9:  # a setting, not a measurement: 1,024
        return f"{real:,.0f}"
    return number(real)


def _telling(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Columns that vary and do not follow from those before them."""
    kept: list[str] = []
    for name in columns:
        if rows[name].nunique() < 2:
            continue
        groups = rows.groupby(kept, sort=False)[name] if kept else None
        follows = groups is not None and groups.ngroups < len(rows) and (groups.nunique() < 2).all()
        if not follows:
            kept.append(name)
    return kept

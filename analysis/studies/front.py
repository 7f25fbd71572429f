"""The Pareto front: what no other choice beats in every objective, and its plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from ...workloads.pareto import unbeaten
from ..show.result import Drawing
from ..show.text import Records, Rows

SIGN = {"max": -1.0, "min": 1.0}


def front(rows: Sequence[Mapping[str, object]], objectives: Mapping[str, str], within: Sequence[str] = ()) -> Records:
    """Rows that no other row beats: at least as good in all objectives and better in one.

    Rows with an undefined objective are skipped; all equal rows are kept. Rows are in order of the first objective,
    best first. Only rows with equal columns `within` are compared.

    Examples
    --------
    >>> rows = [{"t": 1, "e": 1}, {"t": 2, "e": 2}, {"t": 2, "e": 3}]
    >>> [tuple(row.values()) for row in front(rows, {"t": "max", "e": "min"})]
    [(2, 2), (1, 1)]
    """
    known = [row for row in rows if all(_number(row[name]) for name in objectives)]
    if not known or not objectives:
        return []
    signs = np.array([SIGN[goal] for goal in objectives.values()])
    costs = np.array([[float(cast(float, row[name])) for name in objectives] for row in known]) * signs
    parts: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(known):
        parts.setdefault(tuple(row[name] for name in within), []).append(i)
    return [dict(known[part[i]]) for part in parts.values() for i in unbeaten(costs[part])]


def among(within: Sequence[str]) -> str:
    """Return the group of rows that a front compares.

    >>> among(("model", "input_len"))
    ' of its model and input len'
    """
    return f" of its {' and '.join(name.replace('_', ' ') for name in within)}" if within else ""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and bool(np.isfinite(value))


def trade_off_of(
    title: str, rows: Rows, objectives: Mapping[str, str], columns: Sequence[str], workloads: Sequence[str]
) -> list[Drawing]:
    """Return a plot of the feasible rows over the first two objectives, with one panel per workload.

    The list is empty if there are fewer than two objectives, or no rows.
    """
    import pandas as pd

    from ..plots import trade_off

    if len(objectives) < 2 or not rows:
        return []
    figure = trade_off(pd.DataFrame(list(rows)), objectives, columns, title, facets=workloads)
    caption = "Every feasible point over the first two objectives; the line joins the best."
    return [Drawing(figure, caption)]

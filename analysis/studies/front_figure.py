"""Plot of a sweep's points and their front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..show.result import Drawing


def trade_off_of(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    objectives: Mapping[str, str],
    columns: Sequence[str],
    workloads: Sequence[str],
) -> list[Drawing]:
    """Feasible rows over the first two objectives, a panel a workload; nothing without two or rows."""
    import pandas as pd

    from ..plots import trade_off

    if len(objectives) < 2 or not rows:
        return []
    figure = trade_off(pd.DataFrame(list(rows)), objectives, columns, title, facets=workloads)
    caption = "Every feasible point over the first two objectives; the line joins the best."
    return [Drawing(figure, caption)]

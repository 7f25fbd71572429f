"""How many drafts pay at which load: what a sweep over both says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..show.text import Records, Rows

CHOICE, PLAIN = "speculative", "no drafts"
LOADS = ("rate", "closed_loop", "rate_scale")
FIGURES = ("tpot_s_mean", "e2e_s_mean")


@dataclass(frozen=True, slots=True)
class DraftsByLoad:
    """Choices of a sweep against its load.

    Attributes
    ----------
    load : str
        Column of the load.
    figures : tuple of str
        Latencies that are compared; the first tells the best.
    curves : DataFrame
        Columns run (the choice), the load and the metrics.
    best : list of dict
        One row per load: its best choice, and its metrics over the run without drafts.
    """

    load: str
    figures: tuple[str, ...]
    curves: pd.DataFrame
    best: Records


def drafts_by_load(columns: Sequence[str], rows: Rows) -> DraftsByLoad | None:
    """Compare drafts at every load of a sweep; None where it does not vary both, and nothing else.

    Parameters
    ----------
    columns : sequence of str
        What the sweep varies; `acceptance` goes along with the drafts.
    rows : sequence of mapping
        Points that worked.
    """
    load = next((name for name in LOADS if name in columns), None)
    others = set(columns) - {CHOICE, "acceptance", load}
    rows = [row for row in rows if all(row[name] is not None for name in (load, *FIGURES) if name)]
    if load is None or CHOICE not in columns or others or not rows:
        return None
    curves = pd.DataFrame(
        [{"run": _named(row[CHOICE]), load: row[load], **{f: row[f] for f in FIGURES}} for row in rows]
    )
    best = []
    result = curves.to_dict("records")
    for value in sorted({row[load] for row in result}):
        group = [row for row in result if row[load] == value]
        first = min(group, key=lambda row: float(row[FIGURES[0]]))
        plain = next((row for row in group if row["run"] == PLAIN), None)
        best_row: dict[str, Any] = {load: value, "best": first["run"]}
        for name in FIGURES:
            best_row[name] = first[name]
            if plain is not None:
                best_row[f"{name} over {PLAIN}"] = first[name] / plain[name]
        best.append(best_row)
    return DraftsByLoad(load, FIGURES, curves, best)


def _named(choice: object) -> str:
    """A choice as a curve is called."""
    text = "" if choice is None else str(choice)
    return PLAIN if not text or text.endswith(":0") else text

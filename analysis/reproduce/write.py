"""Files of ``opbyte reproduce --out``: rows, tables, plots and their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..show.output import OutputFolder
from ..show.text import show
from .base import Reproduction, figures_of

NUMBERS = "%.9g"


def write_reproduction(result: Reproduction, files: OutputFolder) -> None:
    """Write rows.json, table.md, one CSV per table, and one CSV and PNG per plot."""
    for table in (*result.tables, *result.figures):
        names = list(table.rows[0]) if table.rows else []
        columns = {name: np.array([row[name] for row in table.rows]) for name in names}
        files.csv(f"{table.name}.csv", columns, floats=NUMBERS)
    files.text("table.md", markdown(result))
    for name, figure in figures_of(result).items():
        files.figure(f"{name}.png", figure)
    files.answer("rows.json", result)


def markdown(result: Reproduction) -> str:
    """All rows as one table, the other tables and the assumptions under it."""
    parts = [f"# {result.experiment}", ""]
    rows = [{**row, "note": r.note} for row, r in zip(result.rows(), result.table, strict=True)]
    parts += _table(rows)
    for table in result.tables:
        parts += ["", f"## {table.title}", "", *_table(table.rows)]
        if table.note:
            parts += ["", table.note]
    if result.assumptions:
        parts += ["", "## Assumptions", "", *(f"- {text}" for text in result.assumptions)]
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table; a bar within a cell would end it."""
    if not rows:
        return ["no rows"]
    lines = [[show(v).replace("|", "/") for v in row.values()] for row in rows]
    head = list(rows[0])
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines)]

"""`opbyte pareto`: the points of a sweep that no other point beats in every objective."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...workloads.csvfile import read_whole
from ...workloads.errors import InputError, nearest
from ..answers.bases import Bases, not_like_for_like
from ..show.result import Drawing, Result
from ..show.text import Blocks, Records, Rows
from .front import among, front, trade_off_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Pareto(Result):
    """The best points of a sweep; see `pareto`.

    Attributes
    ----------
    objectives : dict of str to str
        Metric or column -> "max" or "min".
    columns : tuple of str
        The axes' columns.
    workloads : tuple of str
        Workload columns; only points with equal values are compared.
    table : list of dict
        Every feasible row of the sweep.
    best : list of dict
        Those that none beats, by the first objective.
    """

    PICTURES = ("pareto.png",)
    TABLES = (("pareto.csv", "records", "%.17g"),)

    title: str
    objectives: dict[str, str]
    columns: tuple[str, ...]
    workloads: tuple[str, ...]
    table: Records
    best: Records

    def records(self) -> Rows:
        return self.best

    def rows(self) -> Rows:
        wanted = dict.fromkeys((*self.columns, *self.objectives))
        return [{name: row[name] for name in wanted} for row in self.best]

    def blocks(self) -> Blocks:
        goals = ", ".join(f"{goal} {name}" for name, goal in self.objectives.items())
        count = f"{len(self.best):,} of {len(self.table):,} feasible points"
        mixed = not_like_for_like(
            (str(row.get("system", "points")), Bases(row["basis"] or "", row["energy_basis"] or ""))
            for row in self.table
        )
        return [f"{self.title}: {count} are beaten by none{among(self.workloads)} ({goals})", self.rows(), *mixed]

    def drawings(self) -> Sequence[Drawing]:
        """Where the best points lie among the others."""
        return trade_off_of(self.title, self.table, self.objectives, self.columns, self.workloads)


def pareto(folder: str | Path, objectives: Mapping[str, str] | None = None) -> Pareto:
    """Find the best points of a finished sweep.

    Parameters
    ----------
    folder : str or Path
        Result folder of `sweep`.
    objectives : mapping of str to str, optional
        Metric or column -> "max" or "min"; the study's by default.

    Raises
    ------
    InputError
        No finished sweep there, an unknown objective, or one that no feasible point has.
    """
    import pandas as pd

    from .sweep.file import read_objectives
    from .sweep.run import SUMMARY, TABLE

    summary, table = _read(Path(folder))
    numeric = [str(name) for name in table.columns if table[name].dtype.kind in "if"]
    wanted = dict(objectives) if objectives is not None else summary["objectives"]
    if not wanted:
        reason = "the study names none; give some, such as output_tokens_per_s:max"
        raise InputError("--objectives", reason)
    read_objectives(wanted, "--objectives", {str(name) for name in table.columns})
    for name in wanted:
        if name not in numeric:
            raise InputError(f"--objectives {name}", f"is not a number{nearest(name, numeric)}")
    rows = [
        {str(k): None if pd.isna(v) else v for k, v in row.items()}
        for row in table[table["feasible"]].to_dict("records")
    ]
    if not rows:
        raise InputError(Path(folder) / SUMMARY, "no point is feasible; see the column error")
    workloads = tuple(summary["workloads"])
    best = front(rows, wanted, workloads)
    if not best:
        named = ", ".join(wanted)
        reason = f"no feasible point has a value of all of {named}; see {TABLE}"
        raise InputError("--objectives", reason)
    return Pareto(summary["title"], wanted, tuple(summary["columns"]), workloads, rows, best)


def _read(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    import pandas as pd

    from .sweep.point import BASES
    from .sweep.run import SUMMARY, TABLE

    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        table = pd.read_csv(folder / TABLE)
        complete = {"title", "objectives", "columns"} <= set(summary)
        named = [*summary["columns"], *summary.setdefault("workloads", [])] if complete else []
        complete = complete and all(isinstance(name, str) for name in named)
    except (OSError, ValueError, TypeError, AttributeError):  # no object, or no lists in it
        complete, named = False, []
    # A table that was cut off or edited: each point has a number and says whether it counts.
    if not complete or not {*named, *BASES, "feasible", "point"} <= set(table) or table["feasible"].dtype != bool:
        reason = "holds no finished sweep; run opbyte sweep again with --out and this folder"
        raise InputError(folder, reason)
    read_whole(folder / TABLE, named)  # a row that was cut off is told with its line
    for name in ("point", *summary["columns"]):
        if (empty := table[name].isna()).any():
            line = int(empty.to_numpy().argmax()) + 2
            raise InputError(f"{folder / TABLE}:{line}", f"{name} is empty")
    return summary, table

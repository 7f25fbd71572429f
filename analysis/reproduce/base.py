"""Base of experiments: rows of published and simulated values, judged by a tolerance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from ...workloads.errors import InputError
from ...workloads.registry import Registry
from ..parallel import OnProgress
from ..show.kept import NOTHING, Kept
from ..show.output import OutputFolder
from ..show.result import Drawing, Result
from ..show.text import Blocks, Records, Rows, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    """Return all rows as one Markdown table, followed by the other tables and the assumptions."""
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


def _table(rows: Rows) -> list[str]:
    """Return the lines of a Markdown table; vertical bars in cells are replaced, because they would end the cell."""
    if not rows:
        return ["no rows"]
    lines = [[show(v).replace("|", "/") for v in row.values()] for row in rows]
    head = list(rows[0])
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines)]


PASS, FAIL, PREDICTION = "pass", "fail", "prediction"


@dataclass(frozen=True, slots=True)
class Row:
    """One number of a paper with its simulated value and its status.

    Attributes
    ----------
    id, quantity, unit : str
        Short name, what it is, and its unit ("1" for a ratio).
    published : float or None
        None where no value is given; the row is then a prediction.
    tolerance : str
        Largest accepted difference: "5 %" (of the published value), "0.04" (absolute), "below" or "holds" (a statement
        that must be true); empty if nothing is judged.
    status : str
        "pass", "fail" or "prediction".
    note : str
        Definition or reason.
    """

    id: str
    quantity: str
    unit: str
    published: float | None
    simulated: float | None
    tolerance: str
    status: str
    note: str = ""


def judged(
    id: str, quantity: str, unit: str, published: float | None, simulated: float | None,
    tolerance: str = "", note: str = "",
) -> Row:  # fmt: skip
    """Return a row with its status, which follows from the tolerance.

    Examples
    --------
    >>> judged("T3", "speed-up", "1", 2.67, 2.75, "5 %").status
    'pass'
    >>> judged("T6", "speed-up", "1", 1.04, 1.09, "0.04").status
    'fail'
    """
    row = Row(id, quantity, unit, published, simulated, tolerance, PREDICTION, note)
    if published is None or not tolerance:
        return row
    if simulated is None:
        return replace(row, status=FAIL)
    if tolerance == "below":
        good = simulated < published
    elif tolerance.endswith("%"):
        good = abs(simulated - published) <= abs(published) * float(tolerance[:-1]) / 100
    else:
        good = abs(simulated - published) <= float(tolerance)
    return replace(row, status=PASS if good else FAIL)


@dataclass(frozen=True, slots=True)
class Table:
    """A table in addition to the rows: another result, or the data of a plot.

    Attributes
    ----------
    name : str
        File name without ending.
    rows : sequence of mapping
        Column -> value; every row has the same columns.
    note : str
        Definition or reason.
    """

    name: str
    title: str
    rows: Rows
    note: str = ""


@dataclass(frozen=True, slots=True)
class Reproduction(Result):
    """All rows of one experiment; see `reproduce`.

    Attributes
    ----------
    runs : int
        Simulations behind it.
    tables : tuple of Table
        Shown below the rows.
    assumptions : tuple of str
        Assumptions of all rows in addition to the paper's own constants.
    figures : tuple of Table
        Data of the experiment's plots, if requested.
    plots : str
        Name of the module whose ``draw`` makes plots of them.
    """

    experiment: str
    table: tuple[Row, ...]
    runs: int
    wall_s: float
    tables: tuple[Table, ...] = ()
    assumptions: tuple[str, ...] = ()
    figures: tuple[Table, ...] = ()
    plots: str = ""

    @property
    def failed(self) -> int:
        return sum(row.status == FAIL for row in self.table)

    @property
    def passed(self) -> bool:
        return not self.failed

    def write(self, folder: OutputFolder) -> None:
        """Write rows, tables, plots and their data."""
        write_reproduction(self, folder)

    def to_dict(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "rows": [asdict(row) for row in self.table],
            "tables": {table.name: [dict(row) for row in table.rows] for table in self.tables},
            "assumptions": list(self.assumptions),
            "runs": self.runs,
        }

    def timing(self) -> dict[str, Any]:
        return {"wall_s": self.wall_s}

    def headline(self) -> str:
        """Return the numbers of rows that pass, that fail, and that have no published value."""
        count = {word: sum(row.status == word for row in self.table) for word in (PASS, FAIL, PREDICTION)}
        return f"{len(self.table)} rows: " + ", ".join(f"{n} {word}" for word, n in count.items())

    def records(self) -> Rows:
        rows: Records = self.to_dict()["rows"]
        return rows

    def blocks(self) -> Blocks:
        out: Blocks = [f"{self.experiment}: {self.runs} runs", self.rows()]
        for table in self.tables:
            note = f" ({table.note})" if table.note else ""
            out += [f"{table.title}{note}:", table.rows]
        if self.failed:
            out.append("Rows that fail:")
            out += [f"{row.id}: {row.note}" for row in self.table if row.status == FAIL]
        if self.assumptions:
            out.append("All rows are based on:")
            out += list(self.assumptions)
        return out

    def drawings(self) -> Sequence[Drawing]:
        """Return the experiment's plots; none if they were not requested."""
        titles = {table.name: table.title for table in self.figures}
        return [Drawing(f, titles.get(name, name)) for name, f in figures_of(self).items()]

    def rows(self) -> Rows:
        return [
            {
                "id": row.id,
                "quantity": row.quantity,
                "published": show(row.published),
                "simulated": show(row.simulated),
                "tolerance": row.tolerance,
                "status": row.status,
            }
            for row in self.table
        ]


def figures_of(result: Reproduction) -> dict[str, Figure]:
    """Return the plots by the name of their table; none if they were not requested."""
    if not result.plots or not result.figures:
        return {}
    import pandas as pd

    frames = {t.name: (t.title, pd.DataFrame(list(t.rows))) for t in result.figures}
    drawn: dict[str, Figure] = import_module(result.plots).draw(frames)
    return drawn


Experiment = Callable[..., Reproduction]
"""Function that takes seeds, routing and `OnProgress`; optionally ``device``, ``figures`` or ``kept``."""


def _takes(run: Experiment) -> None:
    """Refuse a function that cannot be called as `reproduce` calls experiments."""
    signature(run).bind((0,), "uniform", None)


EXPERIMENTS: Registry[Experiment] = Registry("experiment", described=True, check=_takes, group="opbyte.papers")
"""Experiments by name, registered by the packages of the entry-point group ``opbyte.papers``."""


def reproduce(
    experiment: str, *, seeds: Sequence[int] = (0, 1, 2, 3, 4), routing: str = "uniform",
    progress: OnProgress | None = None, device: str | None = None, figures: bool = False,
    kept: Kept = NOTHING,
) -> Reproduction:  # fmt: skip
    """Run a paper's experiment and compare with what it printed.

    Parameters
    ----------
    experiment : str
        A name in `EXPERIMENTS`.
    seeds : sequence of int
        Every point is the mean over these.
    routing : str
        Expert popularity, to see what skew changes.
    progress : callable, optional
        Called with (points done, points in all) as they finish.
    device : str, optional
        A user's device, catalog name or file, to compare with the paper's.
    figures : bool
        Also run the additional points of the plots.
    kept : Kept
        Simulations that an earlier call finished; this call adds its own.

    Raises
    ------
    InputError
        Unknown experiment, routing or device, or an experiment that takes no device.
    """
    run = EXPERIMENTS[experiment]
    takes = signature(run).parameters
    extra: dict[str, Any] = {"figures": True} if figures and "figures" in takes else {}
    if "kept" in takes:
        extra["kept"] = kept
    if device is not None:
        if "device" not in takes:
            raise InputError("--device", f"{experiment} has no comparison with another device; remove it")
        extra["device"] = device
    return run(seeds, routing, progress, **extra)


def list_experiments() -> Records:
    """Return the names of the experiments with one line on each."""
    return [{"name": name, "title": EXPERIMENTS.title(name)} for name in EXPERIMENTS]

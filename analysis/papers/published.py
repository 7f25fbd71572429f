"""Cases of published systems, and the runner of papers that consist of cases.

Cases are in ``values/NAME.yaml`` (quantity, unit, published value, tolerance, note), separate from all simulation code:
predictions are computed first, and only `rows_of` reads the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from opbyte.extend import EXPERIMENTS, Reproduction, Row, Table, judged
from opbyte.extend.answers import OnProgress
from opbyte.extend.models import read_yaml

from . import PAPERS

VALUES = Path(__file__).parent / "values"


@dataclass(frozen=True, slots=True)
class Prediction:
    """A simulated value of a case, made without its published value; the note gives details of the run."""

    id: str
    value: float
    note: str = ""


@cache
def published(experiment: str) -> Mapping[str, Any]:
    """Return the published values of an experiment: ``rows`` by id, and ``parts`` for its tables."""
    given = read_yaml(VALUES / f"{experiment}.yaml")
    return {**given, "rows": {id: case["published"] for id, case in given["rows"].items() if "published" in case}}


def rows_of(experiment: str, predictions: Iterable[Prediction | Row]) -> tuple[Row, ...]:
    """Return predictions with their cases: quantity, unit, published value and tolerance.

    Rows that are made already stay as they are.
    """
    cases: Mapping[str, Mapping[str, Any]] = read_yaml(VALUES / f"{experiment}.yaml")["rows"]

    def row(p: Prediction) -> Row:
        case = cases[p.id]
        printed, tolerance = case.get("published"), case.get("tolerance", "")
        return judged(p.id, case["quantity"], case["unit"], printed, p.value, tolerance, p.note or case.get("note", ""))

    return tuple(p if isinstance(p, Row) else row(p) for p in predictions)


def assumed(experiment: str, facts: Mapping[str, object]) -> tuple[str, ...]:
    """Return the assumptions of an experiment in addition to the paper's own constants; `facts` replace their names."""
    return tuple(text.format(**facts) for text in read_yaml(VALUES / f"{experiment}.yaml").get("assumptions", ()))


def paper(
    name: str, title: str, predictions: Callable[..., Iterable[Prediction | Row]], *, seeded: bool = False,
    tables: Sequence[Callable[..., Table]] = (), drawn: Mapping[str, Callable[..., Table]] | None = None,
    runs: Callable[[int], int] | int | None = None, assumptions: Callable[[], Sequence[str]] | None = None,
) -> None:  # fmt: skip
    """Register a paper whose cases are in ``values/NAME.yaml``.

    Parameters
    ----------
    name, title : str
        Of the experiment, and a line on it.
    predictions : callable
        Simulates the cases.
    seeded : bool
        Whether `predictions`, `tables` and `drawn` take the seeds and the routing.
    tables : callables
        In addition to the rows.
    drawn : mapping of str to callable
        Data of the plots by name (see `figures.papers`), besides the rows over the published values.
    runs : callable or int, optional
        Simulations behind it, by the number of seeds; one a row without it.
    assumptions : callable, optional
        Those of the file without it; names in braces there are constants of the module.
    """

    def run(seeds: Sequence[int], routing: str, progress: OnProgress | None, figures: bool = False) -> Reproduction:
        began, asked = time.perf_counter(), (tuple(seeds), routing) if seeded else ()
        rows = rows_of(name, list(predictions(*asked)))
        made = tuple(table(*asked) for table in tables)
        count = runs(len(seeds)) if callable(runs) else len(rows) if runs is None else runs
        known = (
            assumed(name, vars(import_module(predictions.__module__))) if assumptions is None else tuple(assumptions())
        )
        result = Reproduction(name, rows, count, time.perf_counter() - began, made, known)
        if not figures:
            return result
        plots = tuple(replace(make(*asked), name=plot) for plot, make in (drawn or {}).items())
        return replace(result, figures=(*ratio_table(rows, name), *plots), plots=f"{PAPERS}.figures.papers")

    run.__doc__ = title
    EXPERIMENTS.register(name)(run)


def ratio_table(rows: Sequence[Row], experiment: str) -> tuple[Table, ...]:
    """Return the data of the plot of predictions over published values; nothing if none is judged."""
    ratios = [
        {
            "id": row.id.removeprefix(f"{experiment}."),
            "ratio": row.simulated / row.published,
            "tolerance": _allowed(row),
        }
        for row in rows
        if row.published and row.simulated is not None and row.tolerance != "below"
    ]
    title = f"{experiment}: simulated against published values"
    judged_some = any(row["tolerance"] == row["tolerance"] for row in ratios)  # not NaN
    return (Table("given", title, ratios),) if judged_some else ()


def _allowed(row: Row) -> float:
    """Return a row's tolerance as a fraction of the published value; NaN if it has none."""
    if row.tolerance.endswith("%"):
        return float(row.tolerance[:-1]) / 100
    if not row.tolerance or not row.published:
        return float("nan")
    return float(row.tolerance) / abs(row.published)

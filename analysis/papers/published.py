"""Published values of the systems that are predicted, and rows that set them beside simulated ones.

Values stand in ``values/NAME.yaml``, apart from all code that simulates: experiments work their
predictions out first, and only `rows_of` reads the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opbyte.extend import Reproduction, Row, Table, judged
from opbyte.extend.models import read_yaml

VALUES = Path(__file__).parent / "values"


@dataclass(frozen=True, slots=True)
class Prediction:
    """A simulated value before anything published is looked at.

    Attributes
    ----------
    id, quantity, unit : str
    value : float
    tolerance : str
        As in `Row`; empty where the value is only reported.
    note : str
    """

    id: str
    quantity: str
    unit: str
    value: float
    tolerance: str = ""
    note: str = ""


def published(experiment: str) -> Mapping[str, Any]:
    """What is published of an experiment's system: ``rows`` by id, and ``parts`` for its tables."""
    return read_yaml(VALUES / f"{experiment}.yaml")


def rows_of(experiment: str, predictions: Sequence[Prediction]) -> tuple[Row, ...]:
    """Predictions beside what is published of them."""
    given: Mapping[str, float] = published(experiment)["rows"]
    return tuple(judged(p.id, p.quantity, p.unit, given.get(p.id), p.value, p.tolerance, p.note) for p in predictions)


def ratio_table(rows: Sequence[Row], experiment: str) -> tuple[Table, ...]:
    """What the figure of predictions over published values draws; nothing where none is judged."""
    found = [
        {
            "id": row.id.removeprefix(f"{experiment}."),
            "ratio": row.simulated / row.published,
            "tolerance": _allowed(row),
        }
        for row in rows
        if row.published and row.simulated is not None and row.tolerance != "below"
    ]
    title = f"{experiment}: simulated against published values"
    judged_some = any(row["tolerance"] == row["tolerance"] for row in found)  # not NaN
    return (Table("given", title, found),) if judged_some else ()


def _allowed(row: Row) -> float:
    """Allowed distance as a fraction of the published value; not a number where none is judged so."""
    if row.tolerance.endswith("%"):
        return float(row.tolerance[:-1]) / 100
    if not row.tolerance or not row.published:
        return float("nan")
    return float(row.tolerance) / abs(row.published)


def with_figures(result: Reproduction, parts: Table | None = None) -> Reproduction:
    """The reproduction with what its figures draw: rows over published ones, and parts of a step."""
    more = () if parts is None else (parts,)
    drawn = (*ratio_table(result.table, result.experiment), *more)
    return replace(result, figures=drawn, plots="published")

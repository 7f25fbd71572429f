"""Operator graphs of MoE systems that print nothing timed: every row is a prediction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from opbyte.extend import EXPERIMENTS, Reproduction, Row, Table
from opbyte.extend.answers import OnProgress
from opbyte.extend.models import Registry

from . import PAPERS
from .published import Prediction, rows_of


@dataclass(frozen=True, slots=True)
class Graph:
    """Results of one system's operator graph.

    Attributes
    ----------
    rows : tuple of Prediction
        Their ids start with the system's name: ``mom.state_MiB``.
    tables : tuple of Table
        Shown below all rows.
    assumptions : tuple of str
        Assumptions of the rows, in addition to the paper's own constants.
    runs : int
        Simulated steps behind it.
    """

    rows: tuple[Prediction, ...]
    tables: tuple[Table, ...] = ()
    assumptions: tuple[str, ...] = ()
    runs: int = 0


COSTS = "roofline"
"""Cost model of timed rows. Ratios use rooflines on both sides, because no kernels were measured."""
GRAPHS: Registry[Callable[[], Graph]] = Registry("operator graph", described=True, home=__package__)
"""Function of each system that returns its rows; any module of this package may add one."""


NAME = "moe-graphs"


@EXPERIMENTS.register(NAME)
def moe_graphs(seeds: Sequence[int], routing: str, progress: OnProgress | None, figures: bool = False) -> Reproduction:
    """Predict the rows of all operator graphs: mixtures of states, projections, slices, ranks, shards and encoders."""
    began = time.perf_counter()
    results = graphs()
    rows = rows_of(NAME, _rows(results))
    return Reproduction(
        NAME, rows, sum(g.runs for g in results.values()),
        time.perf_counter() - began,
        tables=tuple(table for graph in results.values() for table in graph.tables),
        assumptions=tuple(
            f"{name}: {text}" for name, graph in results.items() for text in graph.assumptions
        ),
        figures=(_drawn(rows),) if figures else (), plots=f"{PAPERS}.figures.papers",
    )  # fmt: skip


def graphs() -> dict[str, Graph]:
    """Return the results of every system, by name."""
    return {name: GRAPHS[name]() for name in GRAPHS}


def predictions() -> Iterator[Prediction]:
    """Return all rows, only from models, layouts and devices."""
    return _rows(graphs())


def _rows(by_name: dict[str, Graph]) -> Iterator[Prediction]:
    for graph in by_name.values():
        for row in graph.rows:
            yield replace(row, id=f"{NAME}.{row.id}")


def _drawn(judged: Sequence[Row]) -> Table:
    """Return the rows that are ratios for the plot."""
    rows = [{"case": row.id.removeprefix(f"{NAME}."), "ratio": row.simulated} for row in judged if row.unit == "1"]
    return Table("ratios", "Operator graphs: predicted ratios", rows)

"""The systems of `moe-graphs`: a module per system, which registers what it predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opbyte.extend import Table
from opbyte.extend.models import Registry

from .published import Prediction


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
"""Cost model of timed rows: both sides of a ratio from one kind, as no kernels of these were measured."""
GRAPHS: Registry[Callable[[], Graph]] = Registry("operator graph", described=True, home=__package__)
"""Name of a system -> its rows; any module of this package may add to it."""

"""Cost rows: the cost of an op on a processor in a form that compiled code evaluates for any batch.

Every cost model gives an op's cost in two forms: readable, as a `Cost`, and as a `PriceRow` of the same cost for any
batch. The simulator gathers the rows of all ops on all processors, for any cost model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..workloads.batch import BASE_MOMENTS
from ..workloads.ops import Op
from ..workloads.records import Records, reals

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

ROOFLINE = reals("flops", "bytes", "fixed", "j_stream", "j_act", "j_flop", "peak", "bandwidth", "sum_bytes")
"""Terms of a roofline: effective FLOP/s and B/s, fixed seconds, joules per streamed byte (weights,
KV), per activation byte and per FLOP, the nominal FLOP/s and B/s (for Op/B rules), and bytes of
partial sums per routed token (of expert ops; the placement knows them, not the cost model)."""

MOST_COUNTS = 1 << 17
"""Maximum number of counts in a curve; beyond it the line of the curve's upper half is continued."""

NO_TABLES, NOT_THERE, IN_GRID, NO_LIMIT = -3, -2, -1, 1 << 62
"""Special values of `PriceRow.most`: no kernel tables are in use; the tables lack the op's shape; the op's grid defines
it; measured for any count."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The change of an op with each sum over the batch.

    Attributes
    ----------
    raised : tuple of Op
        The op at unit sums with one of them raised by 1, for every moment of a batch; empty for experts, which depend
        only on their loads.
    counts : int
        Largest count of tokens in a step.
    """

    raised: tuple[Op, ...]
    counts: int


ALONE = Probe((), 1)
"""A probe for the parts of a row that do not depend on the batch."""


class Grid(NamedTuple):
    """Seconds at the grid points of up to four axes.

    Attributes
    ----------
    axes : float64 array, shape (4, n)
        Increasing, padded with its last value.
    sizes : int64 array, shape (4,)
        Values on each axis; 1 for an absent one.
    seconds : float64 array
        Flattened, last axis fastest.
    """

    axes: F8
    sizes: I8
    seconds: F8


EMPTY = Grid(np.zeros((4, 1)), np.ones(4, dtype=np.int64), np.zeros(1))
"""An empty grid, used if there is none."""


@dataclass(frozen=True, slots=True)
class KernelFormula:
    """Inputs of a kernel model that depends on several sums; see `devices.calibrated.formulas` for the codes.

    Attributes
    ----------
    code : int
        Which formula.
    p, x : float64 array
        Its parameters, and the quantities of one call; what depends on the batch is filled in.
    window : float
        Attention window; 0 = none.
    sums : float64 array, shape (len(SUMS), moments + 1)
        The op's sums as affine forms of the moments, the constant last; empty for experts.
    top_k : float
        Experts of a token.
    """

    code: int
    p: F8
    x: F8
    window: float = 0.0
    sums: F8 | None = None
    top_k: float = 1.0


@dataclass(frozen=True, slots=True)
class ByCount:
    """Cost of an op as a table over one count of the batch.

    Attributes
    ----------
    moment : int
        Which one.
    seconds, bound : float64 array
        At counts 0, 1, 2, ...; the code of what bounds it.
    """

    moment: int
    seconds: F8
    bound: F8


@dataclass(frozen=True, slots=True)
class PriceRow:
    """Cost of one op on one processor: a curve or formula, else the roofline of `params`.

    Attributes
    ----------
    params : record
        Terms of the roofline (`ROOFLINE`); energy always follows from them.
    hardware : record, optional
        Constants of the device that the formula reads; see `calibrated.hardware`.
    grid : Grid, optional
        Measured times that the formula continues.
    blocks : records, optional
        How the thread blocks of a decode attention run; see `tables.blocks`.
    most : int
        Largest count that kernel tables hold, or one of the codes above.
    """

    params: Records
    curve: ByCount | None = None
    formula: KernelFormula | None = None
    hardware: Records | None = None
    grid: Grid | None = None
    blocks: Records | None = None
    most: int = NO_TABLES


Quantities = Callable[[Op], F8]
PricesOf = Callable[[Op, F8], tuple[F8, F8]]


@dataclass(frozen=True, slots=True)
class Along:
    """Quantities of an op that depend on one moment only: `base` at 1, plus `step` for each further count."""

    moment: int
    base: F8
    step: F8
    counts: int

    @classmethod
    def of(cls, op: Op, probe: Probe, quantities: Quantities) -> Along:
        """Return the quantities of an op, which are an affine function of one count."""
        base = quantities(op)
        changed = [j for j, other in enumerate(probe.raised) if not np.array_equal(quantities(other), base)]
        moment = changed[0] if changed else 0
        step = quantities(probe.raised[moment]) - base
        # Beyond the base moments lie keys of whole contexts, which no step's tokens limit.
        counts = MOST_COUNTS if moment >= BASE_MOMENTS else min(probe.counts, MOST_COUNTS)
        return cls(moment, base, step, counts)

    def priced(self, op: Op, prices: PricesOf) -> ByCount:
        """Return the op's table of seconds and bounds, computed from rows of quantities."""
        seconds, bound = prices(op, self.base + self.step * (np.arange(1, self.counts + 1)[:, None] - 1.0))
        return ByCount(self.moment, np.concatenate([[0.0], seconds]), np.concatenate([[0.0], bound]))


def by_count(op: Op, probe: Probe, quantities: Quantities, prices: PricesOf) -> ByCount:
    """Tabulate an op's cost over the one moment that its quantities depend on.

    Parameters
    ----------
    quantities : callable
        Quantities of the cost, an affine function of the count.
    prices : callable
        Seconds and bounds, shape (n,), of rows of quantities.
    """
    return Along.of(op, probe, quantities).priced(op, prices)


def affine_sums(op: Op, probe: Probe, names: tuple[str, ...]) -> F8:
    """Return the coefficients of shape entries as affine forms of the moments, with the constant last."""

    def values(one: Op) -> F8:
        return np.array([one.shape.get(name, 0.0) for name in names])

    base = values(op)
    out = np.empty((len(names), len(probe.raised) + 1))
    for j, other in enumerate(probe.raised):
        out[:, j] = values(other) - base
    out[:, -1] = base - out[:, :-1].sum(axis=1)
    return out

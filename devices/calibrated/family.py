"""Definition of a kernel family, and the registry of families."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...workloads.kernel_tables import KernelTable
from ...workloads.ops import Op
from ...workloads.records import Records, reals
from ...workloads.registry import Registry

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
MAX_PARAMETERS = 12
RATES = ("memory", "quantise_memory", "cache_draw", "core_draw", "core_bytes", "key_rate",
         "peak", "peak_16", "peak_8", "decode_peak", "prefill_peak")  # fmt: skip
"""Rate parameters: with latencies times `t` and these divided by `t`, a call takes `t` times as long."""

KERNEL_COST = reals(
    "formula", "seconds", "compute", "memory", "fixed", "bound", "floor_compute", "floor_memory", "floor_link"
)
"""Fields of a result of `Family.rows`: seconds of the formula; seconds, never below the roofline; arithmetic, memory
(or link) and fixed seconds; code of the bound; and the roofline's seconds of arithmetic, main memory and link at
nominal rates."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One fitted constant with a physical meaning; always positive.

    Attributes
    ----------
    name : str
        Key in the YAML; seconds end in ``_s`` and are written in microseconds.
    unit : str
        "s", "1" (a fraction or multiple), ...
    meaning : str
        Its meaning.
    default : float
        Prior of a fit for parameters without information: the rounded geometric mean of the devices with many rows.
    low, high : float
        Bounds of the fit.
    spread : float
        How far from the default is usual, as a standard deviation of the logarithm.
    """

    name: str
    unit: str
    meaning: str
    default: float
    low: float
    high: float
    spread: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.default <= self.high < math.inf:
            raise ValueError(f"parameter {self.name}: needs 0 < low <= default <= high")


@cache
def _declared() -> Mapping[str, tuple[Parameter, ...]]:
    """Return the parameters by family, as listed in parameters.csv."""
    declared: dict[str, tuple[Parameter, ...]] = {}
    with (Path(__file__).parent / "parameters.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            numbers = (float(row[name]) for name in ("default", "low", "high", "spread"))
            parameter = Parameter(row["name"], row["unit"], row["meaning"], *numbers)
            declared[row["family"]] = (*declared.get(row["family"], ()), parameter)
    return declared


def parameters_of(family: str) -> tuple[Parameter, ...]:
    """Return the parameters of a family in parameters.csv, in the order of its vectors."""
    return _declared()[family]


def _as_it_is(inputs: F8, op: Op, framework: str) -> F8:
    return inputs


def _one_branch(inputs: Records) -> I8:
    return np.zeros(len(inputs), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Family:
    """A kernel family: the conversion of tables and ops to quantities, the parameters, and one formula.

    Attributes
    ----------
    name : str
        Stem of its tables.
    title : str
        For reports.
    kinds : tuple of str
        Kinds of `Op` it can cost.
    parameters : tuple of Parameter
        At most `MAX_PARAMETERS`.
    quantities : tuple of str
        Names of the columns of `x`.
    rows : callable
        ``rows(p, h, x, out)``, compiled: costs into `out`, n records of `KERNEL_COST`, of `x`, n records of the quantities,
        with the record `p` of the parameters and the device constants `h` (see `hardware`). It calls the family's scalar kernels, as the
        compiled simulator does: ``parts(p, h, x_row)``, seconds and their parts, and ``work(x_row)``, FLOP and minimum
        bytes, whose time at nominal rates no prediction for cold data may beat.
    from_table : callable
        ``from_table(table)``: x of measured rows, measuring conditions included.
    from_op : callable
        ``from_op(op)``: x of one op as it runs in a serving step (weights cold, kernels
        back to back), or None where the family does not cover the op.
    launched : callable
        ``launched(x, op, framework)``: `x` of an op with the kernels that one framework starts before it.
    by_framework : tuple of str
        Parameters that each serving framework may scale (its own auxiliary kernel), besides
        the factor on the whole time. Every such set of scales has geometric mean 1.
    silicon : tuple of str
        Parameters that the device sets whichever framework's kernels run on it; the others come with the kernels.
    framework_time : bool
        Whether frameworks also have a factor on the whole time; not if each timed other kernels of the family, which
        the factor would then represent.
    branches : tuple of str
        Separate kernels of a framework for the family's calls, mostly by number format: each may have separate
        parameters. Empty if there is one. The text after a ``+`` distinguishes kernels of one format, which share
        parameters if rows are too few.
    by_size : bool
        Whether the text after the ``+`` depends on the size of a batch: shared sets then keep one kernel per format, so
        that a token more is never faster.
    branch : callable
        ``branch(x)``, of records: which of `branches` each row of `x` runs.
    aside : str or tuple of str
        Ends of the names of branches whose rows give no information about the others.
    """

    name: str
    title: str
    kinds: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    quantities: tuple[str, ...]
    rows: Callable[[Records, Records, Records, Records], None]
    from_table: Callable[[KernelTable], F8]
    from_op: Callable[[Op], F8 | None]
    by_framework: tuple[str, ...] = ()
    silicon: tuple[str, ...] = ()
    framework_time: bool = True
    branches: tuple[str, ...] = ()
    by_size: bool = False
    branch: Callable[[Records], I8] = _one_branch
    aside: str | tuple[str, ...] = "+aside"
    launched: Callable[[F8, Op, str], F8] = _as_it_is

    def __post_init__(self) -> None:
        if len(self.parameters) > MAX_PARAMETERS:
            raise ValueError(f"{self.name}: more than {MAX_PARAMETERS} parameters")

    @property
    def defaults(self) -> F8:
        return np.array([p.default for p in self.parameters])

    def index(self, name: str) -> int:
        """Return the position of a parameter."""
        return [p.name for p in self.parameters].index(name)

    def vector(self, values: Mapping[str, float]) -> F8:
        """Return parameters given by name as an array; absent ones have their default."""
        return np.array([values.get(p.name, p.default) for p in self.parameters])

    def slowed(self, values: F8, multiple: float) -> F8:
        """Return the parameters with which every call takes `multiple` times as long."""
        latency = np.array([p.unit in ("s", "clk") for p in self.parameters])
        rate = np.array([p.name in RATES for p in self.parameters])
        out: F8 = values * np.where(latency, multiple, np.where(rate, 1.0 / multiple, 1.0))
        return out

    def usual(self, inputs: F8) -> npt.NDArray[np.bool_]:
        """Return which rows of `inputs` are used for other branches too; all if none is."""
        names = [not name.endswith(self.aside) for name in self.branches or ("",)]
        out: npt.NDArray[np.bool_] = np.array(names)[self.kernel_of(inputs)]
        return out if out.any() else ~out

    def per_branch(self, values: F8) -> F8:
        """Return the parameters as one row per branch; unchanged for a family without branches."""
        if not self.branches or values.ndim > 1:
            return values.copy()
        return np.tile(values, (len(self.branches), 1))

    def of_branch(self, values: F8, inputs: F8) -> F8:
        """Return the parameters, shape (p,), of the kernel that one call `inputs`, shape (q,), runs."""
        out: F8 = values if values.ndim == 1 else values[int(self.kernel_of(inputs[None])[0])]
        return out

    def records(self, inputs: F8) -> Records:
        """Return rows of quantities, shape (n, q), as records.

        Raises
        ------
        ValueError
            The rows are not of the family: compiled code would read past them.
        """
        if inputs.shape[-1] != len(self.quantities):
            raise ValueError(f"{self.name} takes {len(self.quantities)} quantities, not {inputs.shape[-1]}")
        return np.ascontiguousarray(inputs, dtype=np.float64).view(reals(*self.quantities))[..., 0]

    def kernel_of(self, inputs: F8) -> I8:
        """Return which of `branches` each row of `inputs` runs."""
        return self.branch(self.records(inputs))

    def prices(self, values: F8, hardware: Records, inputs: F8) -> Records:
        """Return the costs of the rows of `inputs`, records of `KERNEL_COST`.

        `values` are parameters, shape (p,), or one row of them for each of `branches`.
        """
        if values.ndim > 1:
            out, which = np.empty(len(inputs), KERNEL_COST).view(np.recarray), self.kernel_of(inputs)
            for b in np.unique(which):
                out[which == b] = self.prices(values[b], hardware, inputs[which == b])
            return out
        out = np.empty(len(inputs), KERNEL_COST).view(np.recarray)
        names = (p.name for p in self.parameters)
        known = np.ascontiguousarray(values, dtype=np.float64).view(reals(*names))[0]
        self.rows(known, hardware, self.records(inputs), out)
        return out

    def seconds(self, values: F8, hardware: Records, inputs: F8) -> F8:
        """Return the predicted seconds of the rows of `inputs`, only by the formula."""
        out: F8 = self.prices(values, hardware, inputs)["formula"]
        return out

    def roofline(self, hardware: Records, inputs: F8) -> F8:
        """Return the roofline at nominal rates: the largest of FLOP over peak and least bytes over bandwidths [s]."""
        out: F8 = np.max(self.floors(hardware, inputs), axis=0)
        return out

    def floors(self, hardware: Records, inputs: F8) -> tuple[F8, F8, F8]:
        """Return the seconds of arithmetic, main memory and link at nominal rates."""
        out = self.prices(self.defaults, hardware, inputs)
        return out["floor_compute"], out["floor_memory"], out["floor_link"]


FAMILIES: Registry[Family] = Registry("kernel family")
MODULES = ("gemm", "grouped_gemm", "norm", "allreduce", "collectives", "attention_prefill",
           "attention_decode", "mla", "moe")  # fmt: skip
"""Modules of this package that register a family."""


@lru_cache(maxsize=1)
def families() -> dict[str, Family]:
    """Return all families by name, in the order of `MODULES`, without compiling them."""
    for module in MODULES:
        import_module(f".{module}", __package__)
    return {name: FAMILIES[name] for name in MODULES}


def register(family: Family) -> Family:
    """Add a family to the registry."""
    return FAMILIES.register(family.name)(family)

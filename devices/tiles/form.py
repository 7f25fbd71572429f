"""Kernel forms: the work of a kernel for a shape, its possible configurations, and the registry of forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError, check_known, typed_number
from ...workloads.ops import Op
from ...workloads.records import Records, reals
from ...workloads.registry import Registry
from ..calibrated.hardware import CODES
from ..spec import DeviceSpec
from .config import KernelConfig, by_name
from .machine import Machine, machine_of
from .price import PARAMETERS, TILE_COST

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
Value = int | float | str
Shape = Mapping[str, Value]
"""Numbers and number format of a shape, by key."""

TEXT = ("dtype",)
LARGEST = 1 << 24


@dataclass(frozen=True, slots=True)
class ShapeKey:
    """One key of a kernel's shape: its default and measured range.

    Attributes
    ----------
    default : int or str, optional
        What it is where it is not given; without one it must be.
    low, high : int
        The measured range; shapes beyond it are reported.
    """

    name: str
    meaning: str
    default: Value | None = None
    low: int = 1
    high: int = LARGEST


@dataclass(frozen=True, slots=True)
class TiledKernel:
    """Description of a kernel for the tile model.

    Attributes
    ----------
    keys : tuple of ShapeKey
        What a shape is made of.
    used : tuple of str
        Fields of a configuration that it looks at; the others must be 1 or their default.
    work : callable
        ``work(machine, shape)``: the shape as compiled code takes it.
    rows : callable
        ``rows(p, h, x, configs, out)``, compiled: costs of configurations, records of `TILE_COST`; `p` and `h` are records
        of the constants and of `machine.MACHINE`, and `configs` of `config.CONFIG`.
    space : callable
        ``space(machine, shape)``: configurations to try, shape (n, fields).
    default : callable
        ``default(machine, shape)``: what the framework launches untuned.
    constants : callable
        ``constants(machine, shape)``: name of the set of constants (`store`).
    calibrated : callable
        ``calibrated(shape)``: family and table columns of the same call in the calibrated families,
        or None.
    machine : callable
        ``machine(spec)``: the unit of a device that runs it; its xPU by default.
    threads : bool
        Whether blocks are warps of threads with registers and matrix instructions of 16 rows.
    """

    name: str
    title: str
    keys: tuple[ShapeKey, ...]
    used: tuple[str, ...]
    work: Callable[[Machine, Shape], Records]
    rows: Callable[[Records, Records, Records, Records, Records], None]
    space: Callable[[Machine, Shape], I8]
    default: Callable[[Machine, Shape], KernelConfig]
    constants: Callable[[Machine, Shape], str]
    calibrated: Callable[[Shape], tuple[str, Mapping[str, Value]] | None] = lambda shape: None
    machine: Callable[[DeviceSpec], Machine] = machine_of
    threads: bool = True

    def shape(self, given: Mapping[str, object]) -> dict[str, Value]:
        """Return a checked shape with defaults added.

        Raises
        ------
        InputError
            An unknown key, one missing, or a value that is none.
        """
        known = {key.name: key for key in self.keys}
        for name in given:
            check_known(f"{self.name}: {name}", name, known, "is not a key of its shapes")
        return {key.name: self._value(key, given.get(key.name, key.default)) for key in self.keys}

    def _value(self, key: ShapeKey, value: object) -> Value:
        where = f"{self.name}: {key.name}"
        if value is None:
            raise InputError(where, f"is missing: {key.meaning}")
        if key.name in TEXT:
            check_known(where, str(value), CODES, "unknown number format")
            return str(value)
        number = typed_number(value)
        low = 0 if key.default == 0 else 1
        if not low <= number <= LARGEST or number != int(number):
            raise InputError(where, f"must be a whole number from {low} to {LARGEST:,}, not {value!r:.40}")
        return int(number)

    def beyond(self, shape: Shape) -> list[str]:
        """Return a line for each key of a shape that is outside the measured range."""
        return [
            f"{key.name} {shape[key.name]:,} is beyond the validated {key.low:,} to {key.high:,}"
            for key in self.keys
            if isinstance(shape[key.name], int) and not key.low <= int(shape[key.name]) <= key.high
        ]

    def prices(self, parameters: F8, machine: Machine, shape: Shape, configs: I8) -> Records:
        """Return the costs of configurations for one shape, records of `TILE_COST`."""
        out = np.empty(len(configs), TILE_COST).view(np.recarray)
        known = np.ascontiguousarray(parameters, dtype=np.float64).view(reals(*(p.name for p in PARAMETERS)))[0]
        self.rows(known, machine.h, self.work(machine, shape), by_name(configs), out)
        return out


FORMS: Registry[TiledKernel] = Registry("kernel", home=f"{__package__}.forms")


def kernel_form(form: TiledKernel) -> TiledKernel:
    """Register a kernel form under its name."""
    return FORMS.register(form.name, form.title)(form)


def number(shape: Shape, name: str) -> int:
    """Return an integer of a checked shape."""
    return int(shape[name])


def grid_of(*columns: Sequence[int]) -> I8:
    """Return all combinations of values, one per row, with the first column varying slowest."""
    mesh = np.meshgrid(*(np.array(c, dtype=np.int64) for c in columns), indexing="ij")
    return np.stack([m.ravel() for m in mesh], axis=1)


Call = tuple[TiledKernel, Shape]
PRODUCTS = ("gemm", "fused_moe")
"""Kernels whose number format is their operands' format."""


def calls_of(op: Op) -> list[Call]:
    """Return the kernels that an op launches, in order; an empty list if no form covers the op.

    Counts of an expectation are rounded to whole rows, at least one. Gated experts are two grouped
    products; of the second only the sizes differ.
    """
    if op.dtype not in CODES:
        return []
    s, shapes = op.shape, list[tuple[str, dict[str, float]]]()
    if op.product and s.get("batch", 1) == 1:
        shapes = [("gemm", {"m": s["m"], "n": s["n"], "k": s["k"]})]
    elif op.routed and op.loads is not None and s["matrices"] == 3:
        loads = {"tokens": op.loads.routed, "experts": op.loads.active, "topk": 1.0}
        shapes = [
            ("fused_moe", {**loads, "hidden": s["hidden"], "inter": s["inter"]}),
            ("fused_moe", {**loads, "hidden": s["inter"], "inter": s["hidden"] / 2}),
        ]
    elif op.kind == "attention_decode" and s["batch"] > 0 and s["kv"] > 0:
        shapes = [("attention_decode", {"batch": s["batch"], "keys": s["kv"] / s["batch"], **_heads(op)})]
    elif op.kind == "attention_prefill" and s["batch"] > 0 and s["tokens"] > 0:
        new = s["tokens"] / s["batch"]
        before = max(0.0, s["kv"] / s["batch"] - new)
        shapes = [("attention_prefill", {"batch": s["batch"], "tokens": new, "context": before, **_heads(op)})]
    elif op.kind == "mla_decode" and s["batch"] > 0 and s["kv"] > 0:
        shapes = [("mla_decode", {"batch": s["batch"], "keys": s["kv"] / s["batch"], "heads": s["heads"]})]
    return [_call(name, sizes, op.dtype) for name, sizes in shapes]


def _heads(op: Op) -> dict[str, float]:
    return {key: op.shape[key] for key in ("heads_q", "heads_kv", "head_dim")}


def _call(name: str, sizes: dict[str, float], dtype: str) -> Call:
    form = FORMS[name]
    least = {key.name: 0 if key.default == 0 else 1 for key in form.keys}
    integers: dict[str, Value] = {k: max(least[k], round(v)) for k, v in sizes.items()}
    if "dtype" in least and name in PRODUCTS:
        integers["dtype"] = dtype
    return form, form.shape({**integers, "cold": 1})

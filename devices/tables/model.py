"""Cost model of measured kernel tables: interpolation, with the device's model outside of them.

Matmuls, vector kernels and experts of a MoE layer are interpolated linearly in their tokens (and active experts), attention
in a four-dimensional grid of one prompt chunk with decodes. Beyond the measured range the device's model is scaled to meet the
table at its edge (`beyond` for grids). Shapes without rows use it alone, matmuls of a device without a fitted set scaled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError, SpecError, nearest
from ...workloads.kernel_tables import KernelTable, read_tables
from ...workloads.ops import Op
from ...workloads.records import Records
from ..calibrated.calibrate import SHORTEST_S, implausible
from ..calibrated.family import families
from ..calibrated.formulas import SUMS, Formula
from ..calibrated.hardware import hardware
from ..calibrated.model import CalibratedModel
from ..catalog import load_device
from ..cost import BOUNDS, Cost, Evidence, Roof
from ..prices import ALONE, IN_GRID, NO_LIMIT, NOT_THERE, ByCount, Grid, PriceRow, Probe, by_count
from ..spec import DeviceSpec
from .blocks import ABSENT, BlockFit, fit_blocks
from .grid import between_rows, beyond_rows, filled_grid, grid_rows

F8 = npt.NDArray[np.float64]

VECTOR_KERNELS = {"norm": "fused_add_rmsnorm", "rope": "rope", "activation": "silu_mul",
                  "embedding": "embedding", "sampling": "sampler"}  # fmt: skip
"""Measured kernel for each vector op of a model, by the end of the op's name."""

ADDED = {"rope": "qk_norm"}
"""Kernels of an engine's tables that models count as part of another op."""

ROUTED = ("router", "combine")
"""Ops that the measured MoE layer of an engine includes (router and experts together)."""

LEAST_ROWS = 3
"""Minimum measured rows of a shape from which other shapes are scaled."""

TILE_ROWS = 16.0
"""Rows of the smallest tile of a matrix product, one mma.m16n8k16 (PTX ISA). cuBLAS's larger tiles are multiples."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds of one kernel by its rows (tokens), both increasing, shape (n,)."""

    rows: F8
    seconds: F8

    def at(self, rows: F8) -> F8:
        """Return the seconds, linear between measured rows and constant outside."""
        return np.interp(rows, self.rows, self.seconds)


def whole_tiles(rows: F8, most: float) -> F8:
    """Return the rows that a matrix product computes: whole tiles beyond the first, up to `most`.

    The time is a step function of the rows: interpolation between two measured rows is too short just above a step.
    """
    tiles = np.ceil(rows / TILE_ROWS) * TILE_ROWS
    return np.where(rows > TILE_ROWS, np.maximum(np.minimum(tiles, most), rows), rows)


@dataclass(frozen=True, slots=True)
class TableModel:
    """A kernel model of this device's measured tables.

    Bounds and parts of the time come from the device's fitted model.

    Attributes
    ----------
    base : CalibratedModel
        The device's own model.
    curves : mapping of tuple to Curve
        By ("gemm", n, k) and (kernel, columns).
    attention : mapping of tuple to Grid
        By query heads, KV heads and head dimension.
    moe : mapping of tuple to Grid
        By hidden and inner width, experts (of a device, or all: profiles of expert-parallel engines) and experts of a token.
    count : int
        Rows used.
    h : float64 array
        Constants of the device, as its own model takes them.
    blocks : mapping of tuple to BlockFit
        By the key of `attention`, how its thread blocks run; see `decode_blocks`.
    """

    base: CalibratedModel
    curves: Mapping[tuple[str, ...], Curve]
    attention: Mapping[tuple[int, ...], Grid]
    moe: Mapping[tuple[int, ...], Grid]
    count: int
    h: Records
    blocks: Mapping[tuple[int, ...], BlockFit]

    def curve(self, op: Op, scaled: bool = False) -> Curve | None:
        """Return the measured curve of an op, or else the `scaled` one; None if the device's model lacks the format."""
        if not self.base.knows(op):
            return None
        if op.product and op.shape.get("batch", 1) == 1:
            measured = self.curves.get(("gemm", str(int(op.shape["n"])), str(int(op.shape["k"]))))
            return self._scaled(op) if measured is None and scaled else measured
        if op.kind == "elementwise":
            kernel = VECTOR_KERNELS.get(op.name.rpartition("_")[2], "")
            return self.curves.get((kernel, str(int(op.shape["cols"]))))
        return None

    def _scaled(self, op: Op) -> Curve | None:
        """Return the nearest measured shape's curve times the ratio of the model's times, if that is not fitted to the device.

        If memory is assumed to be 1.6 times faster, shapes left out have a median error of 2.3 % (RTX 4090, 4.1 % by the
        model alone) and 6.5 % (RTX PRO 6000, 6.7 %); 9 of 10 are within 9 % (36 %) and 15 % (35 %).
        """
        long = [key for key, curve in self.curves.items() if key[0] == "gemm" and len(curve.rows) >= LEAST_ROWS]
        sizes = {key: np.array(key[1:], dtype=float) for key in long}  # n and k
        if not sizes or self.base.models[op.kind].known.basis != "transferred":
            return None
        size = np.array([op.shape["n"], op.shape["k"]])
        near = self.curves[key := min(sizes, key=lambda key: np.abs(np.log(size / sizes[key])).sum())]
        ours = np.tile(self._known(op), (len(near.rows), 1))
        ours[:, 0] = near.rows
        theirs = ours.copy()
        theirs[:, 1:3] = sizes[key]  # as `calibrated.gemm.QUANTITIES` has them
        ratios = self.base.prices(op, ours)["seconds"] / self.base.prices(op, theirs)["seconds"]
        return Curve(near.rows, near.seconds * ratios)

    def grid(self, op: Op) -> Grid | None:
        """Return the measured grid of an attention or expert op; None without one, or as for `curve`."""
        s = op.shape
        if not self.base.knows(op):
            return None
        if op.kind in ("attention_prefill", "attention_decode") and not s["window"]:
            return self.attention.get(_heads(op))
        if op.routed:
            values, all_of_them = (
                (int(s["hidden"]), int(s["inter"]), int(experts), int(s["top_k"]))
                for experts in (s["experts"], s.get("all_experts", s["experts"]))
            )
            return self.moe.get(values, self.moe.get(all_of_them))
        return None

    def blocks_of(self, op: Op) -> Records:
        """Return how the thread blocks of a decode attention op run; `ABSENT` if unknown."""
        if op.kind != "attention_decode" or op.shape["window"]:
            return ABSENT
        fit = self.blocks.get(_heads(op))
        return ABSENT if fit is None else fit.parameters

    def inside_moe(self, op: Op) -> bool:
        """Return whether the measured MoE layer includes the op."""
        return op.name in ROUTED and op.layer == "moe" and bool(self.moe)

    def covers(self, op: Op) -> bool:
        """Return whether the tables contain the op's shape."""
        return self.inside_moe(op) or self.curve(op) is not None or self.grid(op) is not None

    def knows(self, op: Op) -> bool:
        return self.base.knows(op)

    def cost(self, op: Op) -> Cost:
        known = self.base.cost(op)
        if not self.covers(op) and self.curve(op, scaled=True) is None:
            return known
        seconds = float(self.seconds(op, self.quantities(op)[None, :])[0])
        return replace(known, seconds=seconds)

    def row(self, op: Op, probe: Probe) -> PriceRow:
        known = self.base.row(op, probe)
        if self.inside_moe(op):
            return replace(known, curve=by_count(op, probe, self.quantities, self._nothing),
                           formula=None, most=NO_LIMIT)  # fmt: skip
        grid = self.grid(op)
        if grid is not None:
            assert known.formula is not None, "grids continue a formula"
            formula = replace(known.formula, code=_grid_code(op))
            return replace(known, formula=formula, grid=grid, blocks=self.blocks_of(op), most=IN_GRID)
        if self.curve(op, scaled=True) is None:
            return replace(known, most=NOT_THERE)
        curve = by_count(op, probe, self.quantities, self._prices)
        return replace(known, curve=curve, formula=None, most=self._most(op, probe, curve))

    def _nothing(self, op: Op, inputs: F8) -> tuple[F8, F8]:
        """Return zero costs of ops that another one's measured time includes."""
        bound = np.full(len(inputs), float(BOUNDS.index(self.base.cost(op).bound)))
        return np.zeros(len(inputs)), bound

    def _prices(self, op: Op, inputs: F8) -> tuple[F8, F8]:
        return self.seconds(op, inputs), self.base.prices(op, inputs[:, 1:])["bound"]

    def _most(self, op: Op, probe: Probe, curve: ByCount) -> int:
        """Return the largest count of an op for which the kernel tables have rows."""
        measured = self.curve(op)
        if measured is None:
            return NOT_THERE
        rows = [o.shape[_rows(op)] for o in (op, probe.raised[curve.moment])]
        step = rows[1] - rows[0]
        return int((measured.rows[-1] - rows[0]) / step + 1.0) if step > 0.0 else NO_LIMIT

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        covered = [op for op in ops if self.covers(op)]
        names = ", ".join(sorted({op.name for op in covered}))
        out = []
        if covered:
            ratios = between_rows([(c.rows, c.seconds) for c in self.curves.values()])
            error = None if ratios is None else ratios.median_error
            out = [Evidence("kernel tables", names, "measured", error, self.count, ratios=ratios)]
        out += [
            Evidence("thread blocks of a kernel", "decodes of unequal contexts", "fitted", fit.error, fit.rows)
            for fit in self.blocks.values()
            if any(fit.parameters is self.blocks_of(op) for op in covered)
        ]
        return out + self.base.evidence([op for op in ops if not self.covers(op)])

    def roof(self, dtype: str) -> Roof:
        return self.base.roof(dtype)

    def quantities(self, op: Op) -> F8:
        """Return the quantities on which the measured time of a covered op depends, shape (q,)."""
        if op.routed and self.grid(op) is not None and op.loads is not None:
            return np.array([op.loads.routed / op.shape["top_k"], op.loads.active])
        if self.grid(op) is not None:
            return np.array([op.shape.get(name, 0.0) for name in SUMS])
        if self.inside_moe(op):
            return np.zeros(1)
        return np.concatenate([[op.shape[_rows(op)]], self._known(op)])

    def _known(self, op: Op) -> F8:
        base = self.base.quantities(op)
        assert base is not None, "only ops that the device's model knows have a curve"
        return base

    def seconds(self, op: Op, inputs: F8) -> F8:
        grid, curve = self.grid(op), self.curve(op, scaled=True)
        if self.inside_moe(op):
            return np.zeros(len(inputs))
        if grid is not None:
            formula = self.base.formula(op, ALONE)
            assert formula is not None
            formula = replace(formula, code=_grid_code(op))
            ratios = beyond_rows(grid, formula, self.h, inputs, op.shape.get("top_k", 1.0))
            return grid_rows(formula.code, grid, inputs) * ratios
        assert curve is not None, "only ops that the tables cover have a measured time"
        rows = whole_tiles(inputs[:, 0], curve.rows[-1]) if op.product else inputs[:, 0]
        out = curve.at(rows) * self._beyond(op, curve, inputs)
        added = self.curves.get((ADDED.get(op.name, ""), self._added_columns(op)))
        if added is not None:
            out = out + added.at(inputs[:, 0])
        return out

    def _added_columns(self, op: Op) -> str:
        """Return the columns of the added kernel: the whole vocabulary, or the op's."""
        names = [key for key in self.curves if key[0] == ADDED.get(op.name)]
        return names[0][1] if len(names) == 1 else ""

    def _beyond(self, op: Op, curve: Curve, inputs: F8) -> F8:
        """Return the time over the last measured row's, by the device's model; 1 inside."""
        out = np.ones(len(inputs))
        outside = inputs[:, 0] > curve.rows[-1]
        if outside.any():
            edge = self._at(op, float(curve.rows[-1]))[None, 1:]
            longer, least = self.base.prices(op, inputs[outside, 1:]), self.base.prices(op, edge)
            out[outside] = longer["seconds"] / least["seconds"]
        return out

    def _at(self, op: Op, rows: float) -> F8:
        """Return the quantities of an op at another number of rows."""
        scale = rows / op.shape[_rows(op)]
        return self.quantities(replace(op, shape={**op.shape, _rows(op): rows}, act_bytes=op.act_bytes * scale))


def _rows(op: Op) -> str:
    """Return the shape entry of an op along which its curve runs."""
    return "m" if op.product else "rows"


def _grid_code(op: Op) -> int:
    """Return the code of the formula that reads the grid of an op."""
    return {"experts": Formula.MOE_GRID, "attention_prefill": Formula.MIXED_PREFILL}.get(op.kind, Formula.MIXED_DECODE)


def _heads(op: Op) -> tuple[int, ...]:
    """Return the properties that distinguish attention kernels."""
    return tuple(int(op.shape[name]) for name in ("heads_q", "heads_kv", "head_dim"))


def table_model(spec: DeviceSpec, paths: Iterable[str | Path], base: CalibratedModel) -> TableModel:
    """Read kernel tables of a device, in either form that `workloads.kernel_tables` reads.

    Raises
    ------
    InputError
        If there are no tables, no table has rows of this device, or a row is invalid.
    """
    tables, skipped = read_tables(paths, every_op=True)
    if skipped:  # otherwise the cost model would replace the row without notice
        first = skipped[0]
        where = f"{first.file}:{first.line}" if first.line else first.file
        raise InputError(where, first.reason)
    names = {spec.name, *spec.aliases}
    measured = {
        family: table.take(np.array([d in names for d in table["device"]], dtype=bool))
        for family, table in tables.items()
    }
    if not any(len(table) for table in measured.values()):
        devices = sorted({str(d) for table in tables.values() for d in table["device"]})
        raise InputError(
            "--kernels",
            f"holds tables of {', '.join(devices) or 'nothing'}, none of {spec.name}{nearest(spec.name, devices)}",
        )
    _check_own(spec, tables, measured)
    curves: dict[tuple[str, ...], Curve] = {}
    if "gemm" in measured:
        curves.update(_curves(measured["gemm"], "m", ("n", "k"), "gemm"))
    if "norm" in measured:
        curves.update(_curves(measured["norm"], "rows", ("cols",)))
    mixed = _points(
        measured.get("attention_mixed"), ("heads_q", "heads_kv", "head_dim"),
        ("prefill_tokens", "prefill_context", "decode_seqs", "decode_context"),
    )  # fmt: skip
    moe = _points(measured.get("moe"), ("hidden", "inter", "experts", "topk"), ("tokens", "active_experts"))
    fits = {key: fit_blocks(spec, (key[0], key[1], key[2]), *at) for key, at in mixed.items()}
    return TableModel(
        base,
        curves,
        {key: filled_grid(points, seconds) for key, (points, seconds) in mixed.items()},
        {key: filled_grid(points, seconds) for key, (points, seconds) in moe.items()},
        sum(len(t) for t in measured.values()),
        hardware(spec),
        {key: fit for key, fit in fits.items() if fit is not None},
    )


def _check_own(spec: DeviceSpec, tables: Mapping[str, KernelTable], device_tables: Mapping[str, KernelTable]) -> None:
    """Refuse tables of unknown devices only, and times that the device cannot have.

    The first would be left out and its ops be costed by the model, unseen.
    """
    for family, table in device_tables.items():
        if not len(table):
            for name in sorted({str(d) for d in tables[family]["device"]}):
                _check_device(name, str(tables[family].file[0]))
            continue
        measured = table["measured_s"]
        known = families().get(family)
        reasons = (
            implausible(known, hardware(spec), known.from_table(table), measured)
            if known is not None
            else np.where(measured < SHORTEST_S, "is shorter than any kernel takes", "")
        )
        for i in np.flatnonzero(reasons != ""):
            raise InputError(f"{table.file[i]}:{table.line[i]}", str(reasons[i]))


def _check_device(name: str, file: str) -> None:
    try:
        load_device(name)
    except SpecError as error:
        raise InputError(f"{file}: device {name!r}", error.reason) from None


def _curves(
    table: KernelTable, by: str, shape: tuple[str, ...], kernel: str | None = None
) -> dict[tuple[str, ...], Curve]:
    """Return one curve per shape; rows measured more than once count with their median."""
    keys = [
        (kernel or str(name), *(str(int(v)) for v in values))
        for name, *values in zip(table["kernel"], *(table[c] for c in shape), strict=True)
    ]
    rows: dict[tuple[str, ...], dict[float, list[float]]] = {}
    for key, at, seconds in zip(keys, table[by], table["measured_s"], strict=True):
        rows.setdefault(key, {}).setdefault(float(at), []).append(float(seconds))
    return {
        key: Curve(np.array(sorted(points)), np.array([np.median(points[m]) for m in sorted(points)]))
        for key, points in rows.items()
    }


def _points(
    table: KernelTable | None, shape: tuple[str, ...], axes: tuple[str, ...]
) -> dict[tuple[int, ...], tuple[F8, F8]]:
    """Return the measured points and their seconds, by shape."""
    if table is None:
        return {}
    keys = np.array([[int(v) for v in table[c]] for c in shape]).T
    out: dict[tuple[int, ...], tuple[F8, F8]] = {}
    for key in np.unique(keys, axis=0):
        rows = table.take((keys == key).all(axis=1))
        points = np.column_stack([rows[a] for a in axes]).astype(np.float64)
        out[tuple(int(v) for v in key)] = points, rows["measured_s"].astype(float)
    return out

"""Lowering of measured and fitted kernel models, beside the roofline of `lowering`.

An op that depends on one count (tokens, or sequences) becomes a row of seconds by that count;
attention and experts become formulas of the batch's sums. Both come from the same
`KernelModel` that the explicit path asks op by op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from ...devices.calibrated.hardware import NUM_HARDWARE, hardware
from ...devices.calibrated.scalar import (
    CURVE,
    DECODE,
    MIXED_DECODE,
    MIXED_PREFILL,
    MLA,
    MOE,
    MOE_GRID,
    PREFILL,
    ROOFLINE,
    SUMS,
    U_BATCH,
    U_DECODE_KV,
    U_DECODES,
    U_KV,
    U_PAIRS,
    U_TOKENS,
    U_UNEVEN,
    WIDTH,
    decode_seconds,
    mla_seconds,
    moe_seconds,
    prefill_seconds,
)
from ...devices.cost import KernelModel
from ...devices.tables.edge import (
    attention_outside,
    decode_beyond,
    experts_outside,
    moe_beyond,
    prefill_beyond,
)
from ...devices.tables.grid import EMPTY, Grid, interpolate, mixed_decode, mixed_prefill
from ...devices.tables.model import TableModel
from ...workloads.batch import BASE_MOMENTS
from ...workloads.errors import InputError
from ...workloads.jit import compiled_part
from ...workloads.ops import Loads, Op
from ..deploy.deployment import Deployment

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

MOST_COUNTS = 1 << 17
"""Counts that a curve holds at most; a larger one continues the line of its last two."""

(K_CODE, K_START, K_LENGTH, K_MOMENT, K_MOST) = range(5)
NUM_SLOT = 5
"""Columns of `Fitted.slots`: code of the formula; where its curve starts, how many counts it
holds, and the moment that it counts; the largest count that the kernel tables hold."""

NO_TABLES, NOT_THERE, GRID = -3, -2, -1
"""Values of `K_MOST`: no kernel tables are in use; they lack the op's shape; see its grid."""


class Fitted(NamedTuple):
    """Kernel models as arrays, S+X rows as in `lowering.Plan`."""

    slots: I8  # [S+X, 5]
    curves: F8  # seconds at counts 0, 1, 2, ... of every curve, one after another
    formulas: F8  # [S+X, 2, WIDTH + 1] parameters and window; quantities
    sums: F8  # [S+X, 7, M+1] `SUMS` as affine forms of the moments
    h: F8  # [NUM_HARDWARE]
    axes: F8  # [2, 4, A] of the grids of attention and of experts
    sizes: I8  # [2, 4]
    attention: F8  # seconds of the first grid
    experts: F8  # of the second
    top_k: float


class Slot(NamedTuple):
    """An op outside the experts as `lowering` probed it: at the unit moments, and how to build it."""

    op: Op
    model: KernelModel | None
    raised: tuple[Op, ...]  # the op with one moment raised by 1, for every moment


def lower_fitted(d: Deployment, slots: Sequence[Slot], counts: int) -> Fitted | None:
    """Lower the kernel models of a deployment; None where every op is a roofline's.

    Parameters
    ----------
    slots : sequence of Slot
        Ops outside the experts.
    counts : int
        Largest count to tabulate (tokens of a step).
    """
    main = next(iter(d.device.processors.values())).model
    if not isinstance(main, KernelModel):
        return None
    rows = len(slots) + len(d.experts)
    moments = len(slots[0].raised)
    codes = np.zeros((rows, NUM_SLOT), dtype=np.int64)
    codes[:, K_MOST] = NOT_THERE if isinstance(main, TableModel) else NO_TABLES
    formulas = np.zeros((rows, 2, WIDTH + 1))
    sums = np.zeros((rows, len(SUMS), moments + 1))
    curves: list[F8] = []
    grids: dict[str, Grid] = {}
    top_k = 1.0
    ops = [(slot.op, slot.model) for slot in slots]
    for part in d.experts:
        op = part.spec.expert_op(Loads(np.ones(1), np.ones(1)), d.run)
        ops.append((op, main))
    for i, (op, model) in enumerate(ops):
        if model is None or model.quantities(op) is None:
            continue
        formula = model.formula(op)
        if formula is not None:
            codes[i, K_CODE] = formula.code
            formulas[i, 0, :WIDTH], formulas[i, 0, WIDTH] = formula.p, formula.window
            formulas[i, 1, : len(formula.x)] = formula.x
            if i < len(slots):
                sums[i] = _affine_sums(slots[i])
            grid = model.grid(op) if isinstance(model, TableModel) else None
            if grid is not None:
                codes[i, K_MOST] = GRID
                grids["experts" if op.kind == "experts" else "attention"] = grid
                top_k = op.shape.get("top_k", top_k)
        elif i < len(slots):
            moment, curve = _curve(slots[i], model, counts)
            start = sum(map(len, curves))
            codes[i, :K_MOST] = CURVE, start, len(curve), moment
            if isinstance(model, TableModel) and model.covers(op):
                codes[i, K_MOST] = _most(slots[i], model, moment)
            curves.append(curve)
    return _pack(d, codes, curves, formulas, sums, grids, top_k)


def _pack(
    d: Deployment, codes: I8, curves: list[F8], formulas: F8, sums: F8, grids: dict[str, Grid],
    top_k: float,
) -> Fitted:  # fmt: skip
    attention, experts = grids.get("attention", EMPTY), grids.get("experts", EMPTY)
    width = max(attention.axes.shape[1], experts.axes.shape[1])
    axes = [np.pad(g.axes, ((0, 0), (0, width - g.axes.shape[1])), mode="edge")
            for g in (attention, experts)]  # fmt: skip
    try:
        h = hardware(d.device.spec)
    except InputError:
        h = np.ones(NUM_HARDWARE)
    return Fitted(
        codes, np.concatenate([np.zeros(0), *curves]), formulas,
        sums, h, np.stack(axes), np.stack([attention.sizes, experts.sizes]), attention.seconds,
        experts.seconds, top_k,
    )  # fmt: skip


def _affine_sums(slot: Slot) -> F8:
    """Coefficients of an attention op's sums in the moments, the constant last."""
    base = np.array([slot.op.shape.get(name, 0.0) for name in SUMS])
    out = np.empty((len(SUMS), len(slot.raised) + 1))
    for j, op in enumerate(slot.raised):
        out[:, j] = np.array([op.shape.get(name, 0.0) for name in SUMS]) - base
    out[:, -1] = base - out[:, :-1].sum(axis=1)
    return out


def _curve(slot: Slot, model: KernelModel, counts: int) -> tuple[int, F8]:
    """The moment that an op counts, and its seconds at counts 0, 1, 2, ..."""
    base = model.quantities(slot.op)
    assert base is not None
    changed = [
        j for j, op in enumerate(slot.raised)
        if not np.array_equal(_known(model.quantities(op)), base)
    ]  # fmt: skip
    moment = changed[0] if changed else 0
    step = _known(model.quantities(slot.raised[moment])) - base
    if moment >= BASE_MOMENTS:
        counts = MOST_COUNTS  # keys of whole contexts, not tokens of a step
    x = base + step * (np.arange(min(counts, MOST_COUNTS) + 1)[:, None] - 1.0)
    seconds = model.seconds(slot.op, x[1:])
    return moment, np.concatenate([[0.0], seconds])


def _most(slot: Slot, model: TableModel, moment: int) -> int:
    """Largest count of an op whose rows the kernel tables hold."""
    most = model.most_rows(slot.op)
    if most is None:  # part of a measured layer
        return 1 << 62
    rows = [op.shape["m" if op.kind == "gemm" else "rows"] for op in (slot.op, slot.raised[moment])]
    step = rows[1] - rows[0]
    return int((most - rows[0]) / step + 1.0) if step > 0.0 else 1 << 62


def _known(x: F8 | None) -> F8:
    assert x is not None
    return x


def fitted_seconds(fitted: Fitted | None, s: int, m: F8, roofline: float) -> float:
    """Seconds of op `s` at the moments `m`; `roofline` where no kernel model covers it.

    Without kernel models (None) compiled callers contain nothing of it.
    """
    return roofline if fitted is None else _op_seconds(fitted, s, m, roofline)


def fitted_experts(fitted: Fitted | None, row: int, routed: int, active: int) -> float:
    """Seconds of one device's experts, part `row`; negative where no kernel model covers them."""
    return -1.0 if fitted is None else _expert_seconds(fitted, row, routed, active)


def fitted_outside(fitted: Fitted | None, s: int, m: F8) -> bool:
    """Whether op `s` at the moments `m` lies outside the kernel tables, where some are in use."""
    return False if fitted is None else bool(_op_outside(fitted, s, m))


def experts_beyond(fitted: Fitted | None, row: int, routed: int, active: int) -> bool:
    """The same for one device's experts, part `row`."""
    return False if fitted is None else bool(_part_outside(fitted, row, routed, active))


@compiled_part
def _op_seconds(fitted: Fitted, s: int, m: F8, roofline: float) -> float:
    slot = fitted.slots[s]
    code = slot[K_CODE]
    if code == ROOFLINE:
        return roofline
    if code == CURVE:
        return float(_on_curve(fitted.curves, slot, m[slot[K_MOMENT]]))
    forms = fitted.sums[s]
    batch, tokens, pairs = _form(forms[U_BATCH], m), 0.0, 0.0
    kv = _form(forms[U_KV], m)
    if code != DECODE:
        tokens, pairs = _form(forms[U_TOKENS], m), _form(forms[U_PAIRS], m)
    p, x = fitted.formulas[s, 0], fitted.formulas[s, 1]
    if code == DECODE:
        return float(decode_seconds(p, fitted.h, x, batch, kv))
    if code == PREFILL:
        return float(prefill_seconds(p, fitted.h, x, p[WIDTH], batch, tokens, pairs, kv))
    if code == MLA:
        return float(mla_seconds(p, fitted.h, x, batch, tokens, pairs, kv))
    axes, sizes, seconds = fitted.axes[0], fitted.sizes[0], fitted.attention
    if code == MIXED_DECODE:
        uneven = _form(forms[U_UNEVEN], m)
        ratio = decode_beyond(axes, sizes, p, fitted.h, x, batch, kv)
        return float(ratio * mixed_decode(axes, sizes, seconds, batch, kv, uneven))
    decodes, own = _form(forms[U_DECODES], m), _form(forms[U_DECODE_KV], m)
    ratio = prefill_beyond(axes, sizes, p, fitted.h, x, batch, tokens, pairs)
    return float(ratio * mixed_prefill(axes, sizes, seconds, batch, tokens, pairs, decodes, own))


@compiled_part
def _form(form: F8, m: F8) -> float:
    total = form[m.size]
    for j in range(m.size):
        total += form[j] * m[j]
    return float(total)


@compiled_part
def _on_curve(curves: F8, slot: I8, count: float) -> float:
    start, last = slot[K_START], slot[K_LENGTH] - 1
    if count <= last:
        return float(curves[start + int(count)])
    slope = curves[start + last] - curves[start + last - 1]
    return float(curves[start + last] + slope * (count - last))


@compiled_part
def _expert_seconds(fitted: Fitted, row: int, routed: int, active: int) -> float:
    code = fitted.slots[row, K_CODE]
    p, x = fitted.formulas[row, 0], fitted.formulas[row, 1]
    if code == MOE:
        return float(moe_seconds(p, fitted.h, x, float(routed), float(active)))
    if code == MOE_GRID:
        tokens, on = routed / fitted.top_k, float(active)
        axes, sizes = fitted.axes[1], fitted.sizes[1]
        ratio = moe_beyond(axes, sizes, p, fitted.h, x, tokens, on, fitted.top_k)
        return float(ratio * interpolate(axes, sizes, fitted.experts, tokens, on, 0.0, 0.0))
    return -1.0


@compiled_part
def _op_outside(fitted: Fitted, s: int, m: F8) -> bool:
    slot = fitted.slots[s]
    if slot[K_MOST] != GRID:
        return bool(
            slot[K_MOST] == NOT_THERE or (slot[K_MOST] >= 0 and m[slot[K_MOMENT]] > slot[K_MOST])
        )
    forms = fitted.sums[s]
    axes, sizes = fitted.axes[0], fitted.sizes[0]
    if slot[K_CODE] == MIXED_DECODE:
        batch, kv = _form(forms[U_BATCH], m), _form(forms[U_KV], m)
        return bool(attention_outside(axes, sizes, MIXED_DECODE, 0.0, 0.0, 0.0, batch, kv))
    return bool(
        attention_outside(
            axes, sizes, MIXED_PREFILL, _form(forms[U_BATCH], m), _form(forms[U_TOKENS], m),
            _form(forms[U_PAIRS], m), _form(forms[U_DECODES], m), _form(forms[U_DECODE_KV], m),
        )
    )  # fmt: skip


@compiled_part
def _part_outside(fitted: Fitted, row: int, routed: int, active: int) -> bool:
    most = fitted.slots[row, K_MOST]
    if most != GRID:
        return bool(most == NOT_THERE)
    tokens = routed / fitted.top_k
    return bool(experts_outside(fitted.axes[1], fitted.sizes[1], tokens, float(active)))


_OPTIONS: Any = {"error_model": "numpy", "_nrt": False}


@overload(fitted_seconds, jit_options=_OPTIONS, inline="always")
def _typed_seconds(fitted: Any, s: Any, m: Any, roofline: Any) -> Callable[..., float]:
    def absent(fitted: Any, s: Any, m: Any, roofline: Any) -> Any:
        return roofline

    def present(fitted: Any, s: Any, m: Any, roofline: Any) -> Any:
        return _op_seconds(fitted, s, m, roofline)

    return absent if isinstance(fitted, types.NoneType) else present


@overload(fitted_experts, jit_options=_OPTIONS, inline="always")
def _typed_experts(fitted: Any, row: Any, routed: Any, active: Any) -> Callable[..., float]:
    def absent(fitted: Any, row: Any, routed: Any, active: Any) -> Any:
        return -1.0

    def present(fitted: Any, row: Any, routed: Any, active: Any) -> Any:
        return _expert_seconds(fitted, row, routed, active)

    return absent if isinstance(fitted, types.NoneType) else present


@overload(fitted_outside, jit_options=_OPTIONS, inline="always")
def _typed_outside(fitted: Any, s: Any, m: Any) -> Callable[..., bool]:
    def absent(fitted: Any, s: Any, m: Any) -> Any:
        return False

    def present(fitted: Any, s: Any, m: Any) -> Any:
        return _op_outside(fitted, s, m)

    return absent if isinstance(fitted, types.NoneType) else present


@overload(experts_beyond, jit_options=_OPTIONS, inline="always")
def _typed_beyond(fitted: Any, row: Any, routed: Any, active: Any) -> Callable[..., bool]:
    def absent(fitted: Any, row: Any, routed: Any, active: Any) -> Any:
        return False

    def present(fitted: Any, row: Any, routed: Any, active: Any) -> Any:
        return _part_outside(fitted, row, routed, active)

    return absent if isinstance(fitted, types.NoneType) else present

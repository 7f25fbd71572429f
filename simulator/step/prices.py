"""Cost models of a deployment as arrays: every op on every processor.

Each processor's cost model gives rows (`devices.prices.PriceRow`), which one compiled function evaluates. There are four
forms: the terms of a roofline; for an op that depends on one count (tokens or sequences), a curve over this count; for
attention and experts, formulas of the batch's sums, or measured grids that formulas extrapolate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...devices.calibrated.formulas import (
    SUMS,
    WIDTH,
    Chunks,
    Formula,
    Sum,
    decode_price,
    mla_price,
    moe_price,
    prefill_price,
    streamed_price,
)
from ...devices.calibrated.hardware import HARDWARE
from ...devices.calibrated.terms import bound
from ...devices.prices import EMPTY, IN_GRID, NO_TABLES, NOT_THERE, Grid, PriceRow
from ...devices.tables.grid import (
    attention_outside,
    decode_beyond,
    experts_outside,
    interpolate,
    mixed_decode,
    mixed_prefill,
    moe_beyond,
    prefill_beyond,
)
from ...workloads.jit import compiled_given, compiled_part
from ...workloads.jit_address import by_address
from ...workloads.records import Records

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

(K_CODE, K_START, K_LENGTH, K_MOMENT, K_MOST, K_GRID) = range(6)
NUM_SLOT = 6
"""Columns of `Kernels.slots`: code of the formula; start of its curve in `Kernels.curves`, the curve's length, and the
index of the moment that it depends on; `PriceRow.most`; and index of its grid."""

SEEN = 4096
"""Number of cached expert costs; they are reused because layers and the loads of consecutive steps are often equal."""

Price = tuple[float, int]
"""Cost of an op: its seconds, and the code of its bound."""


@by_address
class Kernels(NamedTuple):
    """Cost rows that are not rooflines: N = S+X rows as in `lowering.LoweredModel`, P processors, G grids."""

    tables: int | None  # number of measured grids; None if no kernel tables are in use
    streamed: int | None  # number of rows with the formula `calibrated.layer_kernels`; None if there are none
    slots: I8  # [N, P, NUM_SLOT]
    curves: F8  # [K, 2] seconds and bound of every curve at counts 0, 1, 2, ...
    formulas: F8  # [N, P, 2, WIDTH + 1] parameters and window; quantities of the op and experts of a token
    sums: F8  # [N, len(SUMS), M+1] `SUMS` as affine forms of the moments
    h: Records  # [P] of HARDWARE
    twins: I8  # [N, P] class of a row; rows of one class have equal costs at equal loads
    seen: F8  # [SEEN, 5] cache of expert costs: class, routed tokens, active experts, seconds and bound
    axes: F8  # [G, 4, A] axes of every grid
    sizes: I8  # [G, 4] lengths of these axes
    starts: I8  # [G] index of the first entry of each grid in `seconds`
    seconds: F8  # measured times of all grids, one grid after another [s]


Rows = Mapping[tuple[int, int], PriceRow]
"""Cost rows keyed by row and processor."""


def gather(rows: Rows, shape: tuple[int, int], moments: int) -> Kernels | None:
    """Convert cost rows to arrays; return None if all rows are rooflines.

    Parameters
    ----------
    rows : mapping of (int, int) to PriceRow
        Cost rows, keyed by row and processor.
    shape : (int, int)
        Number of rows and of processors.
    moments : int
        Number of moments of a batch.
    """
    if all(row.curve is None and row.formula is None for row in rows.values()):
        return None
    slots = np.zeros((*shape, NUM_SLOT), dtype=np.int64)
    formulas = np.zeros((*shape, 2, WIDTH + 1))
    sums = np.zeros((shape[0], len(SUMS), moments + 1))
    h = np.ones(shape[1], HARDWARE)
    starts: dict[int, int] = {}  # of curves, by identity: ops of equal quantities share one
    curves: list[F8] = [np.zeros((0, 2))]
    grids: list[Grid] = []
    for (i, p), row in rows.items():
        slots[i, p, K_MOST] = row.most
        if row.curve is not None:
            curve = row.curve
            if id(curve) not in starts:
                starts[id(curve)] = sum(map(len, curves))
                curves.append(np.column_stack([curve.seconds, curve.bound]))
            slots[i, p, : K_MOMENT + 1] = Formula.CURVE, starts[id(curve)], len(curve.seconds), curve.moment
        if row.formula is None:
            continue
        formula = row.formula
        slots[i, p, K_CODE] = formula.code
        formulas[i, p, 0, :WIDTH], formulas[i, p, 0, WIDTH] = formula.p, formula.window
        formulas[i, p, 1, : len(formula.x)], formulas[i, p, 1, WIDTH] = formula.x, formula.top_k
        if formula.sums is not None:  # the last two columns: unequal contexts, and the constant
            sums[i, :, : formula.sums.shape[1] - 1] = formula.sums[:, :-1]
            sums[i, :, -1] = formula.sums[:, -1]
        if row.hardware is not None:
            h[p] = row.hardware
        if row.grid is not None:
            slots[i, p, K_GRID] = len(grids)
            grids.append(row.grid)
    measured = len(grids) if any(row.most != NO_TABLES for row in rows.values()) else None
    streams = int((slots[:, :, K_CODE] == Formula.STREAMED).sum()) or None
    same = [a.reshape(*shape, -1) for a in (slots, formulas)]
    return Kernels(
        measured, streams, slots, np.concatenate(curves), formulas, sums, h,
        _twins(np.concatenate(same, axis=2)), np.full((SEEN, 5), -1.0), *_stacked(grids),
    )  # fmt: skip


def _twins(of: F8) -> I8:
    """Return for every row and processor, shape `of` without the last axis, the index of the first with equal values."""
    known: dict[bytes, int] = {}
    numbers = [known.setdefault(b"%d " % p + each.tobytes(), len(known)) for row in of for p, each in enumerate(row)]
    return np.array(numbers, dtype=np.int64).reshape(of.shape[:2])


def _stacked(grids: list[Grid]) -> tuple[F8, I8, I8, F8]:
    """Return the axes, sizes, starts and seconds of several grids as arrays, with axes padded to one length."""
    stacked = grids or [EMPTY]
    width = max(g.axes.shape[1] for g in stacked)
    axes = [np.pad(g.axes, ((0, 0), (0, width - g.axes.shape[1])), mode="edge") for g in stacked]
    starts = np.cumsum([0, *(len(g.seconds) for g in stacked[:-1])])
    return (
        np.stack(axes), np.stack([g.sizes for g in stacked]), starts.astype(np.int64),
        np.concatenate([g.seconds for g in stacked]),
    )  # fmt: skip


@compiled_given("kernels", otherwise=lambda kernels, s, p, m, seconds, limit: (seconds, limit))
def kernel_price(kernels: Kernels, s: int, processor: int, moments: F8, seconds: float, limit: int) -> Price:
    """Return the cost of an op; the given roofline cost if no kernel model covers it."""
    slot = kernels.slots[s, processor]
    code = slot[K_CODE]
    if code == Formula.ROOFLINE:
        return seconds, limit
    if code == Formula.CURVE:
        return _on_curve(kernels.curves, slot, moments[slot[K_MOMENT]])
    return formula_price(kernels, s, processor, moments)


@compiled_part
def formula_price(kernels: Kernels, slot: int, processor: int, moments: F8) -> Price:
    """Return the cost of an op by its formula, or by its grid."""
    code, forms, h = kernels.slots[slot, processor, K_CODE], kernels.sums[slot], kernels.h[processor]
    batch, kv = _form(forms[Sum.BATCH], moments), _form(forms[Sum.KV], moments)
    parameters, x = kernels.formulas[slot, processor, 0], kernels.formulas[slot, processor, 1]
    tokens, pairs = 0.0, 0.0
    if code == Formula.DECODE or code == Formula.MIXED_DECODE:
        pairs, prompts = _form(forms[Sum.PAIRS], moments), _form(forms[Sum.PROMPTS], moments)
        seconds, limit = decode_price(parameters, h, x, batch, pairs, kv, prompts)
    else:
        tokens, pairs = _form(forms[Sum.TOKENS], moments), _form(forms[Sum.PAIRS], moments)
        if code == Formula.MLA:
            return mla_price(parameters, h, x, Chunks(batch, tokens, pairs, kv))
        if code == Formula.STREAMED:
            return flowing(kernels, parameters, slot, processor, Chunks(batch, tokens, pairs, kv))
        window = parameters[WIDTH]
        decodes = _form(forms[Sum.DECODES], moments)
        seconds, limit = prefill_price(parameters, h, x, Chunks(batch, tokens, pairs, kv), decodes, window)
    return tabled_seconds(kernels, slot, processor, moments, seconds, (batch, kv, tokens, pairs)), limit


@compiled_given("kernels.streamed", otherwise=lambda kernels, parameters, s, p, chunks: (0.0, 0))
def flowing(kernels: Kernels, parameters: F8, slot: int, processor: int, chunks: Chunks) -> Price:
    """Return the cost of an op with the formula `calibrated.layer_kernels`; compiled only for plans that use it."""
    x = kernels.formulas[slot, processor, 1]
    return streamed_price(parameters, kernels.h[processor], x, chunks)


@compiled_given("kernels.tables", otherwise=lambda kernels, s, p, m, seconds, u: seconds)
def tabled_seconds(
    kernels: Kernels, s: int, processor: int, moments: F8, seconds: float, u: tuple[float, ...]
) -> float:
    """Return the seconds of an attention op from its measured grid; the formula's `seconds` if it has no grid.

    `u` has its numbers of sequences, keys in the KV cache, new tokens, and query-key pairs.
    """
    slot, h, forms = kernels.slots[s, processor], kernels.h[processor], kernels.sums[s]
    code = slot[K_CODE]
    parameters, x = kernels.formulas[s, processor, 0], kernels.formulas[s, processor, 1]
    batch, kv, tokens, pairs = u
    axes, sizes, values = _grid(kernels, slot[K_GRID])
    if code == Formula.MIXED_DECODE:
        ratio = decode_beyond(axes, sizes, parameters, h, x, batch, kv)
        seconds = ratio * mixed_decode(axes, sizes, values, batch, kv, moments[moments.size - 1])
    elif code == Formula.MIXED_PREFILL:
        decodes, decode_kv = _form(forms[Sum.DECODES], moments), _form(forms[Sum.DECODE_KV], moments)
        ratio = prefill_beyond(axes, sizes, parameters, h, x, batch, tokens, pairs)
        seconds = ratio * mixed_prefill(axes, sizes, values, batch, tokens, pairs, decodes, decode_kv)
    return seconds


@compiled_part
def _grid(kernels: Kernels, g: int) -> tuple[F8, I8, F8]:
    """Return the axes, sizes and seconds of one measured grid."""
    return kernels.axes[g], kernels.sizes[g], kernels.seconds[kernels.starts[g] :]


@compiled_part
def _form(form: F8, moments: F8) -> float:
    total = form[moments.size]
    for j in range(moments.size):
        total += form[j] * moments[j]
    return float(total)


@compiled_part
def _on_curve(curves: F8, slot: I8, count: float) -> Price:
    start, last = slot[K_START], slot[K_LENGTH] - 1
    if count <= last:
        at = start + int(count)
        return curves[at, 0], int(curves[at, 1])
    # The slope is taken over the upper half of the curve, because the time of a product rises in steps of its tiles.
    end, half = curves[start + last, 0], last // 2
    slope = (end - curves[start + half, 0]) / max(last - half, 1)
    return end + slope * (count - last), int(curves[start + last, 1])


@compiled_part
def op_price(
    kernels: Kernels | None, params: Records, slot: int, processor: int, moments: F8, flops: float, size: float
) -> Price:
    """Return the cost of the op of `slot` on `processor` at `moments`, for its `flops` FLOPs and `size` bytes."""
    compute, memory, fixed = flops / params.flops, size / params.bytes, params.fixed
    seconds = max(compute, memory) + fixed
    return kernel_price(kernels, slot, processor, moments, seconds, bound(seconds, compute, memory, fixed))


@compiled_given("kernels", otherwise=lambda kernels, row, p, routed, active: (-1.0, 0))
def experts_price(kernels: Kernels, row: int, processor: int, routed: float, active: float) -> Price:
    """Return the cost of one device's experts; negative if no kernel model covers them."""
    code, twin = kernels.slots[row, processor, K_CODE], kernels.twins[row, processor]
    if code != Formula.MOE and code != Formula.MOE_GRID:
        return -1.0, 0
    seen = kernels.seen[(int(routed) * 67 + int(active) + twin * 509) % SEEN]
    if seen[0] == twin and seen[1] == routed and seen[2] == active:
        return seen[3], int(seen[4])
    parameters, x, h = kernels.formulas[row, processor, 0], kernels.formulas[row, processor, 1], kernels.h[processor]
    seconds, limit = moe_price(parameters, h, x, routed, active)
    seconds = tabled_experts(kernels, row, processor, seconds, routed, active)
    seen[0], seen[1], seen[2], seen[3], seen[4] = twin, routed, active, seconds, limit
    return seconds, limit


@compiled_given("kernels.tables", otherwise=lambda kernels, row, p, seconds, routed, active: seconds)
def tabled_experts(kernels: Kernels, row: int, processor: int, seconds: float, routed: float, active: float) -> float:
    """Return the seconds of experts from their measured grid; the formula's `seconds` if they have no grid."""
    if kernels.slots[row, processor, K_CODE] != Formula.MOE_GRID:
        return seconds
    parameters, x, h = kernels.formulas[row, processor, 0], kernels.formulas[row, processor, 1], kernels.h[processor]
    top_k = x[WIDTH]
    tokens = routed / top_k
    axes, sizes, values = _grid(kernels, kernels.slots[row, processor, K_GRID])
    ratio = moe_beyond(axes, sizes, parameters, h, x, tokens, active, top_k)
    return float(ratio * interpolate(axes, sizes, values, tokens, active, 0.0, 0.0))


@compiled_given("kernels.tables", otherwise=lambda kernels, s, p, m: False)
def op_outside(kernels: Kernels, s: int, processor: int, moments: F8) -> bool:
    """Return whether op `s` at `moments` is outside the measured kernel tables, if it uses tables."""
    slot = kernels.slots[s, processor]
    if slot[K_MOST] != IN_GRID:
        return bool(slot[K_MOST] == NOT_THERE or (slot[K_MOST] >= 0 and moments[slot[K_MOMENT]] > slot[K_MOST]))
    forms = kernels.sums[s]
    axes, sizes, _ = _grid(kernels, slot[K_GRID])
    if slot[K_CODE] == Formula.MIXED_DECODE:
        batch, kv = _form(forms[Sum.BATCH], moments), _form(forms[Sum.KV], moments)
        return bool(attention_outside(axes, sizes, Formula.MIXED_DECODE, 0.0, 0.0, 0.0, batch, kv))
    return bool(
        attention_outside(
            axes, sizes, Formula.MIXED_PREFILL, _form(forms[Sum.BATCH], moments), _form(forms[Sum.TOKENS], moments),
            _form(forms[Sum.PAIRS], moments), _form(forms[Sum.DECODES], moments), _form(forms[Sum.DECODE_KV], moments),
        )
    )  # fmt: skip


@compiled_given("kernels.tables", otherwise=lambda kernels, row, p, routed, active: False)
def part_outside(kernels: Kernels, row: int, processor: int, routed: float, active: float) -> bool:
    """Return whether one device's experts are outside the measured kernel tables, if they use tables."""
    slot = kernels.slots[row, processor]
    if slot[K_MOST] != IN_GRID:
        return bool(slot[K_MOST] == NOT_THERE)
    axes, sizes, _ = _grid(kernels, slot[K_GRID])
    tokens = routed / kernels.formulas[row, processor, 1, WIDTH]
    return bool(experts_outside(axes, sizes, tokens, active))

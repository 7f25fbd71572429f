"""Beyond the edge of a measured grid: the edge's time, scaled by the device's own model.

A grid keeps its edge value outside its axes. There the device's kernel model says how much longer
an op takes than at the edge: the measured time is scaled by the model's time at the point over
its time at the nearest point of the grid. The two meet at the edge, where the ratio is 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled, compiled_part
from ..calibrated.formulas import (
    MIXED_DECODE,
    MIXED_PREFILL,
    U_BATCH,
    U_KV,
    U_PAIRS,
    U_TOKENS,
    decode_price,
    moe_price,
    prefill_price,
)
from ..prices import Grid, KernelFormula
from .grid import equal_chunk

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

CHUNK, CONTEXT, DECODES, KEYS = range(4)
"""Axes of attention grids: tokens of a prompt chunk and of its context, decodes and theirs."""

TOKENS, ACTIVE = range(2)
"""Axes of expert grids."""


@compiled_part
def inside(axes: F8, sizes: I8, axis: int, value: float) -> float:
    """A value, but not above the end of an axis."""
    return float(min(value, axes[axis, sizes[axis] - 1]))


@compiled_part
def decode_beyond(axes: F8, sizes: I8, parameters: F8, hardware: F8, inputs: F8, decodes: float, kv: float) -> float:
    """Decode attention over that at the edge; 1 inside. `parameters` and `inputs` as in `decode_price`."""
    if decodes <= 0.0:
        return 1.0
    n, keys = inside(axes, sizes, DECODES, decodes), inside(axes, sizes, KEYS, kv / decodes)
    if n == decodes and keys == kv / decodes:
        return 1.0
    edge, _ = decode_price(parameters, hardware, inputs, n, n * keys, n * keys, 0.0)
    return decode_price(parameters, hardware, inputs, decodes, kv, kv, 0.0)[0] / edge if edge > 0.0 else 1.0


@compiled_part
def prefill_beyond(
    axes: F8, sizes: I8, parameters: F8, hardware: F8, inputs: F8, batch: float, tokens: float, pairs: float
) -> float:
    """Attention of equal prompt chunks over that at the edge; 1 inside."""
    if batch <= 0.0 or tokens <= 0.0:
        return 1.0
    chunk, context = equal_chunk(batch, tokens, pairs)
    q, c = inside(axes, sizes, CHUNK, chunk), inside(axes, sizes, CONTEXT, context)
    if q == chunk and c == context:
        return 1.0
    edge = equal_chunks(parameters, hardware, inputs, batch, q, c)
    return float(equal_chunks(parameters, hardware, inputs, batch, chunk, context) / edge) if edge > 0.0 else 1.0


@compiled_part
def equal_chunks(parameters: F8, hardware: F8, inputs: F8, batch: float, chunk: float, context: float) -> float:
    """Seconds of chunks that are all alike."""
    pairs = chunk * (context + 0.5 * (chunk + 1.0))
    keys = batch * (context + chunk)
    seconds, _ = prefill_price(parameters, hardware, inputs, 0.0, batch, batch * chunk, batch * pairs, keys, 0.0)
    return seconds


@compiled_part
def moe_beyond(
    axes: F8, sizes: I8, parameters: F8, hardware: F8, inputs: F8, tokens: float, active: float, top_k: float
) -> float:
    """One device's experts over those at the edge; 1 inside."""
    t, a = inside(axes, sizes, TOKENS, tokens), inside(axes, sizes, ACTIVE, active)
    if t == tokens and a == active:
        return 1.0
    edge, _ = moe_price(parameters, hardware, inputs, t * top_k, a)
    return moe_price(parameters, hardware, inputs, tokens * top_k, active)[0] / edge if edge > 0.0 else 1.0


@compiled_part
def attention_outside(
    axes: F8, sizes: I8, code: int, batch: float, tokens: float, pairs: float, decodes: float, kv: float
) -> bool:
    """Return whether any value of an attention op is above its axis; `kv` is the decodes' value."""
    out = False
    if code == MIXED_PREFILL and batch > 0.0 and tokens > 0.0:
        chunk, context = equal_chunk(batch, tokens, pairs)
        out = chunk > inside(axes, sizes, CHUNK, chunk)
        out = out or context > inside(axes, sizes, CONTEXT, context)
    if decodes > 0.0:
        keys = kv / decodes
        out = out or decodes > inside(axes, sizes, DECODES, decodes)
        out = out or keys > inside(axes, sizes, KEYS, keys)
    return out


@compiled_part
def experts_outside(axes: F8, sizes: I8, tokens: float, active: float) -> bool:
    """Return whether tokens or active experts are above their axis."""
    return bool(tokens > inside(axes, sizes, TOKENS, tokens) or active > inside(axes, sizes, ACTIVE, active))


@compiled
def _rows(
    code: int, axes: F8, sizes: I8, parameters: F8, hardware: F8, inputs: F8, rows: F8, top_k: float, out: F8
) -> None:
    for i in range(rows.shape[0]):
        u = rows[i]
        if code == MIXED_DECODE:
            out[i] = decode_beyond(axes, sizes, parameters, hardware, inputs, u[U_BATCH], u[U_KV])
        elif code == MIXED_PREFILL:
            out[i] = prefill_beyond(axes, sizes, parameters, hardware, inputs, u[U_BATCH], u[U_TOKENS], u[U_PAIRS])
        else:
            out[i] = moe_beyond(axes, sizes, parameters, hardware, inputs, u[TOKENS], u[ACTIVE], top_k)


def beyond_rows(grid: Grid, formula: KernelFormula, hardware: F8, rows: F8, top_k: float = 1.0) -> F8:
    """Ratios of rows of sums, as `grid.grid_rows` takes them, shape (n,).

    Parameters
    ----------
    formula : KernelFormula
        Code of the grid's op, with parameters and quantities of the device's own model.
    hardware : float64 array
        Device constants of `calibrated.hardware`.
    top_k : float
        Experts of a token.
    """
    out = np.empty(len(rows))
    x = np.array(formula.x)
    _rows(formula.code, grid.axes, grid.sizes, np.array(formula.p), hardware, x, np.ascontiguousarray(rows), top_k, out)
    return out

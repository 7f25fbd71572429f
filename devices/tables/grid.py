"""Measured times on a grid of several dimensions, and their multilinear interpolation.

A grid keeps its edge value outside its axes. There the measured time is scaled by the device's own model: its time at
the point over its time at the nearest point of the grid. The two meet at the edge, where the ratio is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled, compiled_part
from ...workloads.records import Records
from ..calibrated.formulas import Chunks, Formula, Sum, decode_price, moe_price, prefill_price
from ..prices import Grid, KernelFormula
from ..ratios import Ratios

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


def filled_grid(points: F8, seconds: F8) -> Grid:
    """Build a full grid from measured points, shape (n, axes), with at least one point.

    An axis has the values that were measured at the smallest (non-zero) values of all other axes. Missing cells are
    interpolated along a line of the grid that has cells around them, else they continue one.
    """
    axes = _axes(points)
    inside = np.all([np.isin(c, a) for c, a in zip(points.T, axes, strict=True)], axis=0)
    points, seconds = points[inside], seconds[inside]
    shape = [len(a) for a in axes]
    cells = np.full(shape, np.nan)
    at = tuple(np.searchsorted(a, c) for a, c in zip(axes, points.T, strict=True))
    cells[at] = seconds
    if points.shape[1] == 4:
        _absent(cells, axes)
    _fill(cells, axes)
    width = max(shape)
    padded = np.array([np.pad(a, (0, width - len(a)), mode="edge") for a in axes])
    missing = 4 - len(axes)
    padded = np.concatenate([padded, np.zeros((missing, width))])
    sizes = np.array([*shape, *([1] * missing)], dtype=np.int64)
    return Grid(padded, sizes, np.ascontiguousarray(cells).ravel())


def _axes(points: F8) -> list[F8]:
    smallest = [column[column > 0].min(initial=np.inf) for column in points.T]
    out = []
    for d in range(points.shape[1]):
        others = [points[:, e] <= smallest[e] for e in range(points.shape[1]) if e != d]
        out.append(np.unique(points[np.all(others, axis=0), d]))
    return out


def _absent(cells: F8, axes: list[F8]) -> None:
    """Fill the cells of steps without new tokens or sequences, whose time does not depend on the context."""
    for tokens, context in ((0, 1), (2, 3)):
        if axes[tokens][0] == 0 and axes[context][0] == 0:
            view = np.moveaxis(cells, (tokens, context), (0, 1))
            view[0, 1:] = view[0, :1]
    if axes[0][0] == 0 and axes[2][0] == 0:
        cells[0, :, 0, :] = 0.0


def _fill(cells: F8, axes: list[F8]) -> None:
    """Fill cells between measured ones, then cells beyond them, until none is missing."""
    for beyond in (False, True):
        for _ in range(cells.ndim):
            for d in reversed(range(cells.ndim)):
                lines = np.moveaxis(cells, d, -1).reshape(-1, cells.shape[d])
                for i in np.flatnonzero(np.isnan(lines).any(axis=1)):
                    _fill_line(lines[i], axes[d], beyond)
                cells[...] = np.moveaxis(lines.reshape(np.moveaxis(cells, d, -1).shape), -1, d)
    cells[np.isnan(cells)] = np.nanmax(cells)


def _fill_line(line: F8, axis: F8, beyond: bool) -> None:
    """Fill a line linearly between known values; continue its end with the last slope, and its start constantly."""
    known = np.flatnonzero(~np.isnan(line))
    if len(known) < 2:
        return
    hole = np.isnan(line)
    first, last = known[0], known[-1]
    between = hole & (axis >= axis[first]) & (axis <= axis[last])
    line[between] = np.interp(axis[between], axis[known], line[known])
    if beyond:
        slope = (line[last] - line[last - 1]) / (axis[last] - axis[last - 1])
        line[last + 1 :] = line[last] + max(slope, 0.0) * (axis[last + 1 :] - axis[last])
        line[:first] = line[first]


@compiled_part
def interpolate(axes: F8, sizes: I8, seconds: F8, a: float, b: float, c: float, d: float) -> float:
    """Interpolate linearly in each dimension between the grid's values; constant outside."""
    i0, i1 = _below(axes[0], sizes[0], a), _below(axes[1], sizes[1], b)
    i2, i3 = _below(axes[2], sizes[2], c), _below(axes[3], sizes[3], d)
    f0, f1 = _part(axes[0], sizes[0], i0, a), _part(axes[1], sizes[1], i1, b)
    f2, f3 = _part(axes[2], sizes[2], i2, c), _part(axes[3], sizes[3], i3, d)
    total = 0.0
    for corner in range(16):
        w = f0 if corner & 1 else 1.0 - f0
        w *= f1 if corner & 2 else 1.0 - f1
        w *= f2 if corner & 4 else 1.0 - f2
        w *= f3 if corner & 8 else 1.0 - f3
        if w != 0.0:
            at = i0 + (corner & 1)
            at = at * sizes[1] + i1 + (corner >> 1 & 1)
            at = at * sizes[2] + i2 + (corner >> 2 & 1)
            at = at * sizes[3] + i3 + (corner >> 3 & 1)
            total += w * seconds[at]
    return total


@compiled_part
def _below(axis: F8, size: int, value: float) -> int:
    """Return the index of the cell that contains a value."""
    low, high = 0, size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if axis[middle] <= value:
            low = middle
        else:
            high = middle
    return low


@compiled_part
def _part(axis: F8, size: int, i: int, value: float) -> float:
    """Return the position of a value between two of an axis, 0 to 1."""
    if size < 2 or value <= axis[i]:
        return 0.0
    return float(min((value - axis[i]) / (axis[i + 1] - axis[i]), 1.0))


@compiled_part
def mixed_decode(axes: F8, sizes: I8, seconds: F8, decodes: float, keys: float, uneven: float) -> float:
    """Return decode attention: the time at the mean context, plus the term of unequal contexts."""
    if decodes <= 0.0:
        return 0.0
    even = interpolate(axes, sizes, seconds, 0.0, 0.0, decodes, keys / decodes)
    return float(max(even + uneven, 0.0))


@compiled_part
def equal_chunk(batch: float, tokens: float, pairs: float) -> tuple[float, float]:
    """Return the new tokens and the context of each of `batch` equal chunks with these sums."""
    chunk = tokens / batch
    return chunk, max(pairs / tokens - 0.5 * (chunk + 1.0), 0.0)


@compiled_part
def mixed_prefill(
    axes: F8, sizes: I8, seconds: F8, batch: float, tokens: float, pairs: float, decodes: float, keys: float
) -> float:
    """Return the seconds that prompt chunks add to the decodes of their step.

    Chunks count as equal ones with the same sum of query-key pairs. One of them is read with the decodes: a kernel with
    prompts and decodes is slower for the decodes, which happens once. The others add their separate time, beyond the
    shortest call.
    """
    if batch <= 0.0 or tokens <= 0.0:
        return 0.0
    q, context = equal_chunk(batch, tokens, pairs)
    mean_kv = keys / decodes if decodes > 0.0 else 0.0
    both = interpolate(axes, sizes, seconds, q, context, decodes, mean_kv)
    if decodes > 0.0:
        both -= interpolate(axes, sizes, seconds, 0.0, 0.0, decodes, mean_kv)
    if batch > 1.0:
        alone = interpolate(axes, sizes, seconds, q, context, 0.0, 0.0)
        shortest = interpolate(axes, sizes, seconds, axes[0, 1], 0.0, 0.0, 0.0)
        both += (batch - 1.0) * max(alone - shortest, 0.0)
    return max(both, 0.0)


@compiled
def _rows(code: int, axes: F8, sizes: I8, seconds: F8, inputs: F8, out: F8) -> None:
    for i in range(inputs.shape[0]):
        u = inputs[i]
        if code == Formula.MIXED_DECODE:
            out[i] = mixed_decode(axes, sizes, seconds, u[0], u[3], u[6])
        elif code == Formula.MIXED_PREFILL:
            out[i] = mixed_prefill(axes, sizes, seconds, u[0], u[1], u[2], u[4], u[5])
        else:
            out[i] = interpolate(axes, sizes, seconds, u[0], u[1], 0.0, 0.0)


def grid_rows(code: int, grid: Grid, inputs: F8) -> F8:
    """Return the seconds of rows of sums (`SUMS`; tokens and active experts for `MOE_GRID`), shape (n,)."""
    out = np.empty(len(inputs))
    _rows(code, grid.axes, grid.sizes, grid.seconds, np.ascontiguousarray(inputs), out)
    return out


AttentionAxis = IntEnum("AttentionAxis", "CHUNK CONTEXT DECODES KEYS", start=0)
"""Axes of attention grids: tokens of a prompt chunk, its context, number of decodes, and their context."""

ExpertAxis = IntEnum("ExpertAxis", "TOKENS ACTIVE", start=0)
"""Axes of expert grids."""


@compiled_part
def inside(axes: F8, sizes: I8, axis: int, value: float) -> float:
    """Return a value, limited to the end of an axis."""
    return float(min(value, axes[axis, sizes[axis] - 1]))


@compiled_part
def decode_beyond(
    axes: F8, sizes: I8, parameters: F8, hardware: Records, inputs: F8, decodes: float, kv: float
) -> float:
    """Return the time of decode attention over the time at the grid's edge; 1 inside the grid.

    `parameters` and `inputs` as in `decode_price`.
    """
    if decodes <= 0.0:
        return 1.0
    n, keys = inside(axes, sizes, AttentionAxis.DECODES, decodes), inside(axes, sizes, AttentionAxis.KEYS, kv / decodes)
    if n == decodes and keys == kv / decodes:
        return 1.0
    edge, _ = decode_price(parameters, hardware, inputs, n, n * keys, n * keys, 0.0)
    return decode_price(parameters, hardware, inputs, decodes, kv, kv, 0.0)[0] / edge if edge > 0.0 else 1.0


@compiled_part
def prefill_beyond(
    axes: F8, sizes: I8, parameters: F8, hardware: Records, inputs: F8, batch: float, tokens: float, pairs: float
) -> float:
    """Return the time of equal prompt chunks' attention over the time at the grid's edge; 1 inside the grid."""
    if batch <= 0.0 or tokens <= 0.0:
        return 1.0
    chunk, context = equal_chunk(batch, tokens, pairs)
    q, c = inside(axes, sizes, AttentionAxis.CHUNK, chunk), inside(axes, sizes, AttentionAxis.CONTEXT, context)
    if q == chunk and c == context:
        return 1.0
    edge = equal_chunks(parameters, hardware, inputs, batch, q, c)
    return float(equal_chunks(parameters, hardware, inputs, batch, chunk, context) / edge) if edge > 0.0 else 1.0


@compiled_part
def equal_chunks(parameters: F8, hardware: Records, inputs: F8, batch: float, chunk: float, context: float) -> float:
    """Return the seconds of equal chunks."""
    pairs = chunk * (context + 0.5 * (chunk + 1.0))
    keys = batch * (context + chunk)
    seconds, _ = prefill_price(
        parameters, hardware, inputs, Chunks(batch, batch * chunk, batch * pairs, keys), 0.0, 0.0
    )
    return seconds


@compiled_part
def moe_beyond(
    axes: F8, sizes: I8, parameters: F8, hardware: Records, inputs: F8, tokens: float, active: float, top_k: float
) -> float:
    """Return the time of one device's experts over the time at the grid's edge; 1 inside the grid."""
    t, a = inside(axes, sizes, ExpertAxis.TOKENS, tokens), inside(axes, sizes, ExpertAxis.ACTIVE, active)
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
    if code == Formula.MIXED_PREFILL and batch > 0.0 and tokens > 0.0:
        chunk, context = equal_chunk(batch, tokens, pairs)
        out = chunk > inside(axes, sizes, AttentionAxis.CHUNK, chunk)
        out = out or context > inside(axes, sizes, AttentionAxis.CONTEXT, context)
    if decodes > 0.0:
        keys = kv / decodes
        out = out or decodes > inside(axes, sizes, AttentionAxis.DECODES, decodes)
        out = out or keys > inside(axes, sizes, AttentionAxis.KEYS, keys)
    return out


@compiled_part
def experts_outside(axes: F8, sizes: I8, tokens: float, active: float) -> bool:
    """Return whether tokens or active experts are above their axis."""
    return bool(
        tokens > inside(axes, sizes, ExpertAxis.TOKENS, tokens)
        or active > inside(axes, sizes, ExpertAxis.ACTIVE, active)
    )


@compiled
def _ratio_rows(
    code: int, grid: Grid, parameters: F8, hardware: Records, inputs: F8, rows: F8, top_k: float, out: F8
) -> None:
    """Write the ratio of the formula at each row to the formula at the nearest point of the grid."""
    axes, sizes = grid.axes, grid.sizes
    for i in range(rows.shape[0]):
        u = rows[i]
        if code == Formula.MIXED_DECODE:
            out[i] = decode_beyond(axes, sizes, parameters, hardware, inputs, u[Sum.BATCH], u[Sum.KV])
        elif code == Formula.MIXED_PREFILL:
            out[i] = prefill_beyond(
                axes, sizes, parameters, hardware, inputs, u[Sum.BATCH], u[Sum.TOKENS], u[Sum.PAIRS]
            )
        else:
            out[i] = moe_beyond(
                axes, sizes, parameters, hardware, inputs, u[ExpertAxis.TOKENS], u[ExpertAxis.ACTIVE], top_k
            )


def beyond_rows(grid: Grid, formula: KernelFormula, hardware: Records, rows: F8, top_k: float = 1.0) -> F8:
    """Return the ratios of rows of sums to the grid's edge, shape (n,); rows as in `grid.grid_rows`.

    Parameters
    ----------
    formula : KernelFormula
        Code of the grid's op, with parameters and quantities of the device's own model.
    hardware : record
        Device constants of `calibrated.hardware`.
    top_k : float
        Experts of a token.
    """
    out = np.empty(len(rows))
    x = np.array(formula.x)
    _ratio_rows(formula.code, grid, np.array(formula.p), hardware, x, np.ascontiguousarray(rows), top_k, out)
    return out


def between_rows(curves: Sequence[tuple[F8, F8]]) -> Ratios | None:
    """Return the error of every inner row on the line between its neighbours, over all curves.

    Neighbours of neighbours are more distant than in use, so the error is an upper estimate. None without a curve of
    three rows.

    Parameters
    ----------
    curves : sequence of (float64 array, float64 array)
        Rows, increasing, and seconds.

    Examples
    --------
    >>> between_rows([(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))]).high
    0.0
    """
    errors = [np.log(took[1:-1] / _line(rows, took)) for rows, took in curves if len(rows) > 2]
    if not errors:
        return None
    low, middle, high = np.quantile(np.concatenate(errors), [0.1, 0.5, 0.9])
    return Ratios(float(low), float(middle), float(high))


def _line(rows: F8, took: F8) -> F8:
    share = (rows[1:-1] - rows[:-2]) / (rows[2:] - rows[:-2])
    out: F8 = took[:-2] + share * (took[2:] - took[:-2])
    return out

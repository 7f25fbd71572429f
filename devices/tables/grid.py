"""Measured times on a grid of several dimensions, and their multilinear interpolation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled, compiled_part
from ..calibrated.formulas import MIXED_DECODE, MIXED_PREFILL
from ..prices import Grid

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


def filled_grid(points: F8, seconds: F8) -> Grid:
    """Make a full grid of measured points, shape (n, axes), `n` of at least 1.

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
    """Zero new tokens or sequences have one time for any context; nothing takes none."""
    for tokens, context in ((0, 1), (2, 3)):
        if axes[tokens][0] == 0 and axes[context][0] == 0:
            view = np.moveaxis(cells, (tokens, context), (0, 1))
            view[0, 1:] = view[0, :1]
    if axes[0][0] == 0 and axes[2][0] == 0:
        cells[0, :, 0, :] = 0.0


def _fill(cells: F8, axes: list[F8]) -> None:
    """Fill holes between measured cells, then those beyond them, until none is left."""
    for beyond in (False, True):
        for _ in range(cells.ndim):
            for d in reversed(range(cells.ndim)):
                lines = np.moveaxis(cells, d, -1).reshape(-1, cells.shape[d])
                for i in np.flatnonzero(np.isnan(lines).any(axis=1)):
                    _fill_line(lines[i], axes[d], beyond)
                cells[...] = np.moveaxis(lines.reshape(np.moveaxis(cells, d, -1).shape), -1, d)
    cells[np.isnan(cells)] = np.nanmax(cells)


def _fill_line(line: F8, axis: F8, beyond: bool) -> None:
    """Straight lines between known values; beyond them the last slope, and never less."""
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
    """Multilinear between the grid's values, constant outside."""
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
    """Index of the cell that holds a value."""
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
    """New tokens and context of each of `batch` equal chunks with these sums."""
    chunk = tokens / batch
    return chunk, max(pairs / tokens - 0.5 * (chunk + 1.0), 0.0)


@compiled_part
def mixed_prefill(
    axes: F8, sizes: I8, seconds: F8, batch: float, tokens: float, pairs: float, decodes: float, keys: float
) -> float:
    """What prompt chunks add to the decodes of their step.

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
        if code == MIXED_DECODE:
            out[i] = mixed_decode(axes, sizes, seconds, u[0], u[3], u[6])
        elif code == MIXED_PREFILL:
            out[i] = mixed_prefill(axes, sizes, seconds, u[0], u[1], u[2], u[4], u[5])
        else:
            out[i] = interpolate(axes, sizes, seconds, u[0], u[1], 0.0, 0.0)


def grid_rows(code: int, grid: Grid, inputs: F8) -> F8:
    """Seconds of rows of sums (`SUMS`; tokens and active experts for `MOE_GRID`), shape (n,)."""
    out = np.empty(len(inputs))
    _rows(code, grid.axes, grid.sizes, grid.seconds, np.ascontiguousarray(inputs), out)
    return out

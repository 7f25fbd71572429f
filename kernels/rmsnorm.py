"""RMSNorm, with or without the residual added first.

``y = x / sqrt(mean(x^2) + eps) * w`` by row; with a residual, ``r = r + x`` is written back and
normed. On the CPU the row is read twice, the second time from the cache, and the result is stored
past the caches: a store that is not fetches the line first, half as much traffic again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from .check import require
from .jit import parallel, threads_for
from .lab import Bench, Case, Kernel, Shape, add
from .memory import LINE
from .vector import I64, LANES, Value, micro_kernel

F4 = npt.NDArray[np.float32]
EPS = 1e-6
WIDE = 2048
"""Columns from which the next row is prefetched while one is scaled: without it memory is idle, and rows of 4096
took 1.2 times as long. For rows of 1024, which the hardware prefetches, it cost a quarter; with a residual to write
back, a tenth with fast reads."""


@micro_kernel(types.int64, types.int64, types.int64, result=types.float32)
def square_sum(emitter, x, r, n):
    """Return the sum of squares of `n` floats at `x`; if `r` is not 0, of ``r + x``, which is stored at `r`."""
    b = emitter.b
    acc = emitter.registers(4)
    added = b.icmp_signed("!=", r, I64(0))

    def sweep(with_residual: bool) -> None:
        def body(i: Value) -> None:
            for c, slot in enumerate(acc):
                at = emitter.offset(b.mul(i, I64(4)), 4 * LANES * c)
                value = emitter.load(b.add(x, at))
                if with_residual:
                    value = emitter.fadd(value, emitter.load(b.add(r, at)))
                    emitter.store(value, b.add(r, at))
                b.store(emitter.fma(value, value, b.load(slot)), slot)

        emitter.loop(I64(0), n, 4 * LANES, body)

    with b.if_else(added) as (then, otherwise):
        with then:
            sweep(True)
        with otherwise:
            sweep(False)
    total = [b.load(slot) for slot in acc]
    both = emitter.fadd(emitter.fadd(total[0], total[1]), emitter.fadd(total[2], total[3]))
    return emitter.sums([both])[0]


@micro_kernel(types.int64, types.int64, types.float32, *(types.int64,) * 3)
def scale_row(emitter, x, w, factor, out, n, ahead):
    """Compute ``out = x * factor * w`` for `n` floats, with stores that bypass the caches.

    Unless `ahead` is 0, the row there is prefetched at the same time.
    """
    b = emitter.b
    factors = emitter.splat(factor)

    def sweep(fetching: bool) -> None:
        def body(i: Value) -> None:
            for c in range(4):
                at = emitter.offset(b.mul(i, I64(4)), 4 * LANES * c)
                if fetching and 4 * LANES * c % LINE == 0:
                    emitter.prefetch(b.add(ahead, at))
                scaled = emitter.fmul(emitter.load(b.add(x, at)), factors)
                value = emitter.fmul(scaled, emitter.load(b.add(w, at)))
                emitter.stream(value, b.add(out, at))

        emitter.loop(I64(0), n, 4 * LANES, body)

    with b.if_else(b.icmp_signed("!=", ahead, I64(0))) as (then, otherwise):
        with then:
            sweep(True)
        with otherwise:
            sweep(False)


@parallel
def _norm(x_at, r_at, w_at, out_at, rows, cols, eps, threads):
    for thread in numba.prange(threads):
        last = rows * (thread + 1) // threads - 1
        for i in range(rows * thread // threads, last + 1):
            at = x_at + 4 * i * cols
            residual = r_at + 4 * i * cols if r_at != 0 else 0
            total = square_sum(at, residual, cols)
            factor = np.float32(1.0) / np.sqrt(total / np.float32(cols) + eps)
            source = residual if r_at != 0 else at
            ahead = at + 4 * cols if cols >= WIDE and r_at == 0 and i < last else 0
            scale_row(source, w_at, factor, out_at + 4 * i * cols, cols, ahead)


def rmsnorm(x: F4, w: F4, out: F4, residual: F4 | None = None, threads: int = 1) -> None:
    """Normalise the rows of `x`, shape (rows, cols), into `out`.

    With `residual`, of the same shape, it becomes ``residual + x`` and that is normed.

    Raises
    ------
    ValueError
        Shapes that differ, arrays that are not contiguous float32, cols that are not a multiple of
        four vector registers, or an `out` that is not aligned to a register (see `aligned`).
    """
    step = 4 * LANES
    given = [x, w, out] + ([] if residual is None else [residual])
    if x.shape[1] % step:
        raise ValueError(f"rows of {x.shape[1]} values: must be a multiple of {step}")
    if any(a.dtype != np.float32 or not a.flags.c_contiguous for a in given):
        raise ValueError("arrays must be contiguous float32")
    if out.shape != x.shape or w.shape != x.shape[1:] or given[-1].shape not in (x.shape, w.shape):
        raise ValueError("shapes of x, w, residual and out do not match")
    if out.ctypes.data % (4 * LANES):
        raise ValueError(f"out must start at a multiple of {4 * LANES} bytes (kernels.memory.aligned)")
    r_at = 0 if residual is None else residual.ctypes.data
    rows, cols = x.shape
    threads = threads_for(x.nbytes * 2.0, threads)
    _norm(x.ctypes.data, r_at, w.ctypes.data, out.ctypes.data, rows, cols, np.float32(EPS), threads)


def reference(x: F4, w: F4, residual: F4 | None = None) -> npt.NDArray[np.float64]:
    """Compute RMSNorm in fp64, as a reference."""
    y = x.astype(np.float64) + (0.0 if residual is None else residual.astype(np.float64))
    normed: npt.NDArray[np.float64] = y / np.sqrt((y * y).mean(1, keepdims=True) + EPS)
    return normed * w


def shapes(quick: bool) -> Sequence[Shape]:
    """Return shapes from the rows of a decode step to a prompt's."""
    sizes = (1, 4, 16, 64, 256, 1024, 4096) if quick else (1, 4, 16, 64, 256, 1024, 4096, 8192)
    widths = (512, 1024, 4096) if quick else (512, 1024, 2048, 4096, 8192)
    return [
        {"kernel": kernel, "rows": rows, "cols": cols}
        for kernel in ("rmsnorm", "fused_add_rmsnorm")
        for rows in sizes
        for cols in widths
        if rows * cols <= 8192 * 4096
    ]


def case(shape: Shape, bench: Bench) -> Case:
    """Return the case of one shape."""
    rows, cols, added = shape["rows"], shape["cols"], shape["kernel"] == "fused_add_rmsnorm"
    tensor = 4.0 * rows * cols
    copies = bench.copies(3 * tensor)
    inputs = [bench.take((rows, cols)) for _ in range(copies)]
    # Written ones lie elsewhere: the block must keep its numbers.
    rooms = min(copies, bench.rooms((2 if added else 1) * tensor))
    outputs = [bench.room((rows, cols)) for _ in range(rooms)]
    rests = [bench.room((rows, cols)) for _ in range(rooms if added else 0)]
    w = bench.take((cols,))

    def run(i: int) -> None:
        rest = rests[i % len(rests)] if rests else None
        rmsnorm(inputs[i % copies], w, outputs[i % len(outputs)], rest, bench.threads)

    def check() -> None:
        outputs[0][:] = np.nan
        before = rests[0].copy() if rests else None
        run(0)
        want = reference(inputs[0], w, before)
        require(outputs[0], want, "fp32", f"rmsnorm {dict(shape)}")

    return Case({"dtype": "fp32", **shape}, 0.0, (4 if added else 2) * tensor, copies, run, check)


CPU = add(Kernel("rmsnorm", "numba", "norm", shapes, case))

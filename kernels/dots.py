"""Dot products of a few rows with rows of weights: the inner loop of matrix products on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numba import types

from .vector import I64, LANES, Emitter, Value, literals, micro_kernel, store_sums


@micro_kernel
def dots(typingctx, x, x_stride, w, w_stride, n, out, out_stride, rows, cols, wide):
    """``out[i, j] = sum_k x[i, k] * w[j, k]`` for a few rows i and columns j.

    `x`, `w`, `out` are addresses; strides are in bytes; `n` is the length of k, a multiple of
    `LANES`; rows of `w` stand one behind another. `rows`, `cols` and `wide` (1: w is fp32,
    0: bf16) are literal. Every accumulator stays in a register: `rows` x `cols` of them, at most
    16. One or two rows are bound by memory and walk `w` from end to end; more share each of its
    values among four columns side by side.
    """
    sizes = literals(rows, cols, wide)
    if sizes is None:
        return None
    num_rows, num_cols, is_wide = sizes
    emit = _dots_in_order if num_rows <= 2 else _dots_side_by_side

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        emit(Emitter(builder), args[:7], num_rows, num_cols, bool(is_wide))
        return context.get_dummy_value()

    args = (x, x_stride, w, w_stride, n, out, out_stride, rows, cols, wide)
    widened = (*(types.int64,) * 7, rows, cols, wide)
    assert len(args) == len(widened)
    return types.void(*widened), codegen


DISTANCES = (4096, 8192)
"""Prefetch distances of `_dots_in_order` [B]: twice, see `tiles.score_tile`. On a Zen 4 core that reads 27 GB/s,
experts of one row stream at 24 GB/s in fp32 (20 without, 25 with only 4096) and at 25 GB/s in bf16 (18 with only
4096), and two rows at 26 of 28 GB/s (20 without)."""


def _dots_in_order(emitter: Emitter, args: Sequence[Value], rows: int, cols: int, wide: bool) -> None:
    """Column by column, several vectors of it at a time."""
    b = emitter.b
    x_at, x_step, w_at, w_step, length, out_at, out_step = args
    width, unroll = 4 if wide else 2, 8 // rows
    full_length = b.and_(length, I64(-unroll * LANES))

    def column(j: Value) -> None:
        w_row = b.add(w_at, b.mul(j, w_step))
        acc = emitter.registers(rows * unroll)

        def part(k: Value, vectors: int) -> None:
            place = b.add(w_row, b.mul(k, I64(width)))
            for line in range(0, vectors * LANES * width, 64):
                for ahead in DISTANCES:
                    emitter.prefetch(emitter.offset(place, ahead + line))
            for u in range(vectors):
                right = emitter.load(emitter.offset(place, u * LANES * width), wide)
                for i in range(rows):
                    x_row = b.add(x_at, b.mul(x_step, I64(i)))
                    left = emitter.load(emitter.offset(b.add(x_row, b.mul(k, I64(4))), 4 * LANES * u))
                    slot = acc[i * unroll + u]
                    b.store(emitter.fma(left, right, b.load(slot)), slot)

        emitter.loop(I64(0), full_length, unroll * LANES, lambda k: part(k, unroll))
        emitter.loop(full_length, length, LANES, lambda k: part(k, 1))
        for i in range(rows):
            total = b.load(acc[i * unroll])
            for slot in acc[i * unroll + 1 : (i + 1) * unroll]:
                total = emitter.fadd(total, b.load(slot))
            to = b.add(b.add(out_at, b.mul(out_step, I64(i))), b.mul(j, I64(4)))
            emitter.store(emitter.sums([total])[0], to)

    emitter.loop(I64(0), I64(cols), 1, column)


def _dots_side_by_side(emitter: Emitter, args: Sequence[Value], rows: int, cols: int, wide: bool) -> None:
    """Compute all columns at once; the next `cols` rows of `w` are prefetched in order at the same time."""
    b = emitter.b
    x_at, x_step, w_at, w_step, length, out_at, out_step = args
    width = 4 if wide else 2
    x_rows, w_rows = [x_at], [w_at]
    for _ in range(rows - 1):
        x_rows.append(b.add(x_rows[-1], x_step))
    for _ in range(cols - 1):
        w_rows.append(b.add(w_rows[-1], w_step))
    acc = emitter.registers(rows * cols)
    ahead = b.add(w_at, b.mul(w_step, I64(cols)))

    def body(k: Value) -> None:
        place = b.add(ahead, b.mul(k, I64(width * cols)))
        for line in range(0, LANES * width * cols, 64):
            emitter.prefetch(emitter.offset(place, line))
        values = [emitter.load(emitter.offset(a, b.mul(k, I64(width))), wide) for a in w_rows]
        for i, row in enumerate(x_rows):
            left = emitter.load(emitter.offset(row, b.mul(k, I64(4))))
            for j, right in enumerate(values):
                slot = acc[i * cols + j]
                b.store(emitter.fma(left, right, b.load(slot)), slot)

    emitter.loop(I64(0), length, LANES, body)
    store_sums(emitter, [b.load(slot) for slot in acc], out_at, out_step, rows, cols)

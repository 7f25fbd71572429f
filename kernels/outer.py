"""Products along rows: a few rows times a matrix whose rows are contiguous, ``out = scale out + x w``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import types

from .blocked import REGISTERS
from .jit import inner
from .vector import I64, LANES, Emitter, Value, literals, micro_kernel

ROWS, VECTORS = 4, 4 if REGISTERS == 32 else 2
"""Rows and vector registers of a tile: its sums, a row of `w` and a number of `x` stay in registers."""
COLUMNS = VECTORS * LANES
"""Columns of a tile; a product's are a multiple."""


@micro_kernel
def outer_tile(typingctx, x, x_row, x_col, w, w_row, n, out, out_row, scale, vectors):
    """``out[i, :] = scale[i] out[i, :] + sum_k x[i, k] w[k, :]`` for `ROWS` rows i.

    `x`, `w`, `out` and `scale` are addresses, steps are in bytes; `n` is the number of k. A `scale` of 0 is
    none: sums then start at zero. `vectors` of `LANES` columns, literal.
    """
    sizes = literals(vectors)
    if sizes is None:
        return None
    (width,) = sizes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        e, b = Emitter(builder), builder
        x_at, x_row_, x_col_, w_at, w_row_, n_, out_at, out_row_, scale_at = args[:9]
        acc = e.registers(ROWS * width)

        def places(i: int) -> list[Value]:
            row = b.add(out_at, b.mul(out_row_, I64(i)))
            return [e.offset(row, 4 * LANES * c) for c in range(width)]

        with b.if_then(b.icmp_unsigned("!=", scale_at, I64(0))):
            for i in range(ROWS):
                factor = e.splat(e.scalar(e.offset(scale_at, 4 * i)))
                for c, place in enumerate(places(i)):
                    b.store(e.fmul(factor, e.load(place)), acc[i * width + c])

        def body(k: Value) -> None:
            row = b.add(w_at, b.mul(w_row_, k))
            values = [e.load(e.offset(row, 4 * LANES * c)) for c in range(width)]
            column = b.add(x_at, b.mul(x_col_, k))
            for i in range(ROWS):
                left = e.splat(e.scalar(b.add(column, b.mul(x_row_, I64(i)))))
                for c, value in enumerate(values):
                    slot = acc[i * width + c]
                    b.store(e.fma(left, value, b.load(slot)), slot)

        e.loop(I64(0), n_, 1, body)
        for i in range(ROWS):
            for c, place in enumerate(places(i)):
                e.store(b.load(acc[i * width + c]), place)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 9, vectors), codegen


@cache
def outer_product() -> Callable[..., None]:
    """All tiles of a product: `m` rows, a multiple of `ROWS`; `w` (n, columns) and `out` contiguous."""
    rows, step, vectors = ROWS, COLUMNS, VECTORS

    @inner
    def run(x_at, x_row, x_col, m, w_at, n, columns, out_at, scale_at):
        width = 4 * columns
        for c in range(0, width, 4 * step):
            for i in range(0, m, rows):
                scale = scale_at + 4 * i if scale_at != 0 else 0
                outer_tile(x_at + i * x_row, x_row, x_col, w_at + c, width, n, out_at + i * width + c,
                           width, scale, vectors)  # fmt: skip

    made: Callable[..., None] = run
    return made

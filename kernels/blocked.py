"""Blocked matrix products: a tile of sums in registers, rows of `x` in L1, rows of weights in L2.

``y = x w^T`` walks `block_n` rows of weights at a time, which stay in the second cache while `block_m`
rows of `x` pass them; within, a tile of `register_m` x `register_n` sums stays in vector registers over the whole
depth. What a tile leaves over, rows of `x` fewer than it has or rows of weights, is taken by smaller ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
from numba import types

from .jit import inner, parallel
from .vector import I64, LANES, Emitter, Value, micro_kernel, store_sums

COLUMNS = 4
"""Rows of weights that the remainders process at once; `n` must be a multiple of it."""
REGISTERS = 32 if LANES == 16 else 16
"""Number of vector registers of this machine: AVX-512 and NEON have 32 (NEON's lanes are 4), AVX2 has 16."""
MOST_ROWS = 8
"""Maximum rows of a register tile; with more, weights are read too often."""


@dataclass(frozen=True, slots=True)
class GemmConfig:
    """Sizes by which a product is divided into blocks and register tiles.

    Attributes
    ----------
    register_m, register_n : int
        Rows of `x` and of weights whose sums stay in registers together.
    block_m, block_n : int
        Rows of `x` that pass the weights in L2, and rows of weights kept there; 0 = all.
    """

    register_m: int = 4
    register_n: int = 4
    block_m: int = 0
    block_n: int = 64

    def invalid(self) -> str:
        """Return the reason why the configuration cannot run here; empty if it can."""
        if not 1 <= self.register_m <= MOST_ROWS:
            return f"register_m must be 1 to {MOST_ROWS}, not {self.register_m}"
        if self.register_n not in (4, 8):
            return f"register_n must be 4 or 8, not {self.register_n}"
        if self.registers > REGISTERS:
            return f"needs {self.registers} vector registers of {REGISTERS}: it spills"
        if self.block_m < 0 or self.block_n < 0:
            return "a block of negative rows"
        if self.block_n % self.register_n or self.block_m % self.register_m:
            return "blocks must be multiples of the register tile"
        return ""

    @property
    def registers(self) -> int:
        """Number of vector registers: the sums, and a vector of each row of weights; `x` can come from L1."""
        return self.register_m * self.register_n + self.register_n


DEFAULT = GemmConfig(6, 4, 0, 64) if REGISTERS == 32 else GemmConfig(3, 4, 0, 64)
"""Default: a register tile that leaves one or two registers free, and a block that fits a second-level cache of 512 KiB
for rows of up to 2,048 numbers."""


@cache
def tiles_of(rows: int, columns: int, wide: bool) -> Callable[..., None]:
    """Return the kernel that multiplies `m` rows of `x` by `n` rows of weights (a multiple of `COLUMNS`).

    Compiled for a tile of `rows` x `columns`; fp32 (`wide`) or bf16 weights.
    """
    bytes_, four = 4 if wide else 2, COLUMNS
    fp32 = 1 if wide else 0
    rest = _rest_of(fp32)

    @inner
    def run(x_at, m, w_at, n, k, out_at, out_step):
        x_step, w_step = 4 * k, bytes_ * k
        full_rows, even = m // rows * rows, n // columns * columns
        for i in range(0, full_rows, rows):
            for j in range(0, even, columns):
                dots(x_at + i * x_step, x_step, w_at + j * w_step, w_step, k,
                     out_at + i * out_step + 4 * j, out_step, rows, columns, fp32)  # fmt: skip
        for j in range(even, n, four):
            rest(x_at, full_rows, w_at + j * w_step, k, out_at + 4 * j, out_step)
        for j in range(0, n if m > full_rows else 0, four):
            rest(
                x_at + full_rows * x_step,
                m - full_rows,
                w_at + j * w_step,
                k,
                out_at + full_rows * out_step + 4 * j,
                out_step,
            )

    made: Callable[..., None] = run
    return made


@cache
def _rest_of(fp32: int) -> Callable[..., None]:
    """Return the kernel for any number of rows of `x` and `COLUMNS` rows of weights, by tiles of 4, 2 and 1 rows."""
    width = 4 if fp32 else 2

    @inner
    def run(x_at, m, w_at, k, out_at, out_step):
        x_step, w_step = 4 * k, width * k
        done = 0
        while m - done >= 4:
            dots(x_at + done * x_step, x_step, w_at, w_step, k, out_at + done * out_step, out_step, 4, 4, fp32)
            done += 4
        if m - done >= 2:
            dots(x_at + done * x_step, x_step, w_at, w_step, k, out_at + done * out_step, out_step, 2, 4, fp32)
            done += 2
        if m > done:
            dots(x_at + done * x_step, x_step, w_at, w_step, k, out_at + done * out_step, out_step, 1, 4, fp32)

    made: Callable[..., None] = run
    return made


@cache
def product_of(rows: int, columns: int, wide: bool) -> Callable[..., Any]:
    """Return the kernel of the whole product for one register tile; blocks and threads are arguments."""
    tiles, width, step = tiles_of(rows, columns, wide), 4 if wide else 2, columns

    @parallel
    def product(x_at, m, w_at, n, k, out_at, block_m, block_n, threads):
        units = (n + step - 1) // step
        for thread in numba.prange(threads):
            low = units * thread // threads * step
            high = min(n, units * (thread + 1) // threads * step)
            for first in range(low, high, block_n):
                count = min(block_n, high - first)
                for top in range(0, m, block_m):
                    tiles(x_at + 4 * top * k, min(block_m, m - top), w_at + width * first * k,
                          count, k, out_at + 4 * (top * n + first), 4 * n)  # fmt: skip

    made: Callable[..., Any] = product
    return made


@micro_kernel(*(types.int64,) * 7)
def dots(emitter, x, x_stride, w, w_stride, n, out, out_stride, rows, cols, wide):
    """Compute ``out[i, j] = sum_k x[i, k] * w[j, k]`` for a few rows i and columns j.

    `x`, `w`, `out` are addresses; strides are in bytes; `n` is the length of k, a multiple of
    `LANES`; rows of `w` stand one behind another. `rows`, `cols` and `wide` (1: w is fp32,
    0: bf16) are literal. Every accumulator stays in a register: `rows` x `cols` of them, at most
    16. One or two rows are bound by memory and walk `w` from end to end; more share each of its
    values among four columns side by side.
    """
    emit = _dots_in_order if rows <= 2 else _dots_side_by_side
    emit(emitter, (x, x_stride, w, w_stride, n, out, out_stride), rows, cols, bool(wide))


DISTANCES = (4096, 8192)
"""Prefetch distances of `_dots_in_order` [B]: twice, see `tiles.score_tile`. On a Zen 4 core that reads 27 GB/s,
experts of one row stream at 24 GB/s in fp32 (20 without, 25 with only 4096) and at 25 GB/s in bf16 (18 with only
4096), and two rows at 26 of 28 GB/s (20 without)."""


def _dots_in_order(emitter: Emitter, args: Sequence[Value], rows: int, cols: int, wide: bool) -> None:
    """Compute column by column, several vectors of a column at a time."""
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

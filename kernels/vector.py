"""Vector micro-kernels for Numba, written as LLVM instructions on registers.

Numba's loops leave to LLVM which values stay in registers and how wide the vectors are. The inner
loops of attention and of matrix products need both fixed, so each is an ``@intrinsic`` here that
emits the instructions for sizes known when it is compiled (literal integers). Addresses are plain
integers (``array.ctypes.data`` plus bytes): the callers check shapes before they call.

All arithmetic is in fp32. Weights may be bf16 stored as uint16; they are widened in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

F32, I8, I16, I32, I64 = (ir.FloatType(), *(ir.IntType(n) for n in (8, 16, 32, 64)))


def _lanes() -> int:
    """Floats of a vector register of this machine."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") else 4


LANES = _lanes()
"""fp32 values in one vector register."""

GROUP = 4
"""Rows of the left operand that a dot tile takes at once: four query heads, four tokens."""

SOON = 8
"""Keys ahead of its place that `score_tile` fetches for the last time."""

STRIP = 16
"""Rows of values that the passes of `add_values` take in turn: all but the first find them in L1."""

Value: TypeAlias = Any  # an LLVM value; llvmlite has no types
VEC = ir.VectorType(F32, LANES)
FAST = ("reassoc", "contract", "nsz", "arcp")


class Emitter:
    """Writes vector instructions into the function that Numba is building."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def intrinsic(self, name: str, result: ir.Type, *args: Value) -> Value:
        module = self.b.module
        kind = ir.FunctionType(result, [a.type for a in args])
        function = module.globals.get(name) or ir.Function(module, kind, name)
        return self.b.call(function, args)

    def pointer(self, address: Value, kind: ir.Type) -> Value:
        return self.b.inttoptr(address, ir.PointerType(kind))

    def offset(self, address: Value, bytes_: int | Value) -> Value:
        if isinstance(bytes_, int):
            if bytes_ == 0:
                return address
            bytes_ = I64(bytes_)
        return self.b.add(address, bytes_)

    def load(self, address: Value, wide: bool = True) -> Value:
        """Load `LANES` values: fp32, or bf16 (`wide` false) widened to fp32."""
        if wide:
            return self.b.load(self.pointer(address, VEC), align=4)
        halves = self.b.load(self.pointer(address, ir.VectorType(I16, LANES)), align=2)
        words = self.b.zext(halves, ir.VectorType(I32, LANES))
        shift = ir.Constant(ir.VectorType(I32, LANES), [16] * LANES)
        return self.b.bitcast(self.b.shl(words, shift), VEC)

    def store(self, value: Value, address: Value, align: int = 4) -> Any:
        return self.b.store(value, self.pointer(address, value.type), align=align)

    def stream(self, value: Value, address: Value) -> None:
        """Store past the caches; the address must be a multiple of the register's bytes."""
        made = self.store(value, address, align=4 * LANES)
        made.set_metadata("nontemporal", self.b.module.add_metadata([I32(1)]))

    def scalar(self, address: Value, kind: ir.Type = F32) -> Value:
        return self.b.load(self.pointer(address, kind), align=4)

    def splat(self, value: Value) -> Value:
        first = self.b.insert_element(ir.Constant(VEC, ir.Undefined), value, I32(0))
        return self.shuffle(first, first, [0] * LANES)

    def constant(self, value: float) -> Value:
        return ir.Constant(VEC, [float(np.float32(value))] * LANES)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        return self.b.shuffle_vector(a, b, mask)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        return self.intrinsic(f"llvm.fma.v{LANES}f32", a.type, a, b, c)

    def prefetch(self, address: Value) -> None:
        """Fetch a cache line for reading, into the second level.

        Fetching into the first level as well halved the rate of decode attention (9.5 against
        18.5 GB/s on one Zen 4 core): its few miss registers then hold back the loads of the tile
        at hand.
        """
        pointer = self.pointer(address, I8)
        self.intrinsic("llvm.prefetch.p0", ir.VoidType(), pointer, I32(0), I32(2), I32(1))

    def loop(self, start: Value, stop: Value, step: int, body: Callable[[Value], None]) -> None:
        """Run ``for i in range(start, stop, step): body(i)``."""
        counter = self.alloca(I64)
        self.b.store(start, counter)
        head, inside, after = (self.b.append_basic_block(n) for n in ("head", "body", "after"))
        self.b.branch(head)
        self.b.position_at_end(head)
        i = self.b.load(counter)
        self.b.cbranch(self.b.icmp_signed("<", i, stop), inside, after)
        self.b.position_at_end(inside)
        body(i)
        self.b.store(self.b.add(i, I64(step)), counter)
        self.b.branch(head)
        self.b.position_at_end(after)

    def alloca(self, kind: ir.Type) -> Value:
        """Room in the function's frame; LLVM turns it into a register."""
        with self.b.goto_entry_block():
            return self.b.alloca(kind)

    def registers(self, count: int) -> list[Value]:
        """Accumulators that start at zero."""
        slots = [self.alloca(VEC) for _ in range(count)]
        for slot in slots:
            self.b.store(self.constant(0.0), slot)
        return slots

    def sums(self, values: Sequence[Value]) -> list[Value]:
        """Horizontal sum of each vector, as scalars."""
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        out = []
        for value in values:
            call = self.intrinsic(name, F32, F32(-0.0), value)
            call.fastmath.add("reassoc")
            out.append(call)
        return out

    def maximum(self, value: Value) -> Value:
        return self.intrinsic(f"llvm.vector.reduce.fmax.v{LANES}f32", F32, value)

    def fadd(self, a: Value, b: Value) -> Value:
        return self.b.fadd(a, b, flags=FAST)

    def fmul(self, a: Value, b: Value) -> Value:
        return self.b.fmul(a, b, flags=FAST)

    def exp(self, x: Value) -> Value:
        """``exp(x)`` of a vector for x <= 88; 0 below -87.

        2^n times a polynomial of degree 6 in the remainder, |r| <= ln(2)/2, whose coefficients
        are the Taylor series' (the next term is 1.2e-7 of the result at the ends).
        """
        name = f"llvm.rint.v{LANES}f32"
        low = self.b.fcmp_ordered("<", x, self.constant(-87.0))
        clipped = self.b.select(low, self.constant(-87.0), x)
        n = self.intrinsic(name, VEC, self.fmul(clipped, self.constant(1.4426950408889634)))
        # ln(2) in two parts, so that n times the first is exact
        r = self.fma(n, self.constant(-0.693359375), clipped)
        r = self.fma(n, self.constant(2.12194440e-4), r)
        y = self.constant(1.0 / 720.0)
        for factorial in (120.0, 24.0, 6.0, 2.0, 1.0, 1.0):
            y = self.fma(y, r, self.constant(1.0 / factorial))
        words = ir.VectorType(I32, LANES)
        whole = self.b.fptosi(n, words)
        bits = self.b.shl(whole, ir.Constant(words, [23] * LANES))
        scaled = self.b.bitcast(self.b.add(self.b.bitcast(y, words), bits), VEC)
        return self.b.select(low, self.constant(0.0), scaled)


def transpose_sum(e: Emitter, v: Sequence[Value]) -> Value:
    """Sums of 16 vectors of 16 lanes in one: lane ``4 j + i`` holds the sum of ``v[4 i + j]``.

    A tree of 15 additions and 30 shuffles instead of 16 reductions of 8 instructions.
    """

    def join(a: Value, b: Value, low: list[int], high: list[int]) -> Value:
        return e.fadd(e.shuffle(a, b, low), e.shuffle(a, b, high))

    def quarters(*lanes: int) -> list[int]:
        return [4 * lane + i for lane in lanes for i in range(4)]

    def within(*lanes: int) -> list[int]:
        """The same pick in each quarter; numbers from 4 on mean the second operand."""
        return [4 * q + n + (12 if n >= 4 else 0) for q in range(4) for n in lanes]

    halves = [join(a, b, quarters(0, 1, 4, 5), quarters(2, 3, 6, 7))
              for a, b in zip(v[::2], v[1::2], strict=True)]  # fmt: skip
    fours = [join(a, b, quarters(0, 2, 4, 6), quarters(1, 3, 5, 7))
             for a, b in zip(halves[::2], halves[1::2], strict=True)]  # fmt: skip
    pairs = [join(a, b, within(0, 1, 4, 5), within(2, 3, 6, 7))
             for a, b in zip(fours[::2], fours[1::2], strict=True)]  # fmt: skip
    return join(pairs[0], pairs[1], within(0, 2, 4, 6), within(1, 3, 5, 7))


def micro_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make instructions callable from compiled code; integer constants arrive as literals."""
    made: Callable[..., Any] = intrinsic(prefer_literal=True)(function)
    return made


def _literals(*kinds: Any) -> list[int] | None:
    """Values of literal integer types; None where one is not yet literal."""
    if not all(isinstance(k, types.IntegerLiteral) for k in kinds):
        return None
    return [int(k.literal_value) for k in kinds]


def _signature(result: Any, args: Sequence[Any]) -> Any:
    return result(*args)


@micro_kernel
def dots(typingctx, x, x_stride, w, w_stride, n, out, out_stride, rows, cols, wide):
    """``out[i, j] = sum_k x[i, k] * w[j, k]`` for a few rows i and columns j.

    `x`, `w`, `out` are addresses; strides are in bytes; `n` is the length of k, a multiple of
    `LANES`; rows of `w` stand one behind another. `rows`, `cols` and `wide` (1: w is fp32,
    0: bf16) are literal. Every accumulator stays in a register: `rows` x `cols` of them, at most
    16. One or two rows are bound by memory and walk `w` from end to end; more share each of its
    values among four columns side by side.
    """
    sizes = _literals(rows, cols, wide)
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
    return _signature(types.void, widened), codegen


DISTANCES = (4096, 8192)
"""How far ahead of its place `_dots_in_order` fetches [B]: twice, see `score_tile`. On a Zen 4 core
that reads 27 GB/s, experts of one row stream at 24 GB/s in fp32 (20 without, 25 at 4096 alone) and
at 25 GB/s in bf16 (18 at 4096 alone), and two rows at 26 of 28 GB/s (20 without)."""


def _dots_in_order(
    e: Emitter, args: Sequence[Value], rows: int, cols: int, wide: bool
) -> None:  # fmt: skip
    """Column by column, several vectors of it at a time."""
    b = e.b
    x_at, x_step, w_at, w_step, length, out_at, out_step = args
    width, unroll = 4 if wide else 2, 8 // rows
    whole = b.and_(length, I64(-unroll * LANES))

    def column(j: Value) -> None:
        w_row = b.add(w_at, b.mul(j, w_step))
        acc = e.registers(rows * unroll)

        def part(k: Value, vectors: int) -> None:
            place = b.add(w_row, b.mul(k, I64(width)))
            for line in range(0, vectors * LANES * width, 64):
                for ahead in DISTANCES:
                    e.prefetch(e.offset(place, ahead + line))
            for u in range(vectors):
                right = e.load(e.offset(place, u * LANES * width), wide)
                for i in range(rows):
                    x_row = b.add(x_at, b.mul(x_step, I64(i)))
                    left = e.load(e.offset(b.add(x_row, b.mul(k, I64(4))), 4 * LANES * u))
                    slot = acc[i * unroll + u]
                    b.store(e.fma(left, right, b.load(slot)), slot)

        e.loop(I64(0), whole, unroll * LANES, lambda k: part(k, unroll))
        e.loop(whole, length, LANES, lambda k: part(k, 1))
        for i in range(rows):
            total = b.load(acc[i * unroll])
            for slot in acc[i * unroll + 1 : (i + 1) * unroll]:
                total = e.fadd(total, b.load(slot))
            to = b.add(b.add(out_at, b.mul(out_step, I64(i))), b.mul(j, I64(4)))
            e.store(e.sums([total])[0], to)

    e.loop(I64(0), I64(cols), 1, column)


def _dots_side_by_side(
    e: Emitter, args: Sequence[Value], rows: int, cols: int, wide: bool
) -> None:  # fmt: skip
    """All columns at once; the next `cols` rows of `w` are fetched in order meanwhile."""
    b = e.b
    x_at, x_step, w_at, w_step, length, out_at, out_step = args
    width = 4 if wide else 2
    x_rows, w_rows = [x_at], [w_at]
    for _ in range(rows - 1):
        x_rows.append(b.add(x_rows[-1], x_step))
    for _ in range(cols - 1):
        w_rows.append(b.add(w_rows[-1], w_step))
    acc = e.registers(rows * cols)
    ahead = b.add(w_at, b.mul(w_step, I64(cols)))

    def body(k: Value) -> None:
        place = b.add(ahead, b.mul(k, I64(width * cols)))
        for line in range(0, LANES * width * cols, 64):
            e.prefetch(e.offset(place, line))
        values = [e.load(e.offset(a, b.mul(k, I64(width))), wide) for a in w_rows]
        for i, row in enumerate(x_rows):
            left = e.load(e.offset(row, b.mul(k, I64(4))))
            for j, right in enumerate(values):
                slot = acc[i * cols + j]
                b.store(e.fma(left, right, b.load(slot)), slot)

    e.loop(I64(0), length, LANES, body)
    _store_sums(e, [b.load(slot) for slot in acc], out_at, out_step, rows, cols)


def _store_sums(
    e: Emitter, values: Sequence[Value], out: Value, step: Value, rows: int, cols: int
) -> None:
    """Reduce ``values[i * cols + j]`` and store them as rows of `out`."""
    if LANES == 16 and (rows, cols) == (4, 4):
        total = transpose_sum(e, [values[4 * j + i] for i in range(4) for j in range(4)])
        for i in range(rows):
            part = e.shuffle(total, total, [4 * i + j for j in range(4)])
            e.store(part, e.b.add(out, e.b.mul(step, I64(i))))
        return
    for i in range(rows):
        for j, one in enumerate(e.sums(values[i * cols : (i + 1) * cols])):
            e.store(one, e.offset(e.b.add(out, e.b.mul(step, I64(i))), 4 * j))


@micro_kernel
def score_tile(typingctx, q, k, rows, count, ahead, next_rows, later_rows, out, dim, tile):
    """Scores of `GROUP` query vectors with the keys of a tile, four keys at a time.

    ``out[i, t] = sum_d q[i, d] * k[row t, d]``, rows of `out` `tile` floats apart. `rows` is the
    address of int64 byte offsets of the tile's rows from `k` (`tile` of them, the last one
    repeated). The rows at `next_rows` and `later_rows` from `ahead` are fetched meanwhile, and those
    `SOON` rows on: each row three times in its turn, as a core drops fetches when its miss
    registers are full (decode attention at 0.70 of the read rate with two, 0.79 with three).
    `dim` and `tile` are literal; `count` is the number of rows.
    """
    sizes = _literals(dim, tile)
    if sizes is None:
        return None
    size, width = sizes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        e = Emitter(builder)
        q_at, k_at, rows_at, count_, ahead_at, next_at, later_at, out_at = args[:8]

        def four(t: Value) -> None:
            def four_rows(base: Value, offsets: Value) -> list[Value]:
                first = builder.add(offsets, builder.mul(t, I64(8)))
                places = [e.scalar(e.offset(first, 8 * j), I64) for j in range(4)]
                return [builder.add(base, place) for place in places]

            keys = four_rows(k_at, rows_at)
            ahead = [four_rows(ahead_at, at) for at in (later_at, next_at)]
            soon = builder.add(t, I64(SOON))
            last = I64(width - 4)
            soon = builder.select(builder.icmp_signed("<", soon, last), soon, last)
            ahead.append(
                four_rows(k_at, builder.add(rows_at, builder.mul(builder.sub(soon, t), I64(8))))
            )
            acc: list[Value] = [e.constant(0.0)] * 16
            # Row after row, each from end to end, though every row loads the queries again: four
            # rows side by side break the streams that the hardware fetches on its own (8.7 GB/s,
            # 16 in this order, where reading alone had 28).
            for j, (key, *following) in enumerate(zip(keys, *ahead, strict=True)):
                for d in range(size // LANES):
                    if 4 * LANES * d % 64 == 0:
                        for fetched in following:
                            e.prefetch(e.offset(fetched, 4 * LANES * d))
                    value = e.load(e.offset(key, 4 * LANES * d))
                    for i in range(GROUP):
                        left = e.load(e.offset(q_at, 4 * (i * size + LANES * d)))
                        acc[4 * i + j] = e.fma(left, value, acc[4 * i + j])
            to = e.offset(out_at, builder.mul(t, I64(4)))
            _store_sums(e, acc, to, I64(4 * width), GROUP, 4)

        e.loop(I64(0), count_, 4, four)
        return context.get_dummy_value()

    return _signature(types.void, (*(types.int64,) * 8, dim, tile)), codegen


@micro_kernel
def softmax_tile(typingctx, s, low, high, scale, state, tile):
    """One step of the online softmax for `GROUP` rows of scores, in place.

    Scores outside ``[low[i], high[i])`` count as minus infinity. `state` holds, for each row,
    the running maximum, the running sum and the factor that earlier outputs shrink by (written
    here): 3 x `GROUP` floats. `s` then holds the weights ``exp(scale * s - maximum)``.
    `low` and `high` are addresses of int32.
    """
    sizes = _literals(tile)
    if sizes is None:
        return None
    (width,) = sizes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        e = Emitter(builder)
        s_at, low_at, high_at, scale_, state_at = args[:5]
        words = ir.VectorType(I32, LANES)
        factor = e.splat(scale_)
        minus = e.constant(-3.0e38)
        for i in range(GROUP):
            bounds = []
            for at in (low_at, high_at):
                one = e.scalar(e.offset(at, 4 * i), I32)
                first = builder.insert_element(ir.Constant(words, ir.Undefined), one, I32(0))
                bounds.append(e.shuffle(first, first, [0] * LANES))
            row, seen = [], []
            for c in range(width // LANES):
                index = ir.Constant(words, [c * LANES + n for n in range(LANES)])
                inside = builder.and_(builder.icmp_signed(">=", index, bounds[0]),
                                      builder.icmp_signed("<", index, bounds[1]))  # fmt: skip
                score = e.load(e.offset(s_at, 4 * (i * width + c * LANES)))
                row.append(builder.select(inside, e.fmul(score, factor), minus))
                seen.append(inside)
            best = row[0]
            for part in row[1:]:
                best = builder.select(builder.fcmp_ordered(">", part, best), part, best)
            highest = e.maximum(best)
            at = [e.offset(state_at, 4 * (n * GROUP + i)) for n in range(3)]
            before = e.scalar(at[0])
            now = builder.select(builder.fcmp_ordered(">", highest, before), highest, before)
            total = e.constant(0.0)
            top = e.splat(now)
            for c, part in enumerate(row):
                weight = e.exp(builder.fsub(part, top))
                weight = builder.select(seen[c], weight, e.constant(0.0))
                total = e.fadd(total, weight)
                e.store(weight, e.offset(s_at, 4 * (i * width + c * LANES)))
            shrink = builder.extract_element(e.exp(e.splat(builder.fsub(before, now))), I32(0))
            old = e.scalar(at[1])
            e.store(e.fadd(e.fmul(old, shrink), e.sums([total])[0]), at[1])
            e.store(now, at[0])
            e.store(shrink, at[2])
        return context.get_dummy_value()

    given = (types.int64, types.int64, types.int64, types.float32, types.int64, tile)
    return _signature(types.void, given), codegen


@micro_kernel
def add_values(typingctx, p, v, rows, count, ahead, next_rows, later_rows, state, out, dim, tile):
    """``out[i, d] = out[i, d] * shrink[i] + sum_t p[i, t] * v[row t, d]``.

    Taken in passes whose sums fit in the registers. The rows at `next_rows` and `later_rows` from
    `ahead` are fetched meanwhile.
    """
    sizes = _literals(dim, tile)
    if sizes is None:
        return None
    size, width = sizes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        e = Emitter(builder)
        passes = _passes(size)

        def strip(first: Value) -> None:
            for number, (queries, columns) in enumerate(passes):
                _add_pass(e, args[:9], first, size, width, queries, columns, number, len(passes))

        e.loop(I64(0), args[3], STRIP, strip)
        return context.get_dummy_value()

    return _signature(types.void, (*(types.int64,) * 9, dim, tile)), codegen


def _passes(size: int) -> list[tuple[range, range]]:
    """Query vectors and vector registers of a value row that each pass takes: 16 sums at most.

    Whole rows where they are short, so that a pass reads them from end to end; else four registers
    for all queries, which loads each value once.
    """
    registers = size // LANES
    if registers <= 8:
        rows = min(GROUP, 16 // registers)
        return [(range(i, i + rows), range(registers)) for i in range(0, GROUP, rows)]
    return [
        (range(GROUP), range(first, min(first + 4, registers))) for first in range(0, registers, 4)
    ]


def _add_pass(
    e: Emitter, args: Sequence[Value], first: Value, size: int, width: int, queries: range,
    columns: range, number: int, passes: int,
) -> None:  # fmt: skip
    """`add_values` for some queries and columns of a strip of rows from `first` on.

    It fetches its share of the rows ahead.
    """
    b = e.b
    p_at, v_at, rows_at, count, ahead_at, next_at, later_at, state_at, out_at = args
    places = [4 * LANES * c for c in columns]
    slots = [(i, place, e.alloca(VEC)) for i in queries for place in places]
    fresh = b.icmp_signed("==", first, I64(0))
    for i, place, slot in slots:
        shrink = b.select(fresh, e.scalar(e.offset(state_at, 4 * (2 * GROUP + i))), F32(1.0))
        shrink = e.splat(shrink)
        before = e.load(e.offset(out_at, 4 * i * size + place))
        b.store(e.fmul(before, shrink), slot)

    share = 4 * size // passes

    def one(t: Value) -> None:
        row = b.add(v_at, e.scalar(b.add(rows_at, b.mul(t, I64(8))), I64))
        # Rows are fetched one after another, each from end to end: a stream for the hardware too.
        turn = b.add(b.add(t, I64(number * STRIP)), b.mul(first, I64(passes - 1)))
        which = b.udiv(turn, I64(passes))
        part = b.add(ahead_at, b.mul(b.urem(turn, I64(passes)), I64(share)))
        following = [b.add(part, e.scalar(b.add(at, b.mul(which, I64(8))), I64))
                     for at in (later_at, next_at)]  # fmt: skip
        if number == 0:  # the next strip once more: its first pass is the one that waits for memory
            soon = b.add(t, I64(STRIP))
            soon = b.select(b.icmp_signed("<", soon, count), soon, t)
            row_ahead = b.add(v_at, e.scalar(b.add(rows_at, b.mul(soon, I64(8))), I64))
            for line in range(0, 4 * size, 64):
                e.prefetch(e.offset(row_ahead, line))
        for line in range(0, share, 64):
            for fetched in following:
                e.prefetch(e.offset(fetched, line))
        values = {place: e.load(e.offset(row, place)) for place in places}
        weights = {i: e.splat(e.scalar(e.offset(b.add(p_at, b.mul(t, I64(4))), 4 * i * width)))
                   for i in queries}  # fmt: skip
        for i, place, slot in slots:
            b.store(e.fma(weights[i], values[place], b.load(slot)), slot)

    stop = b.add(first, I64(STRIP))
    stop = b.select(b.icmp_signed("<", stop, count), stop, count)
    e.loop(first, stop, 1, one)
    for i, place, slot in slots:
        e.store(b.load(slot), e.offset(out_at, 4 * i * size + place))

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
    `LANES`; rows of `w` stand one behind another. `rows`, `cols` and `wide` (1: w is fp32, 0: bf16) are literal. Every accumulator
    stays in a register: `rows` x `cols` of them, at most 16.
    """
    sizes = _literals(rows, cols, wide)
    if sizes is None:
        return None
    num_rows, num_cols, is_wide = sizes
    width = 4 if is_wide else 2

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        e = Emitter(builder)
        x_at, x_step, w_at, w_step, length, out_at, out_step = args[:7]
        x_rows, w_rows = [x_at], [w_at]
        for _ in range(num_rows - 1):
            x_rows.append(builder.add(x_rows[-1], x_step))
        for _ in range(num_cols - 1):
            w_rows.append(builder.add(w_rows[-1], w_step))
        acc = e.registers(num_rows * num_cols)

        # The next `cols` rows lie behind these: fetched in order, end to end, meanwhile.
        ahead = builder.add(w_at, builder.mul(w_step, I64(num_cols)))

        def body(k: Value) -> None:
            place = builder.add(ahead, builder.mul(k, I64(width * num_cols)))
            for line in range(0, LANES * width * num_cols, 64):
                e.prefetch(e.offset(place, line))
            values = [e.load(e.offset(a, builder.mul(k, I64(width))), bool(is_wide))
                      for a in w_rows]  # fmt: skip
            for i, row in enumerate(x_rows):
                left = e.load(e.offset(row, builder.mul(k, I64(4))))
                for j, right in enumerate(values):
                    slot = acc[i * num_cols + j]
                    builder.store(e.fma(left, right, builder.load(slot)), slot)

        e.loop(I64(0), length, LANES, body)
        _store_sums(e, [builder.load(slot) for slot in acc], out_at, out_step, num_rows, num_cols)
        return context.get_dummy_value()

    args = (x, x_stride, w, w_stride, n, out, out_stride, rows, cols, wide)
    widened = (*(types.int64,) * 7, rows, cols, wide)
    assert len(args) == len(widened)
    return _signature(types.void, widened), codegen


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
def score_tile(typingctx, q, k, rows, count, ahead, ahead_rows, out, dim, tile):
    """Scores of `GROUP` query vectors with the keys of a tile, four keys at a time.

    ``out[i, t] = sum_d q[i, d] * k[row t, d]``, rows of `out` `tile` floats apart. `rows` is the
    address of int64 byte offsets of the tile's rows from `k` (`tile` of them, the last one
    repeated); the rows at `ahead_rows` from `ahead` are fetched meanwhile. `dim` and `tile` are
    literal; `count` is the number of rows.
    """
    sizes = _literals(dim, tile)
    if sizes is None:
        return None
    size, width = sizes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        e = Emitter(builder)
        q_at, k_at, rows_at, count_, ahead_at, later_at, out_at = args[:7]

        def four(t: Value) -> None:
            def four_rows(base: Value, offsets: Value) -> list[Value]:
                first = builder.add(offsets, builder.mul(t, I64(8)))
                places = [e.scalar(e.offset(first, 8 * j), I64) for j in range(4)]
                return [builder.add(base, place) for place in places]

            keys, later = four_rows(k_at, rows_at), four_rows(ahead_at, later_at)
            acc: list[Value] = [e.constant(0.0)] * 16
            for d in range(size // LANES):
                for line in range(4 * d * LANES * 4 // 64, 4 * (d + 1) * LANES * 4 // 64):
                    row, inside = divmod(64 * line, 4 * size)
                    e.prefetch(e.offset(later[row], inside))
                values = [e.load(e.offset(key, 4 * LANES * d)) for key in keys]
                for i in range(GROUP):
                    left = e.load(e.offset(q_at, 4 * (i * size + LANES * d)))
                    for j in range(4):
                        acc[4 * i + j] = e.fma(left, values[j], acc[4 * i + j])
            to = e.offset(out_at, builder.mul(t, I64(4)))
            _store_sums(e, acc, to, I64(4 * width), GROUP, 4)

        e.loop(I64(0), count_, 4, four)
        return context.get_dummy_value()

    return _signature(types.void, (*(types.int64,) * 7, dim, tile)), codegen


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
def add_values(typingctx, p, v, rows, count, ahead, ahead_rows, state, out, dim, tile):
    """``out[i, d] = out[i, d] * shrink[i] + sum_t p[i, t] * v[row t, d]``.

    The columns are taken in parts whose sums fit in the registers. The rows at `ahead_rows` from
    `ahead` are fetched meanwhile.
    """
    sizes = _literals(dim, tile)
    if sizes is None:
        return None
    size, width = sizes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        e = Emitter(builder)
        step = GROUP * LANES
        for first in range(0, size, step):
            _add_columns(e, args[:8], size, width, first, min(step, size - first))
        return context.get_dummy_value()

    return _signature(types.void, (*(types.int64,) * 8, dim, tile)), codegen


def _add_columns(
    e: Emitter, args: Sequence[Value], size: int, width: int, first: int, columns: int
) -> None:
    """`columns` columns of `add_values` from `first` on."""
    b = e.b
    p_at, v_at, rows_at, count, ahead_at, later_at, state_at, out_at = args
    parts = columns // LANES
    acc = [e.alloca(VEC) for _ in range(GROUP * parts)]
    places = [4 * (first + c * LANES) for c in range(parts)]
    passes = -(-size // (GROUP * LANES))
    for i in range(GROUP):
        shrink = e.splat(e.scalar(e.offset(state_at, 4 * (2 * GROUP + i))))
        for c, place in enumerate(places):
            before = e.load(e.offset(out_at, 4 * i * size + place))
            b.store(e.fmul(before, shrink), acc[i * parts + c])

    def one(t: Value) -> None:
        row = b.add(v_at, e.scalar(b.add(rows_at, b.mul(t, I64(8))), I64))
        # Rows are fetched one after another, each from end to end: a stream for the hardware too.
        turn = b.add(t, I64(first // (GROUP * LANES) * width))
        which = b.udiv(turn, I64(passes))
        following = b.add(ahead_at, e.scalar(b.add(later_at, b.mul(which, I64(8))), I64))
        following = b.add(following, b.mul(b.urem(turn, I64(passes)), I64(4 * GROUP * LANES)))
        for place in range(0, 4 * columns, 64):
            e.prefetch(e.offset(following, place))
        values = [e.load(e.offset(row, place)) for place in places]
        for i in range(GROUP):
            at = e.offset(b.add(p_at, b.mul(t, I64(4))), 4 * i * width)
            weight = e.splat(e.scalar(at))
            for c in range(parts):
                slot = acc[i * parts + c]
                b.store(e.fma(weight, values[c], b.load(slot)), slot)

    e.loop(I64(0), count, 1, one)
    for i in range(GROUP):
        for c, place in enumerate(places):
            e.store(b.load(acc[i * parts + c]), e.offset(out_at, 4 * i * size + place))

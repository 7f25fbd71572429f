"""LLVM instructions on vector registers, for micro-kernels that Numba's code calls.

Numba's loops leave to LLVM which values stay in registers and how wide the vectors are. The inner loops of attention
(`tiles`) and of matrix products (`dots`) need both fixed, so each is a `micro_kernel` that emits the instructions for
sizes known when it is compiled (literal integers). Addresses are plain integers (``array.ctypes.data`` plus bytes): the
callers check shapes before they call.

All arithmetic is in fp32. Weights may be bf16 stored as uint16; they are widened in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeAlias

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

F32, I8, I16, I32, I64 = (ir.FloatType(), *(ir.IntType(n) for n in (8, 16, 32, 64)))


def _lanes() -> int:
    """Return the number of floats in a vector register of this machine."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") else 4


LANES = _lanes()
"""fp32 values in one vector register."""

Value: TypeAlias = Any  # an LLVM value; llvmlite has no types
VEC = ir.VectorType(F32, LANES)
FAST = ("reassoc", "contract", "nsz", "arcp")


class Emitter:
    """Emits vector instructions into the function that Numba is building."""

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
        """Store a vector so that it bypasses the caches; the address must be a multiple of the register's size."""
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
        """Prefetch a cache line for reading into the second-level cache.

        Prefetching into the first level as well halved the rate of decode attention (9.5 against 18.5 GB/s on one Zen 4
        core): its few miss registers then delay the loads of the current tile.
        """
        pointer = self.pointer(address, I8)
        self.intrinsic("llvm.prefetch.p0", ir.VoidType(), pointer, I32(0), I32(2), I32(1))

    def loop(self, start: Value, stop: Value, step: int, body: Callable[[Value], None]) -> None:
        """Emit ``for i in range(start, stop, step): body(i)``."""
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
        """Reserve a stack slot in the function's frame; LLVM turns it into a register."""
        with self.b.goto_entry_block():
            return self.b.alloca(kind)

    def registers(self, count: int) -> list[Value]:
        """Return accumulators that are initialised to zero."""
        slots = [self.alloca(VEC) for _ in range(count)]
        for slot in slots:
            self.b.store(self.constant(0.0), slot)
        return slots

    def sums(self, values: Sequence[Value]) -> list[Value]:
        """Return the horizontal sum of each vector as a scalar."""
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
        """Return ``exp(x)`` of a vector for x <= 88; 0 below -87.

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
        integer = self.b.fptosi(n, words)
        bits = self.b.shl(integer, ir.Constant(words, [23] * LANES))
        scaled = self.b.bitcast(self.b.add(self.b.bitcast(y, words), bits), VEC)
        return self.b.select(low, self.constant(0.0), scaled)


def transpose_sum(emitter: Emitter, v: Sequence[Value]) -> Value:
    """Return the sums of 16 vectors of 16 lanes in one vector: lane ``4 j + i`` is the sum of ``v[4 i + j]``.

    A tree of 15 additions and 30 shuffles instead of 16 reductions of 8 instructions.
    """

    def join(a: Value, b: Value, low: list[int], high: list[int]) -> Value:
        return emitter.fadd(emitter.shuffle(a, b, low), emitter.shuffle(a, b, high))

    def quarters(*lanes: int) -> list[int]:
        return [4 * lane + i for lane in lanes for i in range(4)]

    def within(*lanes: int) -> list[int]:
        """Return the lanes that select the same in each quarter; numbers from 4 on mean the second operand."""
        return [4 * q + n + (12 if n >= 4 else 0) for q in range(4) for n in lanes]

    halves = [join(a, b, quarters(0, 1, 4, 5), quarters(2, 3, 6, 7)) for a, b in zip(v[::2], v[1::2], strict=True)]
    fours = [join(a, b, quarters(0, 2, 4, 6), quarters(1, 3, 5, 7))
             for a, b in zip(halves[::2], halves[1::2], strict=True)]  # fmt: skip
    pairs = [join(a, b, within(0, 1, 4, 5), within(2, 3, 6, 7)) for a, b in zip(fours[::2], fours[1::2], strict=True)]
    return join(pairs[0], pairs[1], within(0, 2, 4, 6), within(1, 3, 5, 7))


def micro_kernel(*kinds: Any, result: Any = types.void) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function that emits instructions callable from compiled code.

    The function gets an `Emitter`, the values of its arguments, of the types `kinds`, and returns the result, if there is
    one. Further arguments are literal: integers that are known when the caller is compiled.
    """

    def callable_of(emit: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(emit)
        def typed(typingctx: Any, *given: Any) -> Any:
            literal = given[len(kinds) :]
            if not all(isinstance(kind, types.IntegerLiteral) for kind in literal):
                return None  # not yet

            def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Value:
                sizes = (int(kind.literal_value) for kind in literal)
                value = emit(Emitter(builder), *args[: len(kinds)], *sizes)
                return context.get_dummy_value() if value is None else value

            return result(*kinds, *literal), codegen

        made: Callable[..., Any] = intrinsic(prefer_literal=True)(typed)
        return made

    return callable_of


def store_sums(emitter: Emitter, values: Sequence[Value], out: Value, step: Value, rows: int, cols: int) -> None:
    """Reduce ``values[i * cols + j]`` and store them as rows of `out`."""
    if LANES == 16 and rows > 2 and cols % 4 == 0:
        for i0 in range(0, rows, 4):
            for j0 in range(0, cols, 4):
                _store_four(emitter, values, out, step, (i0, j0), (rows, cols))
        return
    for i in range(rows):
        for j, one in enumerate(emitter.sums(values[i * cols : (i + 1) * cols])):
            emitter.store(one, emitter.offset(emitter.b.add(out, emitter.b.mul(step, I64(i))), 4 * j))


def _store_four(
    emitter: Emitter, values: Sequence[Value], out: Value, step: Value, first: tuple[int, int], size: tuple[int, int]
) -> None:
    """Reduce four by four of the values from `first` on at once; rows beyond the last are skipped."""
    (i0, j0), (rows, cols) = first, size
    there = min(4, rows - i0)
    zero = emitter.constant(0.0)
    block = [values[(i0 + i) * cols + j0 + j] if i < there else zero for j in range(4) for i in range(4)]
    total = transpose_sum(emitter, block)
    for i in range(there):
        part = emitter.shuffle(total, total, [4 * i + j for j in range(4)])
        emitter.store(part, emitter.offset(emitter.b.add(out, emitter.b.mul(step, I64(i0 + i))), 4 * j0))

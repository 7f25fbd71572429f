"""Peak rates of this CPU, measured with kernels: reads, copies and arithmetic.

A kernel's share is relative to the *read* rate of the same minute, because kernels of a decode step mostly read. The
rate of a shared machine changes within minutes, so it is measured right before and after each kernel.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba import types

from .jit import parallel, serial
from .lab import Bench
from .timing import CallSeconds, sample, settle
from .vector import I32, I64, LANES, VEC, Value, micro_kernel

READ_BYTES = 48 << 20
"""Bytes per measured read: more than the last-level cache keeps of a block that is read in sequence."""
FMA_STEPS = 1 << 17
CACHE_READ = 32 << 20
"""Bytes read from a cache per measurement [B]: about 0.2 ms."""
BLAS_SIZE = 1024


@micro_kernel(types.int64, types.int64, result=types.float32)
def read_sum(emitter, x, n):
    """Return the sum of `n` floats at address `x`, with eight accumulators."""
    b = emitter.b
    acc = emitter.registers(8)

    def body(i: Value) -> None:
        for c, slot in enumerate(acc):
            at = emitter.offset(b.add(x, b.mul(i, I64(4))), 4 * LANES * c)
            b.store(emitter.fadd(b.load(slot), emitter.load(at)), slot)

    emitter.loop(I64(0), n, 8 * LANES, body)
    total = b.load(acc[0])
    for slot in acc[1:]:
        total = emitter.fadd(total, b.load(slot))
    return emitter.sums([total])[0]


@micro_kernel(types.int64, result=types.float32)
def fma_chain(emitter, steps):
    """Run `steps` rounds of 16 independent fused multiply-adds on full registers."""
    b = emitter.b
    acc = emitter.registers(16)
    # From memory, so that the compiler cannot work the chain out.
    pair = [emitter.alloca(VEC) for _ in range(2)]
    for slot, value in zip(pair, (0.999, 1e-3), strict=True):
        b.store(emitter.constant(value), slot)
    factor, term = (b.load(slot) for slot in pair)

    def body(i: Value) -> None:
        for slot in acc:
            b.store(emitter.fma(b.load(slot), factor, term), slot)

    emitter.loop(I64(0), steps, 1, body)
    total = b.load(acc[0])
    for slot in acc[1:]:
        total = emitter.fadd(total, b.load(slot))
    return b.extract_element(total, I32(0))


@micro_kernel(types.int64, types.int64, types.int64)
def stream_copy(emitter, x, out, n):
    """Copy `n` floats from address `x` to `out` with stores that bypass the caches."""
    b = emitter.b

    def body(i: Value) -> None:
        at = b.mul(i, I64(4))
        for c in range(8):
            place = emitter.offset(at, 4 * LANES * c)
            emitter.stream(emitter.load(b.add(x, place)), b.add(out, place))

    emitter.loop(I64(0), n, 8 * LANES, body)


@parallel
def _copy(x_at, out_at, count, step, threads):
    for thread in numba.prange(threads):
        low = count * thread // threads // step * step
        high = count * (thread + 1) // threads // step * step
        stream_copy(x_at + 4 * low, out_at + 4 * low, high - low)


@parallel
def _read(x_at, count, step, out, threads):
    for thread in numba.prange(threads):
        low = count * thread // threads // step * step
        high = count * (thread + 1) // threads // step * step
        out[thread] = read_sum(x_at + 4 * low, high - low)


@serial
def _read_again(x_at, count, times):
    total = np.float32(0.0)
    for _ in range(times):
        total += read_sum(x_at, count)
    return total


@parallel
def _fma(steps, out, threads):
    for thread in numba.prange(threads):
        out[thread] = fma_chain(steps)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Peak rates of this machine with a number of threads.

    Attributes
    ----------
    read_Bps, copy_Bps : float
        Bytes per second read, and copied past the caches (read and written bytes counted).
    fma_flops_per_s, gemm_flops_per_s : float
        fp32, in registers, and of NumPy's BLAS on square matrices.
    """

    read_Bps: float
    copy_Bps: float
    fma_flops_per_s: float
    gemm_flops_per_s: float

    @property
    def memory_Bps(self) -> float:
        """Highest rate in and out of main memory.

        A core's path to memory has separate lanes for writes: with equal reads and writes, both together can exceed the
        read rate by half.
        """
        return max(self.read_Bps, self.copy_Bps)


def copy_once(bench: Bench, count: int) -> None:
    """Copy `count` floats that are in no cache, with stores that bypass the caches."""
    x, out = bench.take((count,)), bench.room((count,))
    _copy(x.ctypes.data, out.ctypes.data, count, 8 * LANES, bench.threads)


def read_rate(bench: Bench, *, least: int = 3, budget_s: float = 0.03) -> float:
    """Return the read rate of memory that is in no cache [B/s]."""
    count = min(READ_BYTES // 4, len(bench.block) // 3)
    out = np.empty(bench.threads, np.float32)

    def run(i: int) -> None:
        x = bench.take((count,))
        _read(x.ctypes.data, count, 8 * LANES, out, bench.threads)

    return 4 * count / _time(run, bench.threads, least, budget_s).median_s


def cache_rate(bench: Bench, working_set: float) -> float:
    """Return the bytes per second of one thread that reads `working_set` bytes repeatedly, by its time on a core."""
    step = 8 * LANES
    count = max(step, int(working_set) // 4 // step * step)
    x = bench.take((count,))
    times = max(2, int(CACHE_READ // (4 * count)))
    _read_again(x.ctypes.data, count, 2)
    taken = []
    for _ in range(9):
        began = time.thread_time()
        _read_again(x.ctypes.data, count, times)
        taken.append(time.thread_time() - began)
    return float(4.0 * count * times / np.quantile(taken, 0.25))


@dataclass(frozen=True, slots=True)
class MachineRates:
    """Rates of the machine at one moment: bytes read per second, and FLOP/s in registers."""

    read_Bps: float
    fma_flops_per_s: float

    @classmethod
    def average(cls, rates: Sequence[MachineRates]) -> MachineRates:
        return cls(sum(r.read_Bps for r in rates) / len(rates), sum(r.fma_flops_per_s for r in rates) / len(rates))

    def close_to(self, other: MachineRates, share: float) -> bool:
        return (
            abs(self.read_Bps / other.read_Bps - 1.0) <= share
            and abs(self.fma_flops_per_s / other.fma_flops_per_s - 1.0) <= share
        )


def rates(bench: Bench) -> MachineRates:
    """Measure both rates within about 8 ms."""
    return MachineRates(read_rate(bench, budget_s=0.005), fma_rate(bench, least=2, budget_s=0.002))


def fma_rate(bench: Bench, *, least: int = 5, budget_s: float = 0.03) -> float:
    """Return the FLOP/s of fused multiply-adds in registers."""
    out = np.empty(bench.threads, np.float32)
    time = _time(lambda i: _fma(FMA_STEPS, out, bench.threads), bench.threads, least, budget_s)
    return 2.0 * FMA_STEPS * 16 * LANES * bench.threads / time.median_s


def measure_ceilings(bench: Bench, *, budget_s: float = 0.2) -> Ceilings:
    """Measure all rates, one after another."""
    count = min(READ_BYTES // 8, len(bench.block) // 6)
    a, b = (bench.take((BLAS_SIZE, BLAS_SIZE)) for _ in range(2))
    c = np.empty((BLAS_SIZE, BLAS_SIZE), np.float32)
    copy = _time(lambda i: copy_once(bench, count), bench.threads, 5, budget_s)
    fma = fma_rate(bench, budget_s=budget_s)
    gemm = _time(lambda i: np.matmul(a, b, out=c), bench.threads, 5, budget_s)
    settle()
    return Ceilings(
        read_rate(bench, least=9, budget_s=budget_s), 8 * count / copy.median_s, fma, 2.0 * BLAS_SIZE**3 / gemm.median_s
    )


def _time(run: Any, threads: int, least: int, budget_s: float) -> CallSeconds:
    return sample(run, threads=threads, least=least, most=200, budget_s=budget_s)

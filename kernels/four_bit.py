"""Experts with weights of four bits, widened in registers: MXFP4 and NVFP4, activations in fp32.

A row of weights is its codes, its block scales and a factor in fp32. 16 bytes of codes contain 32 weights, the first
half in the low bits, so that they match 16 neighbouring numbers of `x`. MXFP4 has a power of two for 32 weights, NVFP4
an 8-bit float (e4m3) for 16 and a factor for the whole matrix (OCP Microscaling v1.0). A code widens by its bits: sign,
exponent and fraction are in the positions of an fp16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types

from . import experts
from .blocked import COLUMNS, DEFAULT, tiles_of
from .jit import inner
from .lab import Bench, Case, Kernel, Shape, add
from .vector import F32, I8, I16, I32, I64, Value, micro_kernel

F4 = npt.NDArray[np.float32]
U1 = npt.NDArray[np.uint8]
LEVELS = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
"""Magnitudes of the e2m1 format by code."""
BLOCK = {"w4a16_mxfp4": 32, "nvfp4": 16}
"""Number of weights per scale, by format."""
WIDEN = {32: 2.0**14, 16: 2.0**22}
"""Factor by block size: a weight over the product of an fp16 with its code's bits and its widened scale."""
E4M3 = np.array([(b & 7) / 8 * 2.0**-6 if b < 8 else (1 + (b & 7) / 8) * 2.0 ** ((b >> 3) - 7) for b in range(127)])
"""Values of the e4m3 format without sign by code; code 127 is not a number."""
SCALES = {32: 2.0 ** (np.arange(255.0) - 127), 16: E4M3}
"""Values of scales by block size and code."""
HALF, WIDE, WORDS = ir.HalfType(), ir.VectorType(F32, 16), ir.VectorType(I16, 16)


@micro_kernel(*(types.int64,) * 3)
def widen(emitter, w, n, out, halves):
    """Convert a packed row of `n` weights, a multiple of 32, to fp32; `w` and `out` are addresses.

    `halves` (literal): 1 for NVFP4's two scales of 32 weights, 0 for MXFP4's one.
    """
    b, shift = emitter.b, I64(4 if halves else 5)
    scales_at = b.add(w, b.lshr(n, I64(1)))
    factor = emitter.scalar(b.add(scales_at, b.lshr(n, shift)))

    def scale(at: Value) -> Value:
        byte = b.load(emitter.pointer(at, I8), align=1)
        exponent = b.bitcast(b.shl(b.zext(byte, I32), I32(23)), F32)
        small = b.fpext(b.bitcast(b.shl(b.zext(byte, I16), I16(7)), HALF), F32)
        one = b.insert_element(
            ir.Constant(WIDE, ir.Undefined), emitter.fmul(factor, small if halves else exponent), I32(0)
        )
        return emitter.shuffle(one, one, [0] * 16)

    def body(k: Value) -> None:
        at = b.add(w, b.lshr(k, I64(1)))
        codes = b.zext(b.load(emitter.pointer(at, ir.VectorType(I8, 16)), align=1), WORDS)
        emitter.prefetch(emitter.offset(at, 4096))
        first = b.add(scales_at, b.lshr(k, shift))
        for half in range(2):
            size = b.shl(b.and_(b.lshr(codes, _words(4 * half)), _words(7)), _words(9))
            sign = b.shl(b.and_(b.lshr(codes, _words(4 * half)), _words(8)), _words(12))
            value = b.fpext(b.bitcast(b.or_(size, sign), ir.VectorType(HALF, 16)), WIDE)
            to = emitter.offset(b.add(out, b.mul(k, I64(4))), 64 * half)
            emitter.store(emitter.fmul(value, scale(emitter.offset(first, half * halves))), to)

    emitter.loop(I64(0), n, 32, body)


def _words(value: int) -> Value:
    return ir.Constant(WORDS, [value] * 16)


@cache
def tiles_4(two: bool) -> Callable[..., None]:
    """Return a tile function like `blocked.tiles_of` for packed weights.

    Rows are widened into L1 and multiplied from there.
    """
    tiles, step = tiles_of(DEFAULT.register_m, DEFAULT.register_n, True), COLUMNS
    halves, shift = 1 if two else 0, 4 if two else 5

    @inner
    def run(x_at, m, w_at, n, k, out_at, out_step):
        row, wide = k // 2 + (k >> shift) + 4, np.empty((step, k), np.float32)
        for first in range(0, n, step):
            for j in range(step):
                widen(w_at + (first + j) * row, k, wide[j].ctypes.data, halves)
            tiles(x_at, m, wide.ctypes.data, step, k, out_at + 4 * first, out_step)

    made: Callable[..., None] = run
    return made


@dataclass(frozen=True, slots=True)
class FourBitWeights(experts.ExpertWeights):
    """Packed weights of a layer's experts (uint8); the last axis is the bytes of a row.

    `format` is a key of `BLOCK`.
    """

    format: str

    def __post_init__(self) -> None:
        experts_, inter, hidden = self.sizes
        for w, rows, k in ((self.gate, inter, hidden), (self.up, inter, hidden), (self.down, hidden, inter)):
            if w.dtype != np.uint8 or w.shape != (experts_, rows, row_bytes(k, self.format)):
                raise ValueError(f"{w.shape} of {w.dtype} are not rows of {k} weights in {self.format}")

    @property
    def sizes(self) -> tuple[int, int, int]:
        return len(self.gate), self.gate.shape[1], self.down.shape[1]

    def tiles(self) -> Callable[..., None]:
        return tiles_4(self.format == "nvfp4")

    def exact(self, which: Sequence[int]) -> experts.ExpertWeights:
        unpacked = (unpack(w[list(which)], self.format) for w in (self.gate, self.up, self.down))
        return experts.ExpertWeights(*unpacked)


def row_bytes(k: int, format_: str) -> int:
    """Return the bytes of a packed row of `k` weights, a multiple of 32.

    Examples
    --------
    >>> row_bytes(64, "w4a16_mxfp4"), row_bytes(64, "nvfp4")
    (38, 40)
    """
    if k % 32:
        raise ValueError(f"rows of {k} weights: must be a multiple of 32")
    return k // 2 + k // BLOCK[format_] + 4


def pack(w: F4, format_: str) -> U1:
    """Round weights, shape (.., rows, k), to the nearest codes, with a scale per block."""
    lead, k, block = w.shape[:-1], w.shape[-1], BLOCK[format_]
    out = np.empty((*lead, row_bytes(k, format_)), np.uint8)
    blocks = w.reshape(*lead, k // block, block).astype(np.float64)
    top, factor = np.maximum(np.abs(blocks).max(-1), 1e-30), 1.0
    if block == 16:
        factor = float(top.max()) / (6.0 * 448.0)
        codes = np.maximum(np.abs(top[..., None] / (6.0 * factor) - E4M3).argmin(-1), 1)
    else:
        codes = np.clip(np.floor(np.log2(top)) - 2 + 127, 1, 254).astype(np.int64)
    values = blocks / (SCALES[block][codes] * factor)[..., None]
    nearest = np.abs(np.abs(values)[..., None] - LEVELS).argmin(-1) + 8 * (values < 0)
    pairs = nearest.astype(np.uint8).reshape(*lead, k // 32, 2, 16)
    out[..., : k // 2] = (pairs[..., 0, :] | pairs[..., 1, :] << 4).reshape(*lead, k // 2)
    out[..., k // 2 : -4] = codes
    out[..., -4:] = np.full(1, factor * WIDEN[block], np.float32).view(np.uint8)
    return out


def unpack(packed: U1, format_: str) -> F4:
    """Return the weights of packed rows in fp32."""
    lead, block = packed.shape[:-1], BLOCK[format_]
    k = (packed.shape[-1] - 4) * 2 * block // (block + 2)
    codes = packed[..., : k // 2].reshape(*lead, k // 32, 16)
    both = np.stack([codes & 15, codes >> 4], axis=-2).reshape(*lead, k // block, block)
    factor = np.ascontiguousarray(packed[..., -4:]).view(np.float32) / WIDEN[block]
    scale = SCALES[block][packed[..., k // 2 : -4]] * factor
    values = LEVELS[both & 7] * np.where(both & 8, -1.0, 1.0) * scale[..., None]
    out: F4 = values.astype(np.float32).reshape(*lead, k)
    return out


def drawn(rng: np.random.Generator, shape: tuple[int, int, int], format_: str) -> U1:
    """Return packed rows of random codes with scales of similar size; `shape` counts weights."""
    *lead, n = shape
    few = pack(rng.standard_normal((8, n), np.float32) * np.float32(n**-0.5), format_)
    out: U1 = np.resize(few, (*lead, few.shape[-1]))
    out[..., : n // 2] = rng.integers(0, 256, (*lead, n // 2), np.uint8)
    return out


def _weights(shape: Shape, bench: Bench) -> list[experts.ExpertWeights]:
    """Return random packed weights, in more sets than a cache can hold."""
    count, hidden, inter, format_ = (shape[n] for n in ("experts", "hidden", "inter", "dtype"))
    sizes = ((inter, hidden), (inter, hidden), (hidden, inter))
    sets = [[drawn(bench.rng, (count, *size), format_) for size in sizes] for _ in range(8)]
    return [FourBitWeights(gate, up, down, format_) for gate, up, down in sets]


def shapes(quick: bool) -> Sequence[Shape]:
    """Return shapes from one token to a batch, in both formats."""
    tokens = (1, 4, 16) if quick else (1, 2, 4, 8, 16, 32, 64)
    sizes = {"hidden": 1024, "inter": 1024, "experts": 8, "topk": 2}
    return [{"dtype": dtype, "tokens": t, **sizes} for dtype in BLOCK for t in tokens]


def case(shape: Shape, bench: Bench) -> Case:
    """Return the case of one shape."""
    return experts.case(shape, bench, _weights)


CPU = add(Kernel("four_bit", "numba", "moe", shapes, case))

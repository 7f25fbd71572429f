"""Experts of a MoE layer: two grouped products with SwiGLU between, at any loads.

``h = silu(x Wg^T) * (x Wu^T)``, ``y = h Wd^T`` for the tokens of each expert. The weights of an expert
with tokens stream once; one without is not touched. The rows of all active experts form one
list that the threads share by cost, so that one expert with all tokens uses every thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from .blocked import DEFAULT, tiles_of
from .check import from_bf16, require
from .gemm import check_weights
from .jit import inner, parallel
from .lab import Bench, Case, Kernel, Shape, add
from .permute import SlotOrder, combine, gather, sort_slots

F4 = npt.NDArray[np.float32]
I4 = npt.NDArray[np.int32]
Weights = npt.NDArray[Any]
ROW_COST = 0.12
"""Cost of four rows of weights for one more token, over the cost of streaming them: 4 x 2 FLOP against 4 x 4 bytes,
at the ridge of about 4 FLOP/byte of a core with AVX-512."""


CONFIG = replace(DEFAULT, block_n=16)
"""Default configuration. Its blocks are narrower than a single product's, because gate and up weights alternate."""
CHOICES = 61
"""Number of different choices of experts that a case uses in turn; prime, so that all copies of weights occur."""


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """Weights of a layer's experts, float32 or bf16 stored as uint16.

    Attributes
    ----------
    gate, up : array, shape (experts, inter, hidden)
    down : array, shape (experts, hidden, inter)
    """

    gate: Weights
    up: Weights
    down: Weights

    def __post_init__(self) -> None:
        experts, inter, hidden = self.gate.shape
        for name in ("gate", "up", "down"):
            check_weights(getattr(self, name), f"{name} weights")
        if self.up.shape != self.gate.shape or self.down.shape != (experts, hidden, inter):
            shapes = f"{self.gate.shape}, {self.up.shape}, {self.down.shape}"
            raise ValueError(f"gate, up and down weights of shapes {shapes} do not match")
        if len({w.dtype for w in (self.gate, self.up, self.down)}) > 1:
            raise ValueError("gate, up and down weights must have one type")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Number of experts, inner width and outer width."""
        experts, inter, hidden = self.gate.shape
        return experts, inter, hidden

    def tiles(self) -> Callable[..., None]:
        """Return the product kernel for the format of these weights."""
        return tiles_of(CONFIG.register_m, CONFIG.register_n, bool(self.gate.dtype == np.float32))

    def exact(self, which: Sequence[int]) -> ExpertWeights:
        """Return the weights of some experts in a format that `reference` takes."""
        return ExpertWeights(*(w[list(which)] for w in (self.gate, self.up, self.down)))


@inner
def share(offsets, blocks, cost, thread, threads):
    """Return the first block of a thread's share in the list of all active experts' blocks of rows."""
    total = 0.0
    for e in range(len(offsets) - 1):
        m = offsets[e + 1] - offsets[e]
        if m > 0:
            total += blocks * (1.0 + cost * m)
    aim = total * thread / threads
    done = 0.0
    first = 0
    for e in range(len(offsets) - 1):
        m = offsets[e + 1] - offsets[e]
        if m > 0:
            one = 1.0 + cost * m
            if done + blocks * one >= aim:
                return first + min(blocks, math.ceil((aim - done) / one))
            done += blocks * one
            first += blocks
    return first


@cache
def first_of(tiles: Callable[..., None]) -> Callable[..., Any]:
    """Return the kernel of gate and up products and SwiGLU, `step` columns of `h` at a time.

    `row` is the size of a row of weights [B].
    """

    @parallel
    def first(x_at, offsets, gate_at, up_at, inter, hidden, row, step, cost, h, threads):
        blocks = inter // step
        most = 0
        for e in range(len(offsets) - 1):
            most = max(most, offsets[e + 1] - offsets[e])
        for thread in numba.prange(threads):
            left = np.empty((most, step), np.float32)
            right = np.empty((most, step), np.float32)
            low = share(offsets, blocks, cost, thread, threads)
            high = share(offsets, blocks, cost, thread + 1, threads)
            done = 0
            for e in range(len(offsets) - 1):
                start, m = offsets[e], offsets[e + 1] - offsets[e]
                if m == 0:
                    continue
                for b in range(max(low - done, 0), min(high - done, blocks)):
                    at = (e * inter + step * b) * row
                    x_rows = x_at + 4 * start * hidden
                    tiles(x_rows, m, gate_at + at, step, hidden, left.ctypes.data, 4 * step)
                    tiles(x_rows, m, up_at + at, step, hidden, right.ctypes.data, 4 * step)
                    for t in range(m):
                        for j in range(step):
                            g = left[t, j]
                            u = right[t, j]
                            h[start + t, step * b + j] = g / (np.float32(1.0) + np.exp(-g)) * u
                done += blocks

    made: Callable[..., Any] = first
    return made


@cache
def second_of(tiles: Callable[..., None]) -> Callable[..., Any]:
    """Return the kernel of down products, `step` columns of `y` at a time."""

    @parallel
    def second(h_at, offsets, down_at, inter, hidden, row, step, cost, y_at, threads):
        blocks = hidden // step
        for thread in numba.prange(threads):
            low = share(offsets, blocks, cost, thread, threads)
            high = share(offsets, blocks, cost, thread + 1, threads)
            done = 0
            for e in range(len(offsets) - 1):
                start, m = offsets[e], offsets[e + 1] - offsets[e]
                if m == 0:
                    continue
                for b in range(max(low - done, 0), min(high - done, blocks)):
                    at = (e * hidden + step * b) * row
                    tiles(h_at + 4 * start * inter, m, down_at + at, step, inter,
                          y_at + 4 * (start * hidden + step * b), 4 * hidden)  # fmt: skip
                done += blocks

    made: Callable[..., Any] = second
    return made


def grouped_swiglu(x: F4, offsets: I4, weights: ExpertWeights, h: F4, y: F4, threads: int = 1) -> None:
    """Apply each expert to its rows of `x`.

    Parameters
    ----------
    x : float32 array, shape (slots, hidden)
        Rows sorted by expert.
    offsets : int32 array, shape (experts + 1,)
        Where each expert's rows begin.
    h, y : float32 array, shapes (slots, inter), (slots, hidden)
        Room for the inner values, and the output.

    Raises
    ------
    ValueError
        Shapes or types that do not fit.
    """
    experts, inter, hidden = weights.sizes
    slots = len(x)
    if len(offsets) != experts + 1 or offsets[0] != 0 or offsets[-1] != slots:
        raise ValueError(f"offsets must be {experts + 1} numbers from 0 to {slots}")
    if x.shape != (slots, hidden) or h.shape != (slots, inter) or y.shape != (slots, hidden):
        raise ValueError(f"shapes {x.shape}, {h.shape} and {y.shape} do not match the weights")
    if any(a.dtype != np.float32 or not a.flags.c_contiguous for a in (x, h, y)):
        raise ValueError("x, h and y must be contiguous float32")
    tiles = weights.tiles()
    first_of(tiles)(x.ctypes.data, offsets, weights.gate.ctypes.data, weights.up.ctypes.data, inter, hidden,
                    weights.gate.strides[1], _step(inter), ROW_COST, h, threads)  # fmt: skip
    second_of(tiles)(h.ctypes.data, offsets, weights.down.ctypes.data, inter, hidden,
                     weights.down.strides[1], _step(hidden), ROW_COST, y.ctypes.data, threads)  # fmt: skip


def _step(size: int) -> int:
    """Return the rows of weights in a block: the largest divisor common to the size and the configuration's block."""
    return math.gcd(size, CONFIG.block_n or size)


@dataclass(slots=True)
class ExpertBuffers:
    """Buffers of a MoE layer for some number of slots."""

    x: F4
    h: F4
    y: F4

    @classmethod
    def of(cls, slots: int, hidden: int, inter: int) -> ExpertBuffers:
        return cls(*(np.empty((slots, n), np.float32) for n in (hidden, inter, hidden)))


def moe_layer(
    x: F4, ids: I4, weights: F4, w: ExpertWeights, room: ExpertBuffers, out: F4, threads: int = 1
) -> SlotOrder:
    """Run the layer after the router: sort, gather, experts and combine.

    Parameters
    ----------
    x, out : float32 array, shape (tokens, hidden)
    ids, weights : arrays, shape (tokens, k)
        The router's choice.
    """
    order = sort_slots(ids, w.sizes[0])
    gather(x, order, ids.shape[1], room.x, threads)
    grouped_swiglu(room.x, order.offsets, w, room.h, room.y, threads)
    combine(room.y, order, weights, out, threads)
    return order


def reference(x: F4, ids: npt.NDArray[np.integer], weights: F4, w: ExpertWeights) -> npt.NDArray[np.float64]:
    """Compute the layer in fp64, token by token and choice by choice, as a reference."""

    def exact(weights: Weights) -> npt.NDArray[np.float64]:
        return (weights if weights.dtype == np.float32 else from_bf16(weights)).astype(np.float64)

    out = np.zeros(x.shape)
    for t, row in enumerate(x.astype(np.float64)):
        for e, weight in zip(ids[t], weights[t], strict=True):
            g = exact(w.gate[e]) @ row
            inner_ = g / (1.0 + np.exp(-g)) * (exact(w.up[e]) @ row)
            out[t] += float(weight) * (exact(w.down[e]) @ inner_)
    return out


def shapes(quick: bool) -> Sequence[Shape]:
    """Return shapes with few and many experts, from one token to a batch, and weights in fp32 and bf16."""
    sizes = [(1024, 512, 8, 2), (2048, 768, 24, 8), (512, 1024, 8, 2)]
    if not quick:
        sizes += [(1024, 1792, 16, 4), (2048, 1024, 16, 2)]
    tokens = (1, 2, 4, 8, 16, 48) if quick else (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
    return [
        {"dtype": dtype, "tokens": t, "hidden": hidden, "inter": inter, "experts": experts, "topk": k}
        for dtype in ("fp32", "bf16") for hidden, inter, experts, k in sizes for t in tokens
    ]  # fmt: skip


def balanced(tokens: int, experts: int, k: int, rng: np.random.Generator) -> I4:
    """Return choices that load all experts as evenly as possible, in a random order."""
    first = rng.permutation(experts)
    at = (np.arange(tokens * k) % experts).reshape(tokens, k)
    return first[at].astype(np.int32)


def _weights(shape: Shape, bench: Bench) -> list[ExpertWeights]:
    """Return as many sets of weights as the block stores separately."""
    experts, hidden, inter = (shape[n] for n in ("experts", "hidden", "inter"))
    half = shape["dtype"] == "bf16"
    copies = bench.copies((2.0 if half else 4.0) * experts * 3 * hidden * inter)
    sizes = ((experts, inter, hidden), (experts, inter, hidden), (experts, hidden, inter))
    return [ExpertWeights(*(bench.take(s, half) for s in sizes)) for _ in range(copies)]


def case(shape: Shape, bench: Bench, make: Callable[[Shape, Bench], list[ExpertWeights]] = _weights) -> Case:
    """Return the case of one shape, with balanced loads."""
    tokens, hidden, inter, experts, k = (shape[n] for n in ("tokens", "hidden", "inter", "experts", "topk"))
    # Other experts each time: those of one choice would partly stay in the cache.
    choices = [balanced(tokens, experts, k, bench.rng) for _ in range(CHOICES)]
    active = len(np.unique(choices[0]))
    weights = make(shape, bench)
    copies = len(weights)
    # Gates of about one: larger ones would only see the flat ends of SwiGLU.
    x = bench.take((tokens, hidden)) * np.float32(hidden**-0.5)
    share_of = np.full((tokens, k), 1 / k, np.float32)
    room, out = ExpertBuffers.of(tokens * k, hidden, inter), np.empty((tokens, hidden), np.float32)

    def run(i: int) -> None:
        ids, w = choices[i % CHOICES], weights[i % copies]
        moe_layer(x, ids, share_of, w, room, out, bench.threads)

    def check() -> None:
        for buffer in (room.x, room.h, room.y, out):
            buffer[:] = np.nan
        run(0)
        few = sorted({0, tokens // 2, tokens - 1})  # a token at a time is slow in fp64
        mine, local = np.unique(choices[0][few], return_inverse=True)
        local_held = weights[0].exact(mine.tolist())
        want = reference(x[few], local.reshape(len(few), k), share_of[few], local_held)
        require(out[few], want, "fp32", f"experts {dict(shape)}")

    columns = {
        "kernel": "fused_moe", **shape, "tp": 1, "ep": 1, "gated": 1, "distribution": "balanced",
        "active_experts": active,
    }  # fmt: skip
    local_held = sum(w.nbytes for w in (weights[0].gate, weights[0].up, weights[0].down))
    moved = local_held * active / experts + 8.0 * tokens * hidden
    return Case(columns, 6.0 * tokens * k * hidden * inter, moved, copies, run, check)


CPU = add(Kernel("experts", "numba", "moe", shapes, case))

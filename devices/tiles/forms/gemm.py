"""Matrix products of any number format; k is split over blocks if there are too few tiles for the device."""

from __future__ import annotations

import numpy as np

from ....workloads.records import Records
from ...calibrated.block_scaled import BEYOND, LEAST
from ...calibrated.hardware import C_FP8_BLOCK, CODES, INPUT_BYTES
from ..config import I8, KernelConfig, by_name
from ..form import Shape, ShapeKey, TiledKernel, Value, grid_of, kernel_form, number
from ..machine import Machine
from .fused_moe import product_of, rows, stages_of

KEYS = (
    ShapeKey("m", "rows of the input", low=4, high=131072),
    ShapeKey("n", "columns of the result", low=384, high=32768),
    ShapeKey("k", "length of the sums", low=512, high=32768),
    ShapeKey("dtype", "number format", "bf16"),
    ShapeKey("cold", "1: nothing is in the cache from a call before", 0, 0, 1),
)
SPLITS = (1, 2, 4, 8, 16)
LEAST_STEPS = 4
"""Least number of steps in a part of k."""


def work(machine: Machine, shape: Shape) -> Records:
    """Return the product of one group of `m` rows."""
    x = product_of(machine, shape)
    x.low, x.num_low, x.rows = number(shape, "m"), 1, number(shape, "m")
    x.n, x.k = number(shape, "n"), number(shape, "k")
    # CUTLASS's kernel runs in clusters of two blocks along the columns (vllm-project/vllm,
    # scaled_mm_blockwise_sm90_fp8_dispatch.cuh).
    x.cluster = CODES[str(shape["dtype"])] == C_FP8_BLOCK and LEAST <= machine.vector.capability < BEYOND
    return x


def space(machine: Machine, shape: Shape) -> I8:
    """Return configurations in powers of two: tiles of 16 to 256, steps of 32 to 256 values, and the other numbers.

    Scales of 128 values fix the step of `fp8_block`.
    """
    deep = (128,) if CODES[str(shape["dtype"])] == C_FP8_BLOCK else (32, 64, 128, 256)
    sides = (16, 32, 64, 128, 256)
    every = grid_of(sides, sides, deep, (1, 8), (4, 8), stages_of(machine), SPLITS)
    named = by_name(every)
    tile = named["block_m"] * named["block_n"]
    enough = number(shape, "k") >= LEAST_STEPS * named["split"] * named["block_k"]
    small = (tile <= 256 * 128) & (named["block_m"] < 2 * max(number(shape, "m"), 16))
    return np.asarray(every[small & (enough | (named["split"] == 1))])


def default(machine: Machine, shape: Shape) -> KernelConfig:
    """Return the tile of the library's kernel if it is known, else one that fits the rows.

    With scales of 128 x 128: 128 x 128 x 128, eight warps, four stages. Otherwise the fewest rows that hold `m`, up to
    128, with 128 columns, k in steps of 128 bytes and one pass: assumed for kernels without tuning.
    """
    code = CODES[str(shape["dtype"])]
    if code == C_FP8_BLOCK:
        return KernelConfig(128, 128, 128, 8, 8, 4)
    rows_of_tile = min(128, max(16, 1 << (number(shape, "m") - 1).bit_length()))
    deep = 1 << (int(128 / INPUT_BYTES[code]).bit_length() - 1)
    warps = 8 if rows_of_tile == 128 else 4
    return KernelConfig(rows_of_tile, 128, deep, 8, warps, 3)


def constants(machine: Machine, shape: Shape) -> str:
    """Return the name of the constants: `fp8_block` kernels are a library's, others are assumed to be like Triton's."""
    return "fp8_block" if CODES[str(shape["dtype"])] == C_FP8_BLOCK else "triton"


def calibrated(shape: Shape) -> tuple[str, dict[str, Value]]:
    """Return the calibrated family of products, and this shape's columns in it, with the timing of kernels in graphs."""
    sizes: dict[str, Value] = {key: shape[key] for key in ("m", "n", "k", "dtype")}
    return "gemm", {**sizes, "batch": 1, "timing": "kernel", "kernel": "gemm", "source": ""}


GEMM = kernel_form(
    TiledKernel(
        "gemm",
        "dense matrix product",
        KEYS,
        ("block_m", "block_n", "block_k", "group_m", "warps", "stages", "split"),
        work,
        rows,
        space,
        default,
        constants,
        calibrated,
    )
)

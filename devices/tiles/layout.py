"""Layout of a configuration on a core: warps over a tile, registers, shared memory, resident blocks."""

from __future__ import annotations

import math

from ...workloads.jit import compiled_part
from ..calibrated.family import F8
from .machine import M_BLOCKS, M_CAPABILITY, M_LANES, M_REGISTERS, M_SHARED, M_WARPS, RESERVED, Machine

BASE_REGISTERS = 24.0
"""Registers of a thread for loop counters, strides and masks: assumed, as compiled GEMMs show."""
ROWS, COLUMNS = 16.0, 8.0
"""Tile of a warp's matrix instruction (PTX ISA, mma.m16n8k16)."""
DEEP_BYTES = 32.0
"""Bytes of k of one matrix instruction: 16 values of 16 bits, 32 of 8."""


@compiled_part
def warpgroup(hardware: F8, block_m: float, warps: float) -> bool:
    """Whether products are warpgroup instructions, which read their operands from shared memory.

    They exist from compute capability 9.0 on in data-centre parts (12.x has none), for 64 rows and
    four warps (Triton, `AccelerateMatmul.cpp`).
    """
    return 9.0 <= hardware[M_CAPABILITY] < 12.0 and block_m >= 64.0 and warps >= 4.0


@compiled_part
def warp_grid(block_m: float, block_n: float, warps: float, groups: bool) -> tuple[float, float]:
    """Return the warps along the rows and the columns of a tile, as Triton distributes them.

    `warpsPerTileV2` halves the longer side, counted in instructions, until the warps are used; `warpsPerTileV3` gives
    every 16 rows a warp first (Triton, `AccelerateMatmul.cpp`).
    """
    if groups:
        rows = 8.0 if warps > 4.0 and block_m > 64.0 else 4.0
        return rows, warps / rows
    tall, wide = max(block_m / ROWS, 1.0), max(block_n / COLUMNS, 1.0)
    rows, columns = 1.0, 1.0
    while rows * columns < warps:
        if tall >= wide:
            rows *= 2.0
            tall = max(tall / 2.0, 1.0)
        else:
            columns *= 2.0
            wide /= 2.0
    return rows, columns


@compiled_part
def thread_registers(
    hardware: F8, block_m: float, block_n: float, copies: float, per_copy: float, warps: float,
    rows: float, columns: float, groups: bool,
) -> float:  # fmt: skip
    """Return the registers of a thread: sums, operands of two instructions, addresses of its copies and a base; in multiples of eight."""
    sums = block_m * block_n / (hardware[M_LANES] * warps)
    operands = 0.0
    if not groups:
        tall, wide = max(block_m / rows, ROWS), max(block_n / columns, COLUMNS)
        operands = 2.0 * (tall + wide) * DEEP_BYTES / (4.0 * hardware[M_LANES])
    wanted: float = sums + operands + per_copy * copies + BASE_REGISTERS
    return 8.0 * math.ceil(wanted / 8.0)


@compiled_part
def resident(hardware: F8, warps: float, registers: float, shared: float) -> float:
    """Blocks that one core holds at a time, at least one."""
    by_registers: float = hardware[M_REGISTERS] // (hardware[M_LANES] * warps * registers)
    by_shared: float = hardware[M_SHARED] // (shared + RESERVED)
    most: float = min(hardware[M_WARPS] // warps, hardware[M_BLOCKS])
    return max(1.0, min(by_registers, by_shared, most))


MOST_REGISTERS, MOST_REGISTERS_WIDE = 255.0, 512.0
"""Registers that a thread can have: of NVIDIA's warps, and of AMD's wavefronts of 64 lanes."""


@compiled_part
def most_registers(hardware: F8) -> float:
    """Registers that a thread can have."""
    return MOST_REGISTERS if hardware[M_LANES] <= 32.0 else MOST_REGISTERS_WIDE


def most_registers_of(machine: Machine) -> float:
    """Registers that a thread of a machine can have; `most_registers` in plain Python."""
    return MOST_REGISTERS if machine.vector[M_LANES] <= 32.0 else MOST_REGISTERS_WIDE

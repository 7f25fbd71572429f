"""Seconds of a tiled matrix product, grouped or dense: the equations that most kernel forms share.

A block multiplies a tile of `block_m` rows with one of `block_n` columns in steps of `block_k`. The time is a norm of
totals: work, waiting and starts of the busiest core, and the memory and last-level cache traffic of all blocks. No
total rises if a device gains cores, clock, bandwidth, registers or shared memory, so a better device is never slower.
"""

from __future__ import annotations

import math

from ...workloads.jit import compiled_part
from ..calibrated.family import F8
from ..calibrated.hardware import HOPPER_FLOP
from .config import C_GROUP, C_K, C_M, C_N, C_SPLIT, C_STAGES, C_WARPS, I8
from .machine import (
    M_BLOCKS,
    M_CACHE,
    M_CAPABILITY,
    M_CORES,
    M_LANES,
    M_REGISTERS,
    M_SHARED,
    M_WARPS,
    RESERVED,
    Machine,
)
from .price import (
    O_BLOCKS,
    O_MATRIX,
    O_REGISTERS,
    O_SHARED,
    O_SHARED_BYTES,
    O_STEP,
    P_MATRIX,
    P_MATRIX_LATENCY,
    P_SHARED,
    P_STEP,
    SHARP,
    finish,
    join,
)

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


(W_LOW, W_NUM_LOW, W_HIGH, W_NUM_HIGH, W_N, W_K, W_ROWS, W_RATE, W_A_BYTES, W_B_BYTES, W_OUT_BYTES, W_WARM,
 W_CLUSTER) = range(13)  # fmt: skip
"""Product: rows of most groups and their number, rows of the others and their number, columns, k, distinct rows of
the left side, FLOP per clock and core, bytes of values of left side, right side and result, whether caches keep data
of the previous call, and additional blocks along the columns that share the load of their left side."""
NUM_WORK = W_CLUSTER + 1

SYNCHRONOUS = 0.63
"""Share of an H100's FLOP per clock and core that `mma.sync` with 16-bit operands reaches (arXiv 2402.13499)."""
SHARED_BYTES_PER_CLOCK, PORT = 128.0, 64.0
"""Bytes a clock of a core's shared memory, and of its port to the last-level cache (NVIDIA whitepapers
of A100 and H100: 32 banks of 4 bytes; 64 bytes a clock and core)."""
COPY_BYTES, COPY_CLOCKS, SCHEDULERS = 16.0, 0.5, 4.0
"""Bytes that a thread copies at once (`cp.async`), clocks that this takes one of a core's four schedulers: assumed."""
COPY_REGISTERS = 2.6
"""Registers of a thread for each of its copies: a 64-bit address and part of a mask; assumed, fits give 2.5 to 2.7."""
BESIDE = 0.3
"""Share of a step's barrier and addresses that other blocks on the core cannot hide: assumed."""
SPILL = 4.0
"""Slow-down of a block whose threads exceed their registers by 255: assumed."""
KEEP = 0.8
"""Share of the last-level cache that holds what will be read again: assumed."""


@compiled_part
def synchronous_rate(hardware: F8, rate: float, value_bytes: float) -> float:
    """FLOP per clock and core that `mma.sync` reaches: from capability 9.0 on each instruction loses an H100's clocks."""
    if not 9.0 <= hardware[M_CAPABILITY] < 12.0:
        return rate
    full = HOPPER_FLOP * 2.0 / value_bytes
    slowed: float = 1.0 / (1.0 / min(rate, full) + (1.0 / SYNCHRONOUS - 1.0) / full)
    return slowed


@compiled_part
def step(
    parameters: F8, hardware: F8, inputs: F8, configuration: I8, valid: float
) -> tuple[float, float, float, float, float, float, float, float, float]:
    """Clocks of one step of one block, and what it occupies.

    Parameters
    ----------
    valid : float
        Rows of a tile that exist; the others are multiplied but not loaded.

    Returns
    -------
    matrix, shared : float
        Clocks of the core's matrix units, and of its shared memory and port.
    work : float
        Clocks that the step occupies the core with.
    alone : float
        Clocks of the step without other blocks.
    buffers, load : float
        Steps on their way at a time, and bytes of one.
    spilled : float
        Factor on time of what registers cannot hold.
    registers, shared_bytes : float
        Registers of a thread and shared memory of the block.
    """
    bm, bn, bk = float(configuration[C_M]), float(configuration[C_N]), float(configuration[C_K])
    warps, lanes = float(configuration[C_WARPS]), hardware[M_LANES]
    groups = warpgroup(hardware, bm, warps)
    rows, columns = warp_grid(bm, bn, warps, groups)
    buffers = max(1.0, configuration[C_STAGES] - 1.0)
    a, b = inputs[W_A_BYTES], inputs[W_B_BYTES]
    tile_bytes = (bm * a + bn * b) * bk
    copies = tile_bytes / (COPY_BYTES * lanes * warps)
    registers = thread_registers(hardware, bm, bn, copies, COPY_REGISTERS, warps, rows, columns, groups)
    limit = most_registers(hardware)
    spilled = 1.0 + SPILL * max(0.0, registers - limit) / limit
    shared_bytes = max((configuration[C_STAGES] if groups else buffers) * tile_bytes, bm * bn * inputs[W_OUT_BYTES])
    load = (valid * a + bn * b) * bk
    flop = 2.0 * bm * bn * bk
    if groups:
        matrix = flop / inputs[W_RATE]
        bubbles = matrix
        reads = bk * (bm * a * max(columns, bn / 256.0) + bn * b * bm / 64.0)
    else:
        rate = synchronous_rate(hardware, inputs[W_RATE], max(a, b))
        twice = max(1.0, rows * ROWS / max(bm, ROWS)) * max(1.0, columns * COLUMNS / max(bn, COLUMNS))
        matrix = flop * twice / (parameters[P_MATRIX] * rate)
        bubbles = max(matrix, matrix * SCHEDULERS / warps + bk * max(a, b) / DEEP_BYTES * parameters[P_MATRIX_LATENCY])
        reads = bk * (bm * a * columns + bn * b * rows)
    shared = max((reads + load) / (SHARED_BYTES_PER_CLOCK * parameters[P_SHARED]), load / PORT)
    other = copies * warps * COPY_CLOCKS / SCHEDULERS
    work = join(matrix, shared, SHARP) + other + BESIDE * parameters[P_STEP]
    alone = join(bubbles, shared, SHARP) + other + parameters[P_STEP]
    return matrix, shared, work, alone, buffers, load, spilled, registers, shared_bytes


@compiled_part
def traffic(hardware: F8, call: F8, configuration: I8, tiles: float, valid: float, slots: float) -> float:
    """Bytes that come from memory and go there.

    Blocks of a group of row tiles run together and sweep the columns. A group shares the right
    side; one that holds fewer row tiles than a part of the rows has reads it again. The left side
    is read again for every window of columns, unless the cache kept it.
    """
    groups = call[W_NUM_LOW] + call[W_NUM_HIGH]
    n, k, keep = call[W_N], call[W_K], KEEP * hardware[M_CACHE]
    together = min(float(configuration[C_GROUP]), tiles)
    at_once = min(together, slots)
    window = max(1.0, min(math.ceil(n / configuration[C_N]), slots / at_once))
    weights = groups * n * k * call[W_B_BYTES]
    inputs, results = call[W_ROWS] * k * call[W_A_BYTES], tiles * valid * n * call[W_OUT_BYTES]
    passes = max(1.0, tiles / groups / at_once)
    between = (n * call[W_B_BYTES] + together * valid * call[W_A_BYTES]) * k
    again = 1.0 - min(1.0, keep / between)
    sweeps = max(1.0, math.ceil(n / configuration[C_N]) / window)
    narrow = (configuration[C_N] * call[W_B_BYTES] + together * valid * call[W_A_BYTES]) * k
    reread = tiles * valid * k * call[W_A_BYTES] * (sweeps - 1.0) * (1.0 - min(1.0, keep / narrow))
    read = weights * (1.0 + (passes - 1.0) * again) + inputs + reread
    least = weights + inputs + results
    if call[W_WARM] > 0.0:
        cached = min(1.0, keep / least)
        read *= 1.0 - (cached if cached >= 1.0 else max(0.0, cached * (2.0 * cached - 1.0)))
        results *= 0.5  # half of the results stay in the cache that the next call overwrites
    everything: float = read + results
    return everything


@compiled_part
def price(parameters: F8, hardware: F8, inputs: F8, configuration: I8, out: F8) -> None:
    """Seconds of one product under one configuration, and its terms.

    Parameters
    ----------
    parameters, hardware : float64 arrays
        Constants (`parameters`) and machine (`machine`).
    inputs : float64 array, shape (NUM_WORK,)
        What is multiplied, in the order of the ``W_`` constants.
    configuration : int64 array
        The configuration, in the order of the ``C_`` constants.
    out : float64 array, shape (NUM_PRICE,)
        Columns in the order of the ``O_`` constants.
    """
    bm, bk, split = float(configuration[C_M]), float(configuration[C_K]), float(configuration[C_SPLIT])
    tiles = inputs[W_NUM_LOW] * math.ceil(inputs[W_LOW] / bm) + inputs[W_NUM_HIGH] * math.ceil(inputs[W_HIGH] / bm)
    routed = inputs[W_NUM_LOW] * inputs[W_LOW] + inputs[W_NUM_HIGH] * inputs[W_HIGH]
    valid = routed / tiles
    matrix, shared, work, alone, buffers, load, spilled, registers, shared_bytes = step(
        parameters, hardware, inputs, configuration, valid
    )
    blocks = resident(hardware, float(configuration[C_WARPS]), min(registers, most_registers(hardware)), shared_bytes)
    launched = tiles * math.ceil(inputs[W_N] / configuration[C_N]) * split
    steps = math.ceil(inputs[W_K] / (split * bk))
    moved = traffic(hardware, inputs, configuration, tiles, valid, hardware[M_CORES] * blocks)
    row = bk * min(inputs[W_A_BYTES], inputs[W_B_BYTES])
    load -= valid * inputs[W_A_BYTES] * bk * inputs[W_CLUSTER] / (inputs[W_CLUSTER] + 1.0)
    merged = routed * inputs[W_N] * (4.0 * split + inputs[W_OUT_BYTES]) if split > 1.0 else 0.0
    out[O_MATRIX], out[O_SHARED], out[O_STEP] = matrix, shared, work - join(matrix, shared, SHARP)
    out[O_BLOCKS], out[O_REGISTERS], out[O_SHARED_BYTES] = blocks, registers, shared_bytes
    finish(
        parameters, hardware, launched, steps, 0.0, work * spilled, alone, buffers, load, spilled, moved, row,
        float(configuration[C_N]), merged, out,
    )  # fmt: skip

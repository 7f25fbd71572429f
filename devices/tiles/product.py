"""Time of a tiled matrix product, grouped or dense, with the equations that most kernel forms share.

A block multiplies a tile of `block_m` rows with one of `block_n` columns in steps of `block_k`. The time is a norm of
totals: work, waiting and starts of the busiest core, and the memory and last-level cache traffic of all blocks. No
total rises if a device gains cores, clock, bandwidth, registers or shared memory, so a better device is never slower.
"""

from __future__ import annotations

import math

from ...workloads.jit import compiled_part
from ...workloads.records import Records, reals
from ..calibrated.hardware import HOPPER_FLOP
from .machine import RESERVED, Machine
from .price import SHARP, Blocks, BlockStep, Traffic, finish, join

COPY_REGISTERS = 2.6
"""Registers per thread for each of its copies: a 64-bit address and part of a mask; assumed, fits give 2.5 to 2.7."""
BASE_REGISTERS = 24.0
"""Registers per thread for loop counters, strides and masks: assumed, as compiled GEMMs show."""
ROWS, COLUMNS = 16.0, 8.0
"""Rows and columns of a warp's matrix instruction (PTX ISA, mma.m16n8k16)."""
DEEP_BYTES = 32.0
"""Bytes along k of one matrix instruction: 16 values of 16 bits, 32 of 8 bits."""


@compiled_part
def warpgroup(hardware: Records, block_m: float, warps: float) -> bool:
    """Return whether products use warpgroup instructions, which read their operands from shared memory.

    They exist from compute capability 9.0 on in data-centre parts (12.x has none), for 64 rows and
    four warps (Triton, `AccelerateMatmul.cpp`).
    """
    return 9.0 <= hardware.capability < 12.0 and block_m >= 64.0 and warps >= 4.0


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
    hardware: Records,
    block_m: float,
    block_n: float,
    copies: float,
    warps: float,
    rows: float,
    columns: float,
    groups: bool,
) -> float:
    """Return the registers per thread, in multiples of eight.

    They hold sums, operands of two instructions, addresses of copies, and a base.
    """
    sums = block_m * block_n / (hardware.lanes * warps)
    operands = 0.0
    if not groups:
        tall, wide = max(block_m / rows, ROWS), max(block_n / columns, COLUMNS)
        operands = 2.0 * (tall + wide) * DEEP_BYTES / (4.0 * hardware.lanes)
    wanted: float = sums + operands + COPY_REGISTERS * copies + BASE_REGISTERS
    return 8.0 * math.ceil(wanted / 8.0)


@compiled_part
def resident(hardware: Records, warps: float, registers: float, shared: float) -> float:
    """Return the number of blocks that reside on one core at a time, at least one."""
    by_registers: float = hardware.registers // (hardware.lanes * warps * registers)
    by_shared: float = hardware.shared // (shared + RESERVED)
    most: float = min(hardware.warps // warps, hardware.blocks)
    return max(1.0, min(by_registers, by_shared, most))


MOST_REGISTERS, MOST_REGISTERS_WIDE = 255.0, 512.0
"""Maximum registers per thread: of NVIDIA's warps, and of AMD's wavefronts of 64 lanes."""


@compiled_part
def most_registers(hardware: Records) -> float:
    """Return the maximum registers per thread, in compiled code."""
    return MOST_REGISTERS if hardware.lanes <= 32.0 else MOST_REGISTERS_WIDE


def most_registers_of(machine: Machine) -> float:
    """Return the maximum registers per thread of a machine; `most_registers` in plain Python."""
    return MOST_REGISTERS if machine.vector.lanes <= 32.0 else MOST_REGISTERS_WIDE


PRODUCT = reals(
    "low", "num_low", "high", "num_high", "n", "k", "rows", "rate", "a_bytes", "b_bytes", "out_bytes", "warm", "cluster"
)  # fmt: skip
"""Fields of a product: rows of most groups and their number, rows of the other groups and their number, columns, k,
distinct rows of the left side, FLOP per clock and core, bytes of values of left side, right side and result, whether
caches keep data of the previous call, and additional blocks along the columns that share the load of their left side.
"""

SYNCHRONOUS = 0.63
"""Share of an H100's FLOP per clock and core that `mma.sync` with 16-bit operands reaches (arXiv 2402.13499)."""
SHARED_BYTES_PER_CLOCK, PORT = 128.0, 64.0
"""Bytes per clock of a core's shared memory, and of its port to the last-level cache (NVIDIA whitepapers of A100 and
H100: 32 banks of 4 bytes; 64 bytes per clock and core)."""
COPY_BYTES, COPY_CLOCKS, SCHEDULERS = 16.0, 0.5, 4.0
"""Bytes that a thread copies at once (`cp.async`), clocks that this occupies one of a core's schedulers (assumed), and
the number of schedulers."""
BESIDE = 0.3
"""Share of a step's barrier and address computation that other blocks on the core cannot hide: assumed."""
SPILL = 4.0
"""Slow-down of a block whose threads exceed their registers by 255: assumed."""
KEEP = 0.8
"""Share of the last-level cache that holds data which is read again: assumed."""


@compiled_part
def synchronous_rate(hardware: Records, rate: float, value_bytes: float) -> float:
    """Return the FLOP per clock and core of `mma.sync`.

    From capability 9.0 on each instruction loses as many clocks as on an H100.
    """
    if not 9.0 <= hardware.capability < 12.0:
        return rate
    full = HOPPER_FLOP * 2.0 / value_bytes
    slowed: float = 1.0 / (1.0 / min(rate, full) + (1.0 / SYNCHRONOUS - 1.0) / full)
    return slowed


@compiled_part
def step(
    parameters: Records, hardware: Records, inputs: Records, configuration: Records, valid: float
) -> tuple[float, float, float, float, float, float, float, float, float]:
    """Return the clocks of one step of one block, and the resources that it occupies.

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
    bm, bn, bk = float(configuration.block_m), float(configuration.block_n), float(configuration.block_k)
    warps, lanes = float(configuration.warps), hardware.lanes
    groups = warpgroup(hardware, bm, warps)
    rows, columns = warp_grid(bm, bn, warps, groups)
    buffers = max(1.0, configuration.stages - 1.0)
    a, b = inputs.a_bytes, inputs.b_bytes
    tile_bytes = (bm * a + bn * b) * bk
    copies = tile_bytes / (COPY_BYTES * lanes * warps)
    registers = thread_registers(hardware, bm, bn, copies, warps, rows, columns, groups)
    limit = most_registers(hardware)
    spilled = 1.0 + SPILL * max(0.0, registers - limit) / limit
    shared_bytes = max((configuration.stages if groups else buffers) * tile_bytes, bm * bn * inputs.out_bytes)
    load = (valid * a + bn * b) * bk
    flop = 2.0 * bm * bn * bk
    if groups:
        matrix = flop / inputs.rate
        bubbles = matrix
        reads = bk * (bm * a * max(columns, bn / 256.0) + bn * b * bm / 64.0)
    else:
        rate = synchronous_rate(hardware, inputs.rate, max(a, b))
        twice = max(1.0, rows * ROWS / max(bm, ROWS)) * max(1.0, columns * COLUMNS / max(bn, COLUMNS))
        matrix = flop * twice / (parameters.matrix * rate)
        bubbles = max(matrix, matrix * SCHEDULERS / warps + bk * max(a, b) / DEEP_BYTES * parameters.matrix_latency)
        reads = bk * (bm * a * columns + bn * b * rows)
    shared = max((reads + load) / (SHARED_BYTES_PER_CLOCK * parameters.shared), load / PORT)
    other = copies * warps * COPY_CLOCKS / SCHEDULERS
    work = join(matrix, shared, SHARP) + other + BESIDE * parameters.step_clocks
    alone = join(bubbles, shared, SHARP) + other + parameters.step_clocks
    return matrix, shared, work, alone, buffers, load, spilled, registers, shared_bytes


@compiled_part
def traffic(
    hardware: Records, call: Records, configuration: Records, tiles: float, valid: float, slots: float
) -> float:
    """Return the bytes read from and written to memory.

    Blocks of a group of row tiles run together and sweep the columns. A group shares the right
    side; one that holds fewer row tiles than a part of the rows has reads it again. The left side
    is read again for every window of columns, unless the cache kept it.
    """
    groups = call.num_low + call.num_high
    n, k, keep = call.n, call.k, KEEP * hardware.cache
    together = min(float(configuration.group_m), tiles)
    at_once = min(together, slots)
    window = max(1.0, min(math.ceil(n / configuration.block_n), slots / at_once))
    weights = groups * n * k * call.b_bytes
    inputs, results = call.rows * k * call.a_bytes, tiles * valid * n * call.out_bytes
    passes = max(1.0, tiles / groups / at_once)
    between = (n * call.b_bytes + together * valid * call.a_bytes) * k
    again = 1.0 - min(1.0, keep / between)
    sweeps = max(1.0, math.ceil(n / configuration.block_n) / window)
    narrow = (configuration.block_n * call.b_bytes + together * valid * call.a_bytes) * k
    reread = tiles * valid * k * call.a_bytes * (sweeps - 1.0) * (1.0 - min(1.0, keep / narrow))
    read = weights * (1.0 + (passes - 1.0) * again) + inputs + reread
    least = weights + inputs + results
    if call.warm > 0.0:
        cached = min(1.0, keep / least)
        read *= 1.0 - (cached if cached >= 1.0 else max(0.0, cached * (2.0 * cached - 1.0)))
        results *= 0.5  # half of the results stay in the cache that the next call overwrites
    everything: float = read + results
    return everything


@compiled_part
def price(parameters: Records, hardware: Records, inputs: Records, configuration: Records, out: Records) -> None:
    """Compute the seconds of one product under one configuration, and their terms.

    Parameters
    ----------
    parameters, hardware : records
        Constants (`PARAMETERS`) and machine (`machine.MACHINE`).
    inputs : record
        What is multiplied (`PRODUCT`).
    configuration : record
        The configuration (`config.CONFIG`).
    out : record
        Its cost (`TILE_COST`).
    """
    bm, bk, split = float(configuration.block_m), float(configuration.block_k), float(configuration.split)
    tiles = inputs.num_low * math.ceil(inputs.low / bm) + inputs.num_high * math.ceil(inputs.high / bm)
    routed = inputs.num_low * inputs.low + inputs.num_high * inputs.high
    valid = routed / tiles
    matrix, shared, work, alone, buffers, load, spilled, registers, shared_bytes = step(
        parameters, hardware, inputs, configuration, valid
    )
    blocks = resident(hardware, float(configuration.warps), min(registers, most_registers(hardware)), shared_bytes)
    launched = tiles * math.ceil(inputs.n / configuration.block_n) * split
    steps = math.ceil(inputs.k / (split * bk))
    moved = traffic(hardware, inputs, configuration, tiles, valid, hardware.cores * blocks)
    row = bk * min(inputs.a_bytes, inputs.b_bytes)
    load -= valid * inputs.a_bytes * bk * inputs.cluster / (inputs.cluster + 1.0)
    merged = routed * inputs.n * (4.0 * split + inputs.out_bytes) if split > 1.0 else 0.0
    out.matrix, out.shared, out.step = matrix, shared, work - join(matrix, shared, SHARP)
    out.blocks, out.registers, out.shared_bytes = blocks, registers, shared_bytes
    of_step = BlockStep(work * spilled, alone, buffers, load, spilled)
    of_memory = Traffic(moved, row, float(configuration.block_n), merged)
    finish(parameters, hardware, Blocks(launched, steps, 0.0), of_step, of_memory, out)

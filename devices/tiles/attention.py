"""Seconds of tiled attention: blocks of query rows walk along the keys, two products and a softmax per step.

Decode packs the query heads of a group into the rows of a block and may split the keys; prefill gives every query head
separate blocks, whose walk ends at the diagonal. The totals are computed in `price`.
"""

from __future__ import annotations

import math

from ...workloads.jit import compiled_part
from ..calibrated.family import F8
from .config import C_M, C_N, C_SPLIT, C_STAGES, C_WARPS, I8
from .machine import M_CACHE, M_LANES
from .price import (
    O_BLOCKS,
    O_MATRIX,
    O_REGISTERS,
    O_SHARED,
    O_SHARED_BYTES,
    O_STEP,
    P_MATRIX,
    P_SHARED,
    P_STEP,
    SHARP,
    finish,
    join,
)
from .product import (
    COLUMNS,
    COPY_BYTES,
    COPY_CLOCKS,
    COPY_REGISTERS,
    KEEP,
    PORT,
    ROWS,
    SCHEDULERS,
    SHARED_BYTES_PER_CLOCK,
    SPILL,
    most_registers,
    resident,
    synchronous_rate,
    thread_registers,
    warpgroup,
)

(A_GROUPS, A_ROWS, A_KEYS, A_CONTEXT, A_CAUSAL, A_SCORE, A_VALUE, A_SHARED, A_SHARERS, A_KV_BYTES,
 A_RATE, A_WARM) = range(12)  # fmt: skip
"""What attends: groups of rows that share keys in a block, rows of one, keys of a sequence, those
before the first row, whether rows see no later keys, width of scores and of values, 1 where values
are part of the keys, groups that read the same keys, bytes of a cached value, FLOP per clock and
core, and whether caches hold what they can from the call before."""
NUM_ATTENTION = A_WARM + 1

EXPONENTIALS, VECTOR, VECTOR_WORK = 16.0, 128.0, 6.0
"""Exponentials and 32-bit operations a clock of a core (CUDA C++ Programming Guide, throughput of
native instructions), and such operations per score: scale, mask, maximum, sum, convert, rescale."""
QUERY_BYTES = 2.0


@compiled_part
def attend(parameters: F8, hardware: F8, inputs: F8, configuration: I8, out: F8) -> None:
    """Compute the seconds of one attention under one configuration, and its terms; see `product.price`."""
    bm, bn, split = float(configuration[C_M]), float(configuration[C_N]), float(configuration[C_SPLIT])
    warps, lanes, b = float(configuration[C_WARPS]), hardware[M_LANES], inputs[A_KV_BYTES]
    groups = warpgroup(hardware, bm, warps)
    buffers = float(configuration[C_STAGES]) if groups else max(1.0, configuration[C_STAGES] - 1.0)
    wide = inputs[A_SCORE] + inputs[A_VALUE]
    load = bn * (wide - inputs[A_VALUE] * inputs[A_SHARED]) * b
    # Warps share the rows, and what is left of them the keys; every row of warps reads all keys.
    rows = min(warps, max(1.0, bm / ROWS))
    flop, scores = 2.0 * bm * bn * wide, bm * bn
    queries = bm * inputs[A_SCORE] * QUERY_BYTES  # read again in every step
    if groups:
        matrix = flop / (parameters[P_MATRIX] * inputs[A_RATE])
        reads = queries + bn * wide * b * bm / 64.0
    else:
        twice = max(1.0, ROWS / bm) * max(1.0, warps / rows * COLUMNS / bn)
        matrix = flop * twice / (parameters[P_MATRIX] * synchronous_rate(hardware, inputs[A_RATE], b))
        reads = queries * warps / rows + bn * wide * b * rows
    shared = max((reads + load) / (SHARED_BYTES_PER_CLOCK * parameters[P_SHARED]), load / PORT)
    softmax = scores * (1.0 / EXPONENTIALS + VECTOR_WORK / VECTOR)
    copies = load / (COPY_BYTES * lanes * warps)
    registers = thread_registers(
        hardware, bm, inputs[A_VALUE], copies, COPY_REGISTERS, warps, rows, warps / rows, groups
    ) + scores / (lanes * warps)
    limit = most_registers(hardware)
    spilled = 1.0 + SPILL * max(0.0, registers - limit) / limit
    blocks = resident(hardware, warps, min(registers, limit), buffers * load + queries)
    # Two warpgroups take turns: the softmax of one beside the products of the other.
    turns = groups and warps >= 8.0
    busy = join(matrix, softmax, SHARP) if turns else matrix + softmax
    work = join(busy, shared, SHARP) + copies * warps * COPY_CLOCKS / SCHEDULERS
    alone = work + parameters[P_STEP]
    tiles = math.ceil(inputs[A_ROWS] / bm)
    launched = inputs[A_GROUPS] * tiles * split
    longest = 0.0
    if inputs[A_CAUSAL] > 0.0:
        seen = min(inputs[A_KEYS], inputs[A_CONTEXT] + 0.5 * (inputs[A_ROWS] + bm))
        longest = math.ceil(inputs[A_KEYS] / bn)
        steps = min(longest, seen / bn + 0.5)
    else:
        steps = math.ceil(inputs[A_KEYS] / (split * bn))
    out[O_MATRIX], out[O_SHARED], out[O_STEP] = matrix, shared, work - join(matrix, shared, SHARP)
    out[O_BLOCKS], out[O_REGISTERS] = blocks, 8.0 * math.ceil(registers / 8.0)
    out[O_SHARED_BYTES] = buffers * load + queries
    merged = inputs[A_GROUPS] * inputs[A_ROWS] * inputs[A_VALUE] * (4.0 * split + QUERY_BYTES) if split > 1.0 else 0.0
    finish(
        parameters, hardware, launched, steps, longest, work * spilled, alone, buffers, load, spilled,
        traffic(hardware, inputs, launched * steps * load), inputs[A_SCORE] * b, 64.0, merged, out,
    )  # fmt: skip


@compiled_part
def traffic(hardware: F8, inputs: F8, through: float) -> float:
    """Bytes that come from memory and go there: keys and values once, again where the cache is too small.

    Parameters
    ----------
    through : float
        Bytes of keys and values that all blocks read.
    """
    per_row = inputs[A_SCORE] + inputs[A_VALUE]
    of_one = inputs[A_KEYS] * (per_row - inputs[A_VALUE] * inputs[A_SHARED]) * inputs[A_KV_BYTES]
    cached = of_one * inputs[A_GROUPS] / inputs[A_SHARERS]
    results = inputs[A_GROUPS] * inputs[A_ROWS] * per_row * QUERY_BYTES
    keep = KEEP * hardware[M_CACHE]
    again = max(0.0, through - cached) * (1.0 - min(1.0, keep / of_one))
    read = cached + again
    if inputs[A_WARM] > 0.0:
        cached_kept = min(1.0, keep / (cached + results))
        read *= 1.0 - (cached_kept if cached_kept >= 1.0 else max(0.0, cached_kept * (2.0 * cached_kept - 1.0)))
    everything: float = read + results
    return everything

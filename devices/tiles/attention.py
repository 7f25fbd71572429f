"""Seconds of tiled attention: blocks of query rows walk along the keys, two products and a softmax per step.

Decode packs the query heads of a group into the rows of a block and may split the keys; prefill gives every query head
separate blocks, whose walk ends at the diagonal. The totals are computed in `price`.
"""

from __future__ import annotations

import math

from ...workloads.jit import compiled_part
from ...workloads.records import Records, reals
from .price import SHARP, Blocks, BlockStep, Traffic, finish, join
from .product import (
    COLUMNS,
    COPY_BYTES,
    COPY_CLOCKS,
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

ATTENTION = reals(
    "groups", "rows", "keys", "context", "causal", "score", "value", "shared", "sharers", "kv_bytes", "rate", "warm"
)
"""What attends: groups of rows that share keys in a block, rows of one, keys of a sequence, those
before the first row, whether rows see no later keys, width of scores and of values, 1 where values
are part of the keys, groups that read the same keys, bytes of a cached value, FLOP per clock and
core, and whether caches hold what they can from the call before."""

EXPONENTIALS, VECTOR, VECTOR_WORK = 16.0, 128.0, 6.0
"""Exponentials and 32-bit operations a clock of a core (CUDA C++ Programming Guide, throughput of
native instructions), and such operations per score: scale, mask, maximum, sum, convert, rescale."""
QUERY_BYTES = 2.0


@compiled_part
def attend(parameters: Records, hardware: Records, inputs: Records, configuration: Records, out: Records) -> None:
    """Compute the seconds of one attention under one configuration, and its terms; see `product.price`."""
    bm, bn, split = float(configuration.block_m), float(configuration.block_n), float(configuration.split)
    warps, lanes, b = float(configuration.warps), hardware.lanes, inputs.kv_bytes
    groups = warpgroup(hardware, bm, warps)
    buffers = float(configuration.stages) if groups else max(1.0, configuration.stages - 1.0)
    wide = inputs.score + inputs.value
    load = bn * (wide - inputs.value * inputs.shared) * b
    # Warps share the rows, and what is left of them the keys; every row of warps reads all keys.
    rows = min(warps, max(1.0, bm / ROWS))
    flop, scores = 2.0 * bm * bn * wide, bm * bn
    queries = bm * inputs.score * QUERY_BYTES  # read again in every step
    if groups:
        matrix = flop / (parameters.matrix * inputs.rate)
        reads = queries + bn * wide * b * bm / 64.0
    else:
        twice = max(1.0, ROWS / bm) * max(1.0, warps / rows * COLUMNS / bn)
        matrix = flop * twice / (parameters.matrix * synchronous_rate(hardware, inputs.rate, b))
        reads = queries * warps / rows + bn * wide * b * rows
    shared = max((reads + load) / (SHARED_BYTES_PER_CLOCK * parameters.shared), load / PORT)
    softmax = scores * (1.0 / EXPONENTIALS + VECTOR_WORK / VECTOR)
    copies = load / (COPY_BYTES * lanes * warps)
    registers = thread_registers(hardware, bm, inputs.value, copies, warps, rows, warps / rows, groups) + scores / (
        lanes * warps
    )
    limit = most_registers(hardware)
    spilled = 1.0 + SPILL * max(0.0, registers - limit) / limit
    blocks = resident(hardware, warps, min(registers, limit), buffers * load + queries)
    # Two warpgroups take turns: the softmax of one beside the products of the other.
    turns = groups and warps >= 8.0
    busy = join(matrix, softmax, SHARP) if turns else matrix + softmax
    work = join(busy, shared, SHARP) + copies * warps * COPY_CLOCKS / SCHEDULERS
    alone = work + parameters.step_clocks
    tiles = math.ceil(inputs.rows / bm)
    launched = inputs.groups * tiles * split
    longest = 0.0
    if inputs.causal > 0.0:
        seen = min(inputs.keys, inputs.context + 0.5 * (inputs.rows + bm))
        longest = math.ceil(inputs.keys / bn)
        steps = min(longest, seen / bn + 0.5)
    else:
        steps = math.ceil(inputs.keys / (split * bn))
    out.matrix, out.shared, out.step = matrix, shared, work - join(matrix, shared, SHARP)
    out.blocks, out.registers = blocks, 8.0 * math.ceil(registers / 8.0)
    out.shared_bytes = buffers * load + queries
    merged = inputs.groups * inputs.rows * inputs.value * (4.0 * split + QUERY_BYTES) if split > 1.0 else 0.0
    of_step = BlockStep(work * spilled, alone, buffers, load, spilled)
    moved = traffic(hardware, inputs, launched * steps * load)
    of_memory = Traffic(moved, inputs.score * b, 64.0, merged)
    finish(parameters, hardware, Blocks(launched, steps, longest), of_step, of_memory, out)


@compiled_part
def traffic(hardware: Records, inputs: Records, through: float) -> float:
    """Bytes that come from memory and go there: keys and values once, again where the cache is too small.

    Parameters
    ----------
    through : float
        Bytes of keys and values that all blocks read.
    """
    per_row = inputs.score + inputs.value
    of_one = inputs.keys * (per_row - inputs.value * inputs.shared) * inputs.kv_bytes
    cached = of_one * inputs.groups / inputs.sharers
    results = inputs.groups * inputs.rows * per_row * QUERY_BYTES
    keep = KEEP * hardware.cache
    again = max(0.0, through - cached) * (1.0 - min(1.0, keep / of_one))
    read = cached + again
    if inputs.warm > 0.0:
        cached_kept = min(1.0, keep / (cached + results))
        read *= 1.0 - (cached_kept if cached_kept >= 1.0 else max(0.0, cached_kept * (2.0 * cached_kept - 1.0)))
    everything: float = read + results
    return everything

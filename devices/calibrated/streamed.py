"""The formula of streaming kernels: indexers, sparse attention, recurrences, scans, convolutions.

Pieces of work run in parallel, one per core. A piece computes in tiles with a minimum of rows, moves its bytes at one
core's rate, and walks its sequence step by step, a core's sequences one after another; all pieces together are limited
by the device's arithmetic and memory. Each family (`layer_kernels`) has separate parameters.
"""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled_part
from ...workloads.ops import Op
from ...workloads.records import Records
from .family import F8, parameters_of
from .hardware import CODES
from .terms import COLD, Parts, Work, resident, rows_of, soft_max

QUANTITIES = (
    "batch", "tokens", "pairs", "kv", "flops", "pair_bytes", "key_bytes", "token_bytes",
    "seq_bytes", "token_units", "key_units", "seq_units", "rows", "walks_keys", "least_pairs",
    "copies", "format",
)  # fmt: skip
"""Quantities of a call: its sums, rates (`workloads.layers.streamed`), copies of its operands, and format."""

PARAMETERS = parameters_of("streamed")

OVERLAP = 3.0
"""Exponent of the soft maxima of arithmetic, memory and the traffic of cores."""
STEPS = 256.0
WIDE = 60.0
"""Rows of a warp group's tile, which pairs of cores double on data-centre Blackwell: FlashMLA takes 64 heads there and
128 here (deepseek-ai/FlashMLA, README)."""
BLACKWELL, WORKSTATION = 10.0, 12.0
"""Compute capabilities of data-centre Blackwell, and of the next kind of cores."""
CACHE_RATE = 2.5
"""Bandwidth of the last-level cache over the memory's, as in `mla`."""


@compiled_part
def moved(inputs: Records) -> float:
    """Return the bytes that a call moves."""
    return float(
        inputs.pairs * inputs.pair_bytes
        + inputs.kv * inputs.key_bytes
        + inputs.tokens * inputs.token_bytes
        + inputs.batch * inputs.seq_bytes
    )


@compiled_part
def parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the seconds of one call, and its arithmetic, memory and fixed seconds."""
    if inputs.batch <= 0.0 or inputs.tokens <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    cores = hardware.cores
    pieces = inputs.tokens * inputs.token_units + inputs.kv * inputs.key_units + inputs.batch * inputs.seq_units
    pieces = max(pieces, 1.0)
    busy = pieces / (1.0 + (pieces / cores) ** 4) ** 0.25
    tile = parameters.tile_rows
    if tile >= WIDE and BLACKWELL <= hardware.capability < WORKSTATION:
        tile *= 2.0
    padded = max(inputs.rows, tile) / inputs.rows
    rate = parameters.peak * hardware.peak[int(inputs.format)]
    pairs = max(inputs.pairs, inputs.tokens * inputs.least_pairs)
    math_s = pairs * inputs.flops * padded / rate * (cores / busy)
    math_s += parameters.unit_s * (1.0 + (pieces / cores) ** 4) ** 0.25
    size = moved(inputs)
    stays = resident(size * inputs.copies, parameters.cache * hardware.cache)
    cost = 1.0 - stays + stays / CACHE_RATE
    memory_s = soft_max(
        size * cost / (parameters.memory * hardware.bandwidth),
        size / (parameters.core_bytes * hardware.clock * busy),
        OVERLAP,
    )
    work_s, fixed = soft_max(math_s, memory_s, OVERLAP), parameters.launch_s
    walk_s = parameters.step_s / (inputs.batch * STEPS)
    if inputs.walks_keys > 0.0 or inputs.token_units * inputs.seq_units == 0.0:
        fixed += walk_s * (inputs.kv if inputs.walks_keys > 0.0 else inputs.tokens)
        return fixed + work_s, math_s, memory_s, fixed
    # What is cut along tokens, too: a core walks along the sequences that it holds, one after another, beside that.
    sequences = inputs.batch * inputs.seq_units / cores
    walk_s *= inputs.tokens * (1.0 + sequences**4) ** 0.25
    return fixed + soft_max(work_s, walk_s, OVERLAP), max(math_s, walk_s), memory_s, fixed


@compiled_part
def work(inputs: Records) -> Work:
    """Return the FLOP of the pairs, and the bytes if every operand moves once."""
    return inputs.pairs * inputs.flops, moved(inputs), 0.0, int(inputs.format)


@compiled_part
def at_sums(inputs: Records, batch: float, tokens: float, pairs: float, keys: float) -> bool:
    """Set a call's sums; return False without work."""
    inputs.batch, inputs.tokens, inputs.pairs, inputs.kv = batch, tokens, pairs, keys
    return batch > 0.0 and tokens > 0.0


rows = rows_of("streamed", parts, work)


def from_op(op: Op) -> F8 | None:
    """Return the quantities of an op of a serving step."""
    if op.dtype not in CODES:
        return None
    rates = [op.shape[name] for name in QUANTITIES[: QUANTITIES.index("copies")]]
    return np.array([*rates, COLD, float(CODES[op.dtype])])

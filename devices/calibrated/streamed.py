"""The formula of streaming kernels: indexers, sparse attention, recurrences, scans, convolutions.

Pieces of work run in parallel, one per core. A piece computes in tiles with a minimum of rows, moves its bytes at one
core's rate, and walks its sequence step by step, a core's sequences one after another; all pieces together are limited
by the device's arithmetic and memory. Each family (`layer_kernels`) has separate parameters.
"""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled, compiled_part
from ...workloads.ops import Op
from .family import F8, parameters_of
from .hardware import CODES, H_BANDWIDTH, H_CACHE, H_CAPABILITY, H_CLOCK, H_CORES, H_PEAK
from .terms import COLD, Parts, Work, put_price, resident, soft_max

QUANTITIES = (
    "batch", "tokens", "pairs", "kv", "flops", "pair_bytes", "key_bytes", "token_bytes",
    "seq_bytes", "token_units", "key_units", "seq_units", "rows", "walks_keys", "least_pairs",
    "copies", "format",
)  # fmt: skip
"""Sums of a call, its rates (`workloads.layers.streamed`), copies of its operands and its format."""
(X_BATCH, X_TOKENS, X_PAIRS, X_KV, X_FLOPS, X_PAIR_BYTES, X_KEY_BYTES, X_TOKEN_BYTES, X_SEQ_BYTES,
 X_TOKEN_UNITS, X_KEY_UNITS, X_SEQ_UNITS, X_ROWS, X_WALKS_KEYS, X_LEAST, X_COPIES,
 X_FORMAT) = range(len(QUANTITIES))  # fmt: skip

PARAMETERS = parameters_of("streamed")
(P_LAUNCH, P_MEMORY, P_CACHE, P_PEAK, P_CORE, P_ROWS, P_UNIT, P_STEP) = range(len(PARAMETERS))

OVERLAP = 3.0
"""Power of the soft maxima of arithmetic, memory and what cores can move."""
STEPS = 256.0
WIDE = 60.0
"""Rows of a warp group's tile, which data-centre Blackwell's pairs of cores double: FlashMLA takes 64 heads
there and 128 here (deepseek-ai/FlashMLA, README)."""
BLACKWELL, WORKSTATION = 10.0, 12.0
"""Compute capabilities of data-centre Blackwell, and of the next kind of cores."""
CACHE_RATE = 2.5
"""Bandwidth of the last-level cache over the memory's, as in `mla`."""


@compiled_part
def moved(inputs: F8) -> float:
    """Bytes of a call."""
    return float(
        inputs[X_PAIRS] * inputs[X_PAIR_BYTES]
        + inputs[X_KV] * inputs[X_KEY_BYTES]
        + inputs[X_TOKENS] * inputs[X_TOKEN_BYTES]
        + inputs[X_BATCH] * inputs[X_SEQ_BYTES]
    )


@compiled_part
def parts(parameters: F8, hardware: F8, inputs: F8) -> Parts:
    """Return the seconds of one call, and its arithmetic, memory and fixed seconds."""
    if inputs[X_BATCH] <= 0.0 or inputs[X_TOKENS] <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    cores = hardware[H_CORES]
    pieces = (
        inputs[X_TOKENS] * inputs[X_TOKEN_UNITS]
        + inputs[X_KV] * inputs[X_KEY_UNITS]
        + inputs[X_BATCH] * inputs[X_SEQ_UNITS]
    )
    pieces = max(pieces, 1.0)
    busy = pieces / (1.0 + (pieces / cores) ** 4) ** 0.25
    tile = parameters[P_ROWS]
    if tile >= WIDE and BLACKWELL <= hardware[H_CAPABILITY] < WORKSTATION:
        tile *= 2.0
    padded = max(inputs[X_ROWS], tile) / inputs[X_ROWS]
    rate = parameters[P_PEAK] * hardware[H_PEAK + int(inputs[X_FORMAT])]
    pairs = max(inputs[X_PAIRS], inputs[X_TOKENS] * inputs[X_LEAST])
    math_s = pairs * inputs[X_FLOPS] * padded / rate * (cores / busy)
    math_s += parameters[P_UNIT] * (1.0 + (pieces / cores) ** 4) ** 0.25
    size = moved(inputs)
    stays = resident(size * inputs[X_COPIES], parameters[P_CACHE] * hardware[H_CACHE])
    cost = 1.0 - stays + stays / CACHE_RATE
    memory_s = soft_max(
        size * cost / (parameters[P_MEMORY] * hardware[H_BANDWIDTH]),
        size / (parameters[P_CORE] * hardware[H_CLOCK] * busy),
        OVERLAP,
    )
    work_s, fixed = soft_max(math_s, memory_s, OVERLAP), parameters[P_LAUNCH]
    walk_s = parameters[P_STEP] / (inputs[X_BATCH] * STEPS)
    if inputs[X_WALKS_KEYS] > 0.0 or inputs[X_TOKEN_UNITS] * inputs[X_SEQ_UNITS] == 0.0:
        fixed += walk_s * (inputs[X_KV] if inputs[X_WALKS_KEYS] > 0.0 else inputs[X_TOKENS])
        return fixed + work_s, math_s, memory_s, fixed
    # What is cut along tokens, too: a core walks along the sequences that it holds, one after another, beside that.
    sequences = inputs[X_BATCH] * inputs[X_SEQ_UNITS] / cores
    walk_s *= inputs[X_TOKENS] * (1.0 + sequences**4) ** 0.25
    return fixed + soft_max(work_s, walk_s, OVERLAP), max(math_s, walk_s), memory_s, fixed


@compiled_part
def work(inputs: F8) -> Work:
    """FLOP of the pairs, and bytes when every operand moves once."""
    return inputs[X_PAIRS] * inputs[X_FLOPS], moved(inputs), 0.0, int(inputs[X_FORMAT])


@compiled_part
def at_sums(inputs: F8, batch: float, tokens: float, pairs: float, keys: float) -> bool:
    """Set a call's sums; False where nothing is computed."""
    inputs[X_BATCH], inputs[X_TOKENS], inputs[X_PAIRS], inputs[X_KV] = batch, tokens, pairs, keys
    return batch > 0.0 and tokens > 0.0


@compiled
def rows(parameters: F8, hardware: F8, inputs: F8, out: F8) -> None:
    """Compute many calls; see `Family.rows`."""
    for i in range(inputs.shape[0]):
        put_price(out[i], parts(parameters, hardware, inputs[i]), work(inputs[i]), hardware)


def from_op(op: Op) -> F8 | None:
    """Quantities of an op of a serving step."""
    if op.dtype not in CODES:
        return None
    rates = [op.shape[name] for name in QUANTITIES[:X_COPIES]]
    return np.array([*rates, COLD, float(CODES[op.dtype])])

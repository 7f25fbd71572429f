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
def moved(x: F8) -> float:
    """Bytes of a call."""
    return float(
        x[X_PAIRS] * x[X_PAIR_BYTES]
        + x[X_KV] * x[X_KEY_BYTES]
        + x[X_TOKENS] * x[X_TOKEN_BYTES]
        + x[X_BATCH] * x[X_SEQ_BYTES]
    )


@compiled_part
def parts(p: F8, h: F8, x: F8) -> Parts:
    """Return the seconds of one call, and its arithmetic, memory and fixed seconds."""
    if x[X_BATCH] <= 0.0 or x[X_TOKENS] <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    cores = h[H_CORES]
    pieces = x[X_TOKENS] * x[X_TOKEN_UNITS] + x[X_KV] * x[X_KEY_UNITS] + x[X_BATCH] * x[X_SEQ_UNITS]
    pieces = max(pieces, 1.0)
    busy = pieces / (1.0 + (pieces / cores) ** 4) ** 0.25
    tile = p[P_ROWS]
    if tile >= WIDE and BLACKWELL <= h[H_CAPABILITY] < WORKSTATION:
        tile *= 2.0
    padded = max(x[X_ROWS], tile) / x[X_ROWS]
    rate = p[P_PEAK] * h[H_PEAK + int(x[X_FORMAT])]
    pairs = max(x[X_PAIRS], x[X_TOKENS] * x[X_LEAST])
    math_s = pairs * x[X_FLOPS] * padded / rate * (cores / busy)
    math_s += p[P_UNIT] * (1.0 + (pieces / cores) ** 4) ** 0.25
    size = moved(x)
    stays = resident(size * x[X_COPIES], p[P_CACHE] * h[H_CACHE])
    cost = 1.0 - stays + stays / CACHE_RATE
    memory_s = soft_max(size * cost / (p[P_MEMORY] * h[H_BANDWIDTH]), size / (p[P_CORE] * h[H_CLOCK] * busy), OVERLAP)
    work_s, fixed = soft_max(math_s, memory_s, OVERLAP), p[P_LAUNCH]
    walk_s = p[P_STEP] / (x[X_BATCH] * STEPS)
    if x[X_WALKS_KEYS] > 0.0 or x[X_TOKEN_UNITS] * x[X_SEQ_UNITS] == 0.0:
        fixed += walk_s * (x[X_KV] if x[X_WALKS_KEYS] > 0.0 else x[X_TOKENS])
        return fixed + work_s, math_s, memory_s, fixed
    # What is cut along tokens, too: a core walks along the sequences that it holds, one after another, beside that.
    sequences = x[X_BATCH] * x[X_SEQ_UNITS] / cores
    walk_s *= x[X_TOKENS] * (1.0 + sequences**4) ** 0.25
    return fixed + soft_max(work_s, walk_s, OVERLAP), max(math_s, walk_s), memory_s, fixed


@compiled_part
def work(x: F8) -> Work:
    """FLOP of the pairs, and bytes when every operand moves once."""
    return x[X_PAIRS] * x[X_FLOPS], moved(x), 0.0, int(x[X_FORMAT])


@compiled_part
def at_sums(x: F8, batch: float, tokens: float, pairs: float, kv: float) -> bool:
    """Set a call's sums; False where nothing is computed."""
    x[X_BATCH], x[X_TOKENS], x[X_PAIRS], x[X_KV] = batch, tokens, pairs, kv
    return batch > 0.0 and tokens > 0.0


@compiled
def rows(p: F8, h: F8, x: F8, out: F8) -> None:
    """Compute many calls; see `Family.rows`."""
    for i in range(x.shape[0]):
        put_price(out[i], parts(p, h, x[i]), work(x[i]), h)


def from_op(op: Op) -> F8 | None:
    """Quantities of an op of a serving step."""
    if op.dtype not in CODES:
        return None
    rates = [op.shape[name] for name in QUANTITIES[:X_COPIES]]
    return np.array([*rates, COLD, float(CODES[op.dtype])])

"""Multi-head latent attention: absorbed decode and expanded prefill.

Decode: every head reads the same latent (512 values and 64 of position) of a token, so its bytes
do not grow with the heads but its arithmetic does, in tiles of at least `head_tile` heads. Prefill
is ordinary causal attention with keys of 192 and values of 128 for each head.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled, compiled_part
from ...workloads.kernel_tables import KernelTable
from ...workloads.ops import Op
from .family import F8, Family, parameters_of, register
from .hardware import C_16, CODES, H_BANDWIDTH, H_CACHE, H_CORES, H_PEAK
from .terms import COLD, Parts, Work, attained, ceil_div, put_price, resident, soft_max

(X_PREFILL, X_BATCH, X_Q, X_KEYS, X_KV, X_HEADS, X_KV_BYTES, X_COPIES) = range(8)
QUANTITIES = ("prefill", "batch", "q", "keys", "kv", "heads", "kv_bytes", "copies")
"""`q`: new tokens of a sequence; `keys`: mean keys that a query sees; `kv`: keys read."""

PARAMETERS = parameters_of("mla")
(P_LAUNCH, P_MEMORY, P_CACHE, P_DECODE, P_HEADS, P_HALF, P_BLOCK, P_BLOCK_HEADS,
 P_KEY, P_PREFILL, P_TILE, P_WAVES) = range(12)  # fmt: skip

LATENT, ROPE, QK_DIM, V_DIM = 512.0, 64.0, 192.0, 128.0
"""Dimensions of DeepSeek-V2 and V3 and of every measured row."""
OVERLAP = 3.0
"""Power of the soft maximum of arithmetic and memory."""
SPLIT, TILE = 256.0, 128.0
"""Keys of the smallest decode split; query rows of a prefill tile."""
CACHE_RATE = 2.5
"""Bandwidth of the last-level cache over the memory's, as in decode attention's default."""


@compiled_part
def decode_parts(p: F8, h: F8, x: F8) -> Parts:
    """Parts of absorbed decode; the walk along the keys is one dependent chain."""
    batch, kv, heads = x[X_BATCH], x[X_KV], x[X_HEADS]
    rows_q = x[X_Q] * heads
    cached = batch * kv * (LATENT + ROPE) * x[X_KV_BYTES]
    others = batch * rows_q * (2.0 * LATENT + ROPE) * 2.0
    stays = resident((cached + others) * x[X_COPIES], p[P_CACHE] * h[H_CACHE])
    cost = 1.0 - stays + stays / CACHE_RATE
    units = batch * max(kv / SPLIT, 1.0)
    alone = 1.0 + p[P_HALF] * h[H_CORES] / units
    memory_s = (cached * alone + others) * cost / (p[P_MEMORY] * h[H_BANDWIDTH])
    padded = np.sqrt(rows_q**2 + p[P_HEADS] ** 2)
    math_s = 2.0 * batch * padded * x[X_KEYS] * (2.0 * LATENT + ROPE) / (p[P_DECODE] * h[H_PEAK])
    blocks = np.sqrt(1.0 + (rows_q / p[P_BLOCK_HEADS]) ** 2)
    math_s = math_s * alone + batch * blocks * p[P_BLOCK] / h[H_CORES]
    busy = soft_max(memory_s, math_s, OVERLAP)
    fixed = p[P_LAUNCH] + p[P_KEY] * kv / SPLIT
    return fixed + busy, math_s, memory_s, fixed


@compiled_part
def prefill_parts(p: F8, h: F8, x: F8) -> Parts:
    """Parts of causal prefill."""
    batch, q, kv, heads = x[X_BATCH], x[X_Q], x[X_KV], x[X_HEADS]
    visited = min(kv, x[X_KEYS] + 0.5 * (min(q, TILE) - 1.0))
    waves = batch * heads * ceil_div(q, TILE) / h[H_CORES]
    rate = attained(p[P_PREFILL], h, C_16) * h[H_PEAK] / h[H_CORES]
    tile_s = p[P_TILE] + 2.0 * TILE * visited * (QK_DIM + V_DIM) / rate
    math_s = tile_s * np.sqrt(waves**2 + p[P_WAVES] ** 2)
    moved = 2.0 * batch * heads * (QK_DIM + V_DIM) * (q + kv)
    memory_s = moved / (p[P_MEMORY] * h[H_BANDWIDTH])
    fixed = p[P_LAUNCH]
    return fixed + soft_max(math_s, memory_s, OVERLAP), math_s, memory_s, fixed


@compiled_part
def parts(p: F8, h: F8, x: F8) -> Parts:
    """Return the seconds of one call, and its arithmetic, memory and fixed seconds; `p`, `h` and `x` as in the constants above."""
    if x[X_BATCH] <= 0.0 or x[X_KV] <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    if x[X_PREFILL] > 0.0:
        return prefill_parts(p, h, x)
    return decode_parts(p, h, x)


@compiled
def rows(p: F8, h: F8, x: F8, out: F8) -> None:
    """Compute many calls; see `Family.rows`."""
    for i in range(x.shape[0]):
        put_price(out[i], parts(p, h, x[i]), work(x[i]), h)


def from_table(table: KernelTable) -> F8:
    """Quantities of measured rows; graph replays re-read one KV cache."""
    prefill = table["kernel"] == "mla_prefill"
    graph = table["timing"] == "graph"
    kv, q = table["kv_len"], table["q_len"]
    return np.column_stack(
        [
            prefill, table["batch"], q, np.where(prefill, kv - (q - 1.0) / 2.0, kv), kv,
            table["heads"], np.where(table["kv_dtype"] == "fp8", 1.0, 2.0),
            np.where(graph, 1.0, COLD),
        ]
    ).astype(np.float64)  # fmt: skip


def from_op(op: Op) -> F8 | None:
    """Quantities of an op of a serving step, at the batch's means."""
    s = op.shape
    batch, kv, prefill = s["batch"], s["kv"], op.kind == "mla_prefill"
    if op.dtype not in CODES:
        return None
    if batch <= 0 or kv <= 0:
        return np.zeros(len(QUANTITIES))
    q, keys = s["tokens"] / batch, s["pairs"] / s["tokens"]
    width = op.kv_read_bytes / (kv * (LATENT + ROPE))
    return np.array([prefill, batch, q, keys, kv / batch, s["heads"], width, COLD])


@compiled_part
def work(x: F8) -> Work:
    """FLOP of the visible pairs, and bytes when every operand moves once."""
    batch, q, kv, heads = x[X_BATCH], x[X_Q], x[X_KV], x[X_HEADS]
    if x[X_PREFILL] > 0.0:
        per_pair, moved = QK_DIM + V_DIM, 2.0 * heads * (QK_DIM + V_DIM) * (q + kv)
    else:
        per_pair = 2.0 * LATENT + ROPE
        moved = kv * (LATENT + ROPE) * x[X_KV_BYTES] + 2.0 * heads * q * per_pair
    return 2.0 * batch * heads * q * x[X_KEYS] * per_pair, batch * moved, 0.0, C_16


@compiled_part
def at_sums(x: F8, batch: float, tokens: float, pairs: float, kv: float) -> bool:
    """Set the quantities of equal sequences with these sums; False where nothing is computed."""
    if batch <= 0.0 or kv <= 0.0:
        return False
    x[X_BATCH], x[X_KV] = batch, kv / batch
    x[X_Q], x[X_KEYS] = tokens / batch, pairs / tokens
    return True


def _which(x: F8) -> npt.NDArray[np.int64]:
    """Kernels: expanded prefill, and decode by the width of the cache."""
    return np.where(x[:, X_PREFILL] > 0.0, 1, np.where(x[:, X_KV_BYTES] < 2.0, 2, 0))


MLA = register(
    Family("mla", "latent attention", ("mla_decode", "mla_prefill"), PARAMETERS, QUANTITIES, rows,
           from_table, from_op, by_framework=("prefill_peak", "block_heads"),
           silicon=("memory", "cache"),
           branches=("decode", "prefill", "decode_fp8"), branch=_which)
)  # fmt: skip

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
def decode_parts(parameters: F8, hardware: F8, inputs: F8) -> Parts:
    """Parts of absorbed decode; the walk along the keys is one dependent chain."""
    batch, kv, heads = inputs[X_BATCH], inputs[X_KV], inputs[X_HEADS]
    rows_q = inputs[X_Q] * heads
    cached = batch * kv * (LATENT + ROPE) * inputs[X_KV_BYTES]
    others = batch * rows_q * (2.0 * LATENT + ROPE) * 2.0
    stays = resident((cached + others) * inputs[X_COPIES], parameters[P_CACHE] * hardware[H_CACHE])
    cost = 1.0 - stays + stays / CACHE_RATE
    units = batch * max(kv / SPLIT, 1.0)
    alone = 1.0 + parameters[P_HALF] * hardware[H_CORES] / units
    memory_s = (cached * alone + others) * cost / (parameters[P_MEMORY] * hardware[H_BANDWIDTH])
    padded = np.sqrt(rows_q**2 + parameters[P_HEADS] ** 2)
    math_s = 2.0 * batch * padded * inputs[X_KEYS] * (2.0 * LATENT + ROPE) / (parameters[P_DECODE] * hardware[H_PEAK])
    blocks = np.sqrt(1.0 + (rows_q / parameters[P_BLOCK_HEADS]) ** 2)
    math_s = math_s * alone + batch * blocks * parameters[P_BLOCK] / hardware[H_CORES]
    busy = soft_max(memory_s, math_s, OVERLAP)
    fixed = parameters[P_LAUNCH] + parameters[P_KEY] * kv / SPLIT
    return fixed + busy, math_s, memory_s, fixed


@compiled_part
def prefill_parts(parameters: F8, hardware: F8, inputs: F8) -> Parts:
    """Parts of causal prefill."""
    batch, q, kv, heads = inputs[X_BATCH], inputs[X_Q], inputs[X_KV], inputs[X_HEADS]
    visited = min(kv, inputs[X_KEYS] + 0.5 * (min(q, TILE) - 1.0))
    waves = batch * heads * ceil_div(q, TILE) / hardware[H_CORES]
    rate = attained(parameters[P_PREFILL], hardware, C_16) * hardware[H_PEAK] / hardware[H_CORES]
    tile_s = parameters[P_TILE] + 2.0 * TILE * visited * (QK_DIM + V_DIM) / rate
    math_s = tile_s * np.sqrt(waves**2 + parameters[P_WAVES] ** 2)
    moved = 2.0 * batch * heads * (QK_DIM + V_DIM) * (q + kv)
    memory_s = moved / (parameters[P_MEMORY] * hardware[H_BANDWIDTH])
    fixed = parameters[P_LAUNCH]
    return fixed + soft_max(math_s, memory_s, OVERLAP), math_s, memory_s, fixed


@compiled_part
def parts(parameters: F8, hardware: F8, inputs: F8) -> Parts:
    """Return the seconds of one call, and its arithmetic, memory and fixed seconds; `parameters`, `hardware` and `inputs` as in the constants above."""
    if inputs[X_BATCH] <= 0.0 or inputs[X_KV] <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    if inputs[X_PREFILL] > 0.0:
        return prefill_parts(parameters, hardware, inputs)
    return decode_parts(parameters, hardware, inputs)


@compiled
def rows(parameters: F8, hardware: F8, inputs: F8, out: F8) -> None:
    """Compute many calls; see `Family.rows`."""
    for i in range(inputs.shape[0]):
        put_price(out[i], parts(parameters, hardware, inputs[i]), work(inputs[i]), hardware)


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
def work(inputs: F8) -> Work:
    """FLOP of the visible pairs, and bytes when every operand moves once."""
    batch, q, kv, heads = inputs[X_BATCH], inputs[X_Q], inputs[X_KV], inputs[X_HEADS]
    if inputs[X_PREFILL] > 0.0:
        per_pair, moved = QK_DIM + V_DIM, 2.0 * heads * (QK_DIM + V_DIM) * (q + kv)
    else:
        per_pair = 2.0 * LATENT + ROPE
        moved = kv * (LATENT + ROPE) * inputs[X_KV_BYTES] + 2.0 * heads * q * per_pair
    return 2.0 * batch * heads * q * inputs[X_KEYS] * per_pair, batch * moved, 0.0, C_16


@compiled_part
def at_sums(inputs: F8, batch: float, tokens: float, pairs: float, keys: float) -> bool:
    """Set the quantities of equal sequences with these sums; False where nothing is computed."""
    if batch <= 0.0 or keys <= 0.0:
        return False
    inputs[X_BATCH], inputs[X_KV] = batch, keys / batch
    inputs[X_Q], inputs[X_KEYS] = tokens / batch, pairs / tokens
    return True


def _which(inputs: F8) -> npt.NDArray[np.int64]:
    """Kernels: expanded prefill, and decode by the width of the cache."""
    return np.where(inputs[:, X_PREFILL] > 0.0, 1, np.where(inputs[:, X_KV_BYTES] < 2.0, 2, 0))


MLA = register(
    Family("mla", "latent attention", ("mla_decode", "mla_prefill"), PARAMETERS, QUANTITIES, rows,
           from_table, from_op, by_framework=("prefill_peak", "block_heads"),
           silicon=("memory", "cache"),
           branches=("decode", "prefill", "decode_fp8"), branch=_which)
)  # fmt: skip

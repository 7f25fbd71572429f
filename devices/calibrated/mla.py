"""Multi-head latent attention: absorbed decode and expanded prefill.

Decode: every head reads the same latent (512 values and 64 of position) of a token, so its bytes
do not grow with the heads but its arithmetic does, in tiles of at least `head_tile` heads. Prefill
is ordinary causal attention with keys of 192 and values of 128 for each head.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from ...workloads.kernel_tables import KernelTable
from ...workloads.ops import Op
from ...workloads.records import Records
from .family import F8, Family, parameters_of, register
from .hardware import C_16, CODES
from .terms import COLD, Parts, Work, attained, ceil_div, resident, rows_of, soft_max

QUANTITIES = ("prefill", "batch", "q", "keys", "kv", "heads", "kv_bytes", "copies")
"""`q`: new tokens of a sequence; `keys`: mean keys that a query sees; `kv`: keys read."""

PARAMETERS = parameters_of("mla")

LATENT, ROPE, QK_DIM, V_DIM = 512.0, 64.0, 192.0, 128.0
"""Dimensions of DeepSeek-V2 and V3 and of every measured row."""
OVERLAP = 3.0
"""Exponent of the soft maximum of arithmetic and memory."""
SPLIT, TILE = 256.0, 128.0
"""Number of keys in the smallest decode split, and of query rows in a prefill tile."""
CACHE_RATE = 2.5
"""Bandwidth of the last-level cache over the memory bandwidth, as in decode attention's default."""


@compiled_part
def decode_parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the parts of absorbed decode; the walk along the keys is one dependent chain."""
    batch, kv, heads = inputs.batch, inputs.kv, inputs.heads
    rows_q = inputs.q * heads
    cached = batch * kv * (LATENT + ROPE) * inputs.kv_bytes
    others = batch * rows_q * (2.0 * LATENT + ROPE) * 2.0
    stays = resident((cached + others) * inputs.copies, parameters.cache * hardware.cache)
    cost = 1.0 - stays + stays / CACHE_RATE
    units = batch * max(kv / SPLIT, 1.0)
    alone = 1.0 + parameters.half_cores * hardware.cores / units
    memory_s = (cached * alone + others) * cost / (parameters.memory * hardware.bandwidth)
    padded = np.sqrt(rows_q**2 + parameters.head_tile**2)
    math_s = 2.0 * batch * padded * inputs.keys * (2.0 * LATENT + ROPE) / (parameters.decode_peak * hardware.peak[0])
    blocks = np.sqrt(1.0 + (rows_q / parameters.block_heads) ** 2)
    math_s = math_s * alone + batch * blocks * parameters.block_s / hardware.cores
    busy = soft_max(memory_s, math_s, OVERLAP)
    fixed = parameters.launch_s + parameters.key_s * kv / SPLIT
    return fixed + busy, math_s, memory_s, fixed


@compiled_part
def prefill_parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the parts of causal prefill."""
    batch, q, kv, heads = inputs.batch, inputs.q, inputs.kv, inputs.heads
    visited = min(kv, inputs.keys + 0.5 * (min(q, TILE) - 1.0))
    waves = batch * heads * ceil_div(q, TILE) / hardware.cores
    rate = attained(parameters.prefill_peak, hardware, C_16) * hardware.peak[0] / hardware.cores
    tile_s = parameters.tile_s + 2.0 * TILE * visited * (QK_DIM + V_DIM) / rate
    math_s = tile_s * np.sqrt(waves**2 + parameters.min_waves**2)
    moved = 2.0 * batch * heads * (QK_DIM + V_DIM) * (q + kv)
    memory_s = moved / (parameters.memory * hardware.bandwidth)
    fixed = parameters.launch_s
    return fixed + soft_max(math_s, memory_s, OVERLAP), math_s, memory_s, fixed


@compiled_part
def parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the seconds of one call, and its arithmetic, memory and fixed seconds."""
    if inputs.batch <= 0.0 or inputs.kv <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    if inputs.prefill > 0.0:
        return prefill_parts(parameters, hardware, inputs)
    return decode_parts(parameters, hardware, inputs)


def from_table(table: KernelTable) -> F8:
    """Return the quantities of measured rows; graph replays re-read one KV cache."""
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
    """Return the quantities of an op of a serving step, at the batch's means."""
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
def work(inputs: Records) -> Work:
    """Return the FLOP of the visible pairs, and the bytes if every operand moves once."""
    batch, q, kv, heads = inputs.batch, inputs.q, inputs.kv, inputs.heads
    if inputs.prefill > 0.0:
        per_pair, moved = QK_DIM + V_DIM, 2.0 * heads * (QK_DIM + V_DIM) * (q + kv)
    else:
        per_pair = 2.0 * LATENT + ROPE
        moved = kv * (LATENT + ROPE) * inputs.kv_bytes + 2.0 * heads * q * per_pair
    return 2.0 * batch * heads * q * inputs.keys * per_pair, batch * moved, 0.0, C_16


rows = rows_of("mla", parts, work)


@compiled_part
def at_sums(inputs: Records, batch: float, tokens: float, pairs: float, keys: float) -> bool:
    """Set the quantities of equal sequences with these sums; return False without work."""
    if batch <= 0.0 or keys <= 0.0:
        return False
    inputs.batch, inputs.kv = batch, keys / batch
    inputs.q, inputs.keys = tokens / batch, pairs / tokens
    return True


def _which(inputs: Records) -> npt.NDArray[np.int64]:
    """Return each call's kernel: expanded prefill, or decode by the width of the cache."""
    return np.where(inputs["prefill"] > 0.0, 1, np.where(inputs["kv_bytes"] < 2.0, 2, 0))


MLA = register(
    Family("mla", "latent attention", ("mla_decode", "mla_prefill"), PARAMETERS, QUANTITIES, rows,
           from_table, from_op, by_framework=("prefill_peak", "block_heads"),
           silicon=("memory", "cache"),
           branches=("decode", "prefill", "decode_fp8"), branch=_which)
)  # fmt: skip

"""Prefill attention: tiles of query rows in waves over the cores, against the memory traffic.

A thread block takes 128 query rows of one head through all keys that they see; a tile on the diagonal wastes half of
its width, and a sliding window costs one additional tile. Kernels differ in packing the query heads of one KV head into
a tile, which matters for short prompts (`packing`). Softmax adds work per key that is independent of the head
dimension, and heads wider than 128 fit a core worse. TensorRT-LLM's rows include a separate kernel that rotates the
queries (README of the tables; ``invokeQKVPreprocessing`` in NVIDIA/TensorRT-LLM,
``cpp/tensorrt_llm/kernels/unfusedAttentionKernels``), a separate op in a serving step. A sliding window saves no time
in FlashInfer's kernel for Ampere, Ada and workstation Blackwell, whose loop runs over all keys up to the diagonal
(``num_iterations`` and ``window_iteration`` in flashinfer-ai/flashinfer, ``include/flashinfer/attention/prefill.cuh``);
SGLang runs it there (`libraries`). vLLM's FlashAttention processes the prompts and decodes of a step in one call
(``FlashAttentionImpl.forward`` in vllm/v1/attention/backends/flash_attn.py): with decodes, which have the fixed part,
prompts add only their work.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from ...workloads.kernel_tables import KernelTable, framework
from ...workloads.ops import Op
from ...workloads.records import Records
from .family import F8, Family, parameters_of, register
from .hardware import C_16, C_FP8, CODES
from .libraries import BLACKWELL, HOPPER
from .terms import (
    ATTENTION_KERNELS,
    Parts,
    Work,
    attained,
    of_heads,
    resident,
    rows_of,
    soft_max,
    tile_width,
    value_bytes,
)

QUANTITIES = ("batch", "q", "keys", "kv", "heads_q", "heads_kv", "head_dim", "windowed",
              "prefixed", "fp8", "kv_bytes", "gap", "rotates", "hidden", "beside")  # fmt: skip
"""`q`, `kv`: new tokens and keys read of one sequence; `keys`: mean keys that a query sees; `rotates`: 1 if the call
first rotates the queries by their positions; `hidden`: keys of a sequence including those hidden by a window, if
FlashInfer may have run the call, else 0; `beside`: decodes in the same call, -1 if they have a separate one."""

PARAMETERS = parameters_of("attention_prefill")

CACHE_SHARE = 0.5
"""Part of the last-level cache that keeps the output of the previous kernel."""
OVERLAP = 1.5
"""Exponent of the soft maximum of tile work and memory traffic."""
TILE = 128.0
"""Query rows per tile (FlashAttention 2 and 3, heads of up to 128)."""


@compiled_part
def calls_flashinfer(capability: float) -> bool:
    """Return whether SGLang's attention is FlashInfer's kernel: see `libraries`."""
    return 0.0 < capability < HOPPER or capability >= BLACKWELL + 1.0


@compiled_part
def parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the seconds of one call, and its arithmetic, memory and fixed seconds."""
    q, kv, dim, heads, kv_heads = inputs.q, inputs.kv, inputs.head_dim, inputs.heads_q, inputs.heads_kv
    if inputs.batch <= 0.0 or q <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    edge = min(q, TILE) - 1.0
    visited = min(kv, inputs.keys + (edge if inputs.windowed > 0.0 else 0.5 * edge))
    if inputs.hidden > 0.0 and calls_flashinfer(hardware.capability):
        kv = inputs.hidden
        visited = min(kv, kv - 0.5 * (q - 1.0) + 0.5 * edge)
    elif inputs.prefixed > 0.0:
        visited += parameters.masked * max(kv - visited, 0.0)
    # At least one tile a head, or a group; between the two by their geometric mean. Vector units
    # compute only the rows there are.
    least = 1.0 if hardware.matrix_rows > 1.0 else 0.0
    packed = kv_heads * max(q * heads / kv_heads / TILE, least)
    alone = heads * max(q / TILE, least)
    packing = min(parameters.packing, 1.0)
    tiles = packed**packing * alone ** (1.0 - packing)
    waves = inputs.batch * tiles / hardware.cores
    soft = parameters.softmax_dim
    padded = tile_width(dim)
    width = 128.0 * (dim + soft + parameters.wide_head * max(padded - 128.0, 0.0)) / (128.0 + soft)
    rate = hardware.peak[0] * attained(parameters.peak_16 * dim / width, hardware, C_16) / hardware.cores
    rate *= parameters.fp8_gain if inputs.fp8 > 0.0 else 1.0
    tile_s = parameters.tile_s + 4.0 * TILE * visited * dim / rate
    filled = 0.0 if inputs.beside > 0.0 else parameters.min_waves  # the decodes' blocks fill the cores
    compute_s = tile_s * np.sqrt(waves**2 + filled**2)
    fresh = inputs.batch * dim * (4.0 * heads * q + 2.0 * kv_heads * min(q, kv) * inputs.kv_bytes)
    older = inputs.batch * dim * 2.0 * kv_heads * max(kv - q, 0.0) * inputs.kv_bytes
    cached = resident(fresh, CACHE_SHARE * hardware.cache)
    moved = older + fresh * (1.0 - cached + cached / parameters.cache_rate)
    memory_s = moved / (parameters.memory * hardware.bandwidth)
    fixed = 0.0 if inputs.beside > 0.0 else parameters.launch_s + inputs.gap * parameters.gap_s
    total = fixed + soft_max(compute_s, memory_s, OVERLAP)
    if inputs.rotates > 0.0:
        # The write adds traffic; the attention then reads from the cache what was just written.
        turned = inputs.batch * q * dim * heads * (1.0 if inputs.fp8 > 0.0 else 2.0)
        stay = resident(turned, CACHE_SHARE * hardware.cache)
        total += turned * (1.0 - stay + stay / parameters.cache_rate) / (parameters.memory * hardware.bandwidth)
    return total, compute_s, memory_s, fixed


def from_table(table: KernelTable) -> F8:
    """Return the inputs of `parts` for the measured rows of a table, shape (rows, inputs)."""
    q, prefix, window = table["q_len"], table["kv_prefix"], table["window"]
    length = q + prefix
    limit = np.where(window > 0, window, np.inf)
    kv = np.minimum(length, limit + q - 1)
    pairs = _visible(length, limit) - _visible(prefix, limit)
    keys = np.where(table["causal"] > 0, pairs / q, kv)
    engine = np.array([framework(source).rpartition("/")[2] for source in table["source"]])
    windowed = (window > 0) & (window < length)
    return np.column_stack(
        [
            table["batch"], q, keys, kv, table["heads_q"], table["heads_kv"], table["head_dim"],
            windowed, prefix > 0, table["dtype"] == "fp8",
            value_bytes(table["kv_dtype"]), table["timing"] == "graph", engine == "trtllm",
            np.where(windowed & (engine == "sglang"), length, 0.0), np.full(len(q), -1.0),
        ]
    ).astype(np.float64)  # fmt: skip


def _visible(tokens: F8, limit: F8) -> F8:
    """Return the query-key pairs of a causal prompt if a query sees at most `limit` keys."""
    inside = np.minimum(tokens, limit)
    return inside * (inside + 1.0) / 2.0 + (tokens - inside) * np.where(tokens > limit, limit, 0.0)


def from_op(op: Op) -> F8 | None:
    """Return the quantities of an op of a serving step, at the mean chunk of the batch."""
    s = op.shape
    batch, tokens = s["batch"], s["tokens"]
    if op.dtype not in CODES:
        return None
    if batch <= 0 or tokens <= 0:
        return np.zeros(len(QUANTITIES))
    q, kv, keys = tokens / batch, s["kv"] / batch, s["pairs"] / tokens
    values = 2.0 * s["heads_kv"] * s["head_dim"]
    windowed = s["window"] > 0 and kv >= s["window"]
    # After a prefix kv exceeds the new tokens, except for the q - 1 keys around a window.
    prefixed = not windowed and kv > q
    return np.array(
        [
            batch, q, keys, kv, s["heads_q"], s["heads_kv"], s["head_dim"], windowed, prefixed,
            CODES[op.dtype] == C_FP8, op.kv_write_bytes / (values * tokens), 1.0, 0.0, 0.0,
            s["decodes"] if s["joint"] else -1.0,
        ]
    )  # fmt: skip


@compiled_part
def work(inputs: Records) -> Work:
    """Return the FLOP of the visible pairs, and the bytes if Q, K, V and the output move once."""
    heads = inputs.batch * inputs.head_dim
    flops = 4.0 * heads * inputs.heads_q * inputs.q * inputs.keys
    moved = heads * (4.0 * inputs.heads_q * inputs.q + 2.0 * inputs.heads_kv * inputs.kv * inputs.kv_bytes)
    return flops, moved, 0.0, C_FP8 if inputs.fp8 > 0.0 else C_16


rows = rows_of("attention_prefill", parts, work)


@compiled_part
def at_sums(
    inputs: Records, window: float, batch: float, tokens: float, pairs: float, kv: float, decodes: float
) -> bool:
    """Set the quantities of `batch` equal chunks with these sums; return False without work."""
    if batch <= 0.0 or tokens <= 0.0:
        return False
    q, keys = tokens / batch, kv / batch
    inputs.batch, inputs.q, inputs.keys, inputs.kv = batch, q, pairs / tokens, keys
    windowed = window > 0.0 and keys >= window
    inputs.windowed = 1.0 if windowed else 0.0
    # After a prefix the keys exceed the new tokens, except for the q - 1 keys around a window.
    inputs.prefixed = 1.0 if not windowed and keys > q else 0.0
    if inputs.beside >= 0.0:
        inputs.beside = decodes
    return True


def _kernel(inputs: Records) -> npt.NDArray[np.int64]:
    """Return each call's kernel, by the format of the products and the head dimension."""
    return of_heads(inputs["fp8"] > 0.0, inputs["head_dim"])


ATTENTION_PREFILL = register(
    Family("attention_prefill", "prefill attention", ("attention_prefill",), PARAMETERS,
           QUANTITIES, rows, from_table, from_op,
           ("launch_s", "packing", "min_waves", "tile_s", "softmax_dim", "wide_head"),
           ("gap_s", "fp8_gain", "memory", "cache_rate"),
           branches=ATTENTION_KERNELS,
           branch=_kernel)
)  # fmt: skip

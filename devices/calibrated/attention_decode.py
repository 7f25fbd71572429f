"""Decode attention: one query token per sequence against its cached keys and values.

The cache is read once at main-memory rate, or faster if a benchmark re-reads a cached one. Thread blocks, one per
sequence and KV head, have a start time, and work per key that the query heads of a group share or repeat (`apart` is
between the kernels that pack a group into one tile and those with a block per query head). Few blocks use less than the
full bandwidth, and long caches are split over blocks whose partial results are merged. Two kernels always have a block
per query head. TensorRT-LLM's XQA kernel takes groups of at most 32 heads (``supportConfigHMMA`` and
``supportConfigQGMMA`` in NVIDIA/TensorRT-LLM,
``cpp/tensorrt_llm/kernels/decoderMaskedMultiheadAttention/decoderXQAImplJIT/kernelUtils.cpp``); wider ones use its
masked multi-head kernel. FlashAttention 2, which vLLM runs on 16-bit caches below Hopper, packs a group only without a
window and if no sequence of the call has more than one new token, so not in a step with prompts
(``seqlenq_ngroups_swapped`` in Dao-AILab/flash-attention, ``csrc/flash_attn/flash_api.cpp``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled, compiled_part
from ...workloads.kernel_tables import KernelTable, framework
from ...workloads.ops import Op
from .family import F8, Family, parameters_of, register
from .hardware import C_16, CODES, H_BANDWIDTH, H_CACHE, H_CLOCK, H_CORES, H_PEAK
from .terms import ATTENTION_KERNELS, COLD, Parts, Work, of_heads, put_price, resident, soft_max, value_bytes

(X_BATCH, X_KEYS, X_HEADS, X_KV_HEADS, X_DIM, X_KV_BYTES, X_GAP, X_COPIES, X_PACKS,
 X_FA2, X_BESIDE, X_QUERIES) = range(12)  # fmt: skip
QUANTITIES = ("batch", "keys", "heads_q", "heads_kv", "head_dim", "kv_bytes", "gap", "copies",
              "packs", "fa2_window", "beside", "queries")  # fmt: skip
"""`keys`: mean keys that a sequence reads, with its window; `packs`: maximum query heads of a group in a tile;
`fa2_window`: 1 for a window in a call of FlashAttention 2 below Hopper; `beside`: prompts in the same call, -1 if
they have a separate one; `queries`: query tokens per key on average, more than 1 if drafts are verified: kernels
pack a sequence's query tokens into the rows of a tile like the query heads of a group (``pack_gqa`` in
Dao-AILab/flash-attention, ``hopper/``), so that they count as a wider group."""

PARAMETERS = parameters_of("attention_decode")
(P_LAUNCH, P_GAP, P_MEMORY, P_CACHE, P_CACHE_RATE, P_HALF, P_BLOCK, P_KEY, P_FP8, P_APART, P_GROUP, P_MERGE) = range(12)

OVERLAP = 5.0
"""Power of the soft maximum of block work and memory: blocks load their next keys while they compute, so
that the two hardly add (with 3, long caches on H200 ask for all of the nominal bandwidth)."""
XQA_HEADS = 32.0
"""Query heads of a group that TensorRT-LLM's XQA kernel packs at most."""
NO_LIMIT = 1e9
"""Query heads that a kernel packs which takes groups of any width."""
HOPPER = 3000.0
"""16-bit FLOP of a core in a clock that tell Hopper (4096) and later from Ampere (2048) and Ada (1024)."""
JOINT_ROWS, JOINT_SHARE = 64.0, 0.67
"""Query rows of a block of FlashAttention 2 in a step with prompts, all computed for a single one, and its share of
the 16-bit peak: from short prompts after long prefixes, one block per core, 0.81 on RTX 4090 and 0.55 on RTX PRO
6000."""
SPLIT = 256.0
"""Keys of the smallest split."""


@compiled_part
def parts(parameters: F8, hardware: F8, inputs: F8) -> Parts:
    """Return the seconds of one call, and its arithmetic, memory and fixed seconds; `parameters`, `hardware` and `inputs` as in the constants above."""
    batch, keys, dim = inputs[X_BATCH], inputs[X_KEYS], inputs[X_DIM]
    heads = inputs[X_HEADS] * inputs[X_QUERIES]
    if batch <= 0.0 or keys <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    kv_heads, width = inputs[X_KV_HEADS], inputs[X_KV_BYTES]
    cached = 2.0 * batch * kv_heads * dim * keys * width
    others = batch * dim * (4.0 * heads + 2.0 * kv_heads * (2.0 + width))
    stays = resident((cached + others) * inputs[X_COPIES], parameters[P_CACHE] * hardware[H_CACHE])
    cost = (1.0 - stays) + stays / parameters[P_CACHE_RATE]
    units = batch * kv_heads * max(keys / SPLIT, 1.0)
    alone = 1.0 + parameters[P_HALF] * hardware[H_CORES] / units
    memory_s = (cached * alone + others) * cost / (parameters[P_MEMORY] * hardware[H_BANDWIDTH])
    group, apart = heads / kv_heads, min(parameters[P_APART], 1.0)
    old = hardware[H_PEAK] < HOPPER * hardware[H_CORES] * hardware[H_CLOCK]
    if inputs[X_HEADS] / kv_heads > inputs[X_PACKS] or (old and (inputs[X_FA2] > 0.0 or inputs[X_BESIDE] > 0.0)):
        apart = 1.0
    joint = old and inputs[X_BESIDE] > 0.0
    if joint:  # a head finds in the cache what another of its group has read, or reads it again
        cached *= 1.0 + (group - 1.0) * (1.0 - resident(cached / kv_heads, hardware[H_CACHE]))
        memory_s = (cached + others) / (parameters[P_MEMORY] * hardware[H_BANDWIDTH])
    blocks = batch * kv_heads * group**apart
    # Tiles are as wide as a power of two.
    padded = 2.0 ** np.ceil(np.log2(dim))
    slow = parameters[P_FP8] if width < 2.0 else 1.0
    work_s = 4.0 * blocks * keys * padded * slow / (parameters[P_KEY] * hardware[H_CORES] * hardware[H_CLOCK])
    work_s = alone * max(work_s, 4.0 * batch * heads * keys * dim / hardware[H_PEAK])
    if joint:
        block_s = 4.0 * JOINT_ROWS * keys * padded * hardware[H_CORES] / (JOINT_SHARE * hardware[H_PEAK])
        work_s = block_s * np.sqrt((batch * heads / hardware[H_CORES]) ** 2 + 1.0)
    start_s = parameters[P_BLOCK] + (parameters[P_GROUP] if group > 1.0 and apart < 1.0 else 0.0)
    work_s += blocks * start_s * slow * (0.5 + padded / 256.0) / hardware[H_CORES]
    busy = soft_max(memory_s, work_s, OVERLAP)
    fixed = parameters[P_LAUNCH] + inputs[X_GAP] * parameters[P_GAP] + parameters[P_MERGE] * np.log2(1.0 + keys / SPLIT)
    return fixed + busy, work_s, memory_s, fixed


@compiled
def rows(parameters: F8, hardware: F8, inputs: F8, out: F8) -> None:
    """Compute many calls; see `Family.rows`."""
    for i in range(inputs.shape[0]):
        put_price(out[i], parts(parameters, hardware, inputs[i]), work(inputs[i]), hardware)


def from_table(table: KernelTable) -> F8:
    """Quantities of measured rows; graph replays and profilers re-read one KV cache."""
    keys, window = table["kv_len"], table["window"]
    engine = np.array([framework(source).rpartition("/")[2] for source in table["source"]])
    trtllm, vllm = engine == "trtllm", engine == "vllm"
    return np.column_stack(
        [
            table["batch"], np.where(window > 0, np.minimum(keys, window), keys),
            table["heads_q"], table["heads_kv"], table["head_dim"],
            value_bytes(table["kv_dtype"]), table["timing"] == "graph",
            np.where(table["timing"] == "graph", 1.0, COLD),
            np.where(trtllm, XQA_HEADS, NO_LIMIT),
            vllm & (window > 0) & (table["kv_dtype"] != "fp8"), np.full(len(keys), -1.0),
            np.ones(len(keys)),
        ]
    ).astype(np.float64)  # fmt: skip


def from_op(op: Op) -> F8 | None:
    """Quantities of an op of a serving step, at the mean context of the batch."""
    s = op.shape
    batch, kv = s["batch"], s["kv"]
    if op.dtype not in CODES:
        return None
    if batch <= 0 or kv <= 0:
        return np.zeros(len(QUANTITIES))
    values = 2.0 * s["heads_kv"] * s["head_dim"] * kv
    return np.array(
        [
            batch, kv / batch, s["heads_q"], s["heads_kv"], s["head_dim"],
            op.kv_read_bytes / values, 1.0, COLD, NO_LIMIT, 0.0,
            s["prompts"] if s.get("joint") else -1.0, s["pairs"] / kv,
        ]
    )  # fmt: skip


@compiled_part
def work(inputs: F8) -> Work:
    """FLOP, and bytes when keys, values, the query and the output move once.

    8-bit caches are widened to 16 bits before the matmul.
    """
    batch, dim = inputs[X_BATCH], inputs[X_DIM]
    heads = inputs[X_HEADS] * inputs[X_QUERIES]
    flops = 4.0 * batch * heads * dim * inputs[X_KEYS]
    cached = 2.0 * inputs[X_KV_HEADS] * inputs[X_KEYS] * inputs[X_KV_BYTES]
    return flops, batch * dim * (cached + 4.0 * heads), 0.0, C_16


@compiled_part
def at_sums(inputs: F8, batch: float, pairs: float, keys: float, prompts: float) -> bool:
    """Set the quantities of `batch` equal sequences that read `keys` keys; False where there is nothing."""
    if batch <= 0.0 or keys <= 0.0:
        return False
    inputs[X_BATCH], inputs[X_KEYS], inputs[X_QUERIES] = batch, keys / batch, pairs / keys
    if inputs[X_BESIDE] >= 0.0:
        inputs[X_BESIDE] = prompts
    return True


def _kernel(inputs: F8) -> npt.NDArray[np.int64]:
    """Kernels by the width of the cache they read and the head dimension."""
    return of_heads((inputs[:, X_KV_BYTES] > 0.0) & (inputs[:, X_KV_BYTES] < 2.0), inputs[:, X_DIM])


ATTENTION_DECODE = register(
    Family("attention_decode", "decode attention", ("attention_decode",), PARAMETERS,
           QUANTITIES, rows, from_table, from_op,
           by_framework=("launch_s", "block_s", "fp8_work", "group_s"),
           silicon=("gap_s", "memory", "cache", "cache_rate"),
           branches=ATTENTION_KERNELS, branch=_kernel)
)  # fmt: skip

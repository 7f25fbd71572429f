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

from ...workloads.jit import compiled_part
from ...workloads.kernel_tables import KernelTable, framework
from ...workloads.ops import Op
from ...workloads.records import Records
from .family import F8, Family, parameters_of, register
from .hardware import C_16, CODES
from .terms import ATTENTION_KERNELS, COLD, Parts, Work, of_heads, resident, rows_of, soft_max, tile_width, value_bytes

QUANTITIES = ("batch", "keys", "heads_q", "heads_kv", "head_dim", "kv_bytes", "gap", "copies",
              "packs", "fa2_window", "beside", "queries")  # fmt: skip
"""`keys`: mean keys that a sequence reads, with its window; `packs`: maximum query heads of a group in a tile;
`fa2_window`: 1 for a window in a call of FlashAttention 2 below Hopper; `beside`: prompts in the same call, -1 if
they have a separate one; `queries`: query tokens per key on average, more than 1 if drafts are verified: kernels
pack a sequence's query tokens into the rows of a tile like the query heads of a group (``pack_gqa`` in
Dao-AILab/flash-attention, ``hopper/``), so that they count as a wider group."""

PARAMETERS = parameters_of("attention_decode")

OVERLAP = 5.0
"""Power of the soft maximum of block work and memory: blocks load their next keys while they compute, so
that the two hardly add (with 3, long caches on H200 ask for all of the nominal bandwidth)."""
XQA_HEADS = 32.0
"""Maximum query heads of a group that TensorRT-LLM's XQA kernel packs."""
NO_LIMIT = 1e9
"""Number of packed query heads of kernels without a limit."""
HOPPER = 3000.0
"""16-bit FLOP per clock of a core above which it is Hopper (4096) or later; Ampere has 2048, Ada 1024."""
JOINT_ROWS, JOINT_SHARE = 64.0, 0.67
"""Query rows of a block of FlashAttention 2 in a step with prompts, all computed for a single one, and its share of
the 16-bit peak: from short prompts after long prefixes, one block per core, 0.81 on RTX 4090 and 0.55 on RTX PRO
6000."""
SPLIT = 256.0
"""Number of keys in the smallest split."""


@compiled_part
def parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the seconds of one call, and its arithmetic, memory and fixed seconds."""
    batch, keys, dim = inputs.batch, inputs.keys, inputs.head_dim
    heads = inputs.heads_q * inputs.queries
    if batch <= 0.0 or keys <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    kv_heads, width = inputs.heads_kv, inputs.kv_bytes
    cached = 2.0 * batch * kv_heads * dim * keys * width
    others = batch * dim * (4.0 * heads + 2.0 * kv_heads * (2.0 + width))
    stays = resident((cached + others) * inputs.copies, parameters.cache * hardware.cache)
    cost = (1.0 - stays) + stays / parameters.cache_rate
    units = batch * kv_heads * max(keys / SPLIT, 1.0)
    alone = 1.0 + parameters.half_cores * hardware.cores / units
    memory_s = (cached * alone + others) * cost / (parameters.memory * hardware.bandwidth)
    group, apart = heads / kv_heads, min(parameters.apart, 1.0)
    old = hardware.peak[0] < HOPPER * hardware.cores * hardware.clock
    if inputs.heads_q / kv_heads > inputs.packs or (old and (inputs.fa2_window > 0.0 or inputs.beside > 0.0)):
        apart = 1.0
    joint = old and inputs.beside > 0.0
    if joint:  # a head finds in the cache what another of its group has read, or reads it again
        cached *= 1.0 + (group - 1.0) * (1.0 - resident(cached / kv_heads, hardware.cache))
        memory_s = (cached + others) / (parameters.memory * hardware.bandwidth)
    blocks = batch * kv_heads * group**apart
    padded = tile_width(dim)
    slow = parameters.fp8_work if width < 2.0 else 1.0
    work_s = 4.0 * blocks * keys * padded * slow / (parameters.key_rate * hardware.cores * hardware.clock)
    work_s = alone * max(work_s, 4.0 * batch * heads * keys * dim / hardware.peak[0])
    if joint:
        block_s = 4.0 * JOINT_ROWS * keys * padded * hardware.cores / (JOINT_SHARE * hardware.peak[0])
        work_s = block_s * np.sqrt((batch * heads / hardware.cores) ** 2 + 1.0)
    start_s = parameters.block_s + (parameters.group_s if group > 1.0 and apart < 1.0 else 0.0)
    work_s += blocks * start_s * slow * (0.5 + padded / 256.0) / hardware.cores
    busy = soft_max(memory_s, work_s, OVERLAP)
    fixed = parameters.launch_s + inputs.gap * parameters.gap_s + parameters.merge_s * np.log2(1.0 + keys / SPLIT)
    return fixed + busy, work_s, memory_s, fixed


def from_table(table: KernelTable) -> F8:
    """Return the quantities of measured rows; graph replays and profilers re-read one KV cache."""
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
    """Return the quantities of an op of a serving step, at the mean context of the batch."""
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
def work(inputs: Records) -> Work:
    """Return the FLOP, and the bytes if keys, values, the query and the output move once.

    8-bit caches are widened to 16 bits before the matmul.
    """
    batch, dim = inputs.batch, inputs.head_dim
    heads = inputs.heads_q * inputs.queries
    flops = 4.0 * batch * heads * dim * inputs.keys
    cached = 2.0 * inputs.heads_kv * inputs.keys * inputs.kv_bytes
    return flops, batch * dim * (cached + 4.0 * heads), 0.0, C_16


rows = rows_of("attention_decode", parts, work)


@compiled_part
def at_sums(inputs: Records, batch: float, pairs: float, keys: float, prompts: float) -> bool:
    """Set the quantities of `batch` equal sequences that read `keys` keys; return False without work."""
    if batch <= 0.0 or keys <= 0.0:
        return False
    inputs.batch, inputs.keys, inputs.queries = batch, keys / batch, pairs / keys
    if inputs.beside >= 0.0:
        inputs.beside = prompts
    return True


def _kernel(inputs: Records) -> npt.NDArray[np.int64]:
    """Return each call's kernel, by the width of the cache and the head dimension."""
    return of_heads((inputs["kv_bytes"] > 0.0) & (inputs["kv_bytes"] < 2.0), inputs["head_dim"])


ATTENTION_DECODE = register(
    Family("attention_decode", "decode attention", ("attention_decode",), PARAMETERS,
           QUANTITIES, rows, from_table, from_op,
           by_framework=("launch_s", "block_s", "fp8_work", "group_s"),
           silicon=("gap_s", "memory", "cache", "cache_rate"),
           branches=ATTENTION_KERNELS, branch=_kernel)
)  # fmt: skip

"""Attention: decode with split keys, causal prefill, and decode on latent keys (MLA)."""

from __future__ import annotations

import math

import numpy as np

from ....workloads.jit import compiled, compiled_part
from ....workloads.records import Records, reals
from ...calibrated.hardware import C_16, CODES, WEIGHT_BYTES
from ..config import I8, KernelConfig
from ..form import Shape, ShapeKey, TiledKernel, grid_of, kernel_form, number
from ..machine import Machine
from ..price import SHARP, Blocks, BlockStep, Traffic, finish, join
from ..product import (
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
"""Fields of a call: groups of rows that share keys in a block, rows of a group, keys of a sequence, keys before the
first row, whether attention is causal, width of scores and of values, 1 if values are part of the keys, groups that
read the same keys, bytes of a cached value, FLOP per clock and core, and whether caches keep data of the previous call.
"""

EXPONENTIALS, VECTOR, VECTOR_WORK = 16.0, 128.0, 6.0
"""Exponentials and 32-bit operations per clock of a core (CUDA C++ Programming Guide, throughput of native
instructions), and such operations per score: scale, mask, maximum, sum, convert, rescale."""
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
    """Return the bytes read from and written to memory; keys and values are read again if the cache is too small.

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


COLD = ShapeKey("cold", "0: caches hold what they can from a call before, as in a benchmark", 1, 0, 1)
DTYPE = ShapeKey("dtype", "number format of the KV cache", "bf16")
LATENT, POSITION = 512, 64
"""Numbers of values in a token's latent, and in the part with its position (DeepSeek-V2 and V3)."""
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
SPLITTING = ("block_m", "block_n", "warps", "stages", "split")
SIDES = (16, 32, 64, 128)
UNUSED = 16
"""Value of `block_k`, which attention does not use."""


@compiled
def rows(parameters: Records, hardware: Records, inputs: Records, configs: Records, out: Records) -> None:
    """Compute the cost of many configurations; see `TiledKernel.rows`."""
    for i in range(configs.shape[0]):
        attend(parameters, hardware, inputs, configs[i], out[i])


def _common(machine: Machine, shape: Shape) -> Records:
    code = CODES[str(shape["dtype"])]
    x = np.zeros(1, ATTENTION)[0]
    x.kv_bytes, x.rate = WEIGHT_BYTES[code], machine.vector.rate[C_16]
    x.warm, x.sharers = 1 - number(shape, "cold"), 1
    return x


def decode_work(machine: Machine, shape: Shape) -> Records:
    """Return the work of decodes: one query token per sequence; the query heads of a group are the rows."""
    x = _common(machine, shape)
    heads = number(shape, "heads_kv")
    x.groups, x.rows = number(shape, "batch") * heads, number(shape, "heads_q") / heads
    x.keys = number(shape, "keys")
    x.score = x.value = number(shape, "head_dim")
    return x


def latent_work(machine: Machine, shape: Shape) -> Records:
    """Return the work of decodes on latents: all heads of a sequence read one latent.

    Its first 512 values are the values too.
    """
    x = _common(machine, shape)
    x.groups, x.rows, x.keys = (number(shape, k) for k in ("batch", "heads", "keys"))
    x.score, x.value, x.shared = LATENT + POSITION, LATENT, 1
    return x


def prefill_work(machine: Machine, shape: Shape) -> Records:
    """Return the new tokens of each sequence after a context; every query head has separate rows."""
    x = _common(machine, shape)
    heads = number(shape, "heads_q")
    x.groups, x.rows = number(shape, "batch") * heads, number(shape, "tokens")
    x.context, x.causal = number(shape, "context"), 1
    x.keys = x.context + x.rows
    x.score = x.value = number(shape, "head_dim")
    x.sharers = heads / number(shape, "heads_kv")
    return x


def _split_space(tall: int, keys: int) -> I8:
    """Return the tiles for `tall` rows, and splits with at least one step in every part."""
    sides = [m for m in SIDES if m < 2 * max(tall, 16)]
    wide = (16, 32, 64, 128, 256)
    every = grid_of(sides, wide, (UNUSED,), (1,), (4, 8), (2, 3, 4, 5), SPLITS)
    parts = every[:, 6] * every[:, 1] <= max(keys, 1)
    return np.asarray(every[parts | (every[:, 6] == 1)])


def decode_space(machine: Machine, shape: Shape) -> I8:
    """Return the configurations of decodes: rows that hold a group's heads, keys per step, warps, stages and splits."""
    group = math.ceil(number(shape, "heads_q") / number(shape, "heads_kv"))
    return _split_space(group, number(shape, "keys"))


def latent_space(machine: Machine, shape: Shape) -> I8:
    """Return the configurations of decodes on latents: rows of heads, keys per step, warps, stages and splits."""
    return _split_space(number(shape, "heads"), number(shape, "keys"))


def prefill_space(machine: Machine, shape: Shape) -> I8:
    """Return the configurations of prefill: rows and keys of a tile, warps and stages."""
    return grid_of((16, 32, 64, 128, 256), (16, 32, 64, 128, 256), (UNUSED,), (1,), (4, 8), (2, 3, 4, 5), (1,))


def decode_default(machine: Machine, shape: Shape) -> KernelConfig:
    """Return FlashAttention-2's split kernel: 64 x 128 keys for narrow heads, with splits that fill the cores.

    `num_splits_heuristic` takes the least splits that come within 85 % of whole waves.
    """
    blocks = number(shape, "batch") * number(shape, "heads_kv")
    wide = 128 if number(shape, "head_dim") <= 128 else 64
    return KernelConfig(64, wide, UNUSED, 1, 4, 2, _splits(machine, blocks, number(shape, "keys"), wide))


def _splits(machine: Machine, blocks: int, keys: int, wide: int) -> int:
    """Return the fewest splits whose waves are at least 85 % as full as the fullest (`num_splits_heuristic`)."""
    cores = 2 * int(machine.vector.cores)
    if blocks >= 0.8 * cores:
        return 1
    most = max(1, min(128, cores, math.ceil(keys / wide)))
    full = {}
    for split in range(1, most + 1):
        waves = blocks * split / cores
        full[split] = waves / math.ceil(waves)
    best = max(full.values())
    return next(split for split, share in full.items() if share >= 0.85 * best)


def latent_default(machine: Machine, shape: Shape) -> KernelConfig:
    """Return SGLang's Triton kernel: 16 heads, 32 keys per step, eight splits."""
    return KernelConfig(16, 32, UNUSED, 1, 4, 2, 8)


def prefill_default(machine: Machine, shape: Shape) -> KernelConfig:
    """Return FlashAttention's tile: 128 queries and 64 keys (version 2), with warpgroups 128 and 128 (version 3)."""
    if 9.0 <= machine.vector.capability < 12.0:
        return KernelConfig(128, 128, UNUSED, 1, 8, 2)
    return KernelConfig(128, 64, UNUSED, 1, 4, 2)


def _triton(machine: Machine, shape: Shape) -> str:
    return "triton"


SEQUENCES = ShapeKey("batch", "sequences", low=1, high=1024)
KEYS = ShapeKey("keys", "cached tokens of a sequence", low=1, high=131072)
HEADS = (
    ShapeKey("heads_q", "query heads on this device", low=1, high=128),
    ShapeKey("heads_kv", "key/value heads on this device", low=1, high=128),
    ShapeKey("head_dim", "width of a head", 128, 64, 256),
)

DECODE = kernel_form(
    TiledKernel("attention_decode", "decode attention of grouped heads, keys split over blocks",
         (SEQUENCES, KEYS, *HEADS, DTYPE, COLD), SPLITTING, decode_work, rows, decode_space,
         decode_default, _triton)
)  # fmt: skip
LATENT_DECODE = kernel_form(
    TiledKernel("mla_decode", "decode attention on latent keys, split over blocks",
         (SEQUENCES, KEYS, ShapeKey("heads", "query heads on this device", low=8, high=128), DTYPE, COLD),
         SPLITTING, latent_work, rows, latent_space, latent_default, _triton)
)  # fmt: skip
PREFILL = kernel_form(
    TiledKernel("attention_prefill", "causal attention of new tokens after a context",
         (SEQUENCES, ShapeKey("tokens", "new tokens of a sequence", low=1, high=32768),
          ShapeKey("context", "cached tokens before them", 0, 0, 131072), *HEADS, DTYPE, COLD),
         ("block_m", "block_n", "warps", "stages"), prefill_work, rows, prefill_space,
         prefill_default, _triton)
)  # fmt: skip

"""GEMM: the cheapest of a few tilings, in waves over the cores, against the memory traffic.

As a kernel library, the model chooses the output tile and the number of splits along k. A tile takes the longer of its
arithmetic and its operand loads at one core's rate, then stores its result, plus a fixed pipeline fill; a split of k
adds a pass over the partial sums. Several tiles on a core fill half of the last wave. All waves together overlap with
the main memory traffic (soft maximum); weights that a benchmark re-reads often come from the last-level cache. 16-bit
activations are quantised before, by one kernel if every token or block has a scale. A scale of the whole tensor must be
known first: TensorRT-LLM's rows clear it, compute it and then quantise (``invokeComputeScalesAndQuantizeMatrix`` in
NVIDIA/TensorRT-LLM, ``cpp/tensorrt_llm/common/cudaFp8Utils.cu``), in fp8 and, in addition to block scales, in NVFP4;
vLLM's fp8 rows compute it row by row. Servers get it from the checkpoint, or compute one per token. Rows of such a
kernel (``quantize.csv``) are products without columns. Block-scaled inputs have separate kernels on Hopper and later,
4-bit ones on Blackwell (`block_scaled`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from ...workloads.kernel_tables import KernelTable, framework
from ...workloads.ops import Op
from ...workloads.records import Records
from .block_scaled import WIDE, Cores, Shape, block_tiled, four_bit_tiled, keeps_tiles
from .family import F8, Family, parameters_of, register
from .hardware import (
    C_16,
    C_32,
    C_FP8_BLOCK,
    C_INT8,
    C_MXFP4,
    C_NVFP4,
    C_W4A8,
    CODES,
    FORMATS,
    INPUT_BYTES,
    WEIGHT_BYTES,
    WIDENED,
)
from .libraries import BLACKWELL, HOPPER, WORKSTATION
from .terms import COLD, GRAPH_COPIES, Parts, Work, attained, ceil_div, host_seconds, resident, rows_of, soft_max

QUANTITIES = ("m", "n", "k", "batch", "format", "weight_bytes", "input_bytes", "quantised", "copies", "host_s", "tile")
"""`quantised`: kernels that quantise the activations before, 0 where they come so; `tile`: side of the
only tile of a block-scaled kernel, 0 where it has several."""

ONE_TILE = ("pipeweave",)
"""Sources that timed CUTLASS's block-scaled kernel, which has one tile for any shape (README of the tables)."""

TENSOR_SCALE_KERNELS: Mapping[str, float] = {"fp8": 6.0, "nvfp4": 3.0}
"""Formats with such a scale, if a framework computes it in each call, and the ratio of the shortest kernels with and
without the computation: 8.4 us and 1.3 on Hopper, 10.5 and 1.9 on Blackwell. NVFP4 has no separate rows: it counts
three."""
SCALE_TRAFFIC, HOPPER_SCALE_TRAFFIC = 2.0, 2.75
"""Factor on the traffic of long kernels with such a scale; Hopper's cores find the largest value more slowly than
memory delivers it."""
BY_ROW_KERNELS, ATOMIC_CLOCKS = 1.1, 14.0
"""Ratio of the shortest kernels (as in `TENSOR_SCALE_KERNELS`) for vLLM's rows, and clocks per row, because their first
kernel has a block for each row, with atomics of all on one address: 5.8 ns a row on L40S, 6.5 on B200, 7.3 on H200, for
any length (``segmented_max_reduction`` in vllm-project/vllm, ``csrc/quantization/w8a8/fp8/common.cu``). Servers use a
scale per token or the checkpoint's."""
WALK = 0.14
"""Additional rows that one more value in the longest row is worth, in kernels with a block of threads per row: 0.1 to
0.2."""
CACHE_DRAW = 14.0
"""Bytes that a core reads from the last-level cache per clock, as in vector kernels (`norm`)."""
PARAMETERS = parameters_of("gemm")

SCALED = "scale_matrix"
"""Name of the kernel in rows that quantise with a given scale."""
QUANTISE = ("quantise_s", "quantise_row_s", "quantise_memory")
"""Parameters of a framework's quantisation kernel; the matrix product itself is the device library's."""
OVERLAP = 2.5
"""Exponent of the soft maximum of arithmetic, operand loads and main memory."""
TILE_HALF = 4.0
"""Tile side at which a core reaches half of its rate."""
HEATING_S = 5e-4
"""Ideal duration of a kernel at which half of the drop to the sustained rate has occurred."""
SHARED_WAVES = 0.5
"""Share of the last, partly filled wave that is evened out by several tiles per core."""
STORED_BYTES = 4.0
"""Bytes of an accumulator, which is stored after the last step along k."""
GROUP_ROWS = 64.0
"""Rows of a tile of warpgroup instructions, which Hopper's products have (PTX ISA, ``wgmma``): few rows
cost as many. On H20, whose cores are few for its memory, that is most of the time of a decode."""
FEW_ROWS = 64.0
"""Number of rows up to which libraries call other kernels: matrix-vector products, splits along k, small tiles."""
MAX_SPLITS = 16.0
"""Maximum number of parts into which k is split."""
CACHE_SHARE = 0.5
"""Part of the last-level cache that keeps operands until they are read again."""
RAMP_S = 1.3e-6
"""Seconds until main memory delivers at its full rate, from products of few rows on H100 and H200, whose rate rises
with the bytes (4 MB of them cost as much again)."""
TILES_M = (16.0, 32.0, 64.0, 64.0, 128.0, 128.0)
TILES_N = (64.0, 64.0, 64.0, 128.0, 64.0, 128.0)


@compiled_part
def tiled(shape: Shape, cores: Cores, split_s: float, least: float) -> float:
    """Return the seconds of the cheapest tiling, without main memory.

    A matrix unit computes whole tiles of at least `least` rows; vector units (`least` 1) compute only existing rows.
    """
    m, n, k, batch = shape.m, shape.n, shape.k, shape.batch
    best = np.inf
    for t in range(len(TILES_M)):
        tm, tn = TILES_M[t], TILES_N[t]
        tiles = batch * ceil_div(m, tm) * ceil_div(n, tn)
        efficiency = 1.0 / (1.0 + TILE_HALF * 0.5 * (1.0 / tm + 1.0 / tn))
        splits = 1.0
        while splits <= MAX_SPLITS:
            depth = k / splits if splits == 1.0 else max(k / splits, 128.0)
            computed = max(tm, least) if least > 1.0 else min(m, tm)
            math_s = 2.0 * computed * tn * depth / (cores.rate * efficiency)
            load_s = (min(m, tm) * shape.value + min(n, tn) * shape.weight) * depth / cores.draw
            even = max(1.0, tiles * splits / cores.number)
            store_s = STORED_BYTES * min(m, tm) * min(n, tn) / cores.draw
            waves = even + (1.0 - SHARED_WAVES) * (ceil_div(tiles * splits, cores.number) - even)
            if waves * (max(math_s, load_s) + store_s + cores.fill_s) < best:  # else no need for the power
                time = waves * (soft_max(math_s, load_s, OVERLAP) + store_s + cores.fill_s)
                if splits > 1.0:  # partial sums in 32 bits, written and read
                    time += splits * batch * m * n * 8.0 / (cores.draw * cores.number) + split_s
                best = min(best, time)
            splits *= 2.0
    return float(best)


@compiled_part
def warm_rate(ideal: float, sustained: float) -> float:
    """Return the share of the rate in a kernel of `ideal` seconds, because power and heat lower the clock."""
    return 1.0 - (1.0 - sustained) * ideal / (ideal + HEATING_S)


@compiled_part
def cool(h: Records, code: int, sustained: float) -> float:
    """Return the sustained share for units that a product runs below the rate they are built for.

    Power limits FLOP per second, so a share of the whole rate; slower units reach it later.
    """
    if code == C_INT8:
        return sustained
    return float(min(1.0, sustained * h.built / h.peak[C_16]))


@compiled_part
def quantised(p: Records, h: Records, x: Records) -> tuple[float, float]:
    """Return the seconds of quantising a product's inputs: of the shortest such kernel, and of the rows."""
    if x.quantised <= 0.0:
        return 0.0, 0.0
    rows, hopper = x.m * x.batch, HOPPER <= h.capability < HOPPER + 1.0
    first_s = x.quantised * p.quantise_s
    moved = rows * x.k * (2.0 + x.input_bytes)
    cached = resident(moved, CACHE_SHARE * h.cache)
    if x.quantised > 1.0:
        moved *= HOPPER_SCALE_TRAFFIC if hopper else SCALE_TRAFFIC
    memory, cache = h.bandwidth, max(h.bandwidth, CACHE_DRAW * h.cores * h.clock)
    traffic_s = moved * ((1.0 - cached) / memory + cached / cache) / p.quantise_memory
    walk_s = p.quantise_row_s * (rows + WALK * x.k)
    if x.quantised == BY_ROW_KERNELS and h.capability > 0.0:
        walk_s += rows * ATOMIC_CLOCKS / h.clock
    return first_s, soft_max(traffic_s, walk_s, 2.0)


@compiled_part
def parts(p: Records, h: Records, x: Records) -> Parts:
    """Return the seconds of one GEMM, and its arithmetic, memory and fixed seconds."""
    m, n, k, batch = x.m, x.n, x.k, x.batch
    if m <= 0.0 or batch <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    first_s, rest_s = quantised(p, h, x)
    if n <= 0.0:
        return first_s + rest_s, 0.0, rest_s, first_s
    code = int(x.format)
    rate = p.peak_16 if code <= C_32 or code in WIDENED else p.peak_8
    if code in (C_FP8_BLOCK, C_W4A8) or C_NVFP4 <= code <= C_MXFP4:
        rate *= p.peak_block
    rate = attained(rate, h, code) * h.peak[code]
    rate *= warm_rate(2.0 * batch * m * n * k / rate, cool(h, code, p.sustained))
    shape = Shape(m, n, k, batch, x.weight_bytes, x.input_bytes)
    cores = Cores(h.cores, rate / h.cores, p.core_draw * h.built / h.cores, p.fill_s)
    hopper = HOPPER <= h.capability < HOPPER + 1.0 and h.matrix_rows > 1.0
    if code == C_FP8_BLOCK and keeps_tiles(h.capability):
        best = block_tiled(shape, cores, h.clock, OVERLAP, x.tile)
    elif C_NVFP4 <= code <= C_MXFP4 and h.capability >= BLACKWELL:
        best = four_bit_tiled(shape, cores, p.split_s, OVERLAP, int(h.capability >= WORKSTATION))
    else:
        best = tiled(shape, cores, p.split_s, max(h.matrix_rows, GROUP_ROWS) if hopper else h.matrix_rows)
    weights = batch * n * k * x.weight_bytes
    streams = batch * m * (k * x.input_bytes + n * 2.0)
    cache = CACHE_SHARE * h.cache
    cold = weights * (1.0 - resident(weights * x.copies, cache))
    if x.copies < COLD:
        cold += streams * (1.0 - resident(streams + weights, cache))
    else:
        cold += streams
    memory_s = cold / (p.memory * h.bandwidth)
    if memory_s > 0.0:  # little traffic ends before many requests are in flight
        memory_s *= 1.0 + RAMP_S / (memory_s + RAMP_S)
    fixed = x.host_s + p.launch_s + first_s
    total = fixed + rest_s + soft_max(best, memory_s, OVERLAP)
    return total, best, memory_s, fixed


def from_table(table: KernelTable) -> F8:
    """Return the quantities of measured rows; the cache's content depends on how they were timed."""
    code = np.array([CODES[name] for name in table["dtype"]], dtype=np.int64)
    graph = table["timing"] == "graph"
    whose = np.array([framework(source).rpartition("/")[2] for source in table["source"]])
    kernel, dtype = table["kernel"], table["dtype"]
    actquant = np.isin(kernel, ("linear_actquant", SCALED)).astype(np.float64)
    for name, kernels in TENSOR_SCALE_KERNELS.items():
        actquant[(whose == "trtllm") & (kernel != SCALED) & (dtype == name)] *= kernels
    actquant[(whose == "vllm") & (dtype == "fp8") & (table["n"] > 0.0)] *= BY_ROW_KERNELS
    return np.column_stack(
        [
            table["m"], table["n"], table["k"], table["batch"], code,
            np.array(WEIGHT_BYTES)[code], np.array(INPUT_BYTES)[code],
            actquant, np.where(graph, GRAPH_COPIES, COLD),
            host_seconds(table["timing"]),
            np.where(np.isin(whose, ONE_TILE) & (code == C_FP8_BLOCK), WIDE, 0.0),
        ]
    ).astype(np.float64)  # fmt: skip


def from_op(op: Op) -> F8 | None:
    """Return the quantities of an op of a serving step: weights in no cache, kernels in one graph.

    Inputs with one scale per tensor or token (fp8) are quantised by the norm or activation before, unless `_quantised`
    differs for an engine: vLLM's compiler passes fuse the two (``vllm/compilation/passes/fusion``), but not for int8.
    For 4-bit inputs only an activation does (``enable_act_fusion`` in ``vllm/config/vllm.py``). Block-scaled ones have
    a separate kernel: ``QuantFP8`` in vLLM, ``per_token_group_quant_fp8`` in SGLang. (vLLM releases with
    ``rms_norm_per_block_quant`` also fuse it after a norm; the tables time it separately.)
    """
    code = CODES.get(op.dtype)
    m, n, k = op.shape["m"], op.shape["n"], op.shape["k"]
    batch = op.shape.get("batch", 1)
    if code is None:
        return None
    stored = op.weight_bytes / (n * k * batch) if m > 0 else WEIGHT_BYTES[code]
    quantised = code in (C_FP8_BLOCK, C_INT8)
    if code in (C_NVFP4, C_MXFP4):
        quantised = not op.reads_activation
    return np.array([m, n, k, batch, code, stored, INPUT_BYTES[code], float(quantised), COLD, 0.0, 0.0])


def _quantised(x: F8, op: Op, framework: str) -> F8:
    """Return an op's quantities, with the kernel that quantises its inputs to fp8 if an engine starts one.

    SGLang quantises for every product (``apply_fp8_linear`` in python/sglang/srt/layers/quantization/fp8_utils.py),
    vLLM after attention (``fuse_attn_quant`` is off, ``vllm/config/vllm.py``). TensorRT-LLM's attention, activations
    and all-reduces with a norm write fp8 (``RESIDUAL_RMS_NORM_QUANT_FP8``); after a norm without an all-reduce, its
    products start the kernel (``FP8QDQLinearMethod`` in tensorrt_llm/_torch/modules/linear.py).
    """
    behind_norm = op.whole and not (op.reads_attention or op.reads_activation)
    starts = {"sglang": True, "vllm": op.reads_attention, "trtllm": behind_norm}
    if op.dtype == "fp8" and starts.get(framework, False):
        x[QUANTITIES.index("quantised")] = 1.0
    return x


@compiled_part
def work(x: Records) -> Work:
    """Return the FLOP, and the bytes if weights and activations are read and written once."""
    m, n, k, batch = x.m, x.n, x.k, x.batch
    moved = batch * (n * k * x.weight_bytes + m * (k * x.input_bytes + 2.0 * n))
    return 2.0 * m * n * k * batch, moved, 0.0, int(x.format)


rows = rows_of("gemm", parts, work)


def _kernel(x: Records) -> npt.NDArray[np.int64]:
    """Return each call's kernel by number format, with separate kernels for few rows."""
    few = (x["m"] <= FEW_ROWS) & (x["m"] > 0.0)
    out: npt.NDArray[np.int64] = x["format"].astype(np.int64) + len(FORMATS) * few
    return out


GEMM = register(
    Family("gemm", "GEMM", ("gemm",), PARAMETERS, QUANTITIES, rows, from_table, from_op, launched=_quantised,
           by_framework=QUANTISE, branches=(*FORMATS, *(f"{name}+few" for name in FORMATS)), branch=_kernel,
           by_size=True,
           silicon=tuple(p.name for p in PARAMETERS if p.name not in QUANTISE))
)  # fmt: skip

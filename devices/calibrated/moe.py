"""Experts of a MoE layer: a chain of permute, two grouped GEMMs, activation and combine.

The weights of the active experts stream once; arithmetic covers each expert's tokens and the padding of its last tile;
the two overlap (soft maximum). Permute, activation and combine move the vectors of every routed slot several times, and
partly (`foreign`) of slots whose expert is on another device, which some kernels zero and sum. The chain's launches, a
dependent walk along the hidden and inner dimensions in short kernels, and bookkeeping per local expert are added. If
the matrix unit computes in 4 bit, such weights are plain bytes; if a kernel widens them first, they take a multiple of
that (`low_bit`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from ...workloads.kernel_tables import KernelTable
from ...workloads.ops import Op
from ...workloads.records import Records
from .family import F8, Family, parameters_of, register
from .hardware import C_16, C_FP8, C_FP8_BLOCK, C_MXFP4, C_NVFP4, C_W4A8, C_W4A16, CODES, FORMATS, WEIGHT_BYTES, WIDENED
from .libraries import HOPPER, WORKSTATION
from .terms import COLD, Parts, Work, attained, resident, rows_of, soft_max

QUANTITIES = ("slots", "routed", "hidden", "inter", "matrices", "local_experts", "active_experts",
              "skew", "format", "weight_bytes", "chain", "copies", "top_k", "wide")  # fmt: skip
"""`slots`: tokens x top_k of the call; `routed`: slots of local experts; `inter`: local inner width; `skew`:
exponent of a power-law load; `chain`: 1 with permute and combine, 0 for the GEMMs; `wide`: 1 if an all-to-all
delivered only rows of local experts, 2 for TensorRT-LLM's minimum-latency kernel, which it calls only on request
(`enable_min_latency` of its arguments)."""

PARAMETERS = parameters_of("moe")

CACHE_RATE = 3.0
"""Bandwidth of the last-level cache over the memory bandwidth."""
LEAST_ROWS, LOST_ROWS = 8.0, 64.0
"""Padding rows of an expert: at least the narrow side of a tensor-core instruction, up to half of a 128-row tile if
tokens are many and tiles large. In proportion if a matrix instruction has other than 16 rows."""
KINDS, MANY = ("", "+plain", "+few", "+wide", "+low"), 4.0
"""Kernels that frameworks choose by the model: for experts of two matrices (their fastest ones know gated
experts only), of few experts a token (gpt-oss, Mixtral and Llama 4, whose routing is another), and behind an
all-to-all (DeepEP), in the formats of `SENT`."""
SENT = (C_FP8_BLOCK, C_NVFP4)
DRAWS = 24
"""Number of samples of a skewed load."""
TILE = 128.0
"""Maximum rows, and the columns, of a tile."""
KEEPS, SPLIT_KEEPS = 0.9, 0.05
"""Part of the last-level cache that keeps weights from one replay to the next: nearly all on Ada and
workstation Blackwell (0.6 to 1.2 where fits chose it), next to nothing where the cache is of two halves
far from each other, on A100, Hopper and data-centre Blackwell (every fit at its lower bound)."""
SKEW_COST = 0.3
"""Extra work per unit of power-law exponent: the busiest experts end last (two thirds of the
fits that were free to choose it lay between 0.02 and 0.45; a later fit can say more)."""
LOW_WALK = 3.0
"""Power of `low_bit` by which the walk lengthens in kernels for experts of which other devices hold
some: those that widen weights took two to four times as long there with few active experts, and
streamed no worse with many (vLLM has another kernel then: its Triton one takes no expert map)."""
EVERY_SLOT = "aiconfigurator/sglang-0.5.10"
"""Rows whose kernel computes all slots of a token that reaches the device, also slots of other devices' experts: with experts on 1 to 128
devices, A100 products of 192 columns run at 90 to 108 TFLOP/s of these slots, and at 106 down to 10 of local ones. Engines skip the others."""
SPLIT = 1.01
"""Ratio of a call's slots to local slots from which experts are on several devices."""
GEMM_LAUNCH = 0.4
"""Share of the launches in two grouped GEMMs: two of five kernels."""


@compiled_part
def cache_share(capability: float) -> float:
    """Return the part of the last-level cache that keeps data which is read again; see `KEEPS`."""
    one_level = 8.5 < capability < HOPPER or capability >= WORKSTATION
    return KEEPS if one_level else SPLIT_KEEPS


@compiled_part
def tiles_s(
    rows: float, active: float, width: float, depth: float, least: float, hardware: Records, rate: float
) -> float:
    """Return the seconds of one grouped product: tiles of each expert's rows in waves over the cores."""
    tall = max(rows / TILE, 1.0)
    waves = active * tall * width / TILE / hardware.cores
    one_s = 2.0 * rows / tall * TILE * depth * hardware.cores / rate
    return float(one_s * np.sqrt(waves**2 + least**2))


@compiled_part
def parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the seconds of one call, and its arithmetic, memory and fixed seconds."""
    active, hidden, inter, matrices = inputs.active_experts, inputs.hidden, inputs.inter, inputs.matrices
    if inputs.slots <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    code = int(inputs.format)
    routed = inputs.routed * (1.0 + SKEW_COST * inputs.skew)
    bandwidth = parameters.memory * hardware.bandwidth
    one = matrices * hidden * inter
    weights = active * one * inputs.weight_bytes
    cache = cache_share(hardware.capability) * hardware.cache
    stays = resident(weights * inputs.copies, cache)
    weight_s = weights / bandwidth * (1.0 - stays + stays / CACHE_RATE)
    if code == C_FP8:
        weight_s *= parameters.fp8_stream
    elif code in WIDENED:
        weight_s *= parameters.low_bit
    # What one kernel of the chain writes the next one reads: from the cache while it fits.
    touched = inputs.routed
    passes = 1.0
    if inputs.chain > 0.0:
        touched += parameters.foreign * max(inputs.slots - touched, 0.0)
        passes = max(parameters.slot_passes, 1.0)
    vectors = 2.0 * touched * (hidden + inter)
    cached = resident(vectors, cache)
    moved = passes * vectors * (1.0 - cached + cached / CACHE_RATE)
    rate = hardware.peak[0] * attained(parameters.peak_16, hardware, C_16)
    if code > 1 and code not in WIDENED:
        rate *= parameters.fp8_gain
        if C_NVFP4 <= code <= C_MXFP4:
            rate *= hardware.peak[code] / hardware.peak[C_FP8]
    busy, math_s = 0.0, 0.0
    if active > 0.0:
        tokens = routed / active
        wide = hardware.matrix_rows / 16.0
        lost = LOST_ROWS * wide
        rows = tokens + LEAST_ROWS * wide + lost * tokens / (tokens + lost)
        math_s = tiles_s(rows, active, (inputs.matrices - 1.0) * inter, hidden, parameters.min_waves, hardware, rate)
        math_s += tiles_s(rows, active, hidden, inter, parameters.min_waves, hardware, rate)
        busy = soft_max(weight_s, math_s, parameters.overlap)
    fixed = (
        parameters.launch_s * (GEMM_LAUNCH + (1.0 - GEMM_LAUNCH) * inputs.chain)
        + parameters.expert_s * inputs.local_experts
    )
    walk = parameters.walk_s * (hidden + inter) / 1024.0
    if code in WIDENED and inputs.slots > SPLIT * inputs.routed:
        walk *= parameters.low_bit**LOW_WALK
    fixed += walk
    moved_s = moved / bandwidth
    return fixed + moved_s + busy, math_s, weight_s + moved_s, fixed


def from_table(table: KernelTable) -> F8:
    """Return the quantities of measured rows; every timing re-reads one set of weights."""
    code = np.array([CODES[name] for name in table["dtype"]], dtype=np.int64)
    slots = table["tokens"] * table["topk"]
    active = np.maximum(table["active_experts"], 1.0)
    every = (table["source"] == EVERY_SLOT) & (table["kernel"] == "fused_moe")
    computed = np.where(every, np.minimum(table["ep"], table["topk"]), 1.0)
    routed = np.maximum(slots / table["ep"] * computed * _busiest(table), active)
    wide = np.isin(table["kernel"], ("wide_moe", "wide_experts"))
    low = np.array([name.endswith("min_latency") for name in table["impl"]], dtype=bool)
    local = table["experts"] / table["ep"]
    reached = local * -np.expm1(routed * np.log1p(-1.0 / np.maximum(local, 1.0 + 1e-9)))
    active = np.where(wide, np.maximum(reached, 1.0), active)
    return np.column_stack(
        [
            np.where(wide, routed, np.maximum(slots, routed)), routed, table["hidden"],
            table["inter"] / table["tp"], 2.0 + table["gated"], local,
            active, [_skew(name) for name in table["distribution"]], code,
            np.array(WEIGHT_BYTES)[code], np.isin(table["kernel"], ("fused_moe", "wide_moe")),
            np.where(table["timing"] == "graph", 1.0, COLD), table["topk"], np.where(low, 2.0, wide),
        ]
    ).astype(np.float64)  # fmt: skip


def _busiest(table: KernelTable) -> F8:
    """Return the slots of the busiest of `ep` devices over their mean: experts' loads sampled from a power law.

    A load is between 1 and the tokens, with a density that falls as its power of the exponent in the distribution's
    name; rows of such loads time the busiest device (README of the tables). Means of `DRAWS` samples, equal in every
    run.
    """
    out, skew = np.ones(len(table)), np.array([_skew(name) for name in table["distribution"]])
    names = ("tokens", "topk", "experts", "ep")
    cases = np.column_stack([*(table[name] for name in names), skew])
    some = (skew > 0.0) & (table["ep"] > 1)
    if not some.any():
        return out
    unique, back = np.unique(cases[some], axis=0, return_inverse=True)
    shares = [busiest_share(*case) for case in unique]
    out[some] = np.array(shares)[back.ravel()]
    return out


def busiest_share(tokens: float, top_k: float, experts: float, ranks: float, skew: float) -> float:
    """Return the load of the busiest of `ranks` devices over the mean; see `_busiest`."""
    rng, most = np.random.default_rng(0), max(tokens, 2.0)
    u, power = rng.random((DRAWS, int(experts))), 1.0 - skew
    loads = (1.0 + (most**power - 1.0) * u) ** (1.0 / power)
    for _ in range(2):  # no expert gets a token twice
        loads = np.minimum(loads * (tokens * top_k / loads.sum(axis=1, keepdims=True)), tokens)
    groups = loads.reshape(DRAWS, int(ranks), -1).sum(axis=2)
    return float((groups.max(axis=1) / groups.mean(axis=1)).mean())


def _skew(distribution: str) -> float:
    """Return the exponent in a name like ``power_law_1.2``; 0 for others, and if copies of experts balance the load."""
    _, separator, exponent = distribution.partition("power_law_")
    return float(exponent) if separator and not exponent.endswith("_eplb") else 0.0


def from_op(op: Op) -> F8 | None:
    """Return the quantities of an op of a serving step; permute and combine are part of the op."""
    s, loads = op.shape, op.loads
    code = CODES.get(op.dtype)
    if code is None or loads is None or "inter" not in s:  # adapters are no whole blocks
        return None
    routed, active = loads.routed, loads.active
    one = s["matrices"] * s["hidden"] * s["inter"]
    stored = op.weight_bytes / (one * active) if active > 0 else WEIGHT_BYTES[code]
    if stored < 1.0 and code in (C_16, C_FP8):
        code = C_W4A16 if code == C_16 else C_W4A8
    return np.array(
        [
            s.get("slots", routed), routed, s["hidden"], s["inter"], s["matrices"], s["experts"],
            active, 0.0, code, stored, 1.0, COLD, s.get("top_k", MANY + 1.0), float(bool(s.get("wide")) and code in SENT),
        ]
    )  # fmt: skip


@compiled_part
def work(inputs: Records) -> Work:
    """Return the FLOP of the routed tokens, and the bytes if active weights, inputs and outputs move once."""
    one = inputs.matrices * inputs.hidden * inputs.inter
    moved = inputs.active_experts * one * inputs.weight_bytes + 4.0 * inputs.routed * inputs.hidden
    return 2.0 * inputs.routed * one, moved, 0.0, int(inputs.format)


rows = rows_of("moe", parts, work)


@compiled_part
def at_loads(inputs: Records, routed: float, active: float) -> bool:
    """Set the quantities of `routed` token-expert pairs over `active` experts; return False if there are none."""
    if routed <= 0.0:
        return False
    inputs.slots = inputs.routed = routed
    inputs.active_experts = active
    return True


def _kernel(inputs: Records) -> npt.NDArray[np.int64]:
    """Return the kernels by number format, and of each the `KINDS`."""
    plain = (inputs["matrices"] < 2.5) & (inputs["matrices"] > 0.0)
    kind = np.where(plain, 1, np.where(inputs["top_k"] <= MANY, 2, 0))
    kind = np.where(inputs["wide"] > 0.0, 2.0 + inputs["wide"], kind).astype(np.int64)
    out: npt.NDArray[np.int64] = inputs["format"].astype(np.int64) + len(FORMATS) * kind
    return out


MOE = register(
    Family("moe", "MoE experts", ("experts",), PARAMETERS, QUANTITIES, rows, from_table, from_op,
           by_framework=("launch_s", "slot_passes", "foreign", "fp8_stream", "low_bit"),
           silicon=("memory",),
           branches=tuple(f"{name}{kind}" for kind in KINDS for name in FORMATS), branch=_kernel, aside=("+wide", "+low"))
)  # fmt: skip

"""Grouped GEMM: the matmuls of many experts in one kernel.

The tiles of all groups share the waves, and every group's weights are read once. A *contiguous*
layout packs the rows of the groups one after another (prefill); a *masked* one leaves each group
room for the longest (decode), and its kernel looks up the group's count before each tile.
"""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled, compiled_part
from ...workloads.kernel_tables import KernelTable
from ...workloads.ops import Op
from .family import F8, Family, parameters_of, register
from .gemm import OVERLAP, cool, tiled, warm_rate
from .hardware import CODES, H_BANDWIDTH, H_CORES, H_FULL, H_PEAK, H_ROWS, INPUT_BYTES, WEIGHT_BYTES
from .terms import Parts, Work, put_price, soft_max

(X_GROUPS, X_M, X_N, X_K, X_CODE, X_WEIGHT, X_INPUT, X_MASKED) = range(8)
QUANTITIES = ("groups", "m_per_group", "n", "k", "format", "weight_bytes", "input_bytes", "masked")

PARAMETERS = parameters_of("grouped_gemm")
(P_LAUNCH, P_PEAK, P_SUSTAINED, P_MEMORY, P_DRAW, P_FILL, P_SPLIT, P_GROUP, P_MASKED) = range(9)


@compiled_part
def parts(parameters: F8, hardware: F8, inputs: F8) -> Parts:
    """Return the seconds of one grouped GEMM, and its arithmetic, memory and fixed seconds; `parameters`, `hardware` and `inputs` as in the constants above."""
    groups, m, n, k = inputs[X_GROUPS], inputs[X_M], inputs[X_N], inputs[X_K]
    if groups <= 0.0 or m <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    rate = hardware[H_PEAK + int(inputs[X_CODE])] * parameters[P_PEAK]
    if inputs[X_MASKED] > 0.0:
        rate *= parameters[P_MASKED]
    rate *= warm_rate(2.0 * groups * m * n * k / rate, cool(hardware, int(inputs[X_CODE]), parameters[P_SUSTAINED]))
    cores, draw = hardware[H_CORES], parameters[P_DRAW] * hardware[H_FULL]
    tiles_s = tiled(
        m,
        n,
        k,
        groups,
        inputs[X_WEIGHT],
        inputs[X_INPUT],
        cores,
        rate / cores,
        draw / cores,
        parameters[P_FILL],
        parameters[P_SPLIT],
        hardware[H_ROWS],
    )
    moved = groups * (n * k * inputs[X_WEIGHT] + m * (k * inputs[X_INPUT] + 2.0 * n))
    memory_s = moved / (parameters[P_MEMORY] * hardware[H_BANDWIDTH])
    fixed = parameters[P_LAUNCH] + groups * parameters[P_GROUP]
    return fixed + soft_max(tiles_s, memory_s, OVERLAP), tiles_s, memory_s, fixed


@compiled
def rows(parameters: F8, hardware: F8, inputs: F8, out: F8) -> None:
    """Compute many grouped GEMMs; see `Family.rows`."""
    for i in range(inputs.shape[0]):
        put_price(out[i], parts(parameters, hardware, inputs[i]), work(inputs[i]), hardware)


def from_table(table: KernelTable) -> F8:
    """Quantities of measured rows."""
    code = np.array([CODES[name] for name in table["dtype"]], dtype=np.int64)
    return np.column_stack(
        [
            table["groups"], table["m_per_group"], table["n"], table["k"], code,
            np.array(WEIGHT_BYTES)[code], np.array(INPUT_BYTES)[code], table["layout"] == "masked",
        ]
    ).astype(np.float64)  # fmt: skip


def from_op(op: Op) -> F8 | None:
    """No op is only a grouped GEMM; the family of MoE layers costs experts."""
    return None


@compiled_part
def work(inputs: F8) -> Work:
    """FLOP, and bytes when weights and activations are read and written once."""
    groups, m, n, k = inputs[X_GROUPS], inputs[X_M], inputs[X_N], inputs[X_K]
    moved = groups * (n * k * inputs[X_WEIGHT] + m * (k * inputs[X_INPUT] + 2.0 * n))
    return 2.0 * groups * m * n * k, moved, 0.0, int(inputs[X_CODE])


GROUPED = register(
    Family("grouped_gemm", "grouped GEMM", (), PARAMETERS, QUANTITIES, rows, from_table, from_op,
           silicon=("peak", "sustained", "memory", "core_draw"))
)  # fmt: skip

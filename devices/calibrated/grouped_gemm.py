"""Grouped GEMM: the matmuls of many experts in one kernel.

The tiles of all groups share the waves, and every group's weights are read once. A *contiguous*
layout packs the rows of the groups one after another (prefill); a *masked* one leaves each group
room for the longest (decode), and its kernel looks up the group's count before each tile.
"""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled_part
from ...workloads.kernel_tables import KernelTable
from ...workloads.ops import Op
from ...workloads.records import Records
from .block_scaled import Cores, Shape
from .family import F8, Family, parameters_of, register
from .gemm import OVERLAP, cool, tiled, warm_rate
from .hardware import CODES, INPUT_BYTES, WEIGHT_BYTES
from .terms import Parts, Work, rows_of, soft_max

QUANTITIES = ("groups", "m_per_group", "n", "k", "format", "weight_bytes", "input_bytes", "masked")

PARAMETERS = parameters_of("grouped_gemm")


@compiled_part
def parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the seconds of one grouped GEMM, and its arithmetic, memory and fixed seconds."""
    groups, m, n, k = inputs.groups, inputs.m_per_group, inputs.n, inputs.k
    if groups <= 0.0 or m <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    rate = hardware.peak[int(inputs.format)] * parameters.peak
    if inputs.masked > 0.0:
        rate *= parameters.masked_rate
    rate *= warm_rate(2.0 * groups * m * n * k / rate, cool(hardware, int(inputs.format), parameters.sustained))
    shape = Shape(m, n, k, groups, inputs.weight_bytes, inputs.input_bytes)
    draw = parameters.core_draw * hardware.built / hardware.cores
    cores = Cores(hardware.cores, rate / hardware.cores, draw, parameters.fill_s)
    tiles_s = tiled(shape, cores, parameters.split_s, hardware.matrix_rows)
    moved = groups * (n * k * inputs.weight_bytes + m * (k * inputs.input_bytes + 2.0 * n))
    memory_s = moved / (parameters.memory * hardware.bandwidth)
    fixed = parameters.launch_s + groups * parameters.group_s
    return fixed + soft_max(tiles_s, memory_s, OVERLAP), tiles_s, memory_s, fixed


def from_table(table: KernelTable) -> F8:
    """Return the quantities of measured rows."""
    code = np.array([CODES[name] for name in table["dtype"]], dtype=np.int64)
    return np.column_stack(
        [
            table["groups"], table["m_per_group"], table["n"], table["k"], code,
            np.array(WEIGHT_BYTES)[code], np.array(INPUT_BYTES)[code], table["layout"] == "masked",
        ]
    ).astype(np.float64)  # fmt: skip


def from_op(op: Op) -> F8 | None:
    """Return None: experts are costed by the family of MoE layers, and no other op is a grouped GEMM."""
    return None


@compiled_part
def work(inputs: Records) -> Work:
    """Return the FLOP, and the bytes if weights and activations are read and written once."""
    groups, m, n, k = inputs.groups, inputs.m_per_group, inputs.n, inputs.k
    moved = groups * (n * k * inputs.weight_bytes + m * (k * inputs.input_bytes + 2.0 * n))
    return 2.0 * groups * m * n * k, moved, 0.0, int(inputs.format)


rows = rows_of("grouped_gemm", parts, work)


GROUPED = register(
    Family("grouped_gemm", "grouped GEMM", (), PARAMETERS, QUANTITIES, rows, from_table, from_op,
           silicon=("peak", "sustained", "memory", "core_draw"))
)  # fmt: skip

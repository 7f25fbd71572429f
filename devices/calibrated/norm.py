"""Vector kernels (norms, activations, rotary embedding, additions): launch, blocks and traffic.

In all but the plain kernels one block of threads takes a row, value after value; the blocks run
in waves over the cores. The traffic overlaps with that (soft maximum): what the
previous kernel just wrote, and fits in the last-level cache, is read from there.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from ...workloads.jit import compiled_part
from ...workloads.kernel_tables import KernelTable
from ...workloads.ops import Op
from ...workloads.records import Records
from .family import F8, Family, parameters_of, register
from .hardware import C_16, C_32, CODES
from .terms import Parts, Work, host_seconds, resident, rows_of, soft_max

QUANTITIES = ("rows", "cols", "tensors", "bytes", "kernel_class", "warm", "event", "host_s")

Kernel = IntEnum("Kernel", "PLAIN GATED REDUCE ROPE", start=0)
"""Classes of kernels: element by element, gated activation, reduction over a row, rotary."""
CLASSES = {"layernorm": Kernel.REDUCE, "rmsnorm": Kernel.REDUCE, "softmax": Kernel.REDUCE,
           "fused_add_rmsnorm": Kernel.REDUCE, "rope": Kernel.ROPE, "silu_mul": Kernel.GATED,
           "geglu": Kernel.GATED}  # fmt: skip
TENSORS = {"silu_mul": 3.0, "geglu": 3.0, "add": 3.0, "mul": 3.0, "div": 3.0, "fused_add_rmsnorm": 4.0}

BLOCKS = 2.0
"""Number of blocks, each of one row, that a core processes at once."""

# Rows timed with events tell only the sum of the two. Kernels start alike everywhere, hosts do not.
PARAMETERS = parameters_of("norm")


@compiled_part
def parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the seconds of one vector kernel, and its arithmetic, memory and fixed seconds."""
    rows = inputs.rows
    if rows <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    kind = int(inputs.kernel_class)
    tensor = rows * inputs.cols * inputs.bytes
    moved = tensor * inputs.tensors
    part = 1.0  # of a plain kernel's rate
    fixed = parameters.launch_s + inputs.host_s + inputs.event * parameters.event_s
    if kind == Kernel.REDUCE:
        part = parameters.reduce_rate
        fixed += parameters.reduce_s
    elif kind == Kernel.GATED:
        part = parameters.gated_rate
    elif kind == Kernel.ROPE:
        part = parameters.rope_rate
        fixed += parameters.rope_s
    rate = min(part * parameters.memory, 1.0) * hardware.bandwidth
    clocks = hardware.cores * hardware.clock
    cached = resident(moved, parameters.cache * hardware.cache) * inputs.warm
    traffic_s = moved * ((1.0 - cached) / rate + cached / max(rate, part * parameters.cache_draw * clocks))
    latency_s = 0.0
    if kind != Kernel.PLAIN:
        pairs = inputs.cols * inputs.bytes * 0.5  # two bytes each
        latency_s = max(1.0, rows / (hardware.cores * BLOCKS)) * pairs * parameters.value_clocks / hardware.clock
    total = fixed + soft_max(traffic_s, latency_s, parameters.overlap)
    return total, 0.0, traffic_s, fixed + latency_s  # the walk along a row is one dependent chain


def from_table(table: KernelTable) -> F8:
    """Return the quantities of measured rows; some sources read tensors that are in no cache."""
    code = np.array([CODES[name] for name in table["dtype"]])
    kernels = table["kernel"].tolist()
    cold = np.array([source.startswith(COLD_SOURCES) for source in table["source"]])
    return np.column_stack(
        [
            table["rows"], table["cols"], [TENSORS.get(k, 2.0) for k in kernels],
            np.where(code == C_32, 4.0, 2.0), [CLASSES.get(k, Kernel.PLAIN) for k in kernels],
            ~cold, table["timing"] == "event", host_seconds(table["timing"]),
        ]
    ).astype(np.float64)  # fmt: skip


COLD_SOURCES = ("liger", "opbyte")
"""Sources whose kernels read tensors that are in no cache."""

NAMES = {"rope": Kernel.ROPE, "activation": Kernel.GATED, "norm": Kernel.REDUCE}
"""Kernel class of a serving step's elementwise ops, by the end of their name."""


def from_op(op: Op) -> F8 | None:
    """Return the quantities of an op of a serving step; the previous op has just written its input."""
    shape = op.shape
    values = shape["rows"] * shape["cols"] * shape["tensors"]
    size = op.act_bytes / values if values > 0 else 2.0
    kind = next((k for end, k in NAMES.items() if op.name.endswith(end)), Kernel.PLAIN)
    return np.array([shape["rows"], shape["cols"], shape["tensors"], size, kind, 1.0, 0.0, 0.0])


@compiled_part
def work(inputs: Records) -> Work:
    """Return zero matmul FLOP, and the bytes if every tensor moves once."""
    moved = inputs.rows * inputs.cols * inputs.tensors * inputs.bytes
    return 0.0, moved, 0.0, C_32 if inputs.bytes > 2.0 else C_16


rows = rows_of("norm", parts, work)


NORM = register(
    Family("norm", "vector kernels", ("elementwise",), PARAMETERS, QUANTITIES, rows, from_table,
           from_op, silicon=("memory", "cache_draw", "cache"))
)  # fmt: skip

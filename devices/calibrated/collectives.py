"""All-gather, reduce-scatter, all-to-all and send-receive inside a node.

As for all-reduce, the time consists of a kernel, hops and the bytes over the link, with the better protocol of the
library. An all-to-all sends to all peers at once, so its hops overlap.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from ...workloads.jit import compiled_part
from ...workloads.kernel_schemas import COLLECTIVE
from ...workloads.kernel_tables import KernelTable
from ...workloads.ops import Op
from ...workloads.records import Records
from .family import F8, Family, parameters_of, register
from .hardware import C_16
from .terms import Parts, Work, by_protocol, by_ranks, link_among, rows_of

QUANTITIES = ("bytes", "ranks", "kind")
Kind = IntEnum("Kind", "GATHER SCATTER EXCHANGE SEND", start=0)
assert COLLECTIVE == ("all_gather", "reduce_scatter", "alltoall", "send_recv")

SWITCHED = 15.0
"""Maximum number of hops of the simple protocol: among more ranks of a domain the library lets the switches forward
(NVLS). All-gathers of 128 to 512 MiB among 64 GB200 take 0.86 to 1.15 times as long as among 32 (openxla/xla, its table
of NVLink domains)."""

PARAMETERS = parameters_of("collectives")


@compiled_part
def parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the seconds of one collective, and its arithmetic, memory and fixed seconds."""
    n = inputs.ranks
    if n < 2.0 or inputs.bytes <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    kind = int(inputs.kind)
    link = by_ranks(parameters.link_2, parameters.link_4, parameters.link_8, n) * link_among(hardware, n)
    share, hops, fixed = (n - 1.0) / n, (n - 1.0) * parameters.hop_s, parameters.launch_s
    if kind == Kind.EXCHANGE:
        link *= parameters.exchange_rate
        hops = (n - 1.0) * parameters.peer_s
        fixed += parameters.exchange_s
    elif kind == Kind.SCATTER:
        link *= parameters.scatter_rate
    elif kind == Kind.SEND:
        link *= parameters.send_rate
        share = 1.0
    wire = inputs.bytes * share / link
    simple = parameters.simple_hops * min(n - 1.0, SWITCHED) / (n - 1.0)
    total = fixed + by_protocol(hops, wire, parameters.flag_bytes, simple)
    floor = inputs.bytes * share / hardware.link_bandwidth
    return max(total, floor), 0.0, wire, fixed + hops


def from_table(table: KernelTable) -> F8:
    """Return the quantities of measured rows."""
    kind = [COLLECTIVE.index(name.partition(":")[2]) for name in table["kernel"]]
    return np.column_stack([table["bytes"], table["ranks"], kind]).astype(np.float64)


KINDS = {"all_gather": Kind.GATHER, "reduce_scatter": Kind.SCATTER, "all_to_all": Kind.EXCHANGE, "send_recv": Kind.SEND}


def from_op(op: Op) -> F8 | None:
    """Return the quantities of an op that states its ranks; None for others."""
    ranks = op.shape.get("ranks")
    return None if ranks is None else np.array([op.act_bytes, ranks, KINDS[op.kind]])


@compiled_part
def work(inputs: Records) -> Work:
    """Return the bytes that a device must send."""
    n = inputs.ranks
    share = 1.0 if int(inputs.kind) == Kind.SEND else (n - 1.0) / n
    return 0.0, 0.0, inputs.bytes * share, C_16


rows = rows_of("collectives", parts, work)


COLLECTIVES = register(
    Family("collectives", "collectives", tuple(KINDS), PARAMETERS, QUANTITIES, rows, from_table,
           from_op, by_framework=("launch_s", "exchange_s"),
           framework_time=False)
)  # fmt: skip

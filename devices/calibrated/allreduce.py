"""All-reduce inside a node: a library's ring or tree, and the frameworks' small custom kernels.

Library: a kernel, the latency of the hops and the bytes over the link, with the better of its protocols
(`terms.by_protocol`). Hops are 2(n-1) of a ring, or a tree's if fewer. The attainable part of the link depends on the
number of ranks: on PCIe it falls when the ranks span two host bridges, on NVSwitch it rises (NVLS). Beyond `RING` ranks
of one domain the time is constant, because a device sends its message once and receives the sums once. Own kernel: it
reads its peers' buffers directly, with one barrier per peer; every rank reads all whole messages, or its part and then
the sums of the others after a second barrier. Frameworks use it up to `OWN_BYTES` between peers with direct links: over
PCIe vLLM and SGLang only between two ranks (conditions of vLLM's `CustomAllreduce`, quoted in vllm-project/vllm#56128),
TensorRT-LLM never. Beyond `OWN_BYTES` a message takes at least as long as the largest of the own kernel.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from ...workloads.kernel_tables import KernelTable, framework
from ...workloads.ops import LIBRARY_SUMS, Op
from ...workloads.records import Records
from .family import F8, Family, parameters_of, register
from .hardware import C_16
from .terms import Parts, Work, by_protocol, by_ranks, link_among, rows_of

QUANTITIES = ("bytes", "ranks", "own_kernel")

(LIBRARY, OWN, OWN_LINKED) = (0.0, 1.0, 2.0)
"""Kind of kernel: the library's; a framework's; a framework's that is never used over PCIe."""
OWN_BYTES = 8.0 * 2**20
"""Largest message of a framework's custom kernel [B] (vLLM's `CustomAllreduce`, default `max_size`)."""
LINKED = ("aiconfigurator/trtllm",)
"""Frameworks whose custom kernel needs faster links than PCIe."""
PCIE_BPS = 64e9
"""Bandwidth of PCIe 5.0 x16 in one direction [B/s]: devices with no faster link have no direct links."""

RING = 8.0
"""Number of ranks up to which rows determine the share of the link that a ring attains."""
TREE = 6.0
"""Hops of a tree, up and down, for each doubling of the ranks. A hop of it takes as long as three of the ring's: all-reduces
of 32 KiB to 1 MiB among 32 GB200 take 1.1 to 1.3 times as long as among 16 (openxla/xla, its table of NVLink domains)."""

PARAMETERS = parameters_of("allreduce")


@compiled_part
def own_kernel(inputs: Records, link: float) -> bool:
    """Return whether a framework has a custom kernel for the message, with `link` bytes/s between peers."""
    if inputs.own_kernel == LIBRARY:
        return False
    return link > PCIE_BPS or (inputs.own_kernel == OWN and inputs.ranks <= 2.0)


@compiled_part
def own_seconds(parameters: Records, message: float, n: float, link: float) -> float:
    """Return the seconds of a framework's custom kernel, which reads messages in one step or two.

    `link` is attained [B/s].
    """
    rate = link * parameters.own_link
    shared = message * 2.0 * (n - 1.0) / n / rate + parameters.own_stage_s
    whole_message = message * (n - 1.0) / rate
    return float(parameters.own_launch_s + (n - 1.0) * parameters.own_hop_s + min(whole_message, shared))


@compiled_part
def parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the seconds of one all-reduce, and its arithmetic, memory and fixed seconds."""
    n = inputs.ranks
    if n < 2.0 or inputs.bytes <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    link = by_ranks(parameters.link_2, parameters.link_4, parameters.link_8, n) * link_among(hardware, n)
    most = min(n, RING)
    wire = inputs.bytes * 2.0 * (most - 1.0) / most / link
    custom = own_kernel(inputs, hardware.link_bandwidth)
    total = own_seconds(parameters, min(inputs.bytes, OWN_BYTES), n, link) if custom else 0.0
    fixed = parameters.own_launch_s + (n - 1.0) * parameters.own_hop_s
    if not custom or inputs.bytes > OWN_BYTES:
        hops = min(2.0 * (n - 1.0), TREE * math.log2(n)) * parameters.hop_s
        fixed = parameters.launch_s + hops
        total = max(total, parameters.launch_s + by_protocol(hops, wire, parameters.flag_bytes, parameters.simple_hops))
    return max(total, inputs.bytes / hardware.link_bandwidth), 0.0, wire, fixed


def from_table(table: KernelTable) -> F8:
    """Return the quantities of measured rows."""
    custom = np.array([name.startswith("custom") for name in table["kernel"]])
    linked = np.array([framework(source) in LINKED for source in table["source"]])
    kernel = np.where(custom, np.where(linked, OWN_LINKED, OWN), LIBRARY)
    return np.column_stack([table["bytes"], table["ranks"], kernel]).astype(np.float64)


def from_op(op: Op) -> F8 | None:
    """Return the quantities of an op that states its ranks.

    Frameworks use custom kernels unless the op says otherwise.
    """
    ranks = op.shape.get("ranks")
    return None if ranks is None else np.array([op.act_bytes, ranks, LIBRARY if LIBRARY_SUMS in op.shape else OWN])


@compiled_part
def work(inputs: Records) -> Work:
    """Return the bytes that a device must send: its message once, if the switch adds up."""
    return 0.0, 0.0, inputs.bytes, C_16


rows = rows_of("allreduce", parts, work)


def _kernel(inputs: Records) -> npt.NDArray[np.int64]:
    """Return each call's kernel: the library's or a framework's."""
    return np.where(inputs["own_kernel"] > LIBRARY, 1, 0)


ALLREDUCE = register(
    Family("allreduce", "all-reduce", ("all_reduce",), PARAMETERS, QUANTITIES, rows, from_table,
           from_op, by_framework=("launch_s", "own_launch_s"), branches=("library", "own"),
           branch=_kernel,
           framework_time=False)
)  # fmt: skip

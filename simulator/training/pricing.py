"""Seconds of kernels and exchanges of a training step, from the price list of serving."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...devices.calibrated.libraries import BLACKWELL, HOPPER, generation
from ...devices.collectives.plans import Topology, cheapest, plan
from ...devices.hosts.catalog import link_of
from ...devices.link import LinkModel
from ...devices.spec import DeviceSpec
from ...workloads.ops import Op, about
from ...workloads.training import RepeatedOp
from ..deploy.deployment import Deployment
from ..deploy.placement import regions

SUSTAINED = {(HOPPER, "fp8"): 1.19, (BLACKWELL, "fp8"): 1.13, (BLACKWELL, "fp4"): 0.81}
"""Seconds of matrix kernels in steps of training over those of the same kernels in serving, by generation and arithmetic; other formats count as the
8-bit one. Boards work at their limit for seconds on end, and 4-bit products are of another library. With `WATTS`, `layers.LAUNCH_S` and `layers.SYNC_S`
fitted to NVIDIA-NeMo/Megatron-Bridge@067f987d, performance-summary: 103 rows of five models (docs/training.md, with each model and card left out)."""
WATTS, NOMINAL_W, MOST = 0.77, 480e-15, 1.25
"""Exponent by which a Blackwell board's rate at its limit goes with its watts for a nominal 16-bit FLOP/s; those of GB200 [W s]; no board gains from more
than `MOST` times as many."""


def sustained(spec: DeviceSpec, op: Op) -> float:
    """Factor on the seconds of a matrix kernel that runs for as long as a training step."""
    if not about(op.kind).matrix:
        return 1.0
    kin = generation(spec)
    factor = SUSTAINED.get((kin, op.dtype), SUSTAINED.get((kin, "fp8"), 1.0))
    if kin != BLACKWELL or spec.limit_W is None:
        return factor
    peak = max((p.peak_flops_per_s or {}).get("bf16", 0.0) for p in spec.processors.values())
    return float(factor * min(spec.limit_W / peak / NOMINAL_W, MOST) ** -WATTS)


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices on the devices and links of a deployment."""

    deployment: Deployment

    def op(self, work: RepeatedOp) -> float:
        """Seconds of kernels where the placement rule runs them [s]."""
        d, op = self.deployment, work.op
        if op.flops <= 0 and op.act_bytes <= 0:
            return 0.0
        placed = regions([op], d.device, d.placement, True, d.system.mapping.splitter)
        return (
            sustained(d.system.device, op)
            * work.times
            * work.slower
            * sum(region.seconds for region in d.device.run(placed))
        )

    def exchange(self, kind: str, message_bytes: float, topology: Topology, algorithm: str = "") -> float:
        """Seconds of a collective: measured within a node where it was, else the cheapest algorithm.

        Parameters
        ----------
        kind : str
            Of collective, as in `devices.collectives.plans.ALGORITHMS`.
        message_bytes : float
            As `devices.link.collective` counts it [B].
        algorithm : str
            By name instead, in a node too.
        """
        n = topology.ranks
        if n < 2 or message_bytes <= 0:
            return 0.0
        if algorithm:
            return plan(kind, algorithm, topology).seconds(message_bytes)
        if topology.outermost == 0:
            op = collective_op(kind, message_bytes, n)
            link = topology.levels[0].link
            return LinkModel(link, n, self.deployment.device.collectives).cost(op).seconds
        return cheapest(kind, topology, message_bytes).seconds(message_bytes)

    def send(self, message_bytes: float, across: bool) -> float:
        """Seconds from one device to another [s]."""
        system = self.deployment.system
        link = system.device.node_link if across else link_of(system)
        measured = None if across else self.deployment.device.collectives
        return LinkModel(link, 2, measured).cost(collective_op("transfer", message_bytes, 2)).seconds


def collective_op(kind: str, message_bytes: float, ranks: int) -> Op:
    """An exchange of bytes as an op, for models that price ops."""
    return Op(
        name=f"training_{kind}", layer="communication", kind=kind, phase="both",
        shape={"ranks": ranks}, dtype="bf16", flops=0.0, act_bytes=message_bytes,
    )  # fmt: skip


def along_sequence(op: Op, share: float) -> Op:
    """The op on a share of its tokens: what tensor-parallel devices split along the sequence."""
    rows = "m" if op.product else "rows"
    shape = {**op.shape, rows: op.shape[rows] * share}
    return replace(op, shape=shape, flops=op.flops * share, act_bytes=op.act_bytes * share)

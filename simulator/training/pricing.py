"""Seconds of kernels and exchanges of a training step, from the price list of serving."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...devices.collectives.plans import Topology, cheapest, plan
from ...devices.hosts.catalog import link_of
from ...devices.link import LinkModel
from ...workloads.ops import Op
from ...workloads.training import RepeatedOp
from ..deploy.deployment import Deployment
from ..deploy.placement import regions


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
        return work.times * sum(region.seconds for region in d.device.run(placed))

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

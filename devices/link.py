"""Costs of collectives between devices: latency of the hops plus bytes over bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..workloads.ops import Op
from .cost import DESCRIPTION, Cost, Evidence, KernelModel, Roof
from .prices import ROOFLINE, PriceRow, Probe
from .spec import LinkSpec

LATENCY_BYTES = "latency + bytes/bandwidth"
"""Name of the model for collectives without measurements."""


@dataclass(frozen=True, slots=True)
class Collective:
    """Hops and traffic of one collective algorithm among `n` devices.

    Attributes
    ----------
    hops : float
        Link latencies in a row.
    traffic : float
        Bytes each device sends, as a multiple of the message.
    """

    hops: float
    traffic: float


def collective(kind: str, ranks: int) -> Collective:
    """Return the hops and traffic of a collective, relative to the message that one device contributes or gathers.

    Parameters
    ----------
    kind : str
        ``all_reduce``: ring, 2(n-1) hops, each moving 1/n of the message (Patarasuk and Yuan,
        JPDC 2009). ``all_gather`` and ``reduce_scatter``: (n-1) hops. ``all_to_all``: every device sends (n-1)/n of its
        buffer directly, one hop. ``transfer``: a device sends its whole buffer to another.
    ranks : int
        Devices taking part.

    Examples
    --------
    >>> collective("all_reduce", 4)
    Collective(hops=6.0, traffic=1.5)
    """
    n = float(ranks)
    if kind == "transfer":
        return Collective(1.0, 1.0)
    if ranks < 2:
        return Collective(0.0, 0.0)
    if kind == "all_reduce":
        return Collective(2 * (n - 1), 2 * (n - 1) / n)
    if kind in ("all_gather", "reduce_scatter"):
        return Collective(n - 1, (n - 1) / n)
    if kind == "all_to_all":
        return Collective(1.0, (n - 1) / n)
    raise ValueError(f"unknown collective {kind!r}")


@dataclass(frozen=True, slots=True)
class LinkModel:
    """Cost model of collectives over one link; a `CostModel` for ops of a collective kind.

    Attributes
    ----------
    ranks : int
        Devices taking part.
    measured : KernelModel, optional
        Seconds of the collectives that measurements tell; energy is always the link's.
    """

    spec: LinkSpec
    ranks: int
    measured: KernelModel | None = None

    def cost(self, op: Op) -> Cost:
        shape = collective(op.kind, self.ranks)
        sent = op.act_bytes * shape.traffic
        joules = {"link": sent * self.spec.energy_J_per_byte}
        wire = sent / self.spec.bandwidth_bytes_per_s
        fixed = shape.hops * self.spec.latency_s
        known = Cost.of(wire + fixed, 0.0, wire, fixed, joules)
        if self.measured is not None and self.measured.knows(op):
            known = replace(self.measured.cost(op), joules=joules)
        return replace(known, bound="latency" if known.bound == "latency" else "link")

    def row(self, op: Op, probe: Probe) -> PriceRow:
        shape = collective(op.kind, self.ranks)
        params = np.zeros(1, ROOFLINE)[0]
        params.flops = params.peak = np.inf
        rate = self.spec.bandwidth_bytes_per_s
        params.bytes = rate / shape.traffic if shape.traffic else np.inf
        params.fixed = shape.hops * self.spec.latency_s
        params.j_act = shape.traffic * self.spec.energy_J_per_byte
        if self.measured is not None and self.measured.knows(op):
            row = self.measured.row(op, probe)
            if row.curve is None and row.formula is None:  # its price is in its terms
                params.flops, params.bytes, params.fixed = row.params.flops, row.params.bytes, row.params.fixed
            return replace(row, params=params)
        return PriceRow(params)

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        known = [op for op in ops if self.measured is not None and self.measured.knows(op)]
        out = self.measured.evidence(known) if self.measured is not None and known else []
        return out if len(known) == len(ops) else [*out, Evidence(LATENCY_BYTES, "", DESCRIPTION)]

    def roof(self, dtype: str) -> Roof:
        return Roof(np.inf, self.spec.bandwidth_bytes_per_s, 1.0, 1.0, self.spec.latency_s)

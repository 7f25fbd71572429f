"""Collectives between devices: latency of the hops plus bytes over bandwidth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..workloads.ops import Op
from .cost import NUM_PARAMS, P_BYTES, P_FIXED, P_FLOPS, P_J_ACT, P_PEAK, Cost, Formula, KernelModel
from .spec import LinkSpec


@dataclass(frozen=True, slots=True)
class Collective:
    """Hops and wire traffic of one algorithm among `n` devices.

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
    """Cost structure of a collective; the message is what one device contributes or gathers.

    Parameters
    ----------
    kind : str
        ``all_reduce``: ring, 2(n-1) hops, each moving 1/n of the message (Patarasuk and Yuan,
        JPDC 2009). ``all_gather`` and ``reduce_scatter``: (n-1) hops. ``all_to_all``: every
        device sends (n-1)/n of its buffer directly, one hop. ``transfer``: a device sends its
        whole buffer to another.
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
    """Cost model of collectives over one link; a `CostModel` for ops of a collective kind."""

    spec: LinkSpec
    ranks: int

    def cost(self, op: Op) -> Cost:
        shape = collective(op.kind, self.ranks)
        sent = op.act_bytes * shape.traffic
        wire = sent / self.spec.bandwidth_bytes_per_s
        fixed = shape.hops * self.spec.latency_s
        joules = {"link": sent * self.spec.energy_J_per_byte}
        bound = "latency" if fixed > wire else "link"
        return Cost(wire + fixed, 0.0, wire, fixed, joules, bound)

    def lower(self, kind: str, dtype: str) -> npt.NDArray[np.float64]:
        shape = collective(kind, self.ranks)
        out = np.zeros(NUM_PARAMS)
        out[P_FLOPS] = out[P_PEAK] = np.inf
        rate = self.spec.bandwidth_bytes_per_s
        out[P_BYTES] = rate / shape.traffic if shape.traffic else np.inf
        out[P_FIXED] = shape.hops * self.spec.latency_s
        out[P_J_ACT] = shape.traffic * self.spec.energy_J_per_byte
        return out


@dataclass(frozen=True, slots=True)
class FittedLink:
    """Collectives whose seconds come from measurements; energy from the link. A `KernelModel`."""

    base: LinkModel
    model: KernelModel

    @property
    def spec(self) -> LinkSpec:
        return self.base.spec

    def cost(self, op: Op) -> Cost:
        known, x = self.base.cost(op), self.quantities(op)
        if x is None:
            return known
        seconds = float(self.seconds(op, x[None, :])[0])
        fixed = max(seconds - known.memory_s, 0.0)
        bound = "latency" if fixed > known.memory_s else "link"
        return Cost(seconds, 0.0, known.memory_s, fixed, known.joules, bound)

    def lower(self, kind: str, dtype: str) -> npt.NDArray[np.float64]:
        return self.base.lower(kind, dtype)

    def quantities(self, op: Op) -> npt.NDArray[np.float64] | None:
        return self.model.quantities(op)

    def seconds(self, op: Op, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return self.model.seconds(op, x)

    def formula(self, op: Op) -> Formula | None:
        return None

"""The cost model of a collective whose algorithm is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...workloads.ops import Op
from ..cost import DESCRIPTION, Cost, Evidence, Roof
from ..prices import NUM_PARAMS, P_BYTES, P_FIXED, P_FLOPS, P_J_ACT, P_PEAK, PriceRow, Probe
from ..spec import LinkSpec
from .plans import Plan


@dataclass(frozen=True, slots=True)
class PlannedLink:
    """Cost model of ops of one collective, by its plan; a `CostModel` like `devices.link.LinkModel`.

    Attributes
    ----------
    plan : Plan
    spec : LinkSpec
        The link by whose name the ops go: the outermost.
    scale : float
        Message of the plan over the bytes of an op.
    """

    plan: Plan
    spec: LinkSpec
    scale: float = 1.0

    def cost(self, op: Op) -> Cost:
        message = op.act_bytes * self.scale
        wire, fixed = message * self.plan.s_per_byte, self.plan.latency_s
        joules = {"link": message * self.plan.J_per_byte}
        bound = "latency" if fixed > 0.5 * (wire + fixed) else "link"
        return Cost(wire + fixed, 0.0, wire, fixed, joules, bound)

    def row(self, op: Op, probe: Probe) -> PriceRow:
        params = np.zeros(NUM_PARAMS)
        params[P_FLOPS] = params[P_PEAK] = np.inf
        rate = self.plan.s_per_byte * self.scale
        params[P_BYTES] = 1.0 / rate if rate else np.inf
        params[P_FIXED] = self.plan.latency_s
        params[P_J_ACT] = self.plan.J_per_byte * self.scale
        return PriceRow(params)

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        name = f"{self.plan.algorithm} collectives: messages x latency + bytes/bandwidth"
        return [Evidence(name, "", DESCRIPTION)] if ops else []

    def roof(self, dtype: str) -> Roof:
        rate = self.plan.s_per_byte * self.scale
        return Roof(np.inf, 1.0 / rate if rate else np.inf, 1.0, 1.0, self.plan.latency_s)

"""Cost model of a collective with a given algorithm, or with the cheapest of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...workloads.ops import Op
from ..cost import DESCRIPTION, LATENCY, MEMORY, Cost, Evidence, Roof
from ..prices import ROOFLINE, PriceRow, Probe, by_count
from ..spec import LinkSpec
from .plans import CollectivePlan

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PlannedLink:
    """Cost model of the ops of one collective, given by one or more plans.

    Each op uses the cheapest plan; its energy is the largest of all plans.

    Attributes
    ----------
    spec : LinkSpec
        The link by whose name the ops go: the outermost.
    scale : float
        Message of the plan over the bytes of an op.
    others : tuple of CollectivePlan
        Plans of the same ops in other steps: energy is the largest of all.
    """

    plans: tuple[CollectivePlan, ...]
    spec: LinkSpec
    scale: float = 1.0
    others: tuple[CollectivePlan, ...] = ()

    @property
    def _J_per_byte(self) -> float:
        return max(plan.J_per_byte for plan in (*self.plans, *self.others)) * self.scale

    def plan(self, op: Op) -> CollectivePlan:
        """Return the plan that an op runs: the cheapest one."""
        return min(self.plans, key=lambda plan: plan.seconds(op.act_bytes * self.scale))

    def cost(self, op: Op) -> Cost:
        plan, message = self.plan(op), op.act_bytes * self.scale
        wire, fixed = message * plan.s_per_byte, plan.latency_s
        joules = {"link": op.act_bytes * self._J_per_byte}
        bound = "latency" if fixed > 0.5 * (wire + fixed) else "link"
        return Cost(wire + fixed, 0.0, wire, fixed, joules, bound)

    def row(self, op: Op, probe: Probe) -> PriceRow:
        plan, params = self.plan(op), np.zeros(1, ROOFLINE)[0]
        params.flops = params.peak = np.inf
        rate = plan.s_per_byte * self.scale
        params.bytes = 1.0 / rate if rate else np.inf
        params.fixed = plan.latency_s
        params.j_act = self._J_per_byte
        row = PriceRow(params)
        if len(self.plans) == 1:
            return row
        return replace(row, curve=by_count(op, probe, lambda op: np.array([op.act_bytes]), self._prices))

    def _prices(self, op: Op, inputs: F8) -> tuple[F8, F8]:
        """Return seconds and bounds of messages of `inputs` bytes, shape (n, 1)."""
        latencies = np.array([plan.latency_s for plan in self.plans])
        rates = np.array([plan.s_per_byte for plan in self.plans]) * self.scale
        times = latencies + inputs * rates
        best = times.argmin(axis=1)
        seconds = times[np.arange(len(inputs)), best]
        return seconds, np.where(latencies[best] > 0.5 * seconds, LATENCY, MEMORY)

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        plans = [p for op in ops for p in (self.plan(op), *self.others)]
        name = f"{', '.join(sorted({p.algorithm for p in plans}))} collectives: messages x latency + bytes/bandwidth"
        timed = [hop.timed for p in plans for hop in p.hops]
        known = [t for t in timed if t is not None]
        if not known or len(known) < len(timed):
            return [Evidence(name, "", DESCRIPTION)] if ops else []
        least = max(known, key=lambda t: t.ratios.median_error)
        why = "timed on other cards of its generation" if least.moved else ""
        return [Evidence(name, "", "transferred" if why else "fitted", least.ratios.median_error, least.rows, why=why,
                         ratios=least.ratios)]  # fmt: skip

    def roof(self, dtype: str) -> Roof:
        rate = min(plan.s_per_byte for plan in self.plans) * self.scale
        latency = min(plan.latency_s for plan in self.plans)
        return Roof(np.inf, 1.0 / rate if rate else np.inf, 1.0, 1.0, latency)

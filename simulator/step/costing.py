"""The explicit path: build, place and cost the ops of one step, with one program for each rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ...devices.cost import Cost
from ...devices.device import RegionCost
from ...workloads.batch import PREFILL, TOKENS, Batch, Moments
from ...workloads.ops import Loads, Op
from ..deploy.deployment import Deployment
from ..deploy.expert_parts import ExpertPart
from ..deploy.placement import regions
from ..registry import all_hooks, hooks_at
from ..streams import Timeline
from .sections import sections_of

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class PlacedOp:
    """One op as one device runs it.

    Attributes
    ----------
    op : Op
        Shape, FLOPs and bytes of one device's share.
    processor : str
        Name of the processor, or of the link for a collective.
    cost : Cost
        Cost of one device's share in one layer.
    count : int
        Number of layers that run the same op.
    devices : int
        Number of devices that run a share of it.
    critical : bool
        Whether it is on the slowest rank or in the slowest expert group, so that it counts towards the step's time.
    exposed : float
        Fraction of its seconds that count towards the step's time; the rest is hidden behind other ops.
    """

    op: Op
    processor: str
    cost: Cost
    count: int
    devices: int
    critical: bool
    exposed: float = 1.0


@dataclass(frozen=True, slots=True)
class StageCost:
    """One step: duration, dynamic energy of all devices, and every op.

    With pipeline parallelism `seconds` is the latency of one batch through all stages, and `stages` has the seconds of each
    stage, including its transfer. A step with overlap has the name of its method in `way`, and a timeline of every stage.
    """

    seconds: float
    joules: float
    ops: tuple[PlacedOp, ...]
    stages: tuple[float, ...]
    way: str = "none"
    timelines: tuple[Timeline, ...] = ()
    fetch: Any = None  # result of a part for which layers waited, such as the expert cache

    @property
    def busy_s(self) -> float:
        """Return the seconds in which devices run ops, summed over devices."""
        return sum(p.cost.seconds * p.count * p.devices for p in self.ops)

    def busy_within(self, devices: float) -> float:
        """Return `busy_s`, at most the step's time on `devices` devices: on one device several ops may run in parallel."""
        busy_s, most = self.busy_s, self.seconds * devices
        return busy_s if busy_s < most * 1.000001 else most  # tolerance for rounding

    def times(self, key: Callable[[PlacedOp], K]) -> dict[K, float]:
        """Return the seconds of the critical path by a property (`key`) of its ops, without time hidden behind other ops.

        Ops that run in parallel on two processors of a device count in full.
        """
        out: dict[K, float] = {}
        for placed in self.ops:
            if placed.critical:
                name = key(placed)
                took = placed.cost.seconds * placed.count
                out[name] = out.get(name, 0.0) + took * placed.exposed
        return out


class PlacedOps(NamedTuple):
    """Placed ops of consecutive regions, with their total time."""

    seconds: float
    ops: list[PlacedOp]
    regions: Sequence[RegionCost]


class Stage:
    """Accumulates placed ops; one instance per step."""

    def __init__(
        self, deployment: Deployment, batches: Sequence[Batch], step: int, replica: int, expected: bool, captured: int
    ) -> None:
        self.d = deployment
        self.batches = batches
        self.step, self.replica, self.expected = step, replica, expected
        windows, most = deployment.shard.windows, deployment.several
        self.moments = [_padded(b.moments(windows, most > 1), captured, most) for b in batches]
        self.unequal = [_unequal(deployment, b, captured) for b in batches]
        self.mixed = any(bool((b.phase == PREFILL).any()) for b in batches)
        self.union = Batch(
            *(np.concatenate([getattr(b, f) for b in batches]) for f in ("q_len", "context", "phase", "seq_id"))
        )
        self.placed: list[PlacedOp] = []
        self.seconds = [0.0] * len(deployment.stages)  # of each pipeline stage so far
        self.experts_s: list[float] = []  # of each expert part

    def total(self, caches: Any = None) -> StageCost:
        d = self.d
        for section in sections_of(d):
            if section.closing:
                for part in d.experts:
                    if part.stage == section.stage:
                        self._experts(part)
            programs = [
                [lengthened(op, added) for op in section.build(m)]
                for m, added in zip(self.moments, self.unequal, strict=True)
            ]
            self._ranks(programs, section.layers, section.stage)
        fetch = None
        for hook, value in hooks_at("waits", d.parts):
            fetch = hook(value, self, caches)
        joules = sum(p.cost.total_joules * p.count * p.devices for p in self.placed)
        stages = tuple(self.seconds)
        return StageCost(sum(stages), joules, tuple(self.placed), stages, fetch=fetch)

    def _ranks(self, programs: Sequence[Sequence[Op]], count: int, stage: int) -> None:
        """Run one program per rank; the section lasts as long as the slowest rank."""
        per_rank: list[tuple[float, list[PlacedOp]]] = []
        for program, m in zip(programs, self.moments, strict=True):
            active = [op for op in program if op.flops > 0 or op.act_bytes > 0]
            seconds, placed = self._collectives(active, count)
            compute = [op for op in active if not op.exchange]
            compute_s, ops, _ = self._place(compute, count, self.d.layout.tp, m.tokens)
            per_rank.append((seconds + compute_s, placed + ops))
        slowest = max(range(len(per_rank)), key=lambda r: per_rank[r][0])
        self.seconds[stage] += count * per_rank[slowest][0]
        for r, (_, placed) in enumerate(per_rank):
            self.placed += placed if r == slowest else [replace(p, critical=False) for p in placed]

    def _place(
        self, ops: Sequence[Op], count: int, devices: int, tokens: float = 0.0, on: Deployment | None = None
    ) -> PlacedOps:
        costs = self._regions(ops, tokens, on)
        placed = [PlacedOp(op, name, cost, count, devices, True) for region in costs for op, name, cost in region.ops]
        return PlacedOps(sum(region.seconds for region in costs), placed, costs)

    def _regions(self, ops: Sequence[Op], tokens: float = 0.0, on: Deployment | None = None) -> list[RegionCost]:
        d = on or self.d
        splitter = d.system.mapping.splitter
        return d.device.run(regions(ops, d.device, d.placement, self.mixed, splitter, tokens))

    def _collectives(self, ops: Sequence[Op], count: int) -> tuple[float, list[PlacedOp]]:
        d, seconds, placed = self.d, 0.0, []
        for op in ops:
            if not op.exchange:
                continue
            link = d.link(op, self.mixed)
            cost = link.cost(op)
            seconds += cost.seconds
            placed.append(PlacedOp(op, link.spec.name, cost, count, d.layout.tp, True))
        return seconds, placed

    def _experts(self, part: ExpertPart) -> None:
        """Run one expert part; the slowest group determines its time."""
        self.experts_s.append(self._groups(part, self._loads(part)).seconds * part.layers)
        self.seconds[part.stage] += self.experts_s[-1]

    def _groups(self, part: ExpertPart, loads: Loads) -> PlacedOps:
        """Run the experts of one layer at given loads on every group; return the ops of the slowest group."""
        if loads.routed == 0:
            return PlacedOps(0.0, [], [])
        loads = self._slots(part, loads)
        holder = self.d if self.d.apart is None or part.kept else self.d.apart.holder
        devices = holder.layout.devices if holder.ranks > 1 else holder.layout.tp
        group_size = len(loads.tokens) // part.ep
        groups: list[PlacedOps] = []
        known: dict[bytes, PlacedOps] = {}  # equal loads cost the same
        for g in range(part.ep):
            span = slice(g * group_size, (g + 1) * group_size)
            key = loads.tokens[span].tobytes() + loads.experts[span].tobytes()
            if key not in known:
                op = part.spec.expert_op(Loads(loads.tokens[span], loads.experts[span]), holder.run)
                if not op.flops > 0:
                    continue
                known[key] = self._place([op], part.layers, devices // part.ep, on=holder)
            groups.append(known[key])
        slowest = max(range(len(groups)), key=lambda g: groups[g].seconds)
        hidden = {id(group): [replace(p, critical=False) for p in group.ops] for group in known.values()}
        for g, group in enumerate(groups):
            self.placed += group.ops if g == slowest else hidden[id(group)]
        return groups[slowest]

    def _slots(self, part: ExpertPart, loads: Loads) -> Loads:
        """Return the loads of the experts in each group's slots, including redundant copies."""
        if part.placed is None or self.expected:
            return loads
        for hook in all_hooks("slot_loads"):
            loads = hook(part, loads, self.step, self.replica)
        return loads

    def _loads(self, part: ExpertPart) -> Loads:
        if self.expected:
            choices = float(len(self.union.q_len)) if part.spec.routed.by_request else None
            return part.expected(float(self.union.tokens), choices)
        return part.router.loads(self.step, part.row, self.union, self.replica)


def _padded(moments: Moments, captured: int, several: int) -> Moments:
    """Return the moments of a batch, padded to the captured graph that runs it if there is one."""
    if captured:
        from .unequal import padded_batch  # compiled code, which a step without graphs does without

        moments.values[TOKENS] = padded_batch(int(moments.values[TOKENS]), captured, several)
    return moments


def _unequal(deployment: Deployment, batch: Batch, captured: int) -> float:
    """Return the seconds that the decodes' unequal contexts add to the attention of one layer."""
    if not deployment.device.measured:  # rooflines know nothing of it
        return 0.0
    from .unequal import unequal_seconds  # compiled code, which a step on rooflines does without

    return unequal_seconds(deployment, batch, captured)


def lengthened(op: Op, seconds: float) -> Op:
    """Return a decode attention op with the time added by unequal contexts; windowed attention is unchanged."""
    if seconds == 0.0 or op.kind != "attention_decode" or op.shape["window"]:
        return op
    return replace(op, shape={**op.shape, "uneven": seconds})

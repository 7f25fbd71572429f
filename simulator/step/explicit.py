"""The explicit path: build every op of one step, place it, cost it, add up.

This is the readable definition of a step's time and energy. The compiled path
(`lowering`, `compiled`) must agree with it to 1e-9 relative; a property test draws batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ...devices.cost import Cost
from ...workloads.batch import PREFILL, TOKENS, Batch, Moments
from ...workloads.ops import Loads, Op
from ..deploy.deployment import Deployment, ExpertPart
from ..deploy.placement import regions
from .sections import sections_of

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class PlacedOp:
    """One op as one device runs it.

    Attributes
    ----------
    op : Op
        Shape, FLOPs and bytes of the device's share.
    processor : str
        Processor name, or the link's for a collective.
    cost : Cost
        Of one op.
    count : int
        Layers that run the same op.
    devices : int
        Devices that run it (each its own share).
    critical : bool
        Whether it lies on the slowest rank or expert group, i.e. counts towards the step.
    """

    op: Op
    processor: str
    cost: Cost
    count: int
    devices: int
    critical: bool


@dataclass(frozen=True, slots=True)
class StageCost:
    """One step: duration, dynamic energy of all devices, and every op.

    With pipeline parallel the duration is that of one batch on its way through all stages, of
    which `stages` gives each one's part, what it sends on included.
    """

    seconds: float
    joules: float
    ops: tuple[PlacedOp, ...]
    stages: tuple[float, ...]

    @property
    def busy_s(self) -> float:
        """Seconds that devices run ops, summed over devices."""
        return sum(p.cost.seconds * p.count * p.devices for p in self.ops)

    def times(self, key: Callable[[PlacedOp], K]) -> dict[K, float]:
        """Seconds of the critical path by a property of its ops; those side by side count in full."""
        out: dict[K, float] = {}
        for placed in self.ops:
            if placed.critical:
                name = key(placed)
                out[name] = out.get(name, 0.0) + placed.cost.seconds * placed.count
        return out


def dealt(
    deployment: Deployment, decodes: int, context: int, chunks: Sequence[tuple[int, int]] = ()
) -> list[Batch]:
    """Deal a step's work to the ranks of one engine, a batch each; the first get what is left over.

    Parameters
    ----------
    decodes, context : int
        Decoding sequences, and the cached tokens of each.
    chunks : sequence of (int, int)
        New and earlier tokens of each prompt.
    """
    ranks = deployment.ranks
    return [
        Batch.of([context] * len(range(rank, decodes, ranks)), chunks[rank::ranks])
        for rank in range(ranks)
    ]


def explicit_stage(
    deployment: Deployment,
    batches: Sequence[Batch],
    step: int = 0,
    replica: int = 0,
    expected: bool = False,
    captured: int = 0,
) -> StageCost:
    """Cost one step by building all of its ops.

    Parameters
    ----------
    batches : sequence of Batch
        One per rank of the engine (`Deployment.ranks`); may be empty batches.
    step, replica : int
        Counters of the expert draws.
    expected : bool
        Use the router's expected loads instead of a draw (analysis without noise).
    captured : int
        Largest batch with a captured graph (`Policy.captured`): smaller ones run padded to the
        next that has one. Attention, experts and the head know the padding and leave it out.

    Returns
    -------
    StageCost
        ``seconds`` is the sum over regions of the slowest track, over layers of the slowest
        rank and expert group, plus collectives.
    """
    if len(batches) != deployment.ranks:
        raise ValueError(f"needs {deployment.ranks} batches (one a rank), not {len(batches)}")
    builder = _Stage(deployment, batches, step, replica, expected, captured)
    return builder.total()


class _Stage:
    """Accumulates placed ops; one instance per step."""

    def __init__(
        self,
        deployment: Deployment,
        batches: Sequence[Batch],
        step: int,
        replica: int,
        expected: bool,
        captured: int,
    ) -> None:
        self.d = deployment
        self.batches = batches
        self.step, self.replica, self.expected = step, replica, expected
        self.moments = [_padded(b.moments(deployment.shard.windows), captured) for b in batches]
        self.unequal = [_unequal(deployment, b, captured) for b in batches]
        self.mixed = any(bool((b.phase == PREFILL).any()) for b in batches)
        self.union = Batch(
            *(np.concatenate([getattr(b, f) for b in batches])
              for f in ("q_len", "context", "phase", "seq_id"))
        )  # fmt: skip
        self.placed: list[PlacedOp] = []
        self.seconds = [0.0] * len(deployment.stages)  # of each pipeline stage so far

    def total(self) -> StageCost:
        d = self.d
        for section in sections_of(d):
            if section.closing:
                for part in d.experts:
                    if part.stage == section.stage:
                        self._experts(part)
            programs = [
                [_lengthened(op, added) for op in section.build(m)]
                for m, added in zip(self.moments, self.unequal, strict=True)
            ]
            self._ranks(programs, section.layers, section.stage)
        joules = sum(p.cost.total_joules * p.count * p.devices for p in self.placed)
        stages = tuple(self.seconds)
        return StageCost(sum(stages), joules, tuple(self.placed), stages)

    def _ranks(self, programs: Sequence[Sequence[Op]], count: int, stage: int) -> None:
        """Run one program per rank; the section lasts as long as the slowest rank."""
        per_rank: list[tuple[float, list[PlacedOp]]] = []
        for program in programs:
            active = [op for op in program if op.flops > 0 or op.act_bytes > 0]
            seconds, placed = self._collectives(active, count)
            compute = [op for op in active if op.layer != "communication"]
            own, ops = self._place(compute, count, self.d.layout.tp)
            per_rank.append((seconds + own, placed + ops))
        slowest = max(range(len(per_rank)), key=lambda r: per_rank[r][0])
        self.seconds[stage] += count * per_rank[slowest][0]
        for r, (_, placed) in enumerate(per_rank):
            self.placed += [replace(p, critical=r == slowest) for p in placed]

    def _place(self, ops: Sequence[Op], count: int, devices: int) -> tuple[float, list[PlacedOp]]:
        d = self.d
        costs = d.device.run(
            regions(ops, d.device, d.placement, self.mixed, d.system.mapping.splitter)
        )
        placed = [
            PlacedOp(op, name, cost, count, devices, True)
            for region in costs
            for op, name, cost in region.ops
        ]
        return sum(region.seconds for region in costs), placed

    def _collectives(self, ops: Sequence[Op], count: int) -> tuple[float, list[PlacedOp]]:
        d, seconds, placed = self.d, 0.0, []
        for op in ops:
            if op.layer != "communication":
                continue
            link = d.link(op)
            cost = link.cost(op)
            seconds += cost.seconds
            placed.append(PlacedOp(op, link.spec.name, cost, count, d.layout.tp, True))
        return seconds, placed

    def _experts(self, part: ExpertPart) -> None:
        """Run one expert part on every expert group; the slowest group counts."""
        loads = self._loads(part)
        if loads.routed == 0:
            return
        devices = self.d.layout.devices if self.d.ranks > 1 else self.d.layout.tp
        held = len(loads.tokens) // part.ep
        groups: list[tuple[float, list[PlacedOp]]] = []
        for g in range(part.ep):
            own = slice(g * held, (g + 1) * held)
            op = part.spec.expert_op(Loads(loads.tokens[own], loads.experts[own]), self.d.run)
            if op.flops > 0:
                groups.append(self._place([op], part.layers, devices // part.ep))
        slowest = max(range(len(groups)), key=lambda g: groups[g][0])
        self.seconds[part.stage] += groups[slowest][0] * part.layers
        for g, (_, placed) in enumerate(groups):
            self.placed += [replace(p, critical=g == slowest) for p in placed]

    def _loads(self, part: ExpertPart) -> Loads:
        if self.expected:
            return part.router.expected(part.row, float(self.union.tokens))
        return part.router.loads(self.step, part.row, self.union, self.replica)


def _padded(m: Moments, captured: int) -> Moments:
    """Moments of a batch that runs as a captured graph, if there is one."""
    if captured:
        from .unequal import padded_batch  # compiled code, which a step without graphs does without

        m.values[TOKENS] = padded_batch(int(m.values[TOKENS]), captured)
    return m


def _unequal(d: Deployment, batch: Batch, captured: int) -> float:
    """Seconds that unequal contexts of the decodes add to the attention of one layer."""
    if not d.device.measured:  # rooflines know nothing of it
        return 0.0
    from .unequal import unequal_seconds  # compiled code, which a step on rooflines does without

    return unequal_seconds(d, batch, captured)


def _lengthened(op: Op, seconds: float) -> Op:
    """A decode attention op with what unequal contexts add; windows even them out."""
    if seconds == 0.0 or op.kind != "attention_decode" or op.shape["window"]:
        return op
    return replace(op, shape={**op.shape, "uneven": seconds})

"""One step of decodes with attention and experts on devices of their own.

The devices that attend run everything but the routed experts: norms, attention, gates, shared experts,
dense layers, embedding and head, and hold the KV cache. The others hold routed experts and nothing else.
Every expert that a token chose gets its vector over the link between them, and sends one back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ....devices.spec import SystemSpec
from ....workloads.batch import Batch
from ....workloads.errors import CapacityError, InputError
from ....workloads.model import ModelSpec, embedding_ops
from ....workloads.ops import Loads, Op
from ...batching.kv import CacheSettings, rank_rules, sequence_bytes
from ...deploy.deployment import Deployment
from ...deploy.memory import device_memory
from ...deploy.placement import regions
from ...deploy.programs import LOGITS, head_program
from ...scenario.links import kv_link
from ...scenario.parts import DeployOptions, PoolOptions
from ...scenario.place import deployed
from ...step.sections import whole_layer
from ...streams.scheduler import Timeline, run
from ..overlap.chunking import chunk_tokens
from .holders import expert_bytes, held_bytes
from .schedule import ATTENTION, BACK, EXPERTS, OUT, Trip, pingpong

if TYPE_CHECKING:
    from ...frameworks.settings import EngineSettings

MOST_BATCHES = 64
"""Micro-batches of a step."""
LATENCY = "round trip"
"""What limits a step in which every stream waits for others."""
FULL = 0.9
"""Share of a step that a stream is busy, from which on it limits the step."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A model over two groups of devices.

    Attributes
    ----------
    attention, experts : Deployment
        The model on the devices of each group, of which only its own part is used there.
    rate, latency_s : float
        Of the link between them: of one device, one way [B/s], and of a message [s].
    """

    attention: Deployment
    experts: Deployment
    rate: float
    latency_s: float

    @property
    def devices(self) -> tuple[int, int]:
        """Of both groups."""
        one, other = (d.system.nodes * d.system.devices_per_node for d in (self.attention, self.experts))
        return one, other


class GroupMemory(NamedTuple):
    """Of a device of each group [B]: what is usable, and weights; of attention, a sequence's cache."""

    attention: float
    attention_weights: float
    sequence: float
    experts: float
    experts_weights: float

    @property
    def most(self) -> int:
        """Sequences of a rank that attends, of all micro-batches together."""
        return int((self.attention - self.attention_weights) / self.sequence)


class GroupWork(NamedTuple):
    """Seconds of the slowest device of a group, and what all of its devices spend and are busy."""

    seconds: float
    joules: float
    busy_s: float

    def plus(self, other: GroupWork) -> GroupWork:
        """One after the other."""
        return GroupWork(*(a + b for a, b in zip(self, other, strict=True)))


NO_WORK = GroupWork(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ApartStep:
    """A step of decodes.

    Attributes
    ----------
    sizes : tuple of int
        Sequences of each micro-batch.
    attention_s, experts_s, link_s : float
        Mean of a micro-batch in a layer with experts; of the link, one way [s].
    joules : tuple of (float, float)
        Of each group, static power among them [J].
    """

    sizes: tuple[int, ...]
    attention_s: float
    experts_s: float
    link_s: float
    timeline: Timeline
    joules: tuple[float, float]

    @property
    def seconds(self) -> float:
        """Of the step, in which every sequence gets a token [s]."""
        return self.timeline.makespan

    @property
    def tokens_per_s(self) -> float:
        """Of all sequences."""
        return sum(self.sizes) / self.seconds

    def busy(self) -> dict[str, float]:
        """Share of the step that each stream works; of the link the busier direction's."""
        found = self.timeline.busy()
        link = max(found.get(OUT, 0.0), found.get(BACK, 0.0))
        shares = {ATTENTION: found.get(ATTENTION, 0.0), EXPERTS: found.get(EXPERTS, 0.0), "link": link}
        return {name: s / self.seconds for name, s in shares.items()}

    @property
    def limit(self) -> str:
        """The stream that works nearly all of the step, or that none does."""
        busy = self.busy()
        first = max(busy, key=lambda name: busy[name])
        return first if busy[first] >= FULL else LATENCY


def check_apart(a: Apart) -> None:
    """Refuse what cannot be split so.

    Raises
    ------
    InputError
        Experts in attention, processors that are devices of their own, or no experts.
    """
    for d, flag in ((a.attention, "--attention-on"), (a.experts, "--experts-on")):
        if d.pools or d.system.mapping.separate or d.system.mapping.pipeline:
            raise InputError(flag, f"{d.system.name} has a mapping of its own; use plain devices")
    if any(r and not r.by_request for r in (la.mixer.routed for la in a.attention.model.layers)):
        raise InputError("MODEL", f"{a.attention.model.name} has experts in its attention")
    if not a.experts.experts:
        raise InputError("MODEL", f"{a.experts.model.name} has no experts to put elsewhere")


def memories(a: Apart, context: int) -> GroupMemory:
    """Memory of a device of each group, at so many cached tokens a sequence.

    Raises
    ------
    CapacityError
        Weights that do not fit; the message says of which group.
    """
    d = a.attention
    own = device_memory(d.stages[0], d.layout, d.system, elsewhere=expert_bytes(d)[0])
    sequence = float(sequence_bytes(rank_rules(d, CacheSettings()), np.array([context + 1]))[0])
    return GroupMemory(own.capacity, own.weights, sequence, *held_bytes(a.experts))


def apart_step(a: Apart, sequences: int, context: int, batches: int) -> ApartStep:
    """A step of decodes at equal contexts, with expected loads of experts.

    Parameters
    ----------
    sequences : int
        Dealt evenly to the ranks that attend, and those of a rank to its micro-batches.
    batches : int
        Micro-batches.

    Raises
    ------
    CapacityError
        Weights or KV cache that do not fit.
    InputError
        Pipeline stages.
    """
    if a.attention.layout.pp > 1:
        raise InputError("--pp", "cannot go with --attention-on, which costs one stage; --experts-on takes it")
    ranks = a.attention.layout.dp
    each, over = divmod(sequences, ranks)
    dealt = [
        (over * int(chunk_tokens(each + 1, batches, i)) + (ranks - over) * own, most)
        for i in range(batches)
        for own, most in [[int(chunk_tokens(n, batches, i)) for n in (each, each + (over > 0))]]
    ]
    sizes = tuple(size for size, _ in dealt if size)
    found = memories(a, context)
    each += over > 0
    if each > found.most:
        raise CapacityError(
            a.attention.system.name, f"the KV cache of {each:,} sequences does not fit: needs "
            f"{each * found.sequence / 2**30:.2f} GiB per device, "
            f"{(found.attention - found.attention_weights) / 2**30:.2f} GiB available",
        )  # fmt: skip
    dealt = dealt[: len(sizes)]
    known = {own: _Batch(a, *own, context) for own in dict.fromkeys(dealt)}
    trips = [known[own].trip for own in dealt]
    timeline = run(pingpong(trips))
    layers = len(trips[0].out)
    joules = [
        _spent(d, [known[own].works[side] for own in dealt], timeline.makespan, n)
        for side, (d, n) in enumerate(zip((a.attention, a.experts), a.devices, strict=True))
    ]

    def mean(parts: Sequence[Sequence[float]]) -> float:
        return sum(sum(own[:layers]) for own in parts) / (layers * len(trips))

    return ApartStep(
        sizes, mean([t.attention for t in trips]), mean([t.experts for t in trips]),
        mean([t.out for t in trips]), timeline, (joules[0], joules[1]),
    )  # fmt: skip


def _spent(d: Deployment, works: Sequence[GroupWork], seconds: float, devices: int) -> float:
    """Energy of a group of devices in a step, static power among it [J]."""
    board = d.device.board
    busy = sum(work.busy_s for work in works)
    work = board.work_joules(sum(work.joules for work in works), busy)
    return float(board.idle_joules(seconds * devices) + work + board.busy_joules(busy))


class _Batch:
    """One micro-batch: what it takes where."""

    def __init__(self, a: Apart, size: int, most: int, context: int) -> None:
        d = a.attention
        self.a, self.size, self.most, self.known = a, size, most, dict[bytes, GroupWork]()
        batch = Batch.of([context] * most)
        self.moments = batch.moments(d.shard.windows)
        self.works = (NO_WORK, NO_WORK)
        attention, out, experts, back = [NO_WORK], list[float](), list[float](), list[float]()
        attention[0] = self._attend(embedding_ops(d.shard, self.moments, d.run))
        known: dict[int, tuple[GroupWork, GroupWork]] = {}
        part = 0
        for layer in d.stages[0].layers:
            if id(layer) not in known:
                known[id(layer)] = self._around(whole_layer(d, layer, self.moments))
            before, after = known[id(layer)]
            attention[-1] = attention[-1].plus(before)
            if layer.expert_parts:
                sent, work = self._expert(part)
                part += 1
                out.append(sent)
                back.append(sent)
                experts.append(work.seconds)
                self.works = self.works[0], self.works[1].plus(work)
                attention.append(after)
        attention[-1] = attention[-1].plus(self._attend(head_program(d.shard, self.moments, d.layout, d.run)))
        total = NO_WORK
        for own in attention:
            total = total.plus(own)
        self.works = total, self.works[1]
        self.trip = Trip([own.seconds for own in attention], out, experts, back)

    def _around(self, program: Sequence[Op]) -> tuple[GroupWork, GroupWork]:
        """A layer's ops before its experts and after them."""
        at = next((i for i, op in enumerate(program) if op.routed), len(program))
        return self._attend(program[:at]), self._attend(program[at + 1 :])

    def _attend(self, ops: Sequence[Op]) -> GroupWork:
        """Ops on the devices that attend."""
        d = self.a.attention
        own = [op for op in ops if op.flops > 0 or op.act_bytes > 0]
        work = _run(d, [op for op in own if not op.exchange])
        within = [op for op in own if op.kind == "all_reduce" or op.name.startswith(LOGITS)]
        for op in within:  # of the devices of a rank; ranks exchange nothing with each other
            if not op.exchange:
                continue
            cost = d.link(op).cost(op)
            work = work.plus(GroupWork(cost.seconds, cost.total_joules, cost.seconds))
        devices = d.layout.devices
        return GroupWork(work.seconds, work.joules * devices, work.busy_s * devices)

    def _expert(self, part: int) -> tuple[float, GroupWork]:
        """Seconds of the link one way, and work of the experts of one layer."""
        d = self.a.experts
        own = d.experts[min(part, len(d.experts) - 1)]
        loads = own.expected(float(self.size))
        held = len(loads.tokens) // own.ep
        slowest, joules, busy, most = 0.0, 0.0, 0.0, 0.0
        for g in range(own.ep):
            at = slice(g * held, (g + 1) * held)
            key = loads.tokens[at].tobytes() + loads.experts[at].tobytes()
            if key not in self.known:  # equal loads cost the same
                op = own.spec.expert_op(Loads(loads.tokens[at], loads.experts[at]), d.run)
                self.known[key] = _run(d, [op])
            work = self.known[key]
            slowest = max(slowest, work.seconds)
            joules += work.joules
            busy += work.busy_s
            most = max(most, float(loads.tokens[at].sum()))
        return self._link_s(own.spec.hidden, own.spec.routed.top_k, most), GroupWork(slowest, joules, busy)

    def _link_s(self, hidden: int, top_k: int, most: float) -> float:
        """Seconds of what the busiest device of either group sends or receives."""
        layout = self.a.attention.layout
        vector = hidden * self.a.attention.run.numerics.act_bytes
        sent = self.most * top_k / layout.tp
        return self.a.latency_s + vector * max(sent, most) / self.a.rate


def _run(d: Deployment, ops: Sequence[Op]) -> GroupWork:
    """Ops of one device one after another."""
    costs = d.device.run(regions(ops, d.device, d.placement, False, d.system.mapping.splitter))
    placed = [cost for region in costs for _, _, cost in region.ops]
    return GroupWork(
        sum(region.seconds for region in costs), sum(cost.total_joules for cost in placed),
        sum(cost.seconds for cost in placed),
    )  # fmt: skip


def apart_of(
    model: ModelSpec, attention: SystemSpec, experts: SystemSpec, options: DeployOptions,
    link: str | None = None, seed: int = 0, settings: EngineSettings | None = None,
) -> Apart:  # fmt: skip
    """A model over two systems.

    Parameters
    ----------
    options : DeployOptions
        Degrees are those of the devices that attend; placement of experts and copies of those that hold them.
    link : str, optional
        As ``--kv-link`` of two pools; see `links.kv_link`.
    seed : int
        Of the experts' draws.
    settings : EngineSettings, optional
        Of the engine on the devices that attend.

    Raises
    ------
    InputError
        What does not fit, under the option's name; see `check_apart`.
    """
    counts = {part.routed.experts for layer in model.layers for part in layer.expert_parts if part.routed.spreads}
    stages = options.pp or (None if settings is None else settings.pp) or 1
    for count in counts:
        if experts.groups % stages or count % (experts.groups // stages):
            of = "" if stages == 1 else f" of each of {stages} stages"
            raise InputError(
                "--experts-on", f"{experts.name}: its {experts.groups // stages} devices{of} must divide the "
                f"{count} experts of a layer",
            )  # fmt: skip
    plain = replace(
        options, expert_placement=None, redundant_experts=None, expert_dispatch=None,
        overlap=None, all_to_all=None, ep=None,
    )  # fmt: skip
    attend = deployed(model, attention, plain, settings, seed)
    hold = deployed(
        model, experts,
        replace(options, tp=1, dp=None, pp=stages, ep=experts.groups // stages if counts else None,
                overlap=None, all_to_all=None, placement=None, adapters=None, adapter_rank=None,
                adapters_resident=None, adapter_popularity=None),
        seed=seed,
    )  # fmt: skip
    try:
        found = kv_link(PoolOptions(kv_link=link), attention, experts)
    except InputError as error:
        raise InputError(error.subject.replace("--kv-link", "--link"), error.reason) from None
    made = Apart(attend, hold, found.bandwidth_bytes_per_s, found.latency_s)
    check_apart(made)
    return made

"""One step of decodes with attention and experts on separate devices.

The devices that attend run everything but the routed experts: norms, attention, gates, shared experts,
dense layers, embedding and head, and hold the KV cache. The others hold routed experts and nothing else.
Every expert that a token chose gets its vector over the link between them, and sends one back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ....devices.spec import LinkSpec, SystemSpec
from ....workloads.errors import CapacityError, InputError
from ....workloads.model import ModelSpec
from ...batching.kv import CacheSettings, rank_rules, sequence_bytes
from ...deploy.checks import device_memory
from ...deploy.deployment import Deployment
from ...deploy.programs import TO_AND_FRO
from ...scenario.links import kv_link
from ...scenario.options import DeployOptions
from ...scenario.place import deployed
from ...step.explicit import StageCost, dealt, explicit_stage
from ...streams import COMPUTE, Timeline
from ..overlap.chunked import quickest_step  # noqa: F401  # a hook of this part too
from ..overlap.chunking import chunk_tokens
from .holders import expert_bytes, held_bytes, runs_on, with_experts_on
from .schedule import ATTENTION, BACK, EXPERTS, OUT

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
        streams = self.timeline.busy()
        link = max(streams.get(OUT, 0.0), streams.get(BACK, 0.0))
        shares = {ATTENTION: streams.get(COMPUTE, 0.0), EXPERTS: streams.get(EXPERTS, 0.0), "link": link}
        return {name: s / self.seconds for name, s in shares.items()}

    @property
    def limit(self) -> str:
        """The stream that works nearly all of the step, or that none does."""
        busy = self.busy()
        first = max(busy, key=lambda name: busy[name])
        return first if busy[first] >= FULL else LATENCY


def check_apart(apart: Apart) -> None:
    """Refuse what cannot be split so.

    Raises
    ------
    InputError
        Experts in attention, processors that are separate devices, or no experts.
    """
    for d, flag in ((apart.attention, "--attention-on"), (apart.experts, "--experts-on")):
        if d.pools or d.system.mapping.separate or d.system.mapping.pipeline:
            raise InputError(flag, f"{d.system.name} has its own mapping; use plain devices")
    if any(r and not r.by_request for r in (la.mixer.routed for la in apart.attention.model.layers)):
        raise InputError("MODEL", f"{apart.attention.model.name} has experts in its attention")
    if not apart.experts.experts:
        raise InputError("MODEL", f"{apart.experts.model.name} has no experts to put elsewhere")


def memories(apart: Apart, context: int) -> GroupMemory:
    """Return the memory of a device of each group, at `context` cached tokens per sequence.

    Raises
    ------
    CapacityError
        Weights that do not fit; the message says of which group.
    """
    d = apart.attention
    memory = device_memory(d.stages[0], d.layout, d.system, elsewhere=expert_bytes(d)[0])
    sequence = float(sequence_bytes(rank_rules(d, CacheSettings()), np.array([context + 1]))[0])
    return GroupMemory(memory.capacity, memory.weights, sequence, *held_bytes(apart.experts))


def apart_step(apart: Apart, sequences: int, context: int, batches: int) -> ApartStep:
    """A step of decodes at equal contexts, with expected loads of experts.

    Parameters
    ----------
    sequences : int
        Distributed evenly to the attention ranks, and within a rank to its micro-batches.
    batches : int
        Micro-batches.

    Raises
    ------
    CapacityError
        Weights or KV cache that do not fit.
    InputError
        Pipeline stages.
    """
    if apart.attention.layout.pp > 1:
        raise InputError("--pp", "cannot be combined with --attention-on, which costs one stage; --experts-on takes it")
    ranks = apart.attention.layout.dp
    per_rank, over = divmod(sequences, ranks)
    many = [
        over * int(chunk_tokens(per_rank + 1, batches, i)) + (ranks - over) * int(chunk_tokens(per_rank, batches, i))
        for i in range(batches)
    ]
    sizes, memory = tuple(size for size in many if size), memories(apart, context)
    per_rank += over > 0
    if per_rank > memory.most:
        raise CapacityError(
            apart.attention.system.name, f"the KV cache of {per_rank:,} sequences does not fit: needs "
            f"{per_rank * memory.sequence / 2**30:.2f} GiB per device, "
            f"{(memory.attention - memory.attention_weights) / 2**30:.2f} GiB available",
        )  # fmt: skip
    d = one_of(apart, batches)
    stage = explicit_stage(d, dealt(d, sequences, context), expected=True)
    (timeline,) = stage.timelines
    means, joules = (
        _means(timeline),
        [_spent(d, stage, group, n) for group, n in zip((d, apart.experts), apart.devices, strict=True)],
    )
    return ApartStep(sizes, *means, timeline, (joules[0], joules[1]))


def _means(timeline: Timeline) -> tuple[float, float, float]:
    """Seconds that a micro-batch attends before the experts of a layer, is there, and on the way to them."""
    before, attention, experts, link, visits = dict[int, float](), 0.0, 0.0, 0.0, 0
    for task in timeline.graph.tasks:
        if task.resource == COMPUTE:
            before[task.chunk] = before.get(task.chunk, 0.0) + task.seconds
        elif task.resource == OUT:
            link += task.seconds
        elif task.resource == EXPERTS:
            attention += before.pop(task.chunk, 0.0)
            experts += task.seconds
            visits += 1
    return attention / visits, experts / visits, link / visits


def _spent(deployment: Deployment, stage: StageCost, group: Deployment, devices: int) -> float:
    """Energy of a group of devices in a step, static power among it [J]."""
    placed = [p for p in stage.ops if runs_on(deployment, p.op) is group and TO_AND_FRO not in p.op.shape]
    board, busy = group.device.board, sum(p.cost.seconds * p.count * p.devices for p in placed)
    work = board.work_joules(sum(p.cost.total_joules * p.count * p.devices for p in placed), busy)
    return float(board.idle_joules(stage.seconds * devices) + work + board.busy_joules(busy))


def one_of(apart: Apart, batches: int) -> Deployment:
    """Return both groups as one deployment, whose steps are alternating micro-batches.

    Parameters
    ----------
    batches : int
        Micro-batches of a step.
    """
    link = LinkSpec(name="link to experts", bandwidth_bytes_per_s=1.0, latency_s=apart.latency_s)
    link = link.model_copy(update={"bandwidth_bytes_per_s": apart.rate})  # may be without limit
    return with_experts_on(apart.attention, apart.experts, link, batches)


def apart_of(
    model: ModelSpec, attention: SystemSpec, experts: SystemSpec, options: DeployOptions,
    link: str | None = None, seed: int = 0, settings: EngineSettings | None = None,
) -> Apart:  # fmt: skip
    """A model over two systems.

    Parameters
    ----------
    options : DeployOptions
        Degrees apply to the attention devices; placement of experts and copies to the expert devices.
    link : str, optional
        As ``--kv-link`` of two pools; see `links.kv_link`.
    seed : int
        Seed of the expert samples.
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
    bare = options.parts.having("overlap")
    plain = replace(options, all_to_all=None, ep=None, parts=bare.having("expert-copies"))
    attend = deployed(model, attention, plain, settings, seed)
    hold = deployed(
        model, experts,
        replace(options, tp=1, dp=None, pp=stages, ep=experts.groups // stages if counts else None,
                all_to_all=None, placement=None, parts=bare.having("adapters")),
        seed=seed,
    )  # fmt: skip
    try:
        wire = kv_link(link, None, attention, experts)
    except InputError as error:
        raise InputError(error.subject.replace("--kv-link", "--link"), error.reason) from None
    made = Apart(attend, hold, wire.bandwidth_bytes_per_s, wire.latency_s)
    check_apart(made)
    return made

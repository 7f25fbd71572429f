"""Tracks of a step: its ops grouped by stream, and which of them are cut into chunks.

The explicit path builds a task graph from the tracks (`explicit`), the compiled path a fixed schedule (`arrays`).

Ways to overlap the exchanges of a step with its computation:

``none``: serial. ``pipelined:N``: in every layer, the ops around exchanges that depend only on tokens are cut into N
chunks; one chunk is exchanged while another is computed (Tutel, PipeMoE, FSMoE). ``two-batch``: the batch is halved; the
exchanges of one half run in parallel with the computation of the other (DeepSeek, SGLang). ``two-batch:D,P``: only steps
with at least D tokens per rank, or P with prompts (vLLM). ``two-batch:alike`` and ``two-batch:decodes``: only the steps
that SGLang splits (`gates`). ``auto``: the fastest of these in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from ....devices.collectives.plans import PlannedLink
from ....workloads.batch import BASE_MOMENTS, TOKENS, WINDOW_MOMENTS, Moments
from ....workloads.errors import InputError, nearest
from ....workloads.ops import Op
from ...deploy.deployment import Deployment
from ...deploy.programs import TO_AND_FRO
from ...step.sections import Section, whole_layer
from ...streams import COMPUTE
from ..experts_apart.holders import BACK, EXPERTS, OUT
from .chunking import MOST_CHUNKS
from .gates import FORMS as GATED
from .gates import GateRule, gate_of

WayKind = IntEnum("WayKind", "SERIAL PIPELINED TWO_BATCH PING_PONG", start=0)
"""Kinds of `Way`."""

COUNTS = (2, 4, 8, MOST_CHUNKS)
"""Numbers of chunks: powers of two, because the experts' tokens are halved repeatedly."""

FORMS = ("none", "pipelined:N", "two-batch", *GATED, "auto")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a step.

    Attributes
    ----------
    kind : int
        `SERIAL`, `PIPELINED`, `TWO_BATCH` or `PING_PONG`. `PING_PONG` means micro-batches that alternate between attention
        devices and expert devices; no option names it.
    chunks : int
        Number of chunks of a batch.
    """

    kind: int
    chunks: int

    @property
    def name(self) -> str:
        """Name of the way in options."""
        names = "none", f"pipelined:{self.chunks}", "two-batch", f"ping-pong:{self.chunks}"
        return names[self.kind]


NONE = Way(WayKind.SERIAL, 1)
AUTO = (NONE, Way(WayKind.TWO_BATCH, 2), *(Way(WayKind.PIPELINED, n) for n in (2, 4, 8)))
"""Ways that ``auto`` chooses from."""


def ways(text: str) -> tuple[Way, ...]:
    """Return the ways that a value of ``--overlap`` allows for a step.

    Raises
    ------
    InputError
        An unknown way, or an unsupported number of chunks.

    Examples
    --------
    >>> [way.name for way in ways("pipelined:4")]
    ['pipelined:4']
    """
    kind, colon, count = text.partition(":")
    if text == "none":
        return (NONE,)
    if text == "auto":
        return AUTO
    if (gate := gate_of(text)) is not None:
        names = () if gate.rule == GateRule.ALWAYS else (NONE,)
        return (*names, Way(WayKind.TWO_BATCH, 2))
    if kind != "pipelined":
        raise InputError(f"--overlap {text!r}", f"must be {_forms()}{nearest(text, FORMS)}")
    if not colon or count not in map(str, COUNTS):
        known = ", ".join(f"pipelined:{n}" for n in COUNTS)
        raise InputError(f"--overlap {text!r}", f"must be one of {known}")
    return (Way(WayKind.PIPELINED, int(count)),)


def _forms() -> str:
    return ", ".join(FORMS[:-1]) + f" or {FORMS[-1]}"


class Track(NamedTuple):
    """Consecutive ops of a section on one stream, or the experts of one part.

    Attributes
    ----------
    start, stop : int
        First op in the section, and the op after the last.
    resource : str
        `COMPUTE`, or the link of an exchange; for experts on separate devices, their stream.
    part : int
        Index of the expert part in the layer; -1 for other ops. Transfers to and from experts on separate devices have
        numbers after all experts: see `crossing`.
    layer : bool
        Whether the track belongs to a layer. The embedding, the head and the transfer to the next stage do not, except
        with experts on separate devices: there micro-batches pass through these too.
    cut : bool
        Whether pipelining cuts it: its ops depend only on a batch's tokens and are directly before or after an
        exchange.
    taken : tuple of float
        Share of the cores that an exchange takes from parallel computation, in decode-only steps and with prompts.
    """

    start: int
    stop: int
    resource: str
    part: int
    layer: bool
    cut: bool
    taken: tuple[float, float] = (0.0, 0.0)

    def chunked(self, way: Way) -> bool:
        """Return whether the track runs chunk by chunk."""
        if way.kind == WayKind.SERIAL:
            return False
        return self.cut if way.kind == WayKind.PIPELINED else self.layer


class Visit(NamedTuple):
    """One execution of a section in a step.

    Attributes
    ----------
    part : int
        First expert part of its layer.
    stage : int
        Pipeline stage.
    """

    section: int
    part: int
    stage: int


def ways_of(deployment: Deployment) -> tuple[Way, ...]:
    """Return the ways to split a step of a deployment; each step takes one of them."""
    if deployment.apart is not None:
        return (Way(WayKind.PING_PONG, deployment.apart.batches),)
    return ways(deployment.parts.get("overlap", "none")) if deployment.exchanges else (NONE,)


def tracks_of(deployment: Deployment, section: Section) -> list[Track]:
    """Return the tracks of a section in order."""
    m = _moments(deployment, None)
    program = section.build(m) if section.layer is None else whole_layer(deployment, section.layer, m)
    cut = _cut(deployment, section, program) if deployment.apart is None else [False] * len(program)
    out: list[Track] = []
    slot, part = 0, 0
    for op, is_cut in zip(program, cut, strict=True):
        layer = section.layer is not None or deployment.apart is not None
        if op.routed:
            by_request = section.layer is not None and section.layer.expert_parts[part].routed.by_request
            where = COMPUTE if deployment.apart is None or by_request else EXPERTS
            out.append(Track(slot, slot, where, part, layer, is_cut))
            part += 1
            continue
        resource, last = stream(deployment, op), out[-1] if out else None
        if resource in (OUT, BACK):
            number = crossing(deployment, part if resource == OUT else part - 1, resource == BACK)
            out.append(Track(slot, slot + 1, resource, number, layer, is_cut))
            slot += 1
            continue
        joins = last is not None and last.part < 0 and last.resource == COMPUTE == resource
        if last is not None and joins and last.cut == is_cut:
            out[-1] = last._replace(stop=slot + 1)
        else:
            taken = _taken(deployment, op, False), _taken(deployment, op, True)
            out.append(Track(slot, slot + 1, resource, -1, layer, is_cut, taken))
        slot += 1
    return out


def visits_of(deployment: Deployment, sections: Sequence[Section]) -> list[Visit]:
    """Return the section visits of a step in order, layer by layer."""
    layers = [layer for stage in deployment.stages for layer in stage.layers]
    alone = len(deployment.experts) == sum(len(layer.expert_parts) for layer in layers)
    out, part = [], 0
    for s, stage in enumerate(deployment.stages):
        sections_of = [i for i, section in enumerate(sections) if section.stage == s]
        places = {sections[i].layer: i for i in sections_of if sections[i].layer is not None}
        plain = [i for i in sections_of if sections[i].layer is None]
        out += [Visit(i, -1, s) for i in plain if not sections[i].closing]
        first = {}
        for layer, _ in stage.groups:  # a part represents all layers of a group
            first[layer] = part
            part += len(layer.expert_parts) * (not alone)
        for layer in stage.layers:
            out.append(Visit(places[layer], part if alone else first[layer], s))
            part += len(layer.expert_parts) * alone
        out += [Visit(i, -1, s) for i in plain if sections[i].closing]
    return out


def chunked_parts(
    deployment: Deployment, tracks: Sequence[Sequence[Track]], visits: Sequence[Visit], way: Way
) -> list[bool]:
    """Return for each expert part whether it runs chunk by chunk; the others run on the whole batch."""
    out = [False] * len(deployment.experts)
    for visit in visits:
        for track in tracks[visit.section]:
            if 0 <= track.part < len(deployment.experts):
                out[visit.part + track.part] = track.chunked(way)
    return out


def crossing(deployment: Deployment, part: int, back: bool) -> int:
    """Return the track number of a transfer to an expert part on separate devices, or back from it."""
    return part + len(deployment.experts) * (2 if back else 1)


def stream(deployment: Deployment, op: Op) -> str:
    """Return the stream that an op runs on; links that share a medium are one stream."""
    if not op.exchange:
        return COMPUTE
    if deployment.apart is not None:  # transfers to and from experts run in parallel
        if TO_AND_FRO not in op.shape:
            return COMPUTE
        return OUT if op.name.startswith("dispatch") else BACK
    link = deployment.link(op).spec
    return link.medium or link.name


def _taken(deployment: Deployment, op: Op, prompts: bool) -> float:
    """Return the share of the cores that an all-to-all occupies, if its algorithm occupies any."""
    link = deployment.link(op, prompts) if op.kind == "all_to_all" else None
    return link.plan(op).taken if isinstance(link, PlannedLink) else 0.0


def _cut(deployment: Deployment, section: Section, program: Sequence[Op]) -> list[bool]:
    """Return for each op of a program whether pipelining cuts it."""
    out = [False] * len(program)
    if section.layer is None:
        return out
    alone = [True] * len(program)
    base = [_size(op) for op in program]
    for j in range(BASE_MOMENTS + WINDOW_MOMENTS * len(deployment.shard.windows)):
        if j != TOKENS:
            raised = whole_layer(deployment, section.layer, _moments(deployment, j))
            alone = [a and _size(op) == own for a, op, own in zip(alone, raised, base, strict=True)]
    start = 0
    for i in range(len(program) + 1):
        if i < len(program) and alone[i]:
            continue
        if any(op.exchange for op in program[start:i]):
            out[start:i] = [True] * (i - start)
        start = i + 1
    return out


def _size(op: Op) -> tuple[float, float, float]:
    return op.flops, op.stream_bytes, op.act_bytes


def _moments(deployment: Deployment, raised: int | None) -> Moments:
    """Return unit sums of a batch, one of them raised by one."""
    windows = deployment.shard.windows
    values = np.ones(BASE_MOMENTS + WINDOW_MOMENTS * len(windows))
    if raised is not None:
        values[raised] += 1.0
    return Moments(windows, values)


def overlap_asked(_: object, said: Callable[[str], Any]) -> str | None:
    """Return the value of ``--overlap`` in the options or an engine file."""
    return said("overlap")  # type: ignore[no-any-return]


def read_overlap(text: str, *_: object) -> str | None:
    """Return a checked value of ``--overlap``; None for none."""
    ways(text)
    return None if text == "none" else text


def check_overlap(text: str, deployment: Deployment) -> None:
    """Reject an overlap that has no effect or is not supported on the system."""
    where = f"--overlap {text}"
    if deployment.system.mapping.separate:
        reason = "cannot be combined with a system whose processors are separate devices"
        raise InputError(where, f"{reason}, as on {deployment.system.name}")
    if not deployment.exchanges and text != "auto":
        raise InputError(
            where,
            f"has no exchange to overlap: {deployment.model.name} on {deployment.system.name} sends no data within a "
            f"layer ({deployment.layout.degrees}); remove it or use auto",
        )

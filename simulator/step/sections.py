"""The ops of a step in their order, in sections that every rank runs before all go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...workloads.batch import PREFILL, Batch, Moments
from ...workloads.model import Layer, embedding_ops, layer_ops
from ...workloads.ops import Loads, Op
from ..deploy.deployment import Deployment
from ..deploy.placement import regions
from ..deploy.programs import head_program, layer_program, stage_send

Build = Callable[[Moments], list[Op]]


class Section(NamedTuple):
    """Ops that every rank runs, for each of some layers, before any goes on.

    Attributes
    ----------
    build : callable
        Its ops at the moments of a rank's batch, in order, collectives among them, experts not.
    layers : int
        How many run the same ops.
    stage : int
        Pipeline stage that holds them.
    closing : bool
        Whether it ends its stage, after the stage's experts: what is sent on, or the head.
    layer : Layer, optional
        The layer that it is of, with its experts.
    """

    build: Build
    layers: int
    stage: int
    closing: bool = False
    layer: Layer | None = None


def whole_layer(d: Deployment, spec: Layer, m: Moments) -> list[Op]:
    """Ops of a layer in order, collectives among them, and its experts without any tokens."""
    parts = layer_ops(spec, m, d.run, Loads(np.zeros(1), np.zeros(1)))
    return layer_program(spec, parts, d.layout, d.run, m.tokens)


def sections_of(d: Deployment) -> list[Section]:
    """Embedding, each distinct layer of every stage without its experts, what is sent on, head."""

    def layer(spec: Layer) -> Build:
        def build(m: Moments) -> list[Op]:
            return [op for op in whole_layer(d, spec, m) if not op.routed]

        return build

    def send(stage: int) -> Build:
        return lambda m: [stage_send(m.tokens, d.shard.hidden, stage, d.run)]

    def head(m: Moments) -> list[Op]:
        return head_program(d.shard, m, d.layout, d.run)

    last = len(d.stages) - 1
    out = [Section(lambda m: embedding_ops(d.shard, m, d.run), 1, 0)]
    for s, stage in enumerate(d.stages):
        out += [Section(layer(spec), count, s, layer=spec) for spec, count in stage.groups]
        out.append(Section(send(s) if s < last else head, 1, s, closing=True))
    return out


def placed_ops(d: Deployment, batch: Batch) -> list[tuple[Op, str]]:
    """Every op of a step with the processor or link that runs it, without what it costs.

    Each of a model's distinct layers counts once; experts have expected loads.

    Parameters
    ----------
    batch : Batch
        Of each rank.
    """
    m = batch.moments(d.shard.windows, d.several > 1)
    ops, apart = [op for section in sections_of(d) for op in section.build(m)], list[Op]()
    for part in d.experts:
        loads = part.expected(float(batch.tokens))
        slots = slice(0, max(len(loads.tokens) // part.ep, 1))
        op = part.spec.expert_op(Loads(loads.tokens[slots], loads.experts[slots]), d.run)
        (ops if d.apart is None or part.kept else apart).append(op)
    active = [op for op in ops if op.flops > 0 or op.act_bytes > 0]
    links = [op for op in active if op.exchange]
    mixed = bool((batch.phase == PREFILL).any())
    inside = [op for op in active if not op.exchange]
    placed = regions(inside, d.device, d.placement, mixed, tokens=m.tokens)
    if apart and d.apart is not None:
        holder = d.apart.holder
        placed = [*placed, *regions(apart, holder.device, holder.placement, mixed)]
    return [(op, d.link(op).spec.name) for op in links] + [
        (op, name) for region in placed for name, track in region.tracks.items() for op in track
    ]

"""The ops of a step in order, grouped into sections that end with a barrier over all ranks."""

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
    """Ops that every rank runs before all ranks continue, repeated for several layers.

    Attributes
    ----------
    build : callable
        Returns the ops for the sums of a rank's batch, in order, including collectives and without experts.
    layers : int
        Number of layers with the same ops.
    stage : int
        Pipeline stage of these layers.
    closing : bool
        Whether the section ends its stage, after the experts: the transfer to the next stage, or the head.
    layer : Layer, optional
        The layer of these ops, including its experts.
    """

    build: Build
    layers: int
    stage: int
    closing: bool = False
    layer: Layer | None = None


def whole_layer(deployment: Deployment, spec: Layer, moments: Moments) -> list[Op]:
    """Return the ops of a layer in order, with collectives; its experts have no tokens."""
    parts = layer_ops(spec, moments, deployment.run, Loads(np.zeros(1), np.zeros(1)))
    return layer_program(spec, parts, deployment.layout, deployment.run, moments.tokens)


def sections_of(deployment: Deployment) -> list[Section]:
    """Return the sections of a step: embedding, each distinct layer of every stage without experts, transfers, head."""

    def layer(spec: Layer) -> Build:
        def build(moments: Moments) -> list[Op]:
            return [op for op in whole_layer(deployment, spec, moments) if not op.routed]

        return build

    def send(stage: int) -> Build:
        return lambda m: [stage_send(m.tokens, deployment.shard.hidden, stage, deployment.run)]

    def head(moments: Moments) -> list[Op]:
        return head_program(deployment.shard, moments, deployment.layout, deployment.run)

    last = len(deployment.stages) - 1
    out = [Section(lambda m: embedding_ops(deployment.shard, m, deployment.run), 1, 0)]
    for s, stage in enumerate(deployment.stages):
        out += [Section(layer(spec), count, s, layer=spec) for spec, count in stage.groups]
        out.append(Section(send(s) if s < last else head, 1, s, closing=True))
    return out


def placed_ops(deployment: Deployment, batch: Batch) -> list[tuple[Op, str]]:
    """Return every op of a step with the processor or link that runs it, without costs.

    Each of a model's distinct layers counts once; experts have expected loads.

    Parameters
    ----------
    batch : Batch
        Batch of each rank.
    """
    m = batch.moments(deployment.shard.windows, deployment.several > 1)
    ops, apart = [op for section in sections_of(deployment) for op in section.build(m)], list[Op]()
    for part in deployment.experts:
        loads = part.expected(float(batch.tokens))
        slots = slice(0, max(len(loads.tokens) // part.ep, 1))
        op = part.spec.expert_op(Loads(loads.tokens[slots], loads.experts[slots]), deployment.run)
        (ops if deployment.apart is None or part.kept else apart).append(op)
    active = [op for op in ops if op.flops > 0 or op.act_bytes > 0]
    links = [op for op in active if op.exchange]
    mixed = bool((batch.phase == PREFILL).any())
    inside = [op for op in active if not op.exchange]
    placed = regions(inside, deployment.device, deployment.placement, mixed, tokens=m.tokens)
    if apart and deployment.apart is not None:
        holder = deployment.apart.holder
        placed = [*placed, *regions(apart, holder.device, holder.placement, mixed)]
    return [(op, deployment.link(op).spec.name) for op in links] + [
        (op, name) for region in placed for name, track in region.tracks.items() for op in track
    ]

"""The expert parts of a deployment: what one device holds of them, and where their loads come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...devices.spec import SystemSpec
from ...workloads.errors import InputError
from ...workloads.layers import RoutedKind, Run
from ...workloads.model import ModelSpec
from ...workloads.ops import Loads
from ...workloads.routing import Router, make_router
from ..expert_cache.store import ExpertStore, tiers_of
from .layout import Layout


@dataclass(frozen=True, slots=True)
class ExpertPart:
    """One expert part of the model as one device runs it.

    Attributes
    ----------
    spec : RoutedKind
        The sharded part.
    ep : int
        Groups that hold different experts of it.
    router, row : Router, int
        Where its loads come from.
    layers : int
        Layers that share each draw.
    stage : int
        Pipeline stage that it is part of.
    """

    spec: RoutedKind
    ep: int
    router: Router
    row: int
    layers: int = 1
    stage: int = 0

    @property
    def held(self) -> int:
        """Experts of a layer on one device."""
        return self.spec.routed.experts // self.ep

    def expert_bytes(self, run: Run) -> float:
        """Bytes of one expert as one device holds it."""
        return self.spec.expert_op(Loads(np.ones(1), np.ones(1)), run).weight_bytes


def expert_parts(
    stages: Sequence[ModelSpec],
    layout: Layout,
    routing: str,
    seed: int,
    shared: bool,
    popularity: str = "uniform",
) -> tuple[ExpertPart, ...]:
    """Number the expert parts and give each a row of a router of its size.

    If `shared`, equal layers of a stage are one part; so they are where requests choose for all layers.
    What requests choose they choose by `popularity`, all else goes by `routing`.
    """
    chosen = [part.routed for stage in stages for la in stage.layers for part in la.expert_parts]
    shared = shared or (bool(chosen) and all(routed.by_request for routed in chosen))
    found = [
        (part, count, s)
        for s, stage in enumerate(stages)
        for layer, count in (stage.groups if shared else [(layer, 1) for layer in stage.layers])
        for part in layer.expert_parts
    ]
    sizes = [
        (part.routed.experts, part.routed.top_k, part.routed.by_request) for part, _, _ in found
    ]
    routers: dict[tuple[int, int, bool], Router] = {}
    rows: dict[int, int] = {}
    for size in dict.fromkeys(sizes):
        keys = tuple(i for i, s in enumerate(sizes) if s == size)
        rows |= {part: row for row, part in enumerate(keys)}
        routers[size] = make_router(
            popularity if size[2] else routing, layers=len(keys), experts=size[0], top_k=size[1], seed=seed, keys=keys,
            by_request=size[2],
        )  # fmt: skip
    out = []
    for i, (part, count, stage) in enumerate(found):
        router = routers[sizes[i]]
        ep = layout.ep if part.routed.spreads else 1
        out.append(ExpertPart(part, ep, router, rows[i], count, stage))
    return tuple(out)


def checked_store(
    store: ExpertStore | None, model: ModelSpec, system: SystemSpec, overlap: str
) -> ExpertStore | None:
    """Refuse an expert cache without experts, or without a memory for the others.

    Raises
    ------
    InputError
    """
    if store is None:
        return None
    parts = [part.routed for layer in model.layers for part in layer.expert_parts]
    if any(routed.by_request for routed in parts):
        raise InputError("--experts-resident", "cannot go with --adapters; leave one out")
    if not parts:
        raise InputError("--experts-resident", f"{model.name} has no experts")
    if system.mapping.separate:
        reason = "cannot go with processors that are devices of their own"
        raise InputError("--experts-resident", f"{reason}, as on {system.name}")
    if overlap != "none":
        raise InputError("--experts-resident", f"cannot go with --overlap {overlap}; leave one out")
    tiers_of(system.device)
    return store


def elsewhere_bytes(
    store: ExpertStore | None, experts: Sequence[ExpertPart], stage: int, run: Run, where: str
) -> float:
    """Bytes of the experts of a pipeline stage for which a device has no slots.

    Raises
    ------
    InputError
        More slots than experts on the devices of system `where`.
    """
    parts = [part for part in experts if part.stage == stage]
    if store is None or not parts:
        return 0.0
    sizes = [part.expert_bytes(run) for part in parts]
    staging = max(sizes) if store.rule.looks_ahead else 0.0  # see `ExpertCache`
    slots = [store.slots(part.held, where) for part in parts]
    return -staging + sum(
        (part.held - own) * part.layers * size
        for part, own, size in zip(parts, slots, sizes, strict=True)
    )

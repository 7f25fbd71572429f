"""The expert parts of a deployment: the experts that one device holds, and the source of their loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import numpy as np

from ...devices.collectives.deepep import reached
from ...devices.spec import SystemSpec
from ...workloads.layers import RoutedKind, Run
from ...workloads.model import ModelSpec
from ...workloads.ops import Loads
from ...workloads.routing import Router, make_router
from .expert_maps import F8, Dispatch, ExpertMap, Sites, dealt, dispatch
from .layout import Layout


class Placing(Protocol):
    """Interface of a part that adds redundant copies of experts."""

    def copies(self, experts: int, groups: int, where: str) -> int:
        """Return the number of redundant experts of a device."""
        ...


@dataclass(frozen=True, slots=True)
class ExpertPart:
    """One expert part of the model as one device runs it.

    Attributes
    ----------
    spec : RoutedKind
        The sharded part.
    ep : int
        Groups with different experts of the part.
    router, row : Router, int
        Router that samples its loads, and its row there.
    layers : int
        Layers that share each sample.
    stage : int
        Pipeline stage of the part.
    placed : Dispatch, optional
        Slots of its experts and their copies, and the load of each slot; by default group by group in order.
    """

    spec: RoutedKind
    ep: int
    router: Router
    row: int
    layers: int = 1
    stage: int = 0
    placed: Dispatch | None = None

    @property
    def held(self) -> int:
        """Return the number of experts of a layer on one device, including redundant copies."""
        if self.placed is not None:
            return self.placed.map.sites.slots
        return self.spec.routed.experts // self.ep

    @property
    def kept(self) -> bool:
        """Return whether an expert cache ignores this part: adapters that requests choose are not experts."""
        return self.spec.routed.by_request

    def expected(self, tokens: float, choices: float | None = None) -> Loads:
        """Return the expected loads of the experts in each group's slots; see `Router.expected`."""
        if self.placed is not None:
            return self.placed.expected(self.router, self.row, tokens, choices)
        return self.router.expected(self.row, tokens, choices)

    def expert_bytes(self, run: Run) -> float:
        """Return the bytes of one expert's weights on one device."""
        return self.spec.expert_op(Loads(np.ones(1), np.ones(1)), run).weight_bytes


def expert_parts(
    stages: Sequence[ModelSpec], layout: Layout, routing: str, seed: int, shared: bool, popularity: str = "uniform"
) -> tuple[ExpertPart, ...]:
    """Return the model's expert parts, numbered, each with a row of a router of its size.

    If `shared`, equal layers of a stage are one part; likewise if requests choose adapters for all layers at once.
    Adapters that requests choose are sampled by `popularity`, all other experts by `routing`.
    """
    chosen = [part.routed for stage in stages for la in stage.layers for part in la.expert_parts]
    shared = shared or (bool(chosen) and all(routed.by_request for routed in chosen))
    parts = [
        (part, count, s)
        for s, stage in enumerate(stages)
        for layer, count in (stage.groups if shared else [(layer, 1) for layer in stage.layers])
        for part in layer.expert_parts
    ]
    sizes = [(part.routed.experts, part.routed.top_k, part.routed.by_request) for part, _, _ in parts]
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
    for i, (part, count, stage) in enumerate(parts):
        router = routers[sizes[i]]
        ep = layout.dealt(part.routed.experts)[0] if part.routed.spreads else 1
        out.append(ExpertPart(part, ep, router, rows[i], count, stage))
    return tuple(out)


def sites_of(part: ExpertPart, placing: Placing | None, layout: Layout, system: SystemSpec) -> Sites:
    """Return the devices and slots in which a part's experts can be placed."""
    experts = part.spec.routed.experts
    groups, wide = layout.dealt(experts)
    slots = -(-experts // groups)
    if placing is not None:
        slots = experts // groups + placing.copies(experts, groups, system.name)
    node = max(system.groups_per_node // layout.pp, 1)
    return Sites(experts, groups, slots, wide, layout.tp, node, part.spec.routed.groups)


def sent_share(parts: Sequence[ExpertPart]) -> float:
    """Return the tokens that ranks send, relative to a deployment without redundant experts; mean over layers."""
    placed = [part for part in parts if part.placed is not None]
    sent = [part.layers * sent_of(part) for part in placed]
    return sum(sent) / sum(part.layers for part in placed) if placed else 1.0


def sent_of(part: ExpertPart) -> float:
    """Return the tokens that ranks send for one part, relative to a placement without redundant experts."""
    assert part.placed is not None
    sites, popular = part.placed.map.sites, part.router.inclusion[part.row]
    before = float(popular @ _in_order(replace(sites, slots=-(-sites.experts // sites.groups))).away)
    return float(popular @ part.placed.away) / before if before > 0.0 else 1.0


@cache
def _in_order(sites: Sites) -> Dispatch:
    """Return the placement of experts group by group, without redundant copies."""
    return dispatch(ExpertMap(sites, dealt(sites)), "any")


def fewer_reached(parts: Sequence[ExpertPart], layout: Layout, system: SystemSpec) -> tuple[float, float]:
    """Return the numbers of devices and nodes that a token is sent to, relative to a router without expert groups.

    Both are means over layers.
    """
    spread = [part for part in parts if part.spec.routed.spreads and layout.sends]
    shares = np.array([(part.layers, *_fewer(part, layout, system)) for part in spread] or [(1, 1.0, 1.0)])
    devices, nodes = shares[:, 0] @ shares[:, 1:] / shares[:, 0].sum()
    return float(devices), float(nodes)


def _fewer(part: ExpertPart, layout: Layout, system: SystemSpec) -> tuple[float, float]:
    """Return the relative numbers of devices and nodes that a token is sent to for one part, see `fewer_reached`."""
    routed = part.spec.routed
    if routed.chosen == routed.groups:
        return 1.0, 1.0
    placed = part.placed or _in_order(sites_of(part, None, layout, system))
    sites, size = placed.map.sites, routed.experts // routed.groups
    reached_held = np.zeros((sites.groups, routed.groups))
    at = np.repeat(np.arange(sites.groups), sites.slots)
    np.add.at(reached_held, (at, placed.experts // size), placed.share.reshape(-1) / size)
    nodes = np.zeros((sites.nodes[-1] + 1, routed.groups))
    np.add.at(nodes, sites.nodes, reached_held)

    def share(shares: F8) -> float:
        return reached(shares, routed.chosen, routed.top_k) / reached(shares, routed.groups, routed.top_k)

    return share(reached_held), share(nodes)

"""How placed experts load the devices of a deployment, and what their copies cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...deploy.deployment import Deployment
from ...deploy.expert_maps import Dispatch
from ...deploy.expert_parts import ExpertPart
from ...quantity import Figures, Quantity

if TYPE_CHECKING:
    from ...results.record import Run

F8 = npt.NDArray[np.float64]


def group_loads(part: ExpertPart) -> F8:
    """Share of a layer's tokens, in the long run, that each group serves, over the mean; shape (groups,)."""
    popular = part.router.inclusion[part.row]
    loads = popular.reshape(part.ep, -1).sum(axis=1) if part.placed is None else part.placed.group_loads(popular)
    return np.asarray(loads / loads.mean())


def spreading(deployment: Deployment) -> list[ExpertPart]:
    """Parts whose experts spread over devices, of all layers."""
    return [part for part in deployment.experts if part.spec.routed.spreads and part.ep > 1]


def worst_over_mean(deployment: Deployment) -> float:
    """Load of the most loaded device over the mean, in the long run; mean over layers."""
    parts = spreading(deployment)
    layers = [part.layers for part in parts]
    return float(np.average([group_loads(part).max() for part in parts], weights=layers))


def copy_bytes(deployment: Deployment) -> float:
    """Bytes of copies on a device of the stage with most of them."""
    each: dict[int, float] = {}
    for part in spreading(deployment):
        copies = part.held - part.spec.routed.experts // part.ep
        size = copies * part.layers * part.expert_bytes(deployment.run)
        each[part.stage] = each.get(part.stage, 0.0) + size
    return max(each.values(), default=0.0)


def out_share(deployment: Deployment) -> float | None:
    """Share of the copies of tokens that leave their node; None where nothing is placed."""
    loads_of, weights = [], []
    for part in spreading(deployment):
        placed: Dispatch | None = part.placed
        if placed is None:
            return None
        popular = part.router.inclusion[part.row]
        loads_of.append(float(popular @ placed.out) / popular.sum())
        weights.append(part.layers)
    return float(np.average(loads_of, weights=weights)) if loads_of else None


@dataclass(frozen=True, slots=True)
class PlacedExperts:
    """Placed experts of a deployment, for results."""

    policy: str
    redundant_experts: int
    dispatch: str
    held: int
    max_over_mean: float
    copies_bytes: float
    sent_share: float
    leaves_node_share: float | None


def placed_of_step(deployment: Deployment, *_: object) -> PlacedExperts | None:
    """Return the placed experts of a deployment; None if experts are in order without copies."""
    copying = deployment.parts.get("expert-copies")
    if copying is None:
        return None
    first = spreading(deployment)[0]
    copies = first.held * first.ep - first.spec.routed.experts
    return PlacedExperts(
        copying.policy,
        copies,
        copying.dispatch,
        first.held,
        worst_over_mean(deployment),
        copy_bytes(deployment),
        deployment.layout.sent,
        out_share(deployment),
    )


def placed_left(run: Run, *_: object) -> PlacedExperts | None:
    """Return the placed experts of a run."""
    return placed_of_step(run.deployment)


FIGURES = Figures("expert_placement", "Expert placement", (
    Quantity("policy", "Which devices have which experts.", label="policy"),
    Quantity("redundant_experts", "Copies of a layer's experts.", label="copies a layer"),
    Quantity("dispatch", "Copies that a token may go to.", label="dispatched to"),
    Quantity("held", "Experts of a layer on a device."),
    Quantity("max_over_mean", "Load of the most loaded device over the mean, in the long run.", unit="1", label="max/mean load"),
    Quantity("copies_bytes", "Bytes of copies on a device [B].", unit="B", label="copies on a device"),
    Quantity("sent_share", "Tokens that ranks send, over those without copies."),
    Quantity("leaves_node_share", "Share of the copies of tokens that leave their node."),
))  # fmt: skip

"""How placed experts load a deployment's devices, and what copies of them cost: rows and sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...simulator.deploy.deployment import Deployment
from ...simulator.deploy.expert_parts import ExpertPart
from ...simulator.parts.expert_map.dispatch import Dispatch
from .facet import Facet

F8 = npt.NDArray[np.float64]


def group_loads(part: ExpertPart) -> F8:
    """Share of a layer's tokens, in the long run, that each group serves, over the mean; shape (groups,)."""
    popular = part.router.inclusion[part.row]
    loads = popular.reshape(part.ep, -1).sum(axis=1) if part.placed is None else part.placed.group_loads(popular)
    return np.asarray(loads / loads.mean())


def spreading(d: Deployment) -> list[ExpertPart]:
    """Parts whose experts spread over devices, of all layers."""
    return [part for part in d.experts if part.spec.routed.spreads and part.ep > 1]


def worst_over_mean(d: Deployment) -> float:
    """Load of the most loaded device over the mean, in the long run; mean over layers."""
    parts = spreading(d)
    layers = [part.layers for part in parts]
    return float(np.average([group_loads(part).max() for part in parts], weights=layers))


def copy_bytes(d: Deployment) -> float:
    """Bytes of copies on a device of the stage with most of them."""
    each: dict[int, float] = {}
    for part in spreading(d):
        copies = part.held - part.spec.routed.experts // part.ep
        size = copies * part.layers * part.expert_bytes(d.run)
        each[part.stage] = each.get(part.stage, 0.0) + size
    return max(each.values(), default=0.0)


def out_share(d: Deployment) -> float | None:
    """Share of the copies of tokens that leave their node; None where nothing is placed."""
    found, weights = [], []
    for part in spreading(d):
        placed: Dispatch | None = part.placed
        if placed is None:
            return None
        popular = part.router.inclusion[part.row]
        found.append(float(popular @ placed.out) / popular.sum())
        weights.append(part.layers)
    return float(np.average(found, weights=weights)) if found else None


def placing_dict(d: Deployment) -> dict[str, Any]:
    """Entry of an answer's JSON; nothing where experts lie in order and have no copies."""
    placing = d.placing
    if placing is None:
        return {}
    found = {
        "policy": placing.policy,
        "redundant_experts": sum(part.held * part.ep - part.spec.routed.experts for part in spreading(d)[:1]),
        "dispatch": placing.dispatch,
        "held": spreading(d)[0].held,
        "max_over_mean": worst_over_mean(d),
        "copies_bytes": copy_bytes(d),
        "sent_share": d.layout.sent,
        "leaves_node_share": out_share(d),
    }
    return {"expert_placement": found}


def placing_text(d: Deployment) -> list[str]:
    """The same as a sentence."""
    found = placing_dict(d).get("expert_placement")
    if found is None:
        return []
    copies = ""
    if found["redundant_experts"]:
        copies = (
            f" with {found['redundant_experts']} copies a layer, {found['copies_bytes'] / 2**30:.2f} "
            f"GiB on a device, dispatched to {found['dispatch']}"
        )
    return [
        (
            f"Experts are placed by {found['policy']}{copies}: the most loaded device has "
            f"{found['max_over_mean']:.2f} times the mean in the long run."
        )
    ]


FACET = Facet(lambda r: placing_dict(r.deployment), lambda r: placing_text(r.deployment))

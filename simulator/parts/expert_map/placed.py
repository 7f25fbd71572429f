"""Loads of placed experts, compiled: tokens of every slot from tokens of every expert."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ....workloads.draws import GOLDEN, MIX_2, layer_key, mix, step_key
from ....workloads.jit import compiled, compiled_part, int64
from ....workloads.jit_address import bring, by_address
from ....workloads.ops import Loads
from ...deploy.deployment import Deployment
from ...deploy.expert_parts import ExpertPart
from ...step.lowering import F8, I8, LoweredModel, Slots

S48 = np.uint64(48)
PARTS = 1.0 / 65536.0
"""Offsets are multiples of this, so that tokens and an offset add up without rounding."""


@by_address
class Places(NamedTuple):
    """The maps of a deployment; X expert parts, J slots of all groups together at most."""

    experts: I8  # [X, J]
    low: F8  # [X, J] `deploy.expert_dispatch.Dispatch.bounds`
    high: F8


def places_of(deployment: Deployment) -> Places | None:
    """Return the maps of a deployment; None if experts are in order and have no copies."""
    if deployment.parts.get("expert-copies") is None:
        return None
    slots = max(part.held * part.ep for part in deployment.experts)
    experts = np.zeros((len(deployment.experts), slots), dtype=np.int64)
    low, high = np.zeros((2, *experts.shape))
    for x, part in enumerate(deployment.experts):
        n = part.held * part.ep
        if part.placed is None:  # its experts do not spread
            experts[x, :n], high[x, :n] = np.arange(n), 1.0
        else:
            experts[x, :n], (low[x, :n], high[x, :n]) = part.placed.experts, part.placed.bounds.T
    return Places(experts, low, high)


@compiled_part
def offset_of(key: np.uint64, layer: int, expert: int) -> float:
    """Where the copies of an expert begin to be counted in a step, from 0 to below 1."""
    bits = mix(layer_key(key, layer) ^ mix(np.uint64(expert) * MIX_2 + GOLDEN))
    return float(np.float64(bits >> S48) * PARTS)


@compiled
def _offsets(seed: int, replica: int, step: int, layer: int, out: F8) -> None:
    """`offset_of` every expert, for callers outside compiled code."""
    key = step_key(seed, replica, step)
    for e in range(out.size):
        out[e] = offset_of(key, layer, e)


def offsets_of(part: ExpertPart, step: int, replica: int) -> F8:
    """Return the offsets of the experts of a part in a step, for `Dispatch.drawn`."""
    out = np.zeros(part.spec.routed.experts)
    _offsets(part.router.seed, replica, step, part.router.keys[part.row], out)
    return out


@compiled_part
def on_slots(plan: LoweredModel, part: int, key: np.uint64, loads: I8, placed: I8) -> I8:
    """Loads of the slots of `part`, group by group; the same as `Dispatch.drawn`."""
    places = plan.places
    for j in range(plan.experts[part].groups * plan.experts[part].held):
        e = places.experts[part, j]
        low, high = places.low[part, j], places.high[part, j]
        n, offset = float(loads[e]), offset_of(key, plan.experts[part].key, e)
        placed[j] = int64(np.floor(n * high + offset) - np.floor(n * low + offset))
    return placed


bring(Places, on_slots=on_slots)


def with_places(plan: LoweredModel, slots: Slots, deployment: Deployment, *_: object) -> tuple[LoweredModel, Slots]:
    """A plan with the maps of a deployment."""
    return plan._replace(places=places_of(deployment)), slots


def slot_loads(part: ExpertPart, loads: Loads, step: int, replica: int) -> Loads:
    """Loads of what the groups hold, copies among it."""
    assert part.placed is not None
    return part.placed.drawn(loads.tokens.astype(np.int64), offsets_of(part, step, replica))

"""Loads of placed experts, compiled: tokens of every slot from tokens of every expert."""

from __future__ import annotations

import numpy as np

from ....workloads.draws import GOLDEN, MIX_2, layer_key, mix, step_key
from ....workloads.jit import compiled, compiled_given, compiled_part, int64
from ...deploy.expert_parts import ExpertPart
from ...step.lowering import E_GROUPS, E_HELD, E_KEY, F8, I8, Plan
from ...step.places import J_HIGH, J_LOW

S48 = np.uint64(48)
PARTS = 1.0 / 65536.0
"""Offsets are multiples of this, so that tokens and an offset add up without rounding."""


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


@compiled_given("plan.places", lambda plan, x, key, loads, placed: loads)
def on_slots(plan: Plan, x: int, key: np.uint64, loads: I8, placed: I8) -> I8:
    """Return the loads of the slots of part `x`, group by group; of its experts if none are placed.

    Equal to `Dispatch.drawn`.
    """
    places = plan.places
    for j in range(plan.experts[x, E_GROUPS] * plan.experts[x, E_HELD]):
        e = places.experts[x, j]
        low, high = places.bounds[x, j, J_LOW], places.bounds[x, j, J_HIGH]
        n, offset = float(loads[e]), offset_of(key, plan.experts[x, E_KEY], e)
        placed[j] = int64(np.floor(n * high + offset) - np.floor(n * low + offset))
    return placed

"""Cache of lowered deployments, so that runs of one deployment at several loads lower it once."""

from __future__ import annotations

from ..deploy.deployment import Deployment
from .lowering import LoweredModel, Slots, lower

KEPT = 64
"""Number of deployments whose lowering is cached."""
_lowered: dict[int, tuple[Deployment, int, LoweredModel, Slots]] = {}


def lowered(deployment: Deployment, replica: int, counts: int) -> tuple[LoweredModel, Slots]:
    """Return the lowered deployment of `lower`, from the cache if it was lowered recently.

    Runs may share a plan as replicas do: only its `memo` is written, whose entries are the same for all runs.
    """
    known = _lowered.pop(id(deployment), None)
    if known is not None and known[1] == counts and deployment.apart is None:  # else it draws
        plan, slots = known[2]._replace(replica=replica), known[3]
    else:
        plan, slots = lower(deployment, replica, counts)
    _lowered[id(deployment)] = deployment, counts, plan, slots  # alive: no other has its id
    while len(_lowered) > KEPT:
        del _lowered[next(iter(_lowered))]
    return plan, slots

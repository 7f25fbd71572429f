"""Cache of lowered deployments, so that runs of one deployment at several loads lower it once."""

from __future__ import annotations

from ..deploy.deployment import Deployment
from .lowering import LoweredModel, Slots, lower

KEPT = 64
"""Number of deployments whose lowering is cached."""
_lowered: dict[int, tuple[Deployment, int, LoweredModel, Slots]] = {}


def lowered(deployment: Deployment, replica: int, counts: int) -> tuple[LoweredModel, Slots]:
    """Return the lowered deployment of `lower`, from the cache if it was lowered recently.

    Runs can share a plan: they write only its `memo`, whose entries are equal for all runs.
    """
    known = _lowered.pop(id(deployment), None)
    if known is not None and known[1] == counts and deployment.apart is None:  # else the replica is in further arrays
        plan, slots = known[2]._replace(replica=replica), known[3]
    else:
        plan, slots = lower(deployment, replica, counts)
    _lowered[id(deployment)] = deployment, counts, plan, slots  # the reference keeps its id unique
    while len(_lowered) > KEPT:
        del _lowered[next(iter(_lowered))]
    return plan, slots

"""Lowered deployments of late, so that runs of one at other loads lower it once."""

from __future__ import annotations

from ..deploy.deployment import Deployment
from .lowering import LoweredModel, Slots, lower

KEPT = 64
"""Deployments whose latest lowering is kept."""
_lowered: dict[int, tuple[Deployment, int, LoweredModel, Slots]] = {}


def lowered(deployment: Deployment, replica: int, counts: int) -> tuple[LoweredModel, Slots]:
    """Lower a deployment as `lower` does; a deployment that was lowered lately costs no work.

    Of a plan only `memo` is written, whose entries are the same for all, so that runs may share it as replicas do.
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

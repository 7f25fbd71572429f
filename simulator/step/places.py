"""Placed experts as arrays: the expert of every slot of every group, and its share of the expert's tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit_held import held
from ..deploy.deployment import Deployment

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

(J_LOW, J_HIGH) = range(2)
"""Columns of `Places.bounds`; see `expert_map.dispatch.Dispatch.bounds`."""


@held
class Places(NamedTuple):
    """The maps of a deployment; X expert parts, J slots of all groups together at most."""

    experts: I8  # [X, J]
    bounds: F8  # [X, J, 2]


def places_of(d: Deployment) -> Places | None:
    """Return the maps of a deployment; None if experts are in order and have no copies."""
    if d.parts.get("expert-copies") is None:
        return None
    slots = max(part.held * part.ep for part in d.experts)
    experts = np.zeros((len(d.experts), slots), dtype=np.int64)
    bounds = np.zeros((len(d.experts), slots, 2))
    for x, part in enumerate(d.experts):
        n = part.held * part.ep
        if part.placed is None:  # its experts do not spread
            experts[x, :n], bounds[x, :n, J_HIGH] = np.arange(n), 1.0
        else:
            experts[x, :n], bounds[x, :n] = part.placed.experts, part.placed.bounds
    return Places(experts, bounds)

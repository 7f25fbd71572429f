"""Exchanges with different algorithms in steps with prompts and in decode-only steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...devices.collectives.plans import BY_STEP
from ...devices.prices import ALONE, ROOFLINE
from ...workloads.jit_address import by_address
from ...workloads.ops import Op
from ...workloads.records import Records
from ..deploy.deployment import Deployment

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


@by_address
class Modes(NamedTuple):
    """Costs of exchanges by the kind of step; L exchanges."""

    slots: I8  # [L] which ops they are
    params: Records  # [2, L, ROOFLINE] without prompts on any rank, and with


def modes_of(deployment: Deployment, ops: Sequence[Op]) -> Modes | None:
    """Return the exchanges whose algorithm depends on the kind of step; None if there are none."""
    slots = [i for i, op in enumerate(ops) if op.kind == "all_to_all"]
    if deployment.all_to_all not in BY_STEP or not slots:
        return None
    rows = [[deployment.link(ops[i], prompts).row(ops[i], ALONE).params for i in slots] for prompts in (False, True)]
    return Modes(np.array(slots, dtype=np.int64), np.array(rows, dtype=ROOFLINE))

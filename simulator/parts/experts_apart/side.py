"""Devices that store disaggregated experts, as arrays: their plan, and the transfers to them and back."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.jit_address import by_address
from ....workloads.layers.base import sent_width
from ...deploy.deployment import Deployment
from ..overlap.arrays import Streams

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

Worker = IntEnum("Worker", "ATTENTION OUT EXPERTS BACK", start=0)
NUM_STREAMS = 4
"""Number of streams in `Aside.busy`."""


@by_address
class Beside(NamedTuple):
    """Separate devices that store a deployment's experts; X expert parts, including adapters."""

    plan: Any  # a `lowering.LoweredModel` of the whole model on the expert devices
    held: I8  # [X] index of each part on the expert devices; -1 for adapters, which are on the attention devices
    latency_s: float
    vector_s: F8  # [X] time to send one routed token's vector [s]
    tracks: I8  # [X] track that sends to each part


@by_address
class Aside(NamedTuple):
    """Step totals of the expert devices, and work arrays of a step; N micro-batches, R ranks."""

    step_totals: Any  # `step_totals.StepTotals` of the expert devices
    owner: I8  # [N, R] the first micro-batch with the same sums
    busy: F8  # [4] busy seconds of each `Worker`


def beside_of(deployment: Deployment, plan: Any, streams: Streams, slots: int) -> Beside:
    """Return the arrays of a deployment's expert devices; change the tracks in `streams` to the rows of the experts.

    Parameters
    ----------
    plan : lowering.LoweredModel
        The model on the expert devices.
    slots : int
        Number of slots of the plan of the attention devices; the rows of experts follow them.
    """
    apart = deployment.apart
    assert apart is not None
    parts = len(deployment.experts)
    sending = np.zeros(parts, dtype=np.int64)
    for visit in streams.visits[::-1]:
        for t in range(*streams.spans[visit.section]):
            row, x = streams.tracks[t], visit.part + streams.tracks[t].part
            if 0 <= row.part < parts:  # experts
                row.start = row.stop = slots + x
            elif parts <= row.part < 2 * parts:  # what crosses to them
                sending[x - parts] = t
    wide = deployment.run.numerics.act_bytes / apart.link.bandwidth_bytes_per_s
    vectors = np.array([0.0 if p.kept else sent_width(p.spec) * wide for p in deployment.experts])
    there = ~np.array([part.kept for part in deployment.experts])
    index = np.where(there, np.cumsum(there) - 1, -1)
    return Beside(plan, index, float(apart.link.latency_s), vectors, sending)

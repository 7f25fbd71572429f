"""Which measured times cannot be: far below the roofline, or far above it and a long latency."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .family import F8, Family
from .hardware import H_BANDWIDTH, H_CACHE

ABOVE_PEAK = 1.25
"""Clocks above the nominal one and rounding; no kernel computes faster than this."""
CACHE_SPEED = 12.0
"""Largest ratio of last-level cache to memory bandwidth of the catalog's devices, with margin."""
SHORTEST_S = 2e-7
"""No kernel launch ends before this."""
SLOWEST, LONGEST_S = 100.0, 1e-2
"""Maximum rooflines of a slow kernel, and an additional latency: the slowest rows of the tables (latent attention
without splits over keys) end 6 ms above 100 rooflines."""


def implausible(family: Family, hardware: F8, inputs: F8, measured: F8) -> npt.NDArray[np.object_]:
    """Reason for each row that cannot be a time of that device, else "".

    Both tell a unit slipped by a thousand: all rows one way, rows of at least some 20 us the other. Traffic may come
    from the last-level cache as far as it fits there several times over; arithmetic and traffic over the link may not.
    """
    compute, memory, link = family.floors(hardware, inputs)
    cached = np.where(memory * hardware[H_BANDWIDTH] < 4.0 * hardware[H_CACHE], CACHE_SPEED, 2.0)
    rigid = np.maximum(compute, link) / ABOVE_PEAK
    reasons = np.full(len(measured), "", dtype=object)
    for i in np.flatnonzero((measured < SHORTEST_S) | (rigid > measured) | (memory > cached * measured)):
        floor = max(rigid[i], memory[i] / cached[i], SHORTEST_S)
        reasons[i] = (
            f"measured_s {measured[i]:.3g} beats the device's roofline ({floor:.3g} s) by "
            f"{floor / measured[i]:.3g} times; is the unit seconds?"
        )
    floor = np.maximum(np.maximum(compute, memory), link)
    for i in np.flatnonzero(measured > SLOWEST * floor + LONGEST_S):
        reasons[i] = (
            f"measured_s {measured[i]:.3g} is far above the device's roofline "
            f"({floor[i]:.3g} s) and any latency; is the unit seconds?"
        )
    return reasons

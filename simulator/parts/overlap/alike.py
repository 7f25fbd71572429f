"""Repeated layers of a schedule in max-plus form: a few are run, the others are extrapolated.

A visit of a section maps the times at which streams are free and chunks are ready to new ones, only by maxima and sums;
it commutes with a shift of all times. Once a visit shifts all times by one amount, every further visit of the section
shifts them equally and books the same. An exchange reaches at most into the next visit, so two such visits in a row
suffice (Baccelli et al., Synchronization and Linearity, 1992, chapter 3).
"""

from __future__ import annotations

from ....workloads.jit import compiled_part
from .lanes import L_END, L_START, RING, Lanes

NEAR = 1e-13
"""Of the time that a stage has come to: times that differ by less were moved by one amount."""


@compiled_part
def keep(lanes: Lanes, way: int) -> None:
    """Remember the times before a visit, and what is booked."""
    n = lanes.ready.size
    for place in range(n):
        lanes.before_visit[0, place] = lanes.ready[place]
        lanes.before_visit[1, place] = lanes.before[place]
    for i in range(lanes.free.size):
        lanes.free_before[i] = lanes.free[i]
    for s in range(lanes.booked.size):
        lanes.booked[s] = lanes.wall[way, s]


@compiled_part
def moved(lanes: Lanes, chunks: int) -> float:
    """By how much a visit moved all times, -1 where it moved them by different amounts.

    A stream that the section does not use stays where it was; nothing waits for it.
    """
    by = lanes.free[0] - lanes.free_before[0]
    near = NEAR * lanes.free[0]
    if by <= 0.0:
        return -1.0
    for place in range(chunks):
        if abs(lanes.ready[place] - lanes.before_visit[0, place] - by) > near:
            return -1.0
        if abs(lanes.before[place] - lanes.before_visit[1, place]) > near:
            return -1.0
    for i in range(1, lanes.free.size):
        if lanes.free[i] != lanes.free_before[i] and (abs(lanes.free[i] - lanes.free_before[i] - by) > near):
            return -1.0
    return float(by)


@compiled_part
def skip(lanes: Lanes, way: int, chunks: int, by: float, times: int) -> None:
    """Advance by `times` visits, each like the last one."""
    later = by * times
    for place in range(chunks):
        lanes.ready[place] += later
    for i in range(lanes.free.size):
        if lanes.free[i] != lanes.free_before[i]:
            lanes.free[i] += later
    for s in range(lanes.booked.size):
        lanes.wall[way, s] += (lanes.wall[way, s] - lanes.booked[s]) * times
    for i in range(min(lanes.latest[0], RING)):
        lanes.ring[i, L_START] += later
        lanes.ring[i, L_END] += later

"""Workspace of the compiled path of an overlapped step: one lane of arrays per way to overlap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ....workloads.jit_address import by_address
from ....workloads.records import Records, named, records
from ...step.lowering import F8, I8, LoweredModel
from ...step.step_totals import CELL, NUM_TALLIES, StepTotals
from .chunking import MOST_CHUNKS

EXCHANGE = named("slot", "start end")
"""Fields of an exchange: its slot, and its start and end [s]."""

RING = 4 * MOST_CHUNKS
"""Number of exchanges that are remembered: more than can run between two computations of a step."""


@by_address
class Workspace(NamedTuple):
    """Arrays of C ways, three chunk sizes, T tracks and N chunks; other dimensions as in `StepTotals` and `LoweredModel`.

    With experts on separate devices every chunk has one size. The transfers to and from the experts are stored after the
    experts.
    """

    cells: Records  # [C, 3, R, S] of `CELL`
    tally: F8  # [C, S+X, P, NUM_TALLIES]
    wall: F8  # [C, S+X]
    busy: F8  # [C, 2, P+1]
    stages: F8  # [C, pp]
    serial: F8  # [C, 2] serial seconds of the sections and of the experts
    compute: F8  # [C] compute seconds of the sections without exchanges, for all layers and chunks
    tracks: F8  # [C, T, N] seconds of each chunk of a track
    taken: F8  # [T] share of the cores that each track's exchange occupies in this step
    experts: F8  # [C, X, N] seconds of each chunk of an expert part
    moments: F8  # [3, R, M] of each size of chunk
    seconds: F8  # [3, R] seconds of a section, for each chunk size
    drawn: I8  # [X, E] sampled loads of the whole step
    loads: I8  # [N, E] loads of each chunk
    routed: F8  # [N] token-expert pairs of each chunk
    ready: F8  # [N] time at which each chunk's next track may begin [s]
    before: F8  # [N] seconds of computation of each chunk that are not yet scheduled
    free: F8  # [streams] time at which each stream is free [s]
    ring: Records  # [RING] of `EXCHANGE`, the latest ones
    latest: I8  # [1] number of exchanges so far
    before_visit: F8  # [2, N] `ready` and `before`, before the latest of equal visits
    free_before: F8  # [streams] `free`, before the latest of equal visits
    booked: F8  # [S+X] the way's `wall`, before the latest of equal visits


def with_lanes(step_totals: StepTotals, plan: LoweredModel) -> StepTotals:
    """Return the step totals of an engine with empty lanes."""
    return step_totals._replace(workspace=_new_lanes(plan))


def _new_lanes(plan: LoweredModel) -> Workspace:
    """Build empty arrays for every way to overlap a step."""
    rows, processors = plan.can.shape
    ways, parts, n = len(plan.streams.ways), len(plan.experts), MOST_CHUNKS
    sizes, kinds = (3, 1) if plan.apart is None else (int(plan.streams.ways[0].chunks), 3)
    return Workspace(
        cells=records((ways, sizes, plan.ranks, len(plan.slots)), CELL),
        tally=np.zeros((ways, rows, processors, NUM_TALLIES)),
        wall=np.zeros((ways, rows)),
        busy=np.zeros((ways, 2, processors + 1)),
        stages=np.zeros((ways, plan.stages)),
        serial=np.zeros((ways, 2)),
        compute=np.zeros(ways),
        tracks=np.zeros((ways, len(plan.streams.tracks), n)),
        taken=np.zeros(len(plan.streams.tracks)),
        experts=np.zeros((ways, kinds * parts, n)),
        moments=np.zeros((sizes, plan.ranks, plan.forms.shape[2] - 1)),
        seconds=np.zeros((3, plan.ranks)),
        drawn=np.zeros((parts, plan.router.shape[2]), dtype=np.int64),
        loads=np.zeros((n, plan.router.shape[2]), dtype=np.int64),
        routed=np.zeros(n),
        ready=np.zeros(n),
        before=np.zeros(n),
        free=np.zeros(plan.streams.resources),
        ring=records(RING, EXCHANGE),
        latest=np.zeros(1, dtype=np.int64),
        before_visit=np.zeros((2, n)),
        free_before=np.zeros(plan.streams.resources),
        booked=np.zeros(rows),
    )

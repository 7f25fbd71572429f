"""Lanes: what the compiled path of a step that overlaps works in, one lane a way to overlap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ....workloads.jit_address import by_address
from ....workloads.records import Records, named, records
from ...step.lowering import F8, I8, LoweredModel
from ...step.step_totals import CELL, NUM_TALLIES, StepTotals
from .chunking import MOST_CHUNKS

EXCHANGE = named("slot", "start end")
"""Which slot exchanged, from when to when."""

RING = 4 * MOST_CHUNKS
"""Exchanges that are remembered: more than can run between two computations of a step."""


@by_address
class Workspace(NamedTuple):
    """C ways, three sizes of chunks, and otherwise as in `StepTotals` and `LoweredModel`; T tracks, N chunks.

    With experts on separate devices every chunk has one size, and the transfers to and from the experts follow the
    experts.
    """

    cells: Records  # [C, 3, R, S] of `CELL`
    tally: F8  # [C, S+X, P, NUM_TALLIES]
    wall: F8  # [C, S+X]
    busy: F8  # [C, 2, P+1]
    stages: F8  # [C, pp]
    serial: F8  # [C, 2] seconds of sections and of experts one after another
    compute: F8  # [C] seconds of sections without their exchanges, all layers and chunks
    tracks: F8  # [C, T, N] seconds of each chunk of a track
    taken: F8  # [T] share of the cores that each track keeps in this step
    experts: F8  # [C, X, N]
    moments: F8  # [3, R, M] of each size of chunk
    seconds: F8  # [3, R] of a section, each size of chunk
    drawn: I8  # [X, E] loads of the whole step
    loads: I8  # [N, E] of each chunk
    routed: F8  # [N] token-expert pairs of each chunk
    ready: F8  # [N] when each chunk's next track may begin
    before: F8  # [N] seconds that each chunk computes without a stop so far
    free: F8  # [streams] when each has done all that it was given
    ring: Records  # [RING] of `EXCHANGE`, the latest
    latest: I8  # [1] how many there were
    before_visit: F8  # [2, N] `ready` and `before`, and
    free_before: F8  # [streams] `free`, and
    booked: F8  # [S+X] the way's `wall`, before the latest of visits that are alike


def with_lanes(step_totals: StepTotals, plan: LoweredModel) -> StepTotals:
    """Step totals of an engine with empty lanes."""
    return step_totals._replace(workspace=_new_lanes(plan))


def _new_lanes(plan: LoweredModel) -> Workspace:
    """Arrays for every way of dividing a step into chunks."""
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

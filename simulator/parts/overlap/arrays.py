"""Arrays of the compiled path of an overlapped step: tracks and ways to overlap, and a workspace with one lane per way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ....workloads.jit_address import by_address
from ....workloads.records import Records, filled, named, records
from ...deploy.deployment import Deployment
from ...step.lowering import F8, I8, LoweredModel
from ...step.sections import sections_of
from ...step.step_totals import CELL, NUM_TALLIES, StepTotals
from ...streams import COMPUTE
from .chunking import MOST_CHUNKS
from .gates import Gate, gate_of
from .tracks import NONE, Visit, chunked_parts, tracks_of, visits_of, ways_of

TRACK = named("start stop resource part layer cut", "")
"""Fields of a track: first slot and the slot after the last; number of the stream (0: computation); index of the expert part
in its layer (-1: none); whether it belongs to a layer; whether pipelining cuts it into chunks.
"""

VISIT = named("section part stage", "")
WAY = named("kind chunks", "")


@by_address
class Streams(NamedTuple):
    """Ways to overlap, and the tracks and visits of a deployment, as arrays."""

    ways: Records  # [C] of `WAY`
    chunks: I8  # [C, X] chunks of each expert part
    tracks: Records  # [T] of `TRACK`
    taken: F8  # [2, T] share of the cores that a track's exchange occupies, in steps without and with prompts
    spans: I8  # [G, 2] tracks of each section
    visits: Records  # [V] of `VISIT`
    alike: I8  # [V] number of equal visits that follow directly
    resources: int
    gate: I8  # [3] see `streams.gates.Gate.row`


def streams_of(deployment: Deployment, starts: Sequence[int]) -> Streams | None:
    """Return the arrays of the tracks and ways to overlap; None if nothing overlaps.

    Parameters
    ----------
    starts : sequence of int
        First slot of each section.
    """
    chosen = ways_of(deployment)
    if chosen == (NONE,):
        return None
    sections = sections_of(deployment)
    tracks = [tracks_of(deployment, section) for section in sections]
    names = dict.fromkeys([COMPUTE, *(t.resource for own in tracks for t in own)])
    number = {name: i for i, name in enumerate(names)}
    rows = [
        (start + t.start, start + t.stop, number[t.resource], t.part, t.layer, t.cut)
        for start, own in zip(starts, tracks, strict=True) for t in own
    ]  # fmt: skip
    ends = np.cumsum([len(own) for own in tracks])
    visits = visits_of(deployment, sections)
    return Streams(
        ways=filled(WAY, ((way.kind, way.chunks) for way in chosen)),
        chunks=np.array(
            [[way.chunks if cut else 1 for cut in chunked_parts(deployment, tracks, visits, way)] for way in chosen],
            dtype=np.int64,
        ),
        tracks=filled(TRACK, rows),
        taken=np.ascontiguousarray(np.array([t.taken for own in tracks for t in own]).T),
        spans=np.column_stack([[0, *ends[:-1]], ends]).astype(np.int64),
        visits=filled(VISIT, visits),
        alike=_alike(visits),
        resources=len(number),
        gate=np.array((gate_of(deployment.parts.get("overlap", "none")) or Gate()).row, dtype=np.int64),
    )


def _alike(visits: Sequence[Visit]) -> I8:
    """Return for each visit the number of equal visits (section and experts) that follow it directly."""
    out = np.zeros(len(visits), dtype=np.int64)
    for v in range(len(visits) - 2, -1, -1):
        out[v] = (out[v + 1] + 1) * (visits[v] == visits[v + 1])
    return out


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

"""The compiled path of an overlapped step: a fixed schedule in max-plus form.

The results equal those of `explicit`, because the list scheduler has one order of tracks. A track of a chunk begins when
its stream is free and the chunk's previous track has ended. Each way is costed in its own lane of `StepTotals.workspace`.
The lane of the fastest way is added to the step totals.
"""

from __future__ import annotations

import numpy as np

from ....workloads.batch import TOKENS, batch_tokens
from ....workloads.draws import step_key
from ....workloads.jit import compiled_inside, compiled_part, int64
from ....workloads.jit_address import bring
from ....workloads.records import Records
from ...deploy.deployment import Deployment
from ...step.compiled import book_cell, cost_cell
from ...step.drawing import StepBatch, draw_part
from ...step.experts import book_part, clear_share, groups_seconds, on_slots
from ...step.lowering import F8, LoweredModel, Role, Slots
from ...step.step_totals import StepTotals
from ...step.unequal import graph_batch
from .arrays import Streams, Workspace, streams_of, with_lanes
from .chunking import ChunkSize, chunk_tokens, even_halves, half_moments
from .gates import GateRule, halved
from .maxplus import chunked, makespan
from .splitting import split_loads
from .tracks import WayKind

SURELY = 1.0 + 1e-12
"""Factor above rounding: sums of one step that are added in another order differ by less."""

_batch_tokens = compiled_part(batch_tokens)
_chunk_tokens = compiled_part(chunk_tokens)
_even_halves = compiled_part(even_halves)
_half_moments = compiled_part(half_moments)
_halved = compiled_part(halved)


@compiled_inside
def size_of(moments: F8, windows: int, kind: int, chunks: int, place: int) -> int:
    """Return the size of a chunk of a rank's batch: `ChunkSize.BIG` for the first chunks, which get the remainder."""
    if kind == WayKind.TWO_BATCH:
        return ChunkSize.BIG if place == 0 or _even_halves(moments, windows) else ChunkSize.SMALL
    first = _chunk_tokens(moments[TOKENS], chunks, 0)
    return ChunkSize.BIG if _chunk_tokens(moments[TOKENS], chunks, place) == first else ChunkSize.SMALL


@compiled_part
def price_range(plan: LoweredModel, first: int, end: int, moments: F8, fresh: bool, cells: Records) -> float:
    """Return the seconds of slots from `first` to `end`, as `compiled.range_seconds`, without adding them to the step totals."""
    total = 0.0
    for s in range(first, end):
        cost_cell(plan, s, moments, fresh, cells)
        total += cells[s].wall
    return total


@compiled_part
def book_range(plan: LoweredModel, first: int, end: int, times: int, cells: Records, step_totals: StepTotals) -> None:
    """Add the costs from `price_range` to the step totals, `times` times."""
    for s in range(first, end):
        p = int(cells[s].processor)
        if p >= 0:
            book_cell(plan, s, p, times, cells[s], step_totals.tally, step_totals.busy[0])


@compiled_part
def price_tracks(
    plan: LoweredModel,
    streams: Streams,
    workspace: Workspace,
    way: int,
    section: int,
    rank: int,
    size: int,
    fresh: bool,
) -> float:
    """Cost a rank's tracks in a section with chunks of one size; return the seconds of one chunk."""
    total, kind = 0.0, streams.ways[way].kind
    for t in range(streams.spans[section, 0], streams.spans[section, 1]):
        row = streams.tracks[t]
        if row.part < 0 and chunked(streams, t, kind) == (size != ChunkSize.WHOLE):
            total += price_range(
                plan, row.start, row.stop, workspace.moments[size, rank], fresh, workspace.cells[way, size, rank]
            )
    return total


@compiled_part
def price_whole(plan: LoweredModel, workspace: Workspace, way: int, section: int, moments: F8, fresh: bool) -> float:
    """Cost an uncut section, as `compiled.section_seconds`, without adding it to the step totals; return the slowest rank's seconds."""
    first, end, layers = (plan.sections[section].start, plan.sections[section].stop, plan.sections[section].layers)
    slowest, longest = int64(0), -1.0
    for r in range(moments.shape[0]):
        seconds = price_range(plan, first, end, moments[r], fresh, workspace.cells[way, ChunkSize.WHOLE, r])
        if seconds > longest:
            slowest, longest = r, seconds
    for s in range(first, end):
        workspace.wall[way, s] += workspace.cells[way, ChunkSize.WHOLE, slowest, s].wall * layers
    return longest


@compiled_part
def bigs_of(moments: F8, windows: int, kind: int, chunks: int) -> int:
    """Return the number of a rank's chunks that have the larger size."""
    bigs = int64(0)
    for place in range(chunks):
        bigs += size_of(moments, windows, kind, chunks, place) == ChunkSize.BIG
    return bigs


@compiled_part
def take_tracks(
    plan: LoweredModel, streams: Streams, workspace: Workspace, way: int, section: int, rank: int, size: int, place: int
) -> None:
    """Copy the seconds of a chunk's tracks (or of the uncut tracks) from one rank to the lane."""
    kind, layers = streams.ways[way].kind, plan.sections[section].layers
    for t in range(streams.spans[section, 0], streams.spans[section, 1]):
        row = streams.tracks[t]
        if row.part >= 0 or chunked(streams, t, kind) != (size != ChunkSize.WHOLE):
            continue
        took = 0.0
        for s in range(row.start, row.stop):
            wall_s = workspace.cells[way, size, rank, s].wall
            took += wall_s
            if row.resource == 0:
                workspace.wall[way, s] += wall_s * layers
        workspace.tracks[way, t, place] = took


@compiled_part
def price_section(
    plan: LoweredModel, streams: Streams, workspace: Workspace, way: int, section: int, moments: F8, fresh: bool
) -> float:
    """Cost a section for one way; return the seconds of the slowest rank without overlap, else 0.

    The chunks of a rank have at most two sizes. For each chunk, the slowest rank is used.
    """
    ranks = moments.shape[0]
    kind, chunks = streams.ways[way].kind, streams.ways[way].chunks
    if kind == WayKind.SERIAL:
        return price_whole(plan, workspace, way, section, moments, fresh)
    slowest, longest = int64(0), -1.0
    for r in range(ranks):
        seconds = price_tracks(plan, streams, workspace, way, section, r, ChunkSize.WHOLE, fresh)
        if seconds > longest:
            slowest, longest = r, seconds
    take_tracks(plan, streams, workspace, way, section, slowest, ChunkSize.WHOLE, 0)
    for r in range(ranks):
        bigs = bigs_of(moments[r], plan.windows.size, kind, chunks)
        workspace.seconds[ChunkSize.BIG, r] = workspace.seconds[ChunkSize.SMALL, r] = 0.0
        if bigs > 0:
            workspace.seconds[ChunkSize.BIG, r] = price_tracks(
                plan, streams, workspace, way, section, r, ChunkSize.BIG, fresh
            )
        if bigs < chunks:
            workspace.seconds[ChunkSize.SMALL, r] = price_tracks(
                plan, streams, workspace, way, section, r, ChunkSize.SMALL, fresh
            )
    for place in range(chunks):
        slowest, longest = int64(0), -1.0
        for r in range(ranks):
            seconds = workspace.seconds[size_of(moments[r], plan.windows.size, kind, chunks, place), r]
            if seconds > longest:
                slowest, longest = r, seconds
        size = size_of(moments[slowest], plan.windows.size, kind, chunks, place)
        take_tracks(plan, streams, workspace, way, section, slowest, size, place)
    return 0.0


@compiled_part
def cut_moments(plan: LoweredModel, streams: Streams, workspace: Workspace, way: int, moments: F8) -> None:
    """Compute the sums of every rank's chunks in one way."""
    kind, chunks = streams.ways[way].kind, streams.ways[way].chunks
    for r in range(moments.shape[0]):
        for j in range(moments.shape[1]):
            workspace.moments[ChunkSize.WHOLE, r, j] = moments[r, j]
        for size in (ChunkSize.BIG, ChunkSize.SMALL):
            if kind == WayKind.TWO_BATCH:
                _half_moments(moments[r], plan.windows.size, size, workspace.moments[size, r])
            elif kind == WayKind.PIPELINED:
                for j in range(moments.shape[1]):
                    workspace.moments[size, r, j] = moments[r, j]
                place = 0 if size == ChunkSize.BIG else chunks - 1
                workspace.moments[size, r, TOKENS] = _chunk_tokens(moments[r, TOKENS], chunks, place)


@compiled_part
def price_part(
    plan: LoweredModel,
    workspace: Workspace,
    way: int,
    part: int,
    key: np.uint64,
    moments: F8,
    mixed: bool,
    step_totals: StepTotals,
) -> float:
    """Cost one expert part with the sampled loads for one way; return the seconds of all its chunks, for one layer."""
    streams = plan.streams
    chunks = streams.chunks[way, part]
    experts, total, sums = plan.experts[part], 0.0, 0.0
    count, layers = experts.count, experts.layers
    if chunks == 1:
        for e in range(count):
            workspace.loads[0, e] = workspace.drawn[part, e]
    else:
        for place in range(chunks):
            workspace.routed[place] = 0.0
            for r in range(moments.shape[0]):
                tokens = _batch_tokens(moments[r], plan.windows.size)
                workspace.routed[place] += experts.top_k * _chunk_tokens(tokens, chunks, place)
        split_loads(key, experts.key, workspace.drawn[part], count, workspace.routed, chunks, workspace.loads)
    clear_share(step_totals.share)
    for place in range(chunks):
        loads = on_slots(plan, part, key, workspace.loads[place], step_totals.placed)
        seconds, left = groups_seconds(plan, part, loads, mixed, step_totals.share, step_totals.queue)
        workspace.experts[way, part, place] = seconds
        total += seconds
        sums += left
    book_part(plan, part, sums, step_totals.share, workspace.tally[way], workspace.busy[way, 0])
    workspace.wall[way, plan.slots.shape[0] + part] += total * layers
    return total


@compiled_part
def price_experts(
    plan: LoweredModel,
    streams: Streams,
    workspace: Workspace,
    way: int,
    key: np.uint64,
    moments: F8,
    mixed: bool,
    step_totals: StepTotals,
) -> bool:
    """Cost all expert parts for one way; return False if the way is given up.

    A way is given up once its chunks need more extra compute time than all exchanges of the step take
    (`explicit.Uncut.gives_up`).
    """
    serial, chooses = workspace.serial, way > 0 and streams.ways[0].kind == WayKind.SERIAL
    chooses = chooses and streams.gate[0] == GateRule.ALWAYS  # a gate leaves no choice between ways
    more, most = workspace.compute[way] - workspace.compute[0], serial[0, 0] - workspace.compute[0]
    if chooses and more >= most:
        return False
    for x in range(plan.experts.shape[0]):
        layers = plan.experts[x].layers
        seconds = price_part(plan, workspace, way, x, key, moments, mixed, step_totals) * layers
        serial[way, 1] += seconds
        workspace.stages[way, plan.experts[x].stage] += seconds
        more += seconds - workspace.experts[0, x, 0] * layers
        if chooses and more >= most:
            return False
    return True


@compiled_part
def clear(plan: LoweredModel, workspace: Workspace, way: int) -> None:
    """Reset the totals of a lane. Only experts' tallies are reset, because the others are added to the step totals directly."""
    workspace.tally[way, plan.slots.shape[0] :] = 0.0
    workspace.wall[way] = 0.0
    workspace.busy[way] = 0.0
    workspace.stages[way] = 0.0
    workspace.serial[way] = 0.0
    workspace.compute[way] = 0.0


@compiled_part
def book_way(
    plan: LoweredModel, streams: Streams, workspace: Workspace, way: int, moments: F8, step_totals: StepTotals
) -> None:
    """Add the ops of the chosen way to the step totals, once for each execution."""
    kind, chunks = streams.ways[way].kind, streams.ways[way].chunks
    for g in range(plan.sections.shape[0]):
        times = plan.sections[g].layers * plan.tp
        for r in range(moments.shape[0]):
            cells, bigs = workspace.cells[way], bigs_of(moments[r], plan.windows.size, kind, chunks)
            for t in range(streams.spans[g, 0], streams.spans[g, 1]):
                row = streams.tracks[t]
                first, end = row.start, row.stop
                if row.part >= 0:
                    continue
                if not chunked(streams, t, kind):
                    book_range(plan, first, end, times, cells[ChunkSize.WHOLE, r], step_totals)
                    continue
                if bigs > 0:
                    book_range(plan, first, end, times * bigs, cells[ChunkSize.BIG, r], step_totals)
                if bigs < chunks:
                    book_range(plan, first, end, times * (chunks - bigs), cells[ChunkSize.SMALL, r], step_totals)


@compiled_part
def add_lane(plan: LoweredModel, workspace: Workspace, way: int, step_totals: StepTotals) -> None:
    """Add the seconds of a lane, and the tallies of its experts, to the step totals."""
    tally, busy = workspace.tally[way], workspace.busy[way]
    for s in range(tally.shape[0]):
        step_totals.wall[s] += workspace.wall[way, s]
    for s in range(plan.slots.shape[0], tally.shape[0]):
        for p in range(tally.shape[1]):
            for k in range(tally.shape[2]):
                step_totals.tally[s, p, k] += tally[s, p, k]
    for p in range(busy.shape[1]):
        step_totals.busy[0, p] += busy[0, p]
    for stage in range(step_totals.stages.size):
        step_totals.stages[stage] = workspace.stages[way, stage]


@compiled_inside
def ways_open(streams: Streams, windows: int, moments: F8) -> tuple[int, int]:
    """Return the first way that a step may take and the end of the range; a gate leaves one way."""
    ways, gate = streams.ways.shape[0], streams.gate
    if gate[0] == GateRule.ALWAYS:
        return int64(0), ways
    halves = int64(_halved(gate[0], gate[1], gate[2], windows, moments))
    return halves, halves + 1


@compiled_part
def overlapped_seconds(
    plan: LoweredModel, moments: F8, batch: StepBatch, fresh: bool, captured: int, step_totals: StepTotals
) -> float:
    """Return the seconds of an overlapped step in its fastest way, as `compiled.serial_seconds` for a serial step."""
    streams, workspace, serial = plan.streams, step_totals.workspace, step_totals.workspace.serial
    for r in range(moments.shape[0]):
        moments[r, TOKENS] = graph_batch(int(moments[r, TOKENS]), captured)
    first, end = ways_open(streams, plan.windows.size, moments)
    for t in range(workspace.taken.size):
        workspace.taken[t] = streams.taken[int64(batch.num_chunks > 0), t]
    for c in range(first, end):
        clear(plan, workspace, c)
        cut_moments(plan, streams, workspace, c, moments)
        for g in range(plan.sections.shape[0]):
            longest = price_section(plan, streams, workspace, c, g, moments, fresh)
            serial[c, 0] += longest * plan.sections[g].layers
            workspace.stages[c, plan.sections[g].stage] += longest * plan.sections[g].layers
        for s in range(plan.slots.shape[0]):
            if plan.slots[s].role != Role.LINK:
                workspace.compute[c] += workspace.wall[c, s]
    key = step_key(plan.seed, plan.replica, batch.step)
    for x in range(plan.experts.shape[0]):
        draw_part(plan, x, batch, 0, step_totals.scratch, workspace.drawn[x])
    best, least = int64(first), np.inf
    for c in range(first, end):
        if not price_experts(plan, streams, workspace, c, key, moments, batch.num_chunks > 0, step_totals):
            continue
        seconds = serial[c, 0] + serial[c, 1]
        if streams.ways[c].kind != WayKind.SERIAL:
            if workspace.compute[c] + serial[c, 1] > least * SURELY:
                continue  # its computation takes longer than a way that is already costed
            seconds = makespan(streams, workspace, c)
        if seconds < least:
            best, least = c, seconds
    book_way(plan, streams, workspace, best, moments, step_totals)
    add_lane(plan, workspace, best, step_totals)
    for r in range(moments.shape[0]):
        moments[r, TOKENS] = _batch_tokens(moments[r], plan.windows.size)
    return float(least)


bring(Streams, streamed_seconds=overlapped_seconds, step_totals=with_lanes)


def with_streams(plan: LoweredModel, slots: Slots, deployment: Deployment, *_: object) -> tuple[LoweredModel, Slots]:
    """Return the lowered model with the arrays of its overlap."""
    return plan._replace(streams=streams_of(deployment, plan.sections.start.tolist())), slots

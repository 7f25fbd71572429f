"""The schedule of an overlapped step in max-plus form: the end time of each track of each chunk.

Tracks have one order. A track of a chunk begins when its stream is free and the chunk's previous track has ended. A
track of the whole batch begins when the previous tracks of all chunks have ended.
"""

from __future__ import annotations

from ....workloads.jit import compiled_inside, compiled_part, int64
from .arrays import RING, Streams, Workspace
from .tracks import WayKind

NEAR = 1e-13
"""Relative tolerance of a stage's time: shifts of times that differ by less count as equal."""


@compiled_part
def keep(workspace: Workspace, way: int) -> None:
    """Save the lane times and booked seconds before a layer visit."""
    n = workspace.ready.size
    for place in range(n):
        workspace.before_visit[0, place] = workspace.ready[place]
        workspace.before_visit[1, place] = workspace.before[place]
    for i in range(workspace.free.size):
        workspace.free_before[i] = workspace.free[i]
    for s in range(workspace.booked.size):
        workspace.booked[s] = workspace.wall[way, s]


@compiled_part
def moved(workspace: Workspace, chunks: int) -> float:
    """Return the time by which a visit shifted all times [s]; -1 if the shifts differ.

    The time of a stream that the section does not use is unchanged; no task waits for it.
    """
    by = workspace.free[0] - workspace.free_before[0]
    near = NEAR * workspace.free[0]
    if by <= 0.0:
        return -1.0
    for place in range(chunks):
        if abs(workspace.ready[place] - workspace.before_visit[0, place] - by) > near:
            return -1.0
        if abs(workspace.before[place] - workspace.before_visit[1, place]) > near:
            return -1.0
    for i in range(1, workspace.free.size):
        if workspace.free[i] != workspace.free_before[i] and (
            abs(workspace.free[i] - workspace.free_before[i] - by) > near
        ):
            return -1.0
    return float(by)


@compiled_part
def skip(workspace: Workspace, way: int, chunks: int, by: float, times: int) -> None:
    """Advance by `times` visits, each like the last one."""
    later = by * times
    for place in range(chunks):
        workspace.ready[place] += later
    for i in range(workspace.free.size):
        if workspace.free[i] != workspace.free_before[i]:
            workspace.free[i] += later
    for s in range(workspace.booked.size):
        workspace.wall[way, s] += (workspace.wall[way, s] - workspace.booked[s]) * times
    for i in range(min(workspace.latest[0], RING)):
        workspace.ring[i].start += later
        workspace.ring[i].end += later


@compiled_inside
def chunked(streams: Streams, t: int, kind: int) -> bool:
    """Return whether a track runs chunk by chunk, as `tracks.Track.chunked`."""
    if kind == WayKind.SERIAL:
        return False
    track = streams.tracks[t]
    return bool((track.cut if kind == WayKind.PIPELINED else track.layer) > 0)


@compiled_inside
def note_exchange(workspace: Workspace, start: float, end: float, slot: int) -> None:
    """Record an exchange, since a part of it may turn out not to be hidden."""
    row = workspace.ring[workspace.latest[0] % RING]
    row.start, row.end, row.slot = start, end, slot
    workspace.latest[0] += 1


@compiled_part
def book_gap(streams: Streams, workspace: Workspace, way: int, low: float, high: float) -> None:
    """Assign the time from `low` to `high` [s], without computation, to the exchanges that ran in it.

    If several ran at once, the time counts for the exchange that began last; see `streams.Timeline.exposed`.
    """
    covered, first = high, max(workspace.latest[0] - RING, 0)
    while covered > low:
        latest = int64(-1)
        for i in range(workspace.latest[0] - 1, first - 1, -1):
            row = workspace.ring[i % RING]
            if row.start < covered <= row.end:
                if latest < 0 or row.start >= workspace.ring[latest].start:
                    latest = i % RING
                if streams.resources == 2:
                    break  # the exchanges of one stream do not overlap each other
        if latest < 0:
            return
        bottom = max(low, workspace.ring[latest].start)
        workspace.wall[way, int(workspace.ring[latest].slot)] += covered - bottom
        covered = bottom


@compiled_inside
def run_track(streams: Streams, workspace: Workspace, way: int, t: int, start: float, took: float) -> float:
    """Run a track of one chunk that is ready at `start`; return its end time."""
    if took <= 0.0:
        return start
    row = streams.tracks[t]
    stream, taken = row.resource, workspace.taken[t] * took
    beside = max(start, workspace.free[0])
    start = max(start, workspace.free[stream])
    if stream > 0:
        note_exchange(workspace, start, start + took, row.start)
        if taken > 0.0:
            if beside > workspace.free[0]:
                book_gap(streams, workspace, way, workspace.free[0], beside)
            workspace.free[0] = beside + taken
            workspace.wall[way, row.start] += taken
    elif start > workspace.free[0]:
        book_gap(streams, workspace, way, workspace.free[0], start)
    workspace.free[stream] = start + took
    return start + took


@compiled_inside
def goes_on(streams: Streams, v: int, t: int, kind: int) -> bool:
    """Return whether a track's chunks continue with the next track, without an exchange in between."""
    following = t + 1
    if following == streams.spans[streams.visits[v].section, 1]:
        if v + 1 == streams.visits.shape[0] or streams.visits[v].stage != streams.visits[v + 1].stage:
            return False
        following = streams.spans[streams.visits[v + 1].section, 0]
    both = streams.tracks[t].resource == 0 and streams.tracks[following].resource == 0
    return both and chunked(streams, t, kind) and chunked(streams, following, kind)


@compiled_part
def run_visit(streams: Streams, workspace: Workspace, way: int, v: int) -> None:
    """Run the tracks of a section at one visit of the step."""
    ready, before = workspace.ready, workspace.before
    kind, chunks = streams.ways[way].kind, streams.ways[way].chunks
    visit = streams.visits[v]
    g = visit.section
    for t in range(streams.spans[g, 0], streams.spans[g, 1]):
        part = streams.tracks[t].part
        unchunked, more = not chunked(streams, t, kind), goes_on(streams, v, t, kind)
        latest = 0.0
        for place in range(chunks):
            latest = max(latest, ready[place])
        for place in range(1 if unchunked else chunks):
            took = workspace.tracks[way, t, place]
            if part >= 0:
                took = workspace.experts[way, visit.part + part, place]
            before[place] += took
            if more:
                continue
            start = latest if unchunked else ready[place]
            ready[place] = run_track(streams, workspace, way, t, start, before[place])
            before[place] = 0.0
        if unchunked:
            for place in range(1, chunks):
                ready[place] = ready[0]


@compiled_part
def close_stage(streams: Streams, workspace: Workspace, way: int, stage: int) -> float:
    """End a pipeline stage; return its seconds."""
    end = 0.0
    for i in range(streams.resources):
        end = max(end, workspace.free[i])
    if end > workspace.free[0]:
        book_gap(streams, workspace, way, workspace.free[0], end)
    workspace.stages[way, stage] = end
    workspace.latest[0] = 0
    for i in range(streams.resources):
        workspace.free[i] = 0.0
    for place in range(workspace.ready.size):
        workspace.ready[place] = 0.0
    return end


@compiled_part
def run_alike(streams: Streams, workspace: Workspace, way: int, v: int, last: int) -> None:
    """Run the equal visits from `v` to `last`; extrapolate those in the middle once two visits shift all times equally.

    The last visit is always run, because its chunks may continue differently.
    """
    chunks, steady = streams.ways[way].chunks, int64(0)
    while v < last:
        keep(workspace, way)
        run_visit(streams, workspace, way, v)
        v += 1
        by = moved(workspace, chunks)
        steady = steady + 1 if by > 0.0 else int64(0)
        if steady == 2:
            skip(workspace, way, chunks, by, last - v)
            v = last
    run_visit(streams, workspace, way, last)


@compiled_part
def makespan(streams: Streams, workspace: Workspace, way: int) -> float:
    """Return the seconds of a step in one way of overlapping, over its consecutive stages."""
    total, stage, v = 0.0, int64(0), int64(0)
    while v < streams.visits.shape[0]:
        if streams.visits[v].stage != stage:
            total += close_stage(streams, workspace, way, stage)
            stage = streams.visits[v].stage
        last = v + streams.alike[v]
        run_alike(streams, workspace, way, v, last)
        v = last + 1
    return total + close_stage(streams, workspace, way, stage)

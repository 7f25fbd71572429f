"""An overlapped step as task graphs, one per pipeline stage: the readable definition.

The explicit path costs the pieces; here they become tasks for the list scheduler. Streams run their tasks track by
track and, within a track, chunk by chunk. Consecutive tracks of computation count as one, also across layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ....devices.device import RegionCost
from ...streams import COMPUTE, Builder, SubTask, Timeline, run
from .tracks import Track, Visit, Way

TAKEN = "cores of exchanges"
"""Kind of the tasks that represent the cores which exchanges take from parallel computation."""
Key = tuple[int, int, int]
"""Section, track and chunk; for experts -1, the expert part and the chunk."""


class Piece(NamedTuple):
    """One op of the slowest rank, or the experts of the slowest group.

    Attributes
    ----------
    name, kind : str
        Name of the op, and the part of the model that it belongs to.
    parts : tuple of SubTask
        Work of each processor in the piece, or of the link.
    taken : float
        Time that an exchange takes from parallel computation [s].
    """

    name: str
    kind: str
    seconds: float
    parts: tuple[SubTask, ...] = ()
    taken: float = 0.0


def parts_of(regions: Sequence[RegionCost]) -> tuple[SubTask, ...]:
    """Return the work of each processor in consecutive regions.

    In a region each processor runs its ops one after another, in parallel with the other processors. If this does not
    explain the region's seconds, the processors share a memory space and run one at a time.
    """
    begin, out = 0.0, list[SubTask]()
    for region in regions:
        busy: dict[str, float] = {}
        for _, unit, cost in region.ops:
            busy[unit] = busy.get(unit, 0.0) + cost.seconds
        apart = region.seconds > max(busy.values(), default=0.0) * (1.0 + 1e-12)
        free: dict[str, float] = {}
        for op, unit, cost in region.ops:
            after = "" if apart else unit
            start = free.get(after, begin)
            out.append(SubTask(unit, op.name, op.layer, cost.bound, start, cost.seconds))
            free[after] = start + cost.seconds
        begin += region.seconds
    return tuple(out)


class Uncut(NamedTuple):
    """The serial step, as the reference for ways that cut it into chunks.

    Attributes
    ----------
    compute_s, exchange_s : float
        Time of the slowest ranks' ops without experts, and of their exchanges [s].
    experts_s : sequence of float
        Time of each expert part [s].
    """

    compute_s: float
    exchange_s: float
    experts_s: Sequence[float]

    def gives_up(self, more: float) -> bool:
        """Return whether the extra compute time so far is at least the time of all exchanges.

        Overlap hides only exchanges, so such a way is not evaluated to its end.
        """
        return more >= self.exchange_s


class Scheduled(NamedTuple):
    """Timelines of a step, and the share of each piece's seconds that is not hidden."""

    timelines: tuple[Timeline, ...]
    exposed: Mapping[Key, float]

    @property
    def stages(self) -> tuple[float, ...]:
        """Return the seconds of each pipeline stage."""
        return tuple(line.makespan for line in self.timelines)


def scheduled(
    way: Way,
    tracks: Sequence[Sequence[Track]],
    visits: Sequence[Visit],
    layers: Sequence[int],
    pieces: Mapping[Key, Sequence[Piece]],
    stages: int,
) -> Scheduled:
    """Schedule a step.

    Parameters
    ----------
    tracks : sequence
        Tracks of every section.
    layers : sequence of int
        Layer number of each visit; -1 for a visit outside the layers.
    pieces : mapping
        Pieces of each track in order; missing if a chunk is empty.
    """
    timelines, total, counted = [], dict[Key, float](), dict[Key, float]()
    for stage in range(stages):
        builder, keys = Builder(), list[Key]()
        ready: list[list[int]] = [[] for _ in range(way.chunks)]
        visited = [(v, n) for v, n in zip(visits, layers, strict=True) if v.stage == stage]
        for group in _groups(way, visited, tracks):
            _add(way, group, pieces, builder, keys, ready)
        line = run(builder.graph())
        timelines.append(line)
        for key, task, own in zip(keys, line.graph.tasks, line.exposed(), strict=True):
            total[key] = total.get(key, 0.0) + task.seconds * (task.kind != TAKEN)
            counted[key] = counted.get(key, 0.0) + own
    shares = {key: counted[key] / total[key] if total[key] else 1.0 for key in total}
    return Scheduled(tuple(timelines), shares)


Step = tuple[Visit, int, int, Track]
"""A track in the order of the step: visit, layer number, index in the section, and the track."""


def _groups(way: Way, visits: Sequence[tuple[Visit, int]], tracks: Sequence[Sequence[Track]]) -> list[list[Step]]:
    """Return the tracks in order, with consecutive chunked computation merged."""
    out: list[list[Step]] = []
    for visit, layer in visits:
        for t, track in enumerate(tracks[visit.section]):
            last = out[-1][-1][-1] if out else None
            if last is not None and last.resource == COMPUTE == track.resource and (
                last.chunked(way) and track.chunked(way)
            ):  # fmt: skip
                out[-1].append((visit, layer, t, track))
            else:
                out.append([(visit, layer, t, track)])
    return out


def _add(
    way: Way, group: Sequence[Step], pieces: Mapping[Key, Sequence[Piece]], builder: Builder,
    keys: list[Key], ready: list[list[int]],
) -> None:  # fmt: skip
    """Add the tasks of a group; `ready` lists the tasks that the next task of each chunk waits for."""
    chunked = group[0][-1].chunked(way)
    for chunk in range(way.chunks if chunked else 1):
        after = ready[chunk] if chunked else sorted({i for each in ready for i in each})
        for visit, layer, t, track in group:
            key = (visit.section, t, chunk)
            if track.part >= 0:
                key = (-1, visit.part + track.part, chunk)
            for name, kind, seconds, parts, taken in pieces.get(key, ()):
                chunk_of, before = chunk if chunked else -1, after
                after = [builder.add(name, track.resource, seconds, before, kind, chunk_of, layer, parts)]
                keys.append(key)
                if taken > 0.0:  # the parallel computation waits as long as its share of the cores would take
                    builder.add(name, COMPUTE, taken, before, TAKEN, chunk_of, layer)
                    keys.append(key)
        if chunked:
            ready[chunk] = after
        else:
            ready[:] = [after] * len(ready)


def hidden_s(timelines: Sequence[Timeline]) -> dict[tuple[str, str], float]:
    """Return the hidden seconds of exchanges by exchange name and by the part of the model that hides them."""
    out: dict[tuple[str, str], float] = {}
    for line in timelines:
        for key, seconds in line.hidden().items():
            if key[1] != TAKEN:  # its time counts as not hidden
                out[key] = out.get(key, 0.0) + seconds
    return out

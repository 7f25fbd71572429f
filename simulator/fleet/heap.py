"""Binary heaps in arrays, ordered by time, and by number among equal times."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part, int64
from ...workloads.jit_address import by_address

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


@by_address
class Heap(NamedTuple):
    """Entries with a time, a number that breaks ties, and a payload."""

    time: F8  # [C] times; only the first `size` are in use
    tags: I8  # [C, 2] tie-breaking number and payload
    size: I8  # [1]


def new_heap(room: int, before: Heap | None = None) -> Heap:
    """Return a heap with a capacity of `room` entries, filled with the entries of `before`."""
    heap = Heap(np.zeros(room), np.zeros((room, 2), dtype=np.int64), np.zeros(1, dtype=np.int64))
    if before is not None:
        heap.time[: len(before.time)], heap.tags[: len(before.tags)] = before.time, before.tags
        heap.size[:] = before.size
    return heap


@by_address
class Line(NamedTuple):
    """Queue of some of N engines, ordered by time and then by number."""

    time: F8  # [N] time of each engine
    order: I8  # [N] engines as a binary heap; only the first `size` are in use
    place: I8  # [N] index of each engine in `order`, -1 if it is not queued
    size: I8  # [1]


def new_line(engines: int) -> Line:
    """Return an empty line for `engines` engines."""
    none = np.full(engines, -1, dtype=np.int64)
    return Line(np.zeros(engines), none.copy(), none, np.zeros(1, dtype=np.int64))


@compiled_part
def before(line: Line, engine: int, m: int) -> bool:
    """Return whether an engine comes before another one in the queue."""
    one, other = line.time[engine], line.time[m]
    return bool(one < other or (one == other and engine < m))


@compiled_part
def rise(line: Line, place: int, engine: int) -> None:
    """Place an engine at a position of the heap, and move it towards the root while it comes before its parent."""
    while place > 0 and before(line, engine, line.order[(place - 1) // 2]):
        m = line.order[(place - 1) // 2]
        line.order[place], line.place[m] = m, place
        place = (place - 1) // 2
    line.order[place], line.place[engine] = engine, place


@compiled_part
def line_up(line: Line, engine: int, time: float) -> None:
    """Add an engine to the queue, or move it forward to an earlier time."""
    at = line.place[engine]
    if at >= 0 and line.time[engine] <= time:
        return
    if at < 0:
        at = line.size[0]
        line.size[0] += 1
    line.time[engine] = time
    rise(line, at, engine)


@compiled_part
def take_first(line: Line) -> int:
    """Remove and return the first engine of the queue."""
    n, at, below = line.order[0], int64(0), int64(1)
    line.place[n] = -1
    line.size[0] -= 1
    size = line.size[0]
    if size == 0:
        return int(n)
    last = line.order[size]
    while below < size:
        if below + 1 < size and before(line, line.order[below + 1], line.order[below]):
            below += 1
        m = line.order[below]
        if not before(line, m, last):
            break
        line.order[at], line.place[m] = m, at
        at, below = below, 2 * below + 1
    line.order[at], line.place[last] = last, at
    return int(n)


@compiled_part
def push(heap: Heap, time: float, tie: int, what: int) -> None:
    """Add an entry to the heap."""
    at = heap.size[0]
    heap.size[0] += 1
    while at > 0:
        above = (at - 1) // 2
        other = heap.time[above]
        if other < time or (other == time and heap.tags[above, 0] < tie):
            break
        heap.time[at] = other
        heap.tags[at, 0], heap.tags[at, 1] = heap.tags[above, 0], heap.tags[above, 1]
        at = above
    heap.time[at], heap.tags[at, 0], heap.tags[at, 1] = time, tie, what


@compiled_part
def sooner(heap: Heap, index: int, position: int) -> bool:
    """Return whether one entry of the heap comes before another."""
    one, other = heap.time[index], heap.time[position]
    return bool(one < other or (one == other and heap.tags[index, 0] < heap.tags[position, 0]))


@compiled_part
def drop_first(heap: Heap) -> None:
    """Remove the first entry of the heap."""
    heap.size[0] -= 1
    last, at, below = heap.size[0], int64(0), int64(1)
    while below < last:
        if below + 1 < last and sooner(heap, below + 1, below):
            below += 1
        if not sooner(heap, below, last):
            break
        heap.time[at] = heap.time[below]
        heap.tags[at, 0], heap.tags[at, 1] = heap.tags[below, 0], heap.tags[below, 1]
        at, below = below, 2 * below + 1
    heap.time[at] = heap.time[last]
    heap.tags[at, 0], heap.tags[at, 1] = heap.tags[last, 0], heap.tags[last, 1]

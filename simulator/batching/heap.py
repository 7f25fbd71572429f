"""A binary heap in arrays: what is soonest, and of one time what has the smallest number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part, int64
from ...workloads.jit_held import held

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


@held
class Heap(NamedTuple):
    """Entries with a time, a number that breaks ties, and what they stand for."""

    time: F8  # [C] the first `size` of them are taken
    tags: I8  # [C, 2]
    size: I8  # [1]


def new_heap(room: int, before: Heap | None = None) -> Heap:
    """A heap for so many entries, with those of another."""
    heap = Heap(np.zeros(room), np.zeros((room, 2), dtype=np.int64), np.zeros(1, dtype=np.int64))
    if before is not None:
        heap.time[: len(before.time)], heap.tags[: len(before.tags)] = before.time, before.tags
        heap.size[:] = before.size
    return heap


@compiled_part
def push(heap: Heap, time: float, tie: int, what: int) -> None:
    """Put an entry in."""
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
def sooner(heap: Heap, i: int, j: int) -> bool:
    """Whether one entry comes before another."""
    one, other = heap.time[i], heap.time[j]
    return bool(one < other or (one == other and heap.tags[i, 0] < heap.tags[j, 0]))


@compiled_part
def drop_first(heap: Heap) -> None:
    """Take the first entry out."""
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

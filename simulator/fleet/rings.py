"""Double-ended queues of numbers in a ring buffer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from ...workloads.jit_address import by_address

I8 = npt.NDArray[np.int64]


@by_address
class Ring(NamedTuple):
    """Ring buffer of numbers with a fixed capacity."""

    kept: I8  # [C]
    span: I8  # [2] place of the first one, and how many there are


def told(ring: Ring) -> list[int]:
    """Return all numbers of a queue in order."""
    first, count = ring.span.tolist()
    found: list[int] = ring.kept[np.arange(first, first + count) % len(ring.kept)].tolist()
    return found


def new_ring(room: int, what: list[int] | None = None) -> Ring:
    """Return a queue with room for `room` numbers, containing `what`."""
    ring, given = np.zeros(max(room, 1), dtype=np.int64), what or []
    ring[: len(given)] = given
    return Ring(ring, np.array([0, len(given)], dtype=np.int64))


@compiled_part
def put_last(ring: Ring, what: int) -> None:
    """Append a number at the end."""
    ring.kept[(ring.span[0] + ring.span[1]) % ring.kept.size] = what
    ring.span[1] += 1


@compiled_part
def put_first(ring: Ring, what: int) -> None:
    """Insert a number at the front."""
    ring.span[0] = (ring.span[0] - 1) % ring.kept.size
    ring.kept[ring.span[0]] = what
    ring.span[1] += 1


@compiled_part
def drop_first(ring: Ring) -> None:
    """Remove the first number."""
    ring.span[0] = (ring.span[0] + 1) % ring.kept.size
    ring.span[1] -= 1

"""Arrays of the tracks and ways to overlap, for the compiled path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.jit_address import by_address
from ....workloads.records import Records, filled, named
from ...deploy.deployment import Deployment
from ...step.sections import sections_of
from ...streams import COMPUTE
from .gates import Gate, gate_of
from .tracks import NONE, Visit, chunked_parts, tracks_of, visits_of, ways_of

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

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

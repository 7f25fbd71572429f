"""KV cache tiers below the devices' memory, as arrays: what each keeps, and the links to it.

All stores of a run lie behind one another in the same arrays (`Shelves`), so that a pool that several
engines share is the same rows for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.jit_address import by_address
from ....workloads.records import Records, named, records
from ...step.timed import Costs, Lowered, costs_of
from .settings import TierSettings

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

STORE = named("first room table mask used held peak", "")
"""First entry and how many; first row of its table, and its rows less one; entries handed out so far; those that hold
something now, and most that ever did."""

ENTRY = named("key next previous owner", "")
"""Content (0: none), the next and the previous entry by last use, and the engine that wrote it. The entry after the last
one of a store is head and tail of its list."""

FOUND = named("state blocks stored passed computed", "")
"""Of a request: `Loading.WAITING`, `Loading.LOADING` or `Loading.LANDED`; blocks that it has found; leading blocks that have been written
through; found blocks that are computed all the same; of several batches in flight, tokens whose batch has left the last
stage, with those that were found."""
Loading = IntEnum("Loading", "WAITING LOADING LANDED", start=0)

COUNTS = named("loaded stored evicted prefetched", "")
"""Of a level: blocks loaded to the devices; written; evicted; prefetched to the first level."""

TOTALS = named("loads declined found longest", "")
"""Loads; blocks that lay in a tier and were computed all the same; blocks found in the devices' own memory; tokens of
the longest request that has arrived."""

SECONDS = named("", "now held_until held waited longest experts")
"""When transfers start that are asked for now; before when the next step cannot begin, as blocks that it takes are still
being copied; seconds that steps waited so; that requests waited for loads, in sum and at most; that experts have had the
link to the host."""

LINE = named("head tail count", "")
"""First and last of a rank's requests that load, or whose blocks are there, in order; how many there are."""

UP, DOWN = 0, 1
"""Directions of a link: to the devices, and from them."""
P_BLOCK, P_LATENCY = 0, 1
"""Columns of `TierState.pace` [s]."""


@by_address
class Shelves(NamedTuple):
    """S stores of E entries and T table rows in all."""

    stores: Records  # [S] of `STORE`
    entries: Records  # [E] of `ENTRY`
    came: F8  # [E] when an entry's content is there
    table: I8  # [T, 2] key (0: empty) and entry; open addressing within a store's rows


@by_address
class TierState(NamedTuple):
    """L levels of R ranks, N requests, sequences of at most W blocks."""

    shelves: Shelves
    which: I8  # [R, L] store of each level
    pace: F8  # [L, 2] seconds that a device's link takes for its part of a block; latency of a transfer
    free_s: F8  # [R, L, 2] when a link is free, by direction
    link_s: F8  # [L, 2] seconds that links were busy
    worth: I8  # [L] whether blocks are written there
    chain: I8  # [L] entries that one write changes, from level to level
    counts: Records  # [L] of `COUNTS`
    totals: Records  # [1] of `TOTALS`
    seconds: Records  # [1] of `SECONDS`
    rows: Records  # [N] of `FOUND`
    out_s: F8  # [R, blocks] when the first copy of what a block holds is there, written through
    spans: F8  # [N, 2] when a request's load began and ends
    loading: Records  # [R] of `LINE`
    landed: Records  # [R] of `LINE`
    levels: I8  # [W] of the blocks that the latest look found; -1: in the devices' memory
    own: int  # added to keys of content that only this engine can name
    owner: int
    host: int  # level whose link brings experts and adapters too; -1: none
    piped: bool  # whether several batches are in flight, so that what is planned is not yet computed
    through: bool
    cheaper: bool
    prefetch: bool
    costs: Costs  # of computing instead; none where nothing asks
    moments: F8  # [R, M] of a prompt chunk alone
    chunk: I8  # [2, 1]


def new_shelves(rooms: Sequence[int]) -> Shelves:
    """Return empty stores with the given blocks. Memory is touched only when it is used."""
    stores = records(len(rooms), STORE)
    sizes = [1 << max(int(2 * room - 1).bit_length(), 4) for room in rooms]
    stores.room, stores.mask = rooms, np.array(sizes) - 1
    stores.first = np.cumsum([0, *(room + 1 for room in rooms[:-1])])
    stores.table = np.cumsum([0, *sizes[:-1]])
    count = sum(rooms) + len(rooms)
    entries = records(count, ENTRY)
    heads = stores.first + stores.room
    entries.next[heads] = entries.previous[heads] = heads
    return Shelves(stores, entries, np.zeros(count), np.zeros((sum(sizes), 2), dtype=np.int64))


OWN_KEYS = 0x1E3779B97F4A7C16
"""Even: keys of own content stay even. Separates one life of an engine from all others."""


def new_tiers(
    settings: TierSettings,
    shelves: Shelves,
    which: I8,
    pace: F8,
    model: Lowered | None,
    owner: int,
    life: int,
    piped: bool,
) -> TierState:
    """The tiers of an engine before its first request."""
    ranks, levels = which.shape
    moments = 0 if model is None else model.plan.forms.shape[2] - 1
    key = (OWN_KEYS * (1 + owner + (life << 20))) & ((1 << 63) - 2)
    return TierState(
        shelves, which, pace, np.zeros((ranks, levels, 2)), np.zeros((levels, 2)),
        np.full(levels, settings.load != "cheaper", dtype=np.int64), np.zeros(levels, dtype=np.int64),
        records(levels, COUNTS), records(1, TOTALS), records(1, SECONDS), records(0, FOUND),
        np.zeros((ranks, 0)), np.zeros((0, 2)),
        _empty(ranks), _empty(ranks),
        np.zeros(0, dtype=np.int64), key, owner, settings.host, piped, settings.write == "through",
        settings.load == "cheaper", settings.prefetch, costs_of(model), np.zeros((ranks, moments)),
        np.zeros((2, 1), dtype=np.int64),
    )  # fmt: skip


def _empty(ranks: int) -> Records:
    line = records(ranks, LINE)
    line.head = line.tail = -1
    return line


def roomier_rows(tiers: TierState, have: int, size: int) -> TierState:
    """Return room for `size` requests, of which the first `have` are kept."""
    spans = np.empty((size, 2))
    spans[:have] = tiers.spans[:have]
    return tiers._replace(rows=records(size, FOUND, tiers.rows[:have]), spans=spans)


def with_rows(tiers: TierState, have: int, new: int) -> TierState:
    """Room for `new` requests behind `have`; capacity doubles, so that appending is linear."""
    if have + new > len(tiers.rows):
        tiers = roomier_rows(tiers, have, max(have + new, 2 * len(tiers.rows), 1024))
    tiers.rows[have : have + new] = 0
    tiers.spans[have : have + new] = np.nan
    return tiers

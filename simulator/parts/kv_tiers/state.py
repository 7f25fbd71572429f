"""State of the KV cache tiers as arrays: the contents of each store, and the links to them.

All stores of a run are stored one after another in the same arrays (`Shelves`), so engines with a shared pool use the
same rows.
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
"""Fields of a store: first entry and number of entries; first row of its hash table, and its rows minus one; entries used
so far; entries with content now, and the peak of that number.
"""

ENTRY = named("key next previous owner", "")
"""Fields of an entry: key of the content (0: none), next and previous entry by last use, and the engine that wrote it.

The entry after the last one of a store is the head and tail of its list.
"""

FOUND = named("state blocks stored passed computed", "")
"""Fields of a request in the tiers.

`state` is a `Loading`. `blocks` counts the blocks found, `stored` the leading blocks written through, and `passed` the
found blocks that are computed anyway. `computed` counts the tokens whose batch has left the last stage, with cached ones.
"""
Loading = IntEnum("Loading", "WAITING LOADING LANDED", start=0)

COUNTS = named("loaded stored evicted prefetched", "")
"""Counters of a tier [blocks]: loaded to the devices; written; evicted; prefetched to the first tier."""

TOTALS = named("loads declined found longest", "")
"""Totals of an engine: loads; blocks in a tier that were computed anyway; blocks found in device memory; tokens of the
longest request that has arrived.
"""

SECONDS = named("", "now held_until held waited longest experts")
"""Times of an engine [s]: start of transfers that are requested now; earliest start of the next step, after copies of the
blocks that it overwrites; waiting time of such steps; sum and maximum of the requests' waiting time for loads; time for
which expert loads have used the host link.
"""

LINE = named("head tail count", "")
"""First and last request of a rank's list of loading (or loaded) requests, and their number."""

UP, DOWN = 0, 1
"""Directions of a link: to the devices, and from them."""
P_BLOCK, P_LATENCY = 0, 1
"""Columns of `TierState.pace` [s]."""


@by_address
class Shelves(NamedTuple):
    """S stores with E entries and T hash table rows in total."""

    stores: Records  # [S] of `STORE`
    entries: Records  # [E] of `ENTRY`
    came: F8  # [E] time at which an entry's content is complete [s]
    table: I8  # [T, 2] key (0: empty) and entry; open addressing within the rows of a store


@by_address
class TierState(NamedTuple):
    """State of one engine's tiers: L levels, R ranks, N requests, sequences of at most W blocks."""

    shelves: Shelves
    which: I8  # [R, L] store of each level
    pace: F8  # [L, 2] transfer time of a device's part of a block, and latency of a transfer [s]
    free_s: F8  # [R, L, 2] time at which a link is free, by direction [s]
    link_s: F8  # [L, 2] busy time of the links, by direction [s]
    worth: I8  # [L] whether blocks are written to the level
    chain: I8  # [L] workspace of `keep`: the entry that one write changes in each level
    counts: Records  # [L] of `COUNTS`
    totals: Records  # [1] of `TOTALS`
    seconds: Records  # [1] of `SECONDS`
    rows: Records  # [N] of `FOUND`
    out_s: F8  # [R, blocks] time at which the first copy of a block's content is complete, with write-through [s]
    spans: F8  # [N, 2] start and end of a request's load [s]
    loading: Records  # [R] of `LINE`
    landed: Records  # [R] of `LINE`
    levels: I8  # [W] level of each block that the latest look found; -1: device memory
    own: int  # added to the keys of content that only this engine can identify
    owner: int
    host: int  # level whose link also transfers experts and adapters; -1: none
    piped: bool  # whether several batches are in flight, so that planned tokens are not yet computed
    through: bool
    cheaper: bool
    prefetch: bool
    costs: Costs  # costs of computing the tokens instead; empty if no rule needs them
    moments: F8  # [R, M] sums of a single prompt chunk
    chunk: I8  # [2, 1]


def new_shelves(rooms: Sequence[int]) -> Shelves:
    """Build empty stores with the given capacities [blocks]. Memory pages are touched only when they are used."""
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
"""Factor that makes the private keys of an engine's life unique. It is even, so that private keys stay even."""


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
    """Build the tiers of an engine before its first request."""
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
    """Return the state with rows for `size` requests; the first `have` rows are kept."""
    spans = np.empty((size, 2))
    spans[:have] = tiers.spans[:have]
    return tiers._replace(rows=records(size, FOUND, tiers.rows[:have]), spans=spans)


def with_rows(tiers: TierState, have: int, new: int) -> TierState:
    """Return the state with empty rows for `new` requests after `have`; capacity doubles, so appending takes linear time."""
    if have + new > len(tiers.rows):
        tiers = roomier_rows(tiers, have, max(have + new, 2 * len(tiers.rows), 1024))
    tiers.rows[have : have + new] = 0
    tiers.spans[have : have + new] = np.nan
    return tiers

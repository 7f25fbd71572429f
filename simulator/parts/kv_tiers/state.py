"""KV cache tiers below the devices' memory, as arrays: what each keeps, and the links to it.

All stores of a run lie behind one another in the same arrays (`Shelves`), so that a pool that several
engines share is the same rows for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.jit_held import held
from ...step.timed import Costs, Lowered, costs_of
from .settings import TierSettings

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

(H_FIRST, H_ROOM, H_TABLE, H_MASK, H_USED, H_HELD, H_PEAK) = range(7)
NUM_STORE = 7
"""Columns of `Shelves.stores`: first entry and how many; first row of its table, and its rows less one;
entries handed out so far; those that hold something now, and most that ever did."""

(E_KEY, E_NEXT, E_PREVIOUS, E_OWNER) = range(4)
"""Columns of `Shelves.entries`: content (0: none), the next and the previous entry by last use, and the engine that
wrote it. The entry after the last one of a store is head and tail of its list."""

(W_STATE, W_BLOCKS, W_STORED, W_PASSED, W_COMPUTED) = range(5)
NUM_OWN = 5
"""Columns of `TierState.rows`, a request each: `WAITING`, `LOADING` or `LANDED`; blocks that it has found; leading
blocks that have been written through; found blocks that are computed all the same; of several batches in flight,
tokens whose batch has left the last stage, with those that were found."""
WAITING, LOADING, LANDED = range(3)

(N_LOADED, N_STORED, N_EVICTED, N_PREFETCHED) = range(4)
NUM_COUNTS = 4
"""Columns of `TierState.counts`, per level: blocks loaded to the devices; written; evicted; prefetched to the first
level."""

(O_LOADS, O_DECLINED, O_FOUND, O_LONGEST) = range(4)
NUM_OF_ALL = 4
"""Entries of `TierState.totals`: loads; blocks that lay in a tier and were computed all the same; blocks found
in the devices' own memory; tokens of the longest request that has arrived."""

(Z_NOW, Z_HELD_UNTIL, Z_HELD, Z_WAITED, Z_LONGEST, Z_EXPERTS) = range(6)
NUM_SECONDS = 6
"""Entries of `TierState.seconds`: when transfers start that are asked for now; before when the next step cannot
begin, as blocks that it takes are still being copied; seconds that steps waited so; that requests waited for
loads, in sum and at most; that experts have had the link to the host."""

UP, DOWN = 0, 1
"""Directions of a link: to the devices, and from them."""
P_BLOCK, P_LATENCY = 0, 1
"""Columns of `TierState.pace` [s]."""
(L_LOADING, L_LAST, L_LANDED, L_LAST_LANDED, L_COUNT) = range(5)
"""Columns of `TierState.lines`, a rank each: first and last of the requests that load, in order, and of those whose
blocks are there; how many both are."""


@held
class Shelves(NamedTuple):
    """S stores of E entries and T table rows in all."""

    stores: I8  # [S, NUM_STORE]
    entries: I8  # [E, 4]
    came: F8  # [E] when an entry's content is there
    table: I8  # [T, 2] key (0: empty) and entry; open addressing within a store's rows


@held
class TierState(NamedTuple):
    """L levels of R ranks, N requests, sequences of at most W blocks."""

    shelves: Shelves
    which: I8  # [R, L] store of each level
    pace: F8  # [L, 2] seconds that a device's link takes for its part of a block; latency of a transfer
    free_s: F8  # [R, L, 2] when a link is free, by direction
    link_s: F8  # [L, 2] seconds that links were busy
    worth: I8  # [L] whether blocks are written there
    chain: I8  # [L] entries that one write changes, from level to level
    counts: I8  # [L, NUM_COUNTS]
    totals: I8  # [NUM_OF_ALL]
    seconds: F8  # [NUM_SECONDS]
    rows: I8  # [N, NUM_OWN]
    out_s: F8  # [R, blocks] when the first copy of what a block holds is there, written through
    spans: F8  # [N, 2] when a request's load began and ends
    lines: I8  # [R, 5]
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
    stores = np.zeros((len(rooms), NUM_STORE), dtype=np.int64)
    sizes = [1 << max(int(2 * room - 1).bit_length(), 4) for room in rooms]
    stores[:, H_ROOM], stores[:, H_MASK] = rooms, np.array(sizes) - 1
    stores[:, H_FIRST] = np.cumsum([0, *(room + 1 for room in rooms[:-1])])
    stores[:, H_TABLE] = np.cumsum([0, *sizes[:-1]])
    count = sum(rooms) + len(rooms)
    entries = np.zeros((count, 4), dtype=np.int64)
    heads = stores[:, H_FIRST] + stores[:, H_ROOM]
    entries[heads, E_NEXT] = entries[heads, E_PREVIOUS] = heads
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
        np.zeros((levels, NUM_COUNTS), dtype=np.int64), np.zeros(NUM_OF_ALL, dtype=np.int64),
        np.zeros(NUM_SECONDS), np.zeros((0, NUM_OWN), dtype=np.int64),
        np.zeros((ranks, 0)), np.zeros((0, 2)),
        np.tile(np.array([-1, -1, -1, -1, 0], dtype=np.int64), (ranks, 1)),
        np.zeros(0, dtype=np.int64), key, owner, settings.host, piped, settings.write == "through",
        settings.load == "cheaper", settings.prefetch, costs_of(model), np.zeros((ranks, moments)),
        np.zeros((2, 1), dtype=np.int64),
    )  # fmt: skip


def roomier_rows(tiers: TierState, have: int, size: int) -> TierState:
    """Return room for `size` requests, of which the first `have` are kept."""
    rows, spans = np.empty((size, NUM_OWN), dtype=np.int64), np.empty((size, 2))
    rows[:have], spans[:have] = tiers.rows[:have], tiers.spans[:have]
    return tiers._replace(rows=rows, spans=spans)


def with_rows(tiers: TierState, have: int, new: int) -> TierState:
    """Room for `new` requests behind `have`; capacity doubles, so that appending is linear."""
    if have + new > len(tiers.rows):
        tiers = roomier_rows(tiers, have, max(have + new, 2 * len(tiers.rows), 1024))
    tiers.rows[have : have + new] = 0
    tiers.spans[have : have + new] = np.nan
    return tiers

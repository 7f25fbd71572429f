"""A router's record of the prompts it has sent, compiled.

A router does not see the caches of its engines. It keeps a list of the prompts sent to each, limited to the size of the
replica's cache, and assumes that they are cached (as the routers of NVIDIA Dynamo and SGLang do without events from the
engines). Each piece of a prompt has a slot in the list of its engine, least recent first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from ...workloads.jit_address import by_address
from ...workloads.records import named, records

I8 = npt.NDArray[np.int64]

SLOT = named("piece owner tokens older newer beside", "")
"""A piece of a request's prompt and output, as an entry of a list.

`piece` numbers its content, `owner` the engine of the list, `older` and `newer` the adjacent slots of that list, and
`beside` a slot with the same content on another engine's list; -1 if there is none. `tokens` is its length.
"""
LIST = named("oldest newest kept capacity", "")
"""List of an engine: slots of its oldest and newest piece, tokens on it, and the capacity of the engine's cache [tokens]."""
FOUND = named("known run", "")
"""Match of the latest prompt with an engine's list: matching tokens and pieces from its start."""


@by_address
class Recall(NamedTuple):
    """Lists of N engines. All requests have S pieces with P different contents; arrays may be longer."""

    starts: I8  # [requests + 1] first slot of each request; empty if no router uses the lists
    slots: npt.NDArray[Any]  # [S] of `SLOT`
    first: I8  # [P] one slot of each content that is on some list, or -1
    ends: npt.NDArray[Any]  # [N] of `LIST`
    found: npt.NDArray[Any]  # [N] of `FOUND`
    # Tokens of a piece; 0 if a request's only piece is its session, whose length is that of the sent request.
    piece: int
    session_last: bool  # whether the last piece of a request is its session, with all remaining tokens


def new_recall(capacities: list[int], piece: int) -> Recall:
    """Return empty lists for caches of the given tokens."""
    ends, none = records(len(capacities), LIST), np.zeros(0, dtype=np.int64)
    ends.oldest = ends.newest = -1
    ends.capacity = capacities
    return Recall(none, records(0, SLOT), none, ends, records(len(capacities), FOUND), piece, False)


def with_pieces(slots: Any, have: int, pieces: I8) -> Any:
    """Return `slots` with `pieces` after the first `have`; the array doubles if full, so that appending takes linear time."""
    last = have + len(pieces)
    if last > len(slots):
        slots = records(max(last, 2 * len(slots)), SLOT, slots)
    for name in SLOT.names or ():
        slots[name][have:last] = pieces if name == "piece" else -1
    return slots


@compiled_part
def look_everywhere(recall: Recall, row: int, tokens: int) -> None:
    """Write the cached tokens of a request's prompt on each engine's list to `recall.found`.

    A match has consecutive pieces from the start of the prompt, and excludes its last token, which is always computed.
    """
    matched = recall.found
    for n in range(matched.shape[0]):
        matched[n].known = matched[n].run = 0
    start, any_ = recall.starts[row], True
    for s in range(start, recall.starts[row + 1]):
        if not any_:
            break
        any_, slot = False, recall.first[recall.slots[s].piece]
        while slot >= 0:
            n = recall.slots[slot].owner
            if matched[n].run == s - start:
                matched[n].run += 1
                matched[n].known += recall.slots[slot].tokens
                any_ = True
            slot = recall.slots[slot].beside
    for n in range(matched.shape[0]):
        matched[n].known = max(min(matched[n].known, tokens - 1), 0)


@compiled_part
def slot_on(recall: Recall, piece: int, engine: int) -> int:
    """Return the slot of a piece of content on an engine's list, or -1."""
    slot = recall.first[piece]
    while slot >= 0 and recall.slots[slot].owner != engine:
        slot = recall.slots[slot].beside
    return int(slot)


@compiled_part
def cross_out(recall: Recall, slot: int) -> None:
    """Remove a slot from its engine's list."""
    slots, entry = recall.slots, recall.slots[slot]
    end, older, newer = recall.ends[entry.owner], entry.older, entry.newer
    if older >= 0:
        slots[older].newer = newer
    else:
        end.oldest = newer
    if newer >= 0:
        slots[newer].older = older
    else:
        end.newest = older
    end.kept -= entry.tokens
    before = recall.first[entry.piece]
    if before == slot:
        recall.first[entry.piece] = entry.beside
    else:
        while slots[before].beside != slot:
            before = slots[before].beside
        slots[before].beside = entry.beside
    entry.owner = -1


@compiled_part
def note_sent(recall: Recall, row: int, length: int, engine: int) -> None:
    """Add a request of `length` tokens, prompt and output, to an engine's list."""
    end = recall.ends[engine]
    if end.capacity == 0:
        return
    for s in range(recall.starts[row], recall.starts[row + 1]):
        entry = recall.slots[s]
        known = slot_on(recall, entry.piece, engine)
        if known >= 0:
            cross_out(recall, known)
        entry.owner, entry.tokens = engine, recall.piece if recall.piece > 0 else length
        if recall.session_last and s + 1 == recall.starts[row + 1]:
            entry.tokens = length - (s - recall.starts[row]) * recall.piece
        entry.older, entry.newer = end.newest, -1
        if end.newest >= 0:
            recall.slots[end.newest].newer = s
        else:
            end.oldest = s
        end.newest = s
        entry.beside, recall.first[entry.piece] = recall.first[entry.piece], s
        end.kept += entry.tokens
    while end.kept > end.capacity:
        cross_out(recall, end.oldest)


@compiled_part
def forget_all(recall: Recall, engine: int) -> None:
    """Remove all slots from an engine's list."""
    while recall.ends[engine].oldest >= 0:
        cross_out(recall, recall.ends[engine].oldest)

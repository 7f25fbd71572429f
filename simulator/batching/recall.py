"""What a router remembers of the prompts it has sent, compiled: whose start a replica may still have.

A router in front of several engines does not see their caches. It keeps a list of its own of what went where, as
long as it would fit the replica's cache, and takes what is on it for cached (as the routers of NVIDIA Dynamo and
SGLang do without events from the engines). A prompt's content is told in pieces. Each piece of a request has a slot, which stands in the list of the
engine that the request went to, least recent first, until the piece goes there again or is pushed out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from ...workloads.jit_held import held

I8 = npt.NDArray[np.int64]

(P_PIECE, P_OWNER, P_TOKENS, P_OLDER, P_NEWER, P_BESIDE) = range(6)
NUM_SLOT = 6
"""Columns of `Recall.slots`: content; the engine on whose list it is; its tokens; its neighbours on that list;
the slot of the same content on another list. -1 where there is none."""
(Z_OLDEST, Z_NEWEST, Z_KEPT, Z_CAPACITY) = range(4)
"""Columns of `Recall.ends`: ends of an engine's list; tokens on it, and as many as its cache holds."""
(G_KNOWN, G_RUN) = range(2)
"""Columns of `Recall.found`: tokens of the latest prompt's start on an engine's list, and pieces."""


@held
class Recall(NamedTuple):
    """Lists of N engines; S pieces of all requests, P different ones."""

    starts: I8  # [requests + 1] first piece of each request
    slots: I8  # [S, NUM_SLOT]
    first: I8  # [P] a slot of each content that is on a list, or -1
    ends: I8  # [N, 4]
    found: I8  # [N, 2]
    # Tokens of each; 0 where the only piece is a session, which is as long as it was sent.
    piece: int


def new_recall(capacities: list[int], piece: int) -> Recall:
    """Empty lists for caches of so many tokens."""
    ends = np.zeros((len(capacities), 4), dtype=np.int64)
    ends[:, [Z_OLDEST, Z_NEWEST]], ends[:, Z_CAPACITY] = -1, capacities
    none = np.zeros(0, dtype=np.int64)
    found = np.zeros((len(capacities), 2), dtype=np.int64)
    return Recall(none, none.reshape(0, NUM_SLOT), none, ends, found, piece)


@compiled_part
def look_everywhere(recall: Recall, row: int, tokens: int) -> None:
    """Find how much of a request's prompt is on each list; the last token is always computed."""
    found = recall.found
    for n in range(found.shape[0]):
        found[n, G_KNOWN] = found[n, G_RUN] = 0
    start, any_ = recall.starts[row], True
    for s in range(start, recall.starts[row + 1]):
        if not any_:
            break
        any_, slot = False, recall.first[recall.slots[s, P_PIECE]]
        while slot >= 0:
            n = recall.slots[slot, P_OWNER]
            if found[n, G_RUN] == s - start:
                found[n, G_RUN] += 1
                found[n, G_KNOWN] += recall.slots[slot, P_TOKENS]
                any_ = True
            slot = recall.slots[slot, P_BESIDE]
    for n in range(found.shape[0]):
        found[n, G_KNOWN] = max(min(found[n, G_KNOWN], tokens - 1), 0)


@compiled_part
def slot_on(recall: Recall, piece: int, n: int) -> int:
    """The slot of a content on an engine's list, or -1."""
    slot = recall.first[piece]
    while slot >= 0 and recall.slots[slot, P_OWNER] != n:
        slot = recall.slots[slot, P_BESIDE]
    return int(slot)


@compiled_part
def cross_out(recall: Recall, slot: int) -> None:
    """Take a slot off its list."""
    slots, own = recall.slots, recall.slots[slot]
    end, older, newer = recall.ends[own[P_OWNER]], own[P_OLDER], own[P_NEWER]
    if older >= 0:
        slots[older, P_NEWER] = newer
    else:
        end[Z_OLDEST] = newer
    if newer >= 0:
        slots[newer, P_OLDER] = older
    else:
        end[Z_NEWEST] = older
    end[Z_KEPT] -= own[P_TOKENS]
    before = recall.first[own[P_PIECE]]
    if before == slot:
        recall.first[own[P_PIECE]] = own[P_BESIDE]
    else:
        while slots[before, P_BESIDE] != slot:
            before = slots[before, P_BESIDE]
        slots[before, P_BESIDE] = own[P_BESIDE]
    own[P_OWNER] = -1


@compiled_part
def note_sent(recall: Recall, row: int, length: int, n: int) -> None:
    """Put a request on an engine's list: `length` tokens with its output."""
    end = recall.ends[n]
    if end[Z_CAPACITY] == 0:
        return
    for s in range(recall.starts[row], recall.starts[row + 1]):
        own = recall.slots[s]
        known = slot_on(recall, own[P_PIECE], n)
        if known >= 0:
            cross_out(recall, known)
        own[P_OWNER], own[P_TOKENS] = n, recall.piece if recall.piece > 0 else length
        own[P_OLDER], own[P_NEWER] = end[Z_NEWEST], -1
        if end[Z_NEWEST] >= 0:
            recall.slots[end[Z_NEWEST], P_NEWER] = s
        else:
            end[Z_OLDEST] = s
        end[Z_NEWEST] = s
        own[P_BESIDE], recall.first[own[P_PIECE]] = recall.first[own[P_PIECE]], s
        end[Z_KEPT] += own[P_TOKENS]
    while end[Z_KEPT] > end[Z_CAPACITY]:
        cross_out(recall, end[Z_OLDEST])


@compiled_part
def forget_all(recall: Recall, n: int) -> None:
    """Take everything off an engine's list."""
    while recall.ends[n, Z_OLDEST] >= 0:
        cross_out(recall, recall.ends[n, Z_OLDEST])

"""The library's rules of routers (`serving.routers`), as compiled code asks them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part, int64

I8 = npt.NDArray[np.int64]

(V_WAITING, V_RUNNING, V_HELD, V_FOUND, V_MISSING, V_KEPT) = range(6)
NUM_LOAD = 6
"""Columns of loads, an engine each, in order of the fields of `serving.routers.Load`."""

(BY_TURN, BY_REQUESTS, BY_WAITING, BY_HOME, BY_TOKENS, BY_CACHE) = range(6)
"""Rules: in turn; fewest requests; a waiting one counting four times; where the session was, else fewest
requests; fewest tokens to compute and to hold; most of the prompt, while loads are even."""

WAITING_COUNTS = 4
SHARE, APART, TIMES = 0.3, 64, 1.5
"""Of `BY_CACHE`: share of a prompt that is worth going to; uneven are loads that differ by more than so many
requests and so many times."""


@compiled_part
def fewest(loads: I8, waiting: int) -> int:
    """The engine with the fewest requests, a waiting one counting so many times."""
    best = int64(0)
    for n in range(1, loads.shape[0]):
        own = waiting * loads[n, V_WAITING] + loads[n, V_RUNNING]
        if own < waiting * loads[best, V_WAITING] + loads[best, V_RUNNING]:
            best = n
    return int(best)


@compiled_part
def fewest_tokens(loads: I8) -> int:
    """The engine with the fewest tokens to compute of this prompt and to hold of all."""
    best = int64(0)
    for n in range(1, loads.shape[0]):
        if loads[n, V_MISSING] + loads[n, V_HELD] < loads[best, V_MISSING] + loads[best, V_HELD]:
            best = n
    return int(best)


@compiled_part
def most_found(loads: I8) -> int:
    """The engine with most of the prompt; less than `SHARE` of it, the one that keeps least; uneven, the least loaded."""
    best, least, low, high = int64(0), int64(0), int64(1 << 40), int64(0)
    for n in range(loads.shape[0]):
        own = loads[n, V_WAITING] + loads[n, V_RUNNING]
        low, high = min(low, own), max(high, own)
        if loads[n, V_FOUND] > loads[best, V_FOUND]:
            best = n
        if loads[n, V_KEPT] < loads[least, V_KEPT]:
            least = n
    if high - low > APART and high > TIMES * low:
        return fewest(loads, 1)
    if loads[best, V_FOUND] > SHARE * (loads[best, V_FOUND] + loads[best, V_MISSING]):
        return int(best)
    return int(least)


@compiled_part
def choose(rule: int, dealt: int, loads: I8, home: int) -> int:
    """The engine that a rule takes after `dealt` others; `home` is that of the session, or -1."""
    if rule == BY_TURN:
        return int(dealt % loads.shape[0])
    if rule == BY_HOME and home >= 0:
        return int(home)
    if rule == BY_TOKENS:
        return fewest_tokens(loads)
    if rule == BY_CACHE:
        return most_found(loads)
    return fewest(loads, WAITING_COUNTS if rule == BY_WAITING else 1)

"""The built-in routing rules (`fleet.routers`), for compiled code and for Python."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part, int64
from ...workloads.records import named

Loads = npt.NDArray[Any]

LOAD = named("waiting running held found missing kept", "")
"""Load of an engine, in order of the fields of `fleet.routers.Load`."""

RouteRule = IntEnum("RouteRule", "TURN REQUESTS WAITING HOME TOKENS CACHE", start=0)
"""Routing rules: round-robin; fewest requests; the same with waiting requests counted four times; the session's last engine,
else fewest requests; fewest tokens to compute and to hold; most of the prompt cached, while loads are even."""

WAITING_COUNTS = 4
SHARE, APART, TIMES = 0.3, 64, 1.5
"""Parameters of `RouteRule.CACHE`: minimum share of a prompt in a cache; loads are uneven if they differ by more than this
many requests and this factor."""


@compiled_part
def fewest(loads: Loads, waiting: int) -> int:
    """Return the engine with the fewest requests, with waiting ones weighted."""
    best = int64(0)
    for n in range(1, len(loads)):
        load = waiting * loads[n].waiting + loads[n].running
        if load < waiting * loads[best].waiting + loads[best].running:
            best = n
    return int(best)


@compiled_part
def choose_least(rule: int, home: int) -> bool:
    """Return whether a rule chooses the engine with the fewest requests."""
    return bool(rule in (RouteRule.REQUESTS, RouteRule.WAITING) or (rule == RouteRule.HOME and home < 0))


def first_least(engines: int) -> npt.NDArray[np.int64]:
    """Return the comparison tree of `settle` for engines without requests; -1 in subtrees without engines."""
    size = 1 << (engines - 1).bit_length()
    least = np.full(2 * size, -1, dtype=np.int64)
    least[size : size + engines] = np.arange(engines)
    for at in range(size - 1, 0, -1):
        least[at] = least[2 * at]
    return least


@compiled_part
def settle(least: npt.NDArray[Any], loads: Loads, rule: int, engine: int) -> None:
    """Update the tree of comparisons that finds the least loaded engine, after the load of `engine` has changed.

    The result is `least[1]`; among equal loads the first engine is taken.
    """
    size, weight = least.size // 2, WAITING_COUNTS if rule == RouteRule.WAITING else 1
    at = (size + engine) // 2
    while at > 0:
        i, j = least[2 * at], least[2 * at + 1]
        if j < 0 or weight * loads[i].waiting + loads[i].running <= weight * loads[j].waiting + loads[j].running:
            least[at] = i
        else:
            least[at] = j
        at //= 2


@compiled_part
def fewest_tokens(loads: Loads) -> int:
    """Return the engine with the smallest sum of prompt tokens to compute for this request and tokens in flight."""
    best = int64(0)
    for n in range(1, len(loads)):
        if loads[n].missing + loads[n].held < loads[best].missing + loads[best].held:
            best = n
    return int(best)


@compiled_part
def most_found(loads: Loads) -> int:
    """Return the engine with most of the prompt cached; below `SHARE`, the one that keeps least; -1: loads are uneven."""
    best, least, low, high = int64(0), int64(0), int64(1 << 40), int64(0)
    for n in range(len(loads)):
        load = loads[n].waiting + loads[n].running
        low, high = min(low, load), max(high, load)
        if loads[n].found > loads[best].found:
            best = n
        if loads[n].kept < loads[least].kept:
            least = n
    if high - low > APART and high > TIMES * low:
        return -1
    if loads[best].found > SHARE * (loads[best].found + loads[best].missing):
        return int(best)
    return int(least)


@compiled_part
def choose(rule: int, dealt: int, loads: Loads, home: int) -> int:
    """Return the engine that a rule chooses after `dealt` assignments; `home` is the session's engine, or -1."""
    if rule == RouteRule.TURN:
        return int(dealt % len(loads))
    if rule == RouteRule.HOME and home >= 0:
        return int(home)
    if rule == RouteRule.TOKENS:
        return fewest_tokens(loads)
    matched = most_found(loads) if rule == RouteRule.CACHE else -1
    if matched >= 0:
        return matched
    return fewest(loads, WAITING_COUNTS if rule == RouteRule.WAITING else 1)

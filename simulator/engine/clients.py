"""Arrival and completion of an engine's requests, in order of their rows; `fleet` handles the events that follow."""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled_inside, compiled_part
from . import hooks
from .kv import KvRules
from .policies import Limits
from .queues import queue_request
from .state import State


@compiled_part
def next_arrival(state: State) -> float:
    """Return the time at which the next submitted request arrives [s]; infinity if there is none."""
    i = state.counters[0].walk
    return float(state.requests[i].arrival) if i < state.counters[0].submitted else np.inf


@compiled_part
def take(state: State) -> int:
    """Count the next request as arrived and return its row."""
    state.counters[0].walk += 1
    return int(state.counters[0].walk - 1)


@compiled_inside
def lightest_rank(state: State, waiting_load: int) -> int:
    """Return the rank with the fewest requests, where a waiting request counts `waiting_load` times."""
    best, fewest = 0, 1 << 40
    for r in range(state.ranks.shape[0]):
        load = state.ranks[r].running + waiting_load * state.ranks[r].waiting
        if load < fewest:
            best, fewest = r, load
    return best


@compiled_part
def release(state: State, limits: Limits, kv_rules: KvRules, known_at: float) -> float:
    """Queue the requests that arrived by `known_at`; return the next arrival time [s] (infinity: none).

    A request goes to the rank with the fewest requests, a waiting one counting `Policy.waiting_load` times.
    """
    while True:
        arrival = next_arrival(state)
        if not arrival <= known_at:
            return arrival
        i = take(state)
        r = lightest_rank(state, limits.waiting_load)
        if hooks.refuse(state, r, i):
            state.counters[0].refused += 1
            continue
        queue_request(state, r, i)
        hooks.on_arrival(state, limits, kv_rules, r, i)
        state.counters[0].released += 1


@compiled_part
def complete(state: State, index: int) -> None:
    """Count a request as completed, in order of completion."""
    counters = state.counters[0]
    state.requests[index].order = counters.completed
    state.requests[counters.completed].done = index
    counters.completed += 1

"""Hooks of user-defined parts in the planner: prompts that wait longer (see `outside`)."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...workloads.jit import compiled_code, int64
from ...workloads.jit_address import by_address
from .kv import KvRules
from .outside import WaitingPrompt
from .policies import Limits
from .state import State


@by_address
class Asking(NamedTuple):
    """State of a user-defined part: its compiled function and its options."""

    waits: Any  # its function
    own: tuple[float, ...]  # its options


@compiled_code
def waits_on(asking: Asking, state: State, limits: Limits, rank: int, index: int, now: float) -> bool:
    """Return whether the part delays the prompt at the head of the queue; prompts that have run are never delayed."""
    request, running, decoding, slowest = state.requests[index], state.ranks[rank].running, int64(0), 0.0
    if running == 0 or request.generated > 0:
        return False
    for j in range(running):
        other = state.requests[state.running[rank, j]]
        decoding += other.generated > 0
        if other.generated > 1:
            slowest = max(slowest, (other.last - other.first) / (other.generated - 1))
    tokens, waited = (request.target - request.cached, now - state.requests[index].arrival)
    prompt = WaitingPrompt(tokens, waited, running, decoding, slowest, asking.own)
    return bool(asking.waits(prompt))


@compiled_code
def while_waits(asking: Asking, state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Return the decode steps until the part is called again: 1 while any request waits."""
    running = int64(0)
    for r in range(state.ranks.shape[0]):
        running += state.ranks[r].running
    waiting = state.counters[0].released - state.counters[0].completed > running
    return int64(1) if waiting else int64(1 << 40)


HOOKS = {"waits_on": waits_on, "alike": while_waits}

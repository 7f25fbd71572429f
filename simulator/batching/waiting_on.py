"""What a part from outside changes in a plan: prompts that wait on (see `outside`)."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...workloads.jit import compiled_code, int64
from ...workloads.jit_held import held
from . import state as col
from .kv import KvRules
from .outside import WaitingPrompt
from .policies import Limits
from .state import State


@held
class Asking(NamedTuple):
    """A part from outside."""

    waits: Any  # its function
    own: tuple[float, ...]  # its options


@compiled_code
def waits_on(asking: Asking, st: State, limits: Limits, r: int, i: int, now: float) -> bool:
    """Whether a part lets a prompt wait whose turn has come; one that has had tokens never does."""
    request, running, decoding, slowest = st.ints[i], st.ranks[r, col.R_RUNNING], int64(0), 0.0
    if running == 0 or request[col.I_GENERATED] > 0:
        return False
    for j in range(running):
        other, stamps = st.ints[st.running[r, j]], st.floats[st.running[r, j]]
        decoding += other[col.I_GENERATED] > 0
        if other[col.I_GENERATED] > 1:
            slowest = max(slowest, (stamps[col.F_LAST] - stamps[col.F_FIRST]) / (other[col.I_GENERATED] - 1))
    tokens, waited = (request[col.I_TARGET] - request[col.I_CACHED], now - st.floats[i, col.F_ARRIVAL])
    prompt = WaitingPrompt(tokens, waited, running, decoding, slowest, asking.own)
    return bool(asking.waits(prompt))


@compiled_code
def while_waits(asking: Asking, st: State, limits: Limits, kv: KvRules) -> int:
    """Decode steps until a part is asked again: after each, where anything waits."""
    running = int64(0)
    for r in range(st.ranks.shape[0]):
        running += st.ranks[r, col.R_RUNNING]
    waiting = st.counters[col.C_RELEASED] - st.counters[col.C_COMPLETED] > running
    return int64(1) if waiting else int64(1 << 40)


HOOKS = {"waits_on": waits_on, "alike": while_waits}

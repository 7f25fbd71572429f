"""Several engines on one clock, compiled: each runs up to where another could change what it does.

What an engine's steps run on is known here by its address, so that any number of engines is one type.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled, compiled_given, compiled_part
from ...workloads.jit_held import held, held_at, kept
from ..step.books import Books
from ..step.lowering import Plan
from .heap import Heap, drop_first, new_heap, push
from .kv import KvRules
from .lanes import M_REFUSED
from .loop import GOAL, REACHED, advance
from .policies import Limits
from .state import C_COMPLETED, C_RELEASED, C_SUBMITTED, C_WALK, F_ARRIVAL, T_NOW, State

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

(X_QUEUED, X_HELD, X_FAILING) = range(3)
NUM_MARKS = 3
"""Columns of `Fleet.marks`: whether an engine waits for its turn to run (`ASKED`: is yet to be put in line for
it); whether a completion on it has yet to have its effects, and it stands still until then; whether it
fails at the end of the step."""
ASKED = 2
(U_NODE, U_GOAL) = range(2)
"""Entries of `Fleet.under`: the engine that is under way (-1: none), and at how many completions it stops."""


@kept
class Loop(NamedTuple):
    """What the steps of one engine run on."""

    plan: Plan
    limits: Limits
    kv: KvRules
    state: State
    books: Books


@held
class Fleet(NamedTuple):
    """N engines on one clock."""

    loops: I8  # [N] address of the `Loop` of each
    clock: F8  # [N] time before which it has nothing left to do
    marks: I8  # [N, NUM_MARKS]
    busy: Heap  # engines that wait for their turn
    under: I8  # [2]
    limit: F8  # [2] up to when the engine under way runs, and all of them


def new_fleet(engines: int) -> Fleet:
    """So many engines that have nothing to do, at time 0."""
    return Fleet(
        np.zeros(engines, dtype=np.int64), np.zeros(engines),
        np.zeros((engines, NUM_MARKS), dtype=np.int64), new_heap(engines),
        np.array([-1, 0], dtype=np.int64), np.zeros(2),
    )  # fmt: skip


advance_one = compiled_part(getattr(advance, "py_func", advance))
"""`loop.advance` as compiled code calls it."""


@compiled_given("st.lanes", otherwise=lambda st: 0)
def turned_away_so_far(st: State) -> int:
    """Requests that an engine has turned away."""
    return int(st.lanes.marks[M_REFUSED])


@compiled_part
def is_done(st: State) -> bool:
    """`Engine.done`."""
    done = st.counters[C_COMPLETED] + turned_away_so_far(st)
    return bool(done == st.counters[C_SUBMITTED])


@compiled_part
def ready_at(st: State) -> float:
    """`Engine.ready` of an engine whose requests arrive as they are submitted."""
    counters, now = st.counters, st.clocks[T_NOW]
    idle = counters[C_RELEASED] == counters[C_COMPLETED]
    if not idle or counters[C_WALK] == counters[C_SUBMITTED]:
        return float(now)
    return max(float(now), float(st.floats[counters[C_WALK], F_ARRIVAL]))


@compiled_part
def wake(fleet: Fleet, n: int, ready: float) -> None:
    """`Nodes.wake`: let an engine run that has something to do from a time on."""
    mark = fleet.marks[n]
    if mark[X_QUEUED] == 0 and mark[X_HELD] == 0:
        mark[X_QUEUED] = 1
        fleet.clock[n] = max(fleet.clock[n], ready)
        push(fleet.busy, fleet.clock[n], n, n)


@compiled_part
def next_under_way(fleet: Fleet, like: Loop, level: bool) -> bool:
    """Choose the engine that runs next, and how far; whether there is any."""
    busy, until = fleet.busy, fleet.limit[1]
    while busy.size[0] > 0 and busy.time[0] < until:
        due, n = busy.time[0], busy.tags[0, 1]
        drop_first(busy)
        fleet.marks[n, X_QUEUED] = 0
        st = held_at(fleet.loops[n], like).state
        if fleet.marks[n, X_FAILING] or is_done(st):
            continue
        if due < fleet.clock[n]:  # it has failed since
            wake(fleet, n, ready_at(st))
            continue
        fleet.limit[0] = until
        if level and busy.size[0] > 0:
            after = np.nextafter(fleet.clock[n], np.inf)
            fleet.limit[0] = min(until, max(busy.time[0], after))
        fleet.under[U_NODE], fleet.under[U_GOAL] = n, st.counters[C_COMPLETED] + 1
        return True
    return False


@compiled_part
def bring(fleet: Fleet, like: Loop, stops: bool, level: bool) -> int:
    """Run engines up to ``fleet.limit[1]``, or the end of the step in which one has completions that matter.

    Of the latter kind, the time up to which the others run is brought forward to that.

    Parameters
    ----------
    like : Loop
        Any engine's, for its type.
    stops, level : bool
        Whether completions matter to others; whether engines run level with each other besides.

    Returns
    -------
    int
        `REACHED`; `GOAL` where the engine under way has completions; and what else `loop.advance`
        returns, after which this is to be called again.
    """
    while fleet.under[U_NODE] >= 0 or next_under_way(fleet, like, stops or level):
        n = fleet.under[U_NODE]
        loop, goal = held_at(fleet.loops[n], like), fleet.under[U_GOAL] if stops else 0
        st = loop.state
        status = advance_one(
            loop.plan, loop.limits, loop.kv, st, loop.books, fleet.limit[0], False, goal
        )
        if status != REACHED and status != GOAL:
            return status
        fleet.under[U_NODE] = -1
        reached = st.clocks[T_NOW]
        over = status == GOAL or is_done(st)
        # A step may end later, and what is yet to arrive here does so later.
        fleet.clock[n] = reached if over else max(reached, fleet.limit[0])
        if status == GOAL:
            fleet.limit[1] = min(fleet.limit[1], fleet.clock[n])
            fleet.under[U_GOAL] = n
            return status
        if not over:
            wake(fleet, n, ready_at(st))
    return REACHED


@compiled_part
def line_up(fleet: Fleet) -> None:
    """Put engines in line that Python has asked to run."""
    for n in range(fleet.marks.shape[0]):
        if fleet.marks[n, X_QUEUED] == ASKED:
            fleet.marks[n, X_QUEUED] = 1
            push(fleet.busy, fleet.clock[n], n, n)


@compiled
def write_down(loop: Loop) -> bool:
    """Let a `Loop` be written down, as any call with it does."""
    return True


@compiled
def bring_level(fleet: Fleet, like: Loop, stops: bool, level: bool) -> int:
    """`bring`, for a caller in Python."""
    line_up(fleet)
    return bring(fleet, like, stops, level)

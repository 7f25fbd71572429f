"""Several engines on one clock, compiled: each runs up to where another could change what it does.

What an engine's steps run on is known here by its address, so that any number of engines is one type.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled, compiled_given, compiled_part
from ...workloads.jit_held import held, held_at, kept
from ..step.books import Books
from ..step.lowering import Plan
from .heap import Heap, drop_first, new_heap, push
from .kv import KvRules
from .lanes import M_REFUSED
from .loop import advance
from .policies import Limits
from .records import named, records
from .state import C_COMPLETED, C_RELEASED, C_SUBMITTED, C_WALK, F_ARRIVAL, T_NOW, State
from .status import GOAL, REACHED, STUCK

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

RUN = 7
"""Why `bring` returns, beside the reasons of `loop.advance`: the caller is to run the engine under way itself, up to
its limit or its goal, and to come back with that noted."""

ASKED = 2
"""Of an engine that is yet to be put in line for its turn to run."""

OWN = named(
    "queued halted failing by_hand given up ready life earlier inbound delivered gone held_tokens asked forget",
    "clock promised capacity sent_s busy_s",
)
"""Of an engine: whether it waits for its turn to run (or `ASKED`); whether a completion on it has yet to have its
effects, and it stands still until then; whether it fails at the end of the step; whether the caller runs it, and
gives it its requests. Whether it takes requests, and the router may send it some; failures so far; completions before
the latest of them; caches on their way to it; completions that have had their effects, and that a router has seen;
prompt tokens of requests that it has not seen come back; requests that wait for adapters; whether the router is to
forget what it sent. Time before which it has nothing left to do [s]; KV bytes of one device kept for requests that
are here, come, or have a cache parked here, and all that there are; when the last cache was there, and seconds that
caches took on all its ports."""

TURN = named("node goal ran", "until limit")
"""The engine that is under way (-1: none), at how many completions it stops, and whether the caller has run it; up to
when it runs, and all of them."""


@kept
class Loop(NamedTuple):
    """What the steps of one engine run on."""

    plan: Plan
    limits: Limits
    kv: KvRules
    state: State
    books: Books


@kept
class Face(NamedTuple):
    """What is seen of an engine from outside, of whatever kind it is."""

    ints: I8
    floats: F8
    ranks: I8
    counters: I8
    clocks: F8
    marks: I8  # those of its lanes; zeros without any


@held
class Fleet(NamedTuple):
    """N engines on one clock, the first ones of one kind and the others of another."""

    loops: I8  # [N] address of the `Loop` of each
    faces: I8  # [N] and of its `Face`
    like: Face  # any of them
    own: npt.NDArray[Any]  # [N] of `OWN`
    busy: Heap  # engines that wait for their turn
    turn: npt.NDArray[Any]  # [1] of `TURN`
    first: int  # engines of the first kind


def new_fleet(engines: int, first: int, like: Face) -> Fleet:
    """So many engines that have nothing to do, at time 0."""
    own, turn, where = records(engines, OWN), records(1, TURN), np.zeros((2, engines), np.int64)
    own.up = own.ready = 1
    turn.node = -1
    return Fleet(where[0], where[1], like, own, new_heap(engines), turn, first)


advance_one = compiled_part(getattr(advance, "py_func", advance))
"""`loop.advance` as compiled code calls it."""


@compiled_part
def face_of(fleet: Fleet, n: int) -> Face:
    """What is seen of an engine."""
    face: Face = held_at(fleet.faces[n], fleet.like)
    return face


@compiled_part
def is_done(face: Face) -> bool:
    """`Engine.done`."""
    counters = face.counters
    return bool(counters[C_COMPLETED] + face.marks[M_REFUSED] == counters[C_SUBMITTED])


@compiled_part
def ready_at(face: Face) -> float:
    """`Engine.ready`."""
    counters, now = face.counters, face.clocks[T_NOW]
    idle = counters[C_RELEASED] == counters[C_COMPLETED]
    if not idle or counters[C_WALK] == counters[C_SUBMITTED]:
        return float(now)
    return max(float(now), float(face.floats[counters[C_WALK], F_ARRIVAL]))


@compiled_part
def wake(fleet: Fleet, n: int) -> None:
    """Let an engine run that has something to do."""
    own = fleet.own[n]
    if own.queued != 1 and not own.halted:
        own.queued = 1
        own.clock = max(own.clock, ready_at(face_of(fleet, n)))
        push(fleet.busy, own.clock, n, n)


@compiled_part
def next_under_way(fleet: Fleet, stops: bool, level: bool) -> bool:
    """Choose the engine that runs next, and how far; whether there is any."""
    busy, turn = fleet.busy, fleet.turn[0]
    while busy.size[0] > 0 and busy.time[0] < turn.limit:
        due, n = busy.time[0], busy.tags[0, 1]
        drop_first(busy)
        own, face = fleet.own[n], face_of(fleet, n)
        own.queued = 0
        if own.failing or is_done(face):
            continue
        if due < own.clock:  # it has failed since
            wake(fleet, n)
            continue
        turn.until = turn.limit
        if (stops or level) and busy.size[0] > 0:
            turn.until = min(turn.limit, max(busy.time[0], np.nextafter(own.clock, np.inf)))
        turn.node = n
        turn.goal = face.counters[C_COMPLETED] + 1 if stops else 0
        return True
    return False


@compiled_given("like", otherwise=lambda fleet, like, n: STUCK)
def run_one(fleet: Fleet, like: Loop, n: int) -> int:
    """Run an engine up to its limit or its goal."""
    loop, until, goal = held_at(fleet.loops[n], like), fleet.turn[0].until, fleet.turn[0].goal
    return advance_one(loop.plan, loop.limits, loop.kv, loop.state, loop.books, until, False, goal)


@compiled_part
def run_under_way(fleet: Fleet, like: Loop, other: Loop) -> int:
    """Run the engine under way, or see what came of it where the caller has; why it stopped."""
    turn, n = fleet.turn[0], fleet.turn[0].node
    if not fleet.own[n].by_hand:
        return run_one(fleet, like, n) if n < fleet.first else run_one(fleet, other, n)
    if not turn.ran:
        return RUN
    turn.ran = 0
    there = face_of(fleet, n).counters[C_COMPLETED] >= turn.goal
    return GOAL if turn.goal > 0 and there else REACHED


@compiled_part
def bring(fleet: Fleet, like: Loop, other: Loop, stops: bool, level: bool) -> int:
    """Run engines up to a limit, or the end of the step in which one has completions that matter.

    Of the latter kind, the time up to which the others run is brought forward to that.

    Parameters
    ----------
    like, other : Loop
        Any engine's of the first kind, and of the other, for their types.
    stops, level : bool
        Whether completions matter to others; whether engines run level with each other besides.

    Returns
    -------
    int
        `REACHED`; `GOAL` where an engine (`turn.goal`) has completions; `RUN`; and what else `loop.advance`
        returns, after which this is to be called again.
    """
    turn = fleet.turn[0]
    while turn.node >= 0 or next_under_way(fleet, stops, level):
        n = turn.node
        status = run_under_way(fleet, like, other)
        if status != REACHED and status != GOAL:
            return status
        turn.node, face, own = -1, face_of(fleet, n), fleet.own[n]
        reached, done = face.clocks[T_NOW], is_done(face)
        # A step may end later, and what is yet to arrive here does so later.
        own.clock = reached if status == GOAL or done else max(reached, turn.until)
        if status == GOAL:
            turn.goal, own.halted = n, 1
            turn.limit = min(turn.limit, own.clock)
            return status
        if not done:
            wake(fleet, n)
    return REACHED


@compiled_part
def line_up(fleet: Fleet) -> None:
    """Put engines in line that Python has asked to run."""
    for n in range(fleet.own.size):
        if fleet.own[n].queued == ASKED:
            wake(fleet, n)


@compiled
def write_down(what: Loop | Face) -> bool:
    """Let a tuple be written down, as any call with it does."""
    return True

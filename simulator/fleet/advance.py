"""Advance several engines on one clock, compiled: each runs up to the next time at which another could affect it.

The state arrays of an engine are passed by address, so that any number of engines has one type.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from ...workloads.jit_address import by_address, called_at, held_at
from ...workloads.records import named, records
from ..engine.state import RESTING, Face, Status
from .heap import Line, line_up, new_line, take_first

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

ASKED = 2
"""Mark of an engine that Python code wants to be scheduled."""

OWN = named(
    "queued halted failing given up ready life earlier inbound delivered gone held_tokens asked forget changed",
    "clock promised capacity sent_s busy_s",
)
"""State of an engine: whether it waits for its turn to run (or `ASKED`); whether it stops for an unprocessed
completion; whether it fails at the end of the step; whether the caller assigns its requests; whether it accepts
requests, and the router may send some; failures; completions before the latest failure; KV transfers to it;
processed completions; completions known to the router; prompt tokens of requests that the router has not seen
complete; requests that wait for adapters; whether the router must forget its sent prompts; whether its load differs
from the router's (or `ASKED`). Time until which it is idle [s]; KV bytes of one device reserved for requests, and
their total; time of the last transfer, and seconds of transfers on all its ports."""

TURN = named("node goal rests logged ahead changed", "until limit")
"""The engine that is under way (-1: none), and at how many completions it stops; whether engines stop before
the first step that an unknown request might change; rows of `Engines.log` in use; whether engines are left behind while
nothing happens on them that others could see; how many are in `Engines.changed`; up to when it runs, and all of them."""


@by_address
class Engines(NamedTuple):
    """N engines of any kind on one clock."""

    loops: I8  # [N] address of the `EngineArrays` of each
    runs: I8  # [N] and of the code of `loop.run` for it
    takes: I8  # [N] and of `assignment.take_in`
    faces: I8  # [N] and of its `Face`
    like: Face  # any of them
    own: npt.NDArray[Any]  # [N] of `OWN`
    busy: Line  # engines that wait for their turn
    turn: npt.NDArray[Any]  # [1] of `TURN`
    first: int  # number of engines that requests arrive at; the others are decode nodes
    changed: I8  # [N] those whose loads are not what the router knows
    # [rows, 1 + columns] log rows of engines whose logs were full: the engine's number, and a row of `State.log`
    log: F8


def new_fleet(engines: int, first: int, like: Face, log: F8) -> Engines:
    """Return `engines` idle engines at time 0."""
    nodes, turn, where = records(engines, OWN), records(1, TURN), np.zeros((4, engines), np.int64)
    nodes.up = nodes.ready = 1
    turn.node = -1
    return Engines(
        where[0],
        where[1],
        where[2],
        where[3],
        like,
        nodes,
        new_line(engines),
        turn,
        first,
        np.zeros(engines, np.int64),
        log,
    )


@compiled_part
def face_of(fleet: Engines, engine: int) -> Face:
    """Return the part of an engine's state that routers can see."""
    face: Face = held_at(fleet.faces[engine], fleet.like)
    return face


@compiled_part
def is_done(face: Face) -> bool:
    """Return whether every submitted request has finished or was rejected (`Engine.done`)."""
    counters = face.counters[0]
    return bool(counters.completed + counters.refused == counters.submitted)


@compiled_part
def ready_at(face: Face) -> float:
    """Return the earliest time at which an engine's next step can begin [s] (`Engine.ready`)."""
    counters, now = face.counters[0], face.clocks[0].now
    idle = counters.released == counters.completed
    if not idle or counters.walk == counters.submitted:
        return float(now)
    return max(float(now), float(face.requests[counters.walk].arrival))


@compiled_part
def note_change(fleet: Engines, engine: int) -> None:
    """Record that an engine's load has changed since the router last read it."""
    turn = fleet.turn[0]
    if fleet.own[engine].changed != 1:
        fleet.own[engine].changed = 1
        fleet.changed[turn.changed] = engine
        turn.changed += 1


@compiled_part
def wake(fleet: Engines, engine: int, calm: float = 0.0) -> None:
    """Schedule an engine that has work; others are affected by it from time `calm` on."""
    node = fleet.own[engine]
    note_change(fleet, engine)
    if node.halted:
        return
    if node.queued != 1:
        node.clock = max(node.clock, ready_at(face_of(fleet, engine)))
    node.queued = 1
    line_up(fleet.busy, engine, max(node.clock, calm))


@compiled_part
def next_under_way(fleet: Engines, stops: bool, level: bool) -> bool:
    """Choose the engine that runs next, and how far it runs; return whether there is one."""
    busy, turn = fleet.busy, fleet.turn[0]
    while busy.size[0] > 0 and busy.time[busy.order[0]] < turn.limit:
        n = take_first(busy)
        due = busy.time[n]
        node, face = fleet.own[n], face_of(fleet, n)
        node.queued = 0
        if node.failing or is_done(face):
            continue
        if due < node.clock:  # it has failed since
            wake(fleet, n)
            continue
        turn.until = turn.limit
        if (stops or level) and busy.size[0] > 0:
            turn.until = min(turn.limit, max(busy.time[busy.order[0]], np.nextafter(node.clock, np.inf)))
        turn.node = n
        turn.goal = face.counters[0].completed + 1 if stops else RESTING * turn.rests
        return True
    return False


@compiled_part
def run_under_way(fleet: Engines) -> int:
    """Run the chosen engine up to its time limit or completion goal; return the reason why it stopped."""
    turn, n = fleet.turn[0], fleet.turn[0].node
    return int(called_at(fleet.runs[n], fleet.loops[n], (turn.until, turn.goal)))


@compiled_part
def move_log(fleet: Engines, engine: int) -> bool:
    """Append an engine's log to the common log, which the caller reads; return whether there was room."""
    face, turn = face_of(fleet, engine), fleet.turn[0]
    rows, columns = face.counters[0].logged, min(face.log.shape[1], fleet.log.shape[1] - 1)
    if turn.logged + rows > fleet.log.shape[0]:
        return False
    for k in range(rows):
        row = fleet.log[turn.logged + k]
        row[0] = engine
        for c in range(columns):
            row[1 + c] = face.log[k, c]
    turn.logged += rows
    face.counters[0].logged = 0
    return True


@compiled_part
def bring(fleet: Engines, stops: bool, level: bool) -> int:
    """Run engines up to a time limit, or to the end of the step in which an engine has completions that affect others.

    In the latter case the limit of the other engines is reduced to the time of that step's end.

    Parameters
    ----------
    stops, level : bool
        Whether completions matter to others; whether engines also advance together in time.

    Returns
    -------
    int
        `Status.REACHED`; `Status.GOAL` if an engine (`turn.goal`) has completions; or another result of `loop.advance`,
        after which this must be called again.
    """
    turn = fleet.turn[0]
    while turn.node >= 0 or next_under_way(fleet, stops, level):
        n = turn.node
        status = run_under_way(fleet)
        while status == Status.LOG_FULL and move_log(fleet, n):
            status = run_under_way(fleet)
        if status != Status.REACHED and status != Status.GOAL:
            return status
        turn.node, face, node = -1, face_of(fleet, n), fleet.own[n]
        reached, done = face.clocks[0].now, is_done(face)
        # A step may end later, and what is yet to arrive here does so later.
        node.clock = reached if status == Status.GOAL or done else max(reached, turn.until)
        note_change(fleet, n)
        if status == Status.GOAL:
            turn.goal, node.halted = n, 1
            turn.limit = min(turn.limit, node.clock)
            return status
        if not done:
            wake(fleet, n, face.clocks[0].calm * turn.ahead)
    return Status.REACHED


@compiled_part
def wake_all(fleet: Engines) -> None:
    """Schedule the engines that Python code has marked as having work."""
    for n in range(fleet.own.size):
        if fleet.own[n].queued == ASKED or fleet.own[n].changed == ASKED:
            wake(fleet, n)

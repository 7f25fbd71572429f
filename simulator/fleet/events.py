"""The events of a run, compiled: arrivals, sessions, clients, completions, and their consequences.

Events are in one queue; before each event the engines advance to its time (`advance`). Phases process the consequences in
order: completions, arrivals and the stages before the router, KV transfers (`kv_transfer`), assignments (`assignment`). Events
that need Python (a user-defined router, an autoscaler, a failure, a stage) return to the caller.
"""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled, compiled_by, compiled_given, compiled_part
from ..engine.state import Face, Status
from .advance import bring, face_of, is_done, wake, wake_all
from .assignment import (
    ARRIVALS,
    CHOOSE,
    COMPLETIONS,
    CROSSED,
    FOLLOWS,
    KINDS,
    Columns,
    FleetRules,
    RunEvents,
    assign,
    at_time,
    give,
)
from .heap import drop_first
from .rings import drop_first as take_first
from .rings import put_last

BLOCK, NOTE, PASS, LEAVE, CALL = 12, 13, 14, 15, 16
"""Reasons why `run_events` returns, in addition to `advance.bring`, `assignment` and `kv_transfer`: all known requests have arrived;
the requested number of completions was processed; a request (`At.row`) reaches a stage before the router; one
completed on an engine (`At.node`), before its effects; an event of the caller (`At.call`)."""

GIVING, DELIVERING, COMING, PASSING, SENDING, DEALING, BRINGING = 0, 1, 2, 3, 4, 5, 6
"""Phases in which the consequences of an event are processed, in this order."""


@compiled_by("rules.transfers")
def next_cache(play: RunEvents, rules: FleetRules) -> int:
    """Start the next KV transfer if a node has memory for its request; return the request, -1: none, -2: ask the caller."""
    return -1


@compiled_by("rules.transfers")
def arrive(play: RunEvents, rules: FleetRules, row: int) -> int:
    """Complete a KV transfer, unless its source or target has failed since."""
    return Status.REACHED


@compiled_by("rules.transfers")
def goes_on(play: RunEvents, rules: FleetRules, row: int, engine: int) -> bool:
    """Return whether a request that has ended on a prefill node must continue on a decode node."""
    return False


@compiled_part
def ask(play: RunEvents, rules: FleetRules, row: int) -> None:
    """Queue an arriving request behind those that wait for assignment or a stage."""
    put_last(play.door if rules.staged else play.gate, row)


@compiled_part
def come_after(play: RunEvents, rules: FleetRules, row: int) -> None:
    """Schedule a request that follows others, after its client has read their results and thought about them.

    If an agent's call waits for several calls, it is sent when the last of these and its tool have ended.
    """
    x, w, at, last = play.rows, play.waits, play.at[0], -np.inf
    for k in range(w.starts[row], w.starts[row + 1]):
        last = max(last, x.last_s[w.before[k]])
    arrival = max(x.arrival_s[row], last + x.think_s[row])
    x.arrival_s[row] = arrival
    if arrival <= at.now:
        at.to_come -= 1
        ask(play, rules, row)
    else:
        at_time(play, arrival, FOLLOWS + KINDS * row)


@compiled_part
def follow(play: RunEvents, rules: FleetRules, row: int) -> bool:
    """Register a request that follows others; return whether all of these have completed already."""
    x, w = play.rows, play.waits
    play.at[0].to_come += 1
    for k in range(w.starts[row], w.starts[row + 1]):
        before = w.before[k]
        if x.generated[before] == x.output_tokens[before]:
            continue
        w.left[row] += 1
        other = w.first[before]
        if other < 0:
            w.first[before] = k
            continue
        while w.more[other] >= 0:
            other = w.more[other]
        w.more[other] = k
    if w.left[row] == 0:
        come_after(play, rules, row)
    return bool(w.left[row] == 0)


@compiled_part
def let_follow(play: RunEvents, rules: FleetRules, row: int) -> bool:
    """Release the successors of a completed request; return whether there are known ones."""
    w = play.waits
    if w.starts.size == 0 or w.first[row] < 0:
        return False
    k = w.first[row]
    w.first[row] = -1
    while k >= 0:
        w.left[w.row[k]] -= 1
        if w.left[w.row[k]] == 0:
            come_after(play, rules, w.row[k])
        k = w.more[k]
    return True


@compiled_part
def waits_for_any(play: RunEvents, row: int) -> bool:
    """Return whether a request follows others."""
    starts = play.waits.starts
    return bool(starts.size > 0 and starts[row] < starts[row + 1])


@compiled_part
def let_arrive(play: RunEvents, rules: FleetRules) -> int:
    """Queue the requests whose arrival time has come; return `BLOCK` if more requests must be read."""
    at, x = play.at[0], play.rows
    while at.next < at.last:
        row = at.next
        if x.arrival_s[row] > at.now and not at.due:
            at_time(play, x.arrival_s[row], ARRIVALS)
            at.awake = 0
            return Status.REACHED
        at.due = 0
        at.next += 1
        if waits_for_any(play, row):
            follow(play, rules, row)
        else:
            ask(play, rules, row)
    return BLOCK


@compiled_part
def next_clients(play: RunEvents, rules: FleetRules, now: float) -> int:
    """Send the next requests of idle clients of a closed loop; return `BLOCK` if more requests must be read.

    A client continues its session; an unfinished request delays its successor. In a loop with a rate no request is sent
    before its arrival time, which is infinite in a loop without a rate.
    """
    at = play.at[0]
    while at.in_flight < rules.clients and not at.over:
        if at.next == at.last:
            return BLOCK
        row = at.next
        if now < play.rows.arrival_s[row] < np.inf:
            if at.awake:
                at_time(play, play.rows.arrival_s[row], ARRIVALS)
                at.awake = 0
            return Status.REACHED
        at.next += 1
        if waits_for_any(play, row):
            at.in_flight += int(follow(play, rules, row))
        else:
            at.in_flight += 1
            play.rows.arrival_s[row] = now
            ask(play, rules, row)
    return Status.REACHED


@compiled_part
def take_over(columns: Columns, face: Face, place: int, row: int) -> None:
    """Copy the results of one request from its engine to the table (`RequestTable.take_over_all`)."""
    request = face.requests[place]
    columns.generated[row], columns.order[row] = request.generated, request.order
    columns.preemptions[row] += request.preempted
    if np.isnan(columns.scheduled_s[row]):
        columns.scheduled_s[row] = request.scheduled
    columns.first_s[row], columns.last_s[row] = request.first, request.last


@compiled_part
def deliver(play: RunEvents, rules: FleetRules) -> int:
    """Process the consequences of an engine's completions, let it continue, and let closed-loop clients send."""
    at, n = play.at[0], play.at[0].node
    if n < 0:
        return next_clients(play, rules, at.now)
    face, node, now = face_of(play.fleet, n), play.own[n], play.own[n].clock
    node.halted = 0
    while True:
        if next_clients(play, rules, now) == BLOCK:
            return BLOCK
        if node.delivered == face.counters[0].completed:
            break
        place = face.requests[node.delivered].done
        row = face.requests[place].row
        if rules.reports_leaving and at.left == 0:
            at.row, at.left = row, 1
            return LEAVE
        at.left = 0
        node.delivered += 1
        face.requests[place].row = -1 - row
        take_over(play.rows, face, place, row)
        if not goes_on(play, rules, row, n):
            at.delivered += 1
            followed = let_follow(play, rules, row)
            at.in_flight -= 1 if rules.clients > 0 and not followed else 0
    at.node, at.noted, at.then = -1, now, now
    if not is_done(face):
        wake(play.fleet, n)
    return Status.REACHED


@compiled_part
def let_pass(play: RunEvents) -> int:
    """Take the next request for the stage before the router; return `PASS` if there is one."""
    if play.door.span[1] == 0:
        return Status.REACHED
    at = play.at[0]
    at.row = play.door.kept[play.door.span[0]]
    take_first(play.door)
    at.phase = SENDING
    return PASS


@compiled_part
def send(play: RunEvents, rules: FleetRules) -> int:
    """Start KV transfers in order, while a decode node has room for the request; `CHOOSE` as in `assign`."""
    row = next_cache(play, rules)
    while row >= 0:
        row = next_cache(play, rules)
    return Status.REACHED if row == -1 else CHOOSE


@compiled_part
def ask_for_block(play: RunEvents, rules: FleetRules) -> int:
    """Replace `follow_up` in runs without other events: return `BLOCK` if the next block of requests is due."""
    if play.at[0].awake:
        return BLOCK
    play.at[0].phase = BRINGING
    return Status.REACHED


@compiled_given("rules.other_events", otherwise=ask_for_block)
def follow_up(play: RunEvents, rules: FleetRules) -> int:
    """Process the consequences of an event, phase by phase; return `Status.REACHED`, or the reason for the caller to act."""
    at = play.at[0]
    status: int = Status.REACHED
    while at.phase < BRINGING and status == Status.REACHED:
        if at.phase == GIVING:
            status = give(play, rules)
        elif at.phase == DELIVERING:
            status = deliver(play, rules)
        elif at.phase == COMING:
            status = let_arrive(play, rules) if at.awake and rules.clients == 0 else Status.REACHED
        elif at.phase == PASSING:
            status = let_pass(play)
        elif at.phase == SENDING:
            status = send(play, rules)
        else:
            status = assign(play, rules)
        if status == Status.REACHED:
            at.phase = PASSING if at.phase == DEALING and play.door.span[1] > 0 else at.phase + 1
    return int(status)


@compiled_part
def next_arrivals(play: RunEvents, rules: FleetRules) -> int:
    """Replace `happen` in runs without other events: the next event is an arrival."""
    at = play.at[0]
    at.now, at.phase, at.awake = play.events.time[0], GIVING, 1
    drop_first(play.events)
    return Status.REACHED


@compiled_given("rules.other_events", otherwise=next_arrivals)
def happen(play: RunEvents, rules: FleetRules) -> int:
    """Take the next event; return `Status.REACHED`, or the reason why the caller must act."""
    at, what = play.at[0], play.events.tags[0, 1]
    at.now, at.phase = play.events.time[0], GIVING
    drop_first(play.events)
    kind, number = what % KINDS, what // KINDS
    if kind == ARRIVALS:
        at.awake = at.due = 1
    elif kind == COMPLETIONS:
        if play.own[number].halted:  # the engine has not failed since
            at.node = number
    elif kind == FOLLOWS:
        at.to_come -= 1
        ask(play, rules, number)
    elif kind == CROSSED:
        return arrive(play, rules, number)
    else:
        at.call, at.then = number, at.now
        return CALL
    return Status.REACHED


@compiled_part
def comes_next(play: RunEvents) -> bool:
    """Take an engine's completions for the next event at once, if no other engine or event comes before them."""
    at, n, events = play.at[0], play.fleet.turn[0].goal, play.events
    time = at.now + max(play.own[n].clock - at.now, 0.0)
    if play.fleet.busy.size[0] > 0 or (events.size[0] > 0 and events.time[0] <= time):
        return False
    at.now, at.phase, at.node = time, GIVING, n
    return True


@compiled_given("rules.other_events", otherwise=lambda p, rules: bring(p.fleet, False, rules.shared_state))
def run_engines(play: RunEvents, rules: FleetRules) -> int:
    """Run the engines up to the next event, which may be a completion (`Status.GOAL`)."""
    status = bring(play.fleet, rules.stops, rules.shared_state)
    while status == Status.GOAL and not comes_next(play):
        n = play.fleet.turn[0].goal
        at_time(play, play.own[n].clock, COMPLETIONS + KINDS * n)
        status = bring(play.fleet, rules.stops, rules.shared_state)
    return int(status)


@compiled_part
def all_done(play: RunEvents, rules: FleetRules) -> bool:
    """Return whether every request has arrived and completed, or was rejected."""
    at = play.at[0]
    if not at.over or at.next < at.last or at.to_come > 0:
        return False
    completed = at.delivered + at.refused
    if not rules.stops:
        completed = at.refused
        for n in range(play.own.size):
            face = face_of(play.fleet, n)
            completed += play.own[n].earlier + face.counters[0].completed + face.counters[0].refused
    return bool(completed == at.last)


@compiled
def run_events(play: RunEvents, rules: FleetRules) -> int:
    """Run events until all requests have completed, or the caller must act.

    Returns
    -------
    int
        `Status.REACHED` at the end; otherwise the reason why the caller must act, or the status that an engine returned.
    """
    at, fleet, events = play.at[0], play.fleet, play.events
    wake_all(fleet)
    while True:
        if at.phase < BRINGING:
            status = follow_up(play, rules)
            if status != Status.REACHED:
                return status
            fleet.turn[0].limit = events.time[0] if events.size[0] > 0 else np.inf
            if rules.stops and 0 < at.goal <= at.delivered:
                return NOTE
        status = run_engines(play, rules)
        if status == Status.GOAL:
            continue
        if status != Status.REACHED:
            return status
        if all_done(play, rules):
            return Status.REACHED
        if events.size[0] == 0:
            return Status.STUCK
        status = happen(play, rules)
        if status != Status.REACHED:
            return status

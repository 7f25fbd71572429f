"""Requests of sessions and the router's choices beside the engines, compiled: what `serving` plays on SimPy.

Arrivals, completions that let others come, and deals happen here in the order in which the events of the
slow driver do (`serving.arrivals`, `sessions`, `dealing`, `nodes`), to the last bit of their times: an event of
SimPy comes after a delay, so that its time is now and the difference to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled, compiled_given, compiled_part
from ...workloads.jit_held import held, held_at
from .heap import Heap, drop_first, push
from .level import X_HELD, Fleet, Loop, bring, is_done, ready_at, wake
from .loading import renew
from .loop import GOAL, REACHED, STUCK
from .prefix import MOST_PIECES
from .recall import G_KNOWN, Z_KEPT, Recall, look_everywhere, note_sent
from .route_rules import BY_TURN, V_FOUND, V_HELD, V_KEPT, V_MISSING, V_RUNNING, V_WAITING, choose
from .state import (
    C_COMPLETED,
    C_RELEASED,
    C_SUBMITTED,
    F_FIRST,
    F_LAST,
    F_SCHEDULED,
    I_DONE,
    I_GENERATED,
    I_HASHED,
    I_HASHES,
    I_INPUT,
    I_ORDER,
    I_PREEMPTED,
    R_WAITING,
    State,
    append_request,
)

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

ROOM, BLOCK, NOTE = range(8, 11)
"""Why `play` returns, beside the reasons of `loop.advance`: an engine has no room for a request; all requests
known have arrived; as many completions as asked for have had their effects."""

(O_DELIVERED, O_GONE, O_HELD) = range(3)
NUM_OWN = 3
"""Columns of `Play.own`, an engine each: completions that have had their effects, and those that a router has
seen; prompt tokens of requests that it has not seen come back."""

(A_PHASE, A_EVENTS, A_NEXT, A_LAST, A_AWAKE, A_DUE, A_TO_COME, A_DELIVERED, A_GOAL, A_DEALT, A_ASKED,
 A_FULL) = range(12)  # fmt: skip
NUM_AT = 12
"""Entries of `Play.at`: what is under way (`DEALING`, `BRINGING`); events so far; the next request that arrives,
and how many are known; whether arrivals are being let in, and the next one's time has come; requests that
follow others and have not arrived; completions that have had their effects, and at how many of them to return;
requests dealt, and those that have asked to be; the engine without room."""
DEALING, BRINGING = range(2)

(T_CLOCK, T_NOTED) = range(2)
"""Entries of `Play.times`: now, and when the latest completions had their effects [s]."""

(H_FIRST, H_NEXT) = range(2)
"""Columns of `Play.after`: the first request that waits for one, and the next that waits for the same; -1."""

ARRIVALS = -1
"""What an event stands for that is the next arrival. Else the number of an engine whose completions have their
effects, or, behind these, of a request that comes after another."""


@held
class Rows(NamedTuple):
    """Columns of the table of requests, see `serving.table.Table`."""

    input_tokens: I8
    output_tokens: I8
    generated: I8
    preemptions: I8
    order: I8
    arrival_s: F8
    scheduled_s: F8
    first_s: F8
    last_s: F8
    follows: I8  # empty without sessions
    session: I8
    think_s: F8
    # [requests + 1] first of a request's hashes in `Pool.hashes`; empty where none are told
    pieces: I8


@held
class Play(NamedTuple):
    """Requests and the N engines that serve them."""

    fleet: Fleet
    rows: Rows
    # [N, rows of an engine's state] request of each; -1 once its completion had its effects
    places: I8
    own: I8  # [N, NUM_OWN]
    loads: I8  # [N, NUM_LOAD] as the router sees them
    events: Heap
    gate: I8  # [requests] in the order in which they ask to be dealt
    after: I8  # [requests, 2]
    homes: I8  # [requests] engine of a session's latest request, by its name; -1
    at: I8  # [NUM_AT]
    times: F8  # [2]
    recall: Recall  # of no requests where the router's rule asks for no prompts


@compiled_part
def at_time(p: Play, time: float, what: int) -> None:
    """Let something happen at a time, as SimPy counts it."""
    now = p.times[T_CLOCK]
    push(p.events, now + max(time - now, 0.0), p.at[A_EVENTS], what)
    p.at[A_EVENTS] += 1


@compiled_part
def ask(p: Play, row: int) -> None:
    """A request arrives, behind those that wait to be dealt."""
    p.gate[p.at[A_ASKED]] = row
    p.at[A_ASKED] += 1


@compiled_part
def come_after(p: Play, row: int, before: int) -> None:
    """`Sessions._come_after`: let a request come when its client has read what was before and thought."""
    x = p.rows
    arrival = max(x.arrival_s[row], x.last_s[before] + x.think_s[row])
    x.arrival_s[row] = arrival
    if arrival <= p.times[T_CLOCK]:
        p.at[A_TO_COME] -= 1
        ask(p, row)
    else:
        at_time(p, arrival, p.fleet.clock.size + row)


@compiled_part
def follow(p: Play, row: int) -> None:
    """`Sessions.follow`: let a request come after another."""
    x, before = p.rows, p.rows.follows[row]
    p.at[A_TO_COME] += 1
    if x.generated[before] == x.output_tokens[before]:
        come_after(p, row, before)
        return
    other = p.after[before, H_FIRST]
    if other < 0:
        p.after[before, H_FIRST] = row
        return
    while p.after[other, H_NEXT] >= 0:
        other = p.after[other, H_NEXT]
    p.after[other, H_NEXT] = row


@compiled_part
def let_arrive(p: Play) -> None:
    """`Arrivals._one_by_one`: let requests arrive whose time has come; of those that are known."""
    at, x = p.at, p.rows
    while at[A_NEXT] < at[A_LAST]:
        row = at[A_NEXT]
        if x.arrival_s[row] > p.times[T_CLOCK] and not at[A_DUE]:
            at_time(p, x.arrival_s[row], ARRIVALS)
            at[A_AWAKE] = 0
            return
        at[A_DUE] = 0
        at[A_NEXT] += 1
        if x.follows.size > 0 and x.follows[row] >= 0:
            follow(p, row)
        else:
            ask(p, row)


@compiled_part
def look(p: Play, row: int) -> None:
    """See how much of a prompt each engine was sent before, where the rule asks."""
    if p.recall.starts.size == 0:
        return
    tokens = p.rows.input_tokens[row]
    look_everywhere(p.recall, row, tokens)
    for n in range(p.loads.shape[0]):
        found = p.recall.found[n, G_KNOWN]
        p.loads[n, V_FOUND], p.loads[n, V_MISSING] = found, tokens - found
        p.loads[n, V_KEPT] = p.recall.ends[n, Z_KEPT]


@compiled_part
def keep_in_mind(p: Play, row: int, n: int) -> None:
    """Note that a request has been sent to an engine, where the rule asks."""
    if p.recall.starts.size > 0:
        note_sent(p.recall, row, p.rows.input_tokens[row] + p.rows.output_tokens[row], n)


@compiled_part
def weigh_loads(p: Play, like: Loop, now: float) -> None:
    """`Node.load` of every engine."""
    for n in range(p.loads.shape[0]):
        st, own = held_at(p.fleet.loops[n], like).state, p.own[n]
        counters = st.counters
        while own[O_GONE] < counters[C_COMPLETED]:
            place = st.ints[own[O_GONE], I_DONE]
            if st.floats[place, F_LAST] > now:
                break
            own[O_HELD] -= st.ints[place, I_INPUT]
            own[O_GONE] += 1
        waiting = counters[C_SUBMITTED] - counters[C_RELEASED]
        for r in range(st.ranks.shape[0]):
            waiting += st.ranks[r, R_WAITING]
        p.loads[n, V_WAITING] = waiting
        p.loads[n, V_RUNNING] = counters[C_SUBMITTED] - own[O_GONE] - waiting
        p.loads[n, V_HELD] = own[O_HELD]


@compiled_given("st.pool", otherwise=lambda st, x, row, i: None)
def name_content(st: State, x: Rows, row: int, i: int) -> None:
    """`Contents.name`: what a request's blocks hold, by a trace's hashes or its session."""
    request = st.ints[i]
    if x.pieces.size > 0:
        first, tokens = x.pieces[row], x.input_tokens[row]
        request[I_HASHES] = first
        request[I_HASHED] = min((x.pieces[row + 1] - first) * st.pool.piece, tokens)
    elif x.session.size > 0:
        request[I_HASHES] = -1 - x.session[row] * MOST_PIECES
        request[I_HASHED] = x.input_tokens[row] + x.output_tokens[row]


@compiled_part
def submit(p: Play, like: Loop, n: int, row: int) -> bool:
    """Queue a request on an engine; whether there was room."""
    st, x = held_at(p.fleet.loops[n], like).state, p.rows
    have = st.counters[C_SUBMITTED]
    if have >= min(st.ints.shape[0], p.places.shape[1]):
        return False
    i = append_request(st, x.arrival_s[row], x.input_tokens[row], x.output_tokens[row])
    renew(st, i)
    name_content(st, x, row, i)
    p.places[n, i] = row
    p.own[n, O_HELD] += x.input_tokens[row]
    wake(p.fleet, n, ready_at(st))
    return True


@compiled_part
def deal(p: Play, like: Loop, rule: int) -> bool:
    """`Dealer.deal`: give requests that ask for it to engines, in order; whether all of them found room."""
    at, x = p.at, p.rows
    while at[A_DEALT] < at[A_ASKED]:
        row, home = p.gate[at[A_DEALT]], -1
        if rule != BY_TURN:
            weigh_loads(p, like, x.arrival_s[row])
            look(p, row)
        if x.session.size > 0:
            home = p.homes[x.session[row]]
        n = choose(rule, at[A_DEALT], p.loads, home)
        if not submit(p, like, n, row):
            at[A_FULL] = n
            return False
        at[A_DEALT] += 1
        keep_in_mind(p, row, n)
        if x.session.size > 0:
            p.homes[x.session[row]] = n
    return True


@compiled_part
def take_over(x: Rows, st: State, place: int, row: int) -> None:
    """`Table.take_over`: copy a request's progress and stamps from the engine that ran it."""
    request, stamps = st.ints[place], st.floats[place]
    x.generated[row], x.order[row] = request[I_GENERATED], request[I_ORDER]
    x.preemptions[row] += request[I_PREEMPTED]
    if np.isnan(x.scheduled_s[row]):
        x.scheduled_s[row] = stamps[F_SCHEDULED]
    x.first_s[row], x.last_s[row] = stamps[F_FIRST], stamps[F_LAST]


@compiled_part
def deliver(p: Play, like: Loop, n: int) -> None:
    """`Nodes.deliver`: let an engine's completions have their effects, and let it go on."""
    st, own, x = held_at(p.fleet.loops[n], like).state, p.own[n], p.rows
    p.fleet.marks[n, X_HELD] = 0
    while own[O_DELIVERED] < st.counters[C_COMPLETED]:
        place = st.ints[own[O_DELIVERED], I_DONE]
        row = p.places[n, place]
        own[O_DELIVERED] += 1
        p.at[A_DELIVERED] += 1
        p.places[n, place] = -1
        take_over(x, st, place, row)
        after = p.after[row, H_FIRST]
        while after >= 0:
            come_after(p, after, row)
            after = p.after[after, H_NEXT]
    p.times[T_NOTED] = p.fleet.clock[n]
    if not is_done(st):
        wake(p.fleet, n, ready_at(st))


@compiled_part
def happen(p: Play) -> int:
    """Take the next event; the engine whose completions it is about, or -1."""
    events, engines = p.events, p.fleet.clock.size
    what = events.tags[0, 1]
    p.times[T_CLOCK] = events.time[0]
    drop_first(events)
    if what == ARRIVALS:
        p.at[A_AWAKE] = p.at[A_DUE] = 1
    elif what < engines:
        return int(what)
    else:
        p.at[A_TO_COME] -= 1
        ask(p, what - engines)
    return -1


@compiled_part
def all_done(p: Play, like: Loop, stops: bool) -> bool:
    """`Driver._all_done`: whether every request has arrived and completed."""
    at, completed = p.at, p.at[A_DELIVERED]
    if at[A_AWAKE] or at[A_NEXT] < at[A_LAST] or at[A_TO_COME] > 0:
        return False
    if not stops:
        completed = 0
        for n in range(p.own.shape[0]):
            completed += held_at(p.fleet.loops[n], like).state.counters[C_COMPLETED]
    return bool(completed == at[A_LAST])


@compiled
def play(p: Play, like: Loop, rule: int, stops: bool, level: bool) -> int:
    """Let events happen until all requests have completed, or the caller must act and come back.

    Parameters
    ----------
    like : Loop
        Any engine's, for its type.
    rule : int
        Of the router, see `route_rules`.
    stops, level : bool
        See `level.bring`.

    Returns
    -------
    int
        `REACHED` at the end, `ROOM`, `BLOCK`, `NOTE`, or what an engine under way returned.
    """
    at, fleet, events = p.at, p.fleet, p.events
    while True:
        if at[A_PHASE] == DEALING:
            if at[A_AWAKE]:
                let_arrive(p)
            if not deal(p, like, rule):
                return ROOM
            if at[A_AWAKE]:
                return BLOCK
            if 0 < at[A_GOAL] <= at[A_DELIVERED]:
                return NOTE
            at[A_PHASE], fleet.limit[1] = BRINGING, np.inf
            if events.size[0] > 0:
                fleet.limit[1] = events.time[0]
        status = bring(fleet, like, stops, level)
        while status == GOAL:
            n = fleet.under[1]
            fleet.marks[n, X_HELD] = 1
            at_time(p, fleet.clock[n], n)
            status = bring(fleet, like, stops, level)
        if status != REACHED:
            return status
        if all_done(p, like, stops):
            return REACHED
        if events.size[0] == 0:
            return STUCK
        at[A_PHASE], n = DEALING, happen(p)
        if n >= 0:
            deliver(p, like, n)

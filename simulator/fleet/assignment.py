"""Assignment of requests to engines, compiled: the router's choice, and the data that an engine receives."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_code, compiled_given, compiled_part, int64
from ...workloads.jit_address import by_address, called_at
from ...workloads.records import named
from ..engine import hooks
from ..engine.allocation import kv_bytes
from ..engine.host import hand_over
from ..engine.kv import KvRules
from ..engine.loop import EngineArrays
from ..engine.prefix import ALL_TOKENS, MOST_PIECES
from ..engine.state import Face, State, Status, append_request
from .advance import Engines, face_of, wake
from .heap import Heap, Line, line_up, push, take_first
from .recall import Recall, forget_all, look_everywhere, note_sent
from .rings import Ring, drop_first
from .route_rules import choose, choose_least, settle

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

ROOM, CHOOSE, GIVE, LOST = 8, 9, 10, 11
"""Reasons why events return to the caller: an engine (`At.into`) has no free row for a request; a user-defined router
must choose (`At.found` of `RunEvents.able`) and set `At.chosen`; the caller must submit a request (`At.row`) to an
engine (`At.into`) itself, and reset `At.into`; a cache was lost with its node, and the request (`At.row`) must be
requeued."""

ARRIVALS, COMPLETIONS, FOLLOWS, CROSSED, CALLED, KINDS = 0, 1, 2, 3, 4, 5
"""Events: arrivals; completions of an engine; a request that follows another; a KV transfer; a Python call. The code
is the kind plus `KINDS` times the number of the engine, request or call."""

AT = named(
    "phase events next last awake due to_come delivered goal dealt sent in_flight over refused "
    "node left row into cached chosen found home call moves",
    "now then noted moved",
)
"""Progress of events: phase; number of events; next arrival and number of known requests; whether arrivals are being
processed and the next is due; dependent requests that have not arrived; processed completions and the number to
return at; assigned requests and started transfers; requests in flight of a closed loop; whether all requests are
known; rejected requests; the engine whose completions are processed (-1: none), and whether the caller knows the
next one; the request to assign, its engine (-1: none) and its tokens; the caller's choice, the number of choices and
the session's home; the caller's event; finished transfers. Time of the current event and of the latest completions
[s]; transferred bytes."""

TRIP = named("source life target there again", "kept parked start_s end_s")
"""KV transfer of a request: source node and its number of failures when the cache was made; the same for the target;
how often failures have requeued the request. KV bytes of one device reserved on the target, and held on the source;
start and end time of the transfer."""


@by_address
class Columns(NamedTuple):
    """Columns of the table of requests, see `results.table.RequestTable`."""

    id: I8
    input_tokens: I8
    output_tokens: I8
    generated: I8
    preemptions: I8
    order: I8
    arrival_s: F8
    scheduled_s: F8
    first_s: F8
    last_s: F8
    session: I8  # empty without sessions
    think_s: F8
    # [requests + 1] first of a request's hashes in `Pool.hashes`; empty if requests have no hashes
    pieces: I8


@by_address
class Between(NamedTuple):
    """Prefill and decode pools with N engines in total and at most R ranks, and the KV transfer link between them."""

    first: KvRules  # of a node of the prefill pool
    second: KvRules  # of a node of the decode pool
    whole: KvRules  # of one device of every pipeline stage of a decode rank, see `kv.rank_rules`
    wide: int  # tensor-parallel degree of the decode pool
    ready: Ring  # requests whose caches wait for transfer
    links: npt.NDArray[Any]  # [2 N + 1] of `LINK` (kv_transfer): out of each node, into each, and one without a limit
    flows: npt.NDArray[Any]  # [writers + caches] of its `FLOW`
    shared: npt.NDArray[Any]  # [1] of its `SHARED`
    trips: npt.NDArray[Any]  # [requests] of `TRIP`
    stamps: F8  # [requests, 2] start and end of the KV transfer [s]; NaN before the end
    lanes: I8  # [N] devices of a rank
    ranks: I8  # [N]
    places: int  # limit of sequences of a decode node
    layers: int
    writers: int  # ranks that write to a tier over the same ports, the first flows
    reserve: bool
    by_layer: bool  # whether a layer's cache is transferred as soon as the layer has computed the prompt
    bandwidth: float
    latency: float
    tier: int  # KV tier that prefill nodes write to over the same ports; -1: none
    exchanges: bool  # whether decode nodes exchange tokens with disaggregated experts over the same ports


@by_address
class FleetRules(NamedTuple):
    """Constant properties of a run: its rules and its pools."""

    router_rule: int  # number in `route_rules`; -1: the router is a function of Python
    by_load: bool  # whether the router compares loads
    stops: bool  # whether engines stop at completions that are counted or affect others
    shared_state: bool  # whether parts share state between engines, which then advance together
    in_blocks: bool  # whether Python assigns requests to engines by blocks, before they arrive
    undisturbed: bool  # whether all engines take requests all the time, and only arrivals and steps change loads
    other_events: bool | None  # whether there are events besides arrivals and steps; None: no
    staged: bool  # whether requests pass a stage before the router, which runs in Python
    reports_leaving: bool  # whether Python is told of completions
    clients: int  # of a closed loop; 0: none
    transfers: Between | Any  # KV transfers between two pools; None with one pool


@by_address
class Waits(NamedTuple):
    """Dependencies between requests: pairs of a request and another request that must complete before it."""

    starts: I8  # [requests + 1] first pair of each request; empty without sessions
    before: I8  # [pairs]
    row: I8  # [pairs]
    more: I8  # [pairs] the next pair of the same request to come before; -1
    first: I8  # [requests] the first such pair of each; -1
    left: I8  # [requests] how many are yet to complete


@by_address
class RunEvents(NamedTuple):
    """State of a run's events: requests, queues, and the N engines that serve them."""

    fleet: Engines
    rows: Columns
    own: npt.NDArray[Any]  # [N] of `advance.OWN`
    able: I8  # [N] engines that the router may choose from
    loads: npt.NDArray[Any]  # [N] of `route_rules.LOAD`: loads of these engines, as the router sees them
    least: (
        I8  # [2 M, M a power of two from N on] the least loaded engine of each half, as `route_rules.settle` keeps it
    )
    returns: Line  # engines on which requests complete with the step in progress
    events: Heap
    door: Ring  # arrived requests that wait for the stage before the router
    gate: Ring  # requests that wait for assignment
    waits: Waits
    homes: I8  # [sessions] engine of a session's latest request; -1
    at: npt.NDArray[Any]  # [1] of `AT`
    recall: Recall  # empty if the router does not use prompts


@compiled_part
def at_time(play: RunEvents, time: float, what: int) -> None:
    """Schedule event `what` at `time` [s], at the earliest now."""
    at = play.at[0]
    push(play.events, at.now + max(time - at.now, 0.0), at.events, what)
    at.events += 1


@compiled_part
def find_able(play: RunEvents, rules: FleetRules, first: int, last: int) -> int:
    """List the engines that accept requests; return their number."""
    able = int64(0)
    if rules.undisturbed:
        return last
    for n in range(first, last):
        if play.own[n].up and play.own[n].ready:
            play.able[able] = n
            able += 1
    return able


@compiled_part
def look(play: RunEvents, row: int, able: int) -> None:
    """Look up how much of a prompt was sent to each engine before, if the router uses it."""
    if play.recall.starts.size == 0:
        return
    for n in range(play.own.size):
        if play.own[n].forget:
            forget_all(play.recall, n)
            play.own[n].forget = 0
    tokens = play.rows.input_tokens[row]
    look_everywhere(play.recall, row, tokens)
    for k in range(able):
        load, known = play.loads[k], play.recall.found[play.able[k]].known
        load.found, load.missing = known, tokens - known
        load.kept = play.recall.ends[play.able[k]].kept


@compiled_part
def load_of(face: Face, node: Any, now: float) -> tuple[int, int]:
    """Return the waiting requests of an engine, as of the step in progress, and its other unfinished requests."""
    counters = face.counters[0]
    while node.gone < counters.completed:
        place = face.requests[node.gone].done
        if face.requests[place].last > now:
            break
        node.held_tokens -= face.requests[place].input
        node.gone += 1
    submitted = counters.submitted + node.asked
    waiting = submitted - counters.released
    for r in range(face.ranks.shape[0]):
        waiting += face.ranks[r].waiting
    return waiting, submitted - node.gone - waiting


@compiled_part
def weigh_one(play: RunEvents, k: int, engine: int, now: float) -> None:
    """Update the recorded load of an engine, which is choice number `k` of the router."""
    node, load = play.own[engine], play.loads[k]
    load.waiting, load.running = load_of(face_of(play.fleet, engine), node, now)
    load.held = node.held_tokens
    if play.recall.starts.size > 0:
        load.found = load.missing = load.kept = 0


@compiled_part
def weigh_again(play: RunEvents, rules: FleetRules, engine: int, now: float) -> None:
    """Update the recorded load of an engine, and the time of its next change if nothing else happens."""
    weigh_one(play, engine, engine, now)
    settle(play.least, play.loads, rules.router_rule, engine)
    node, face = play.own[engine], face_of(play.fleet, engine)
    if node.gone < face.counters[0].completed:
        line_up(play.returns, engine, face.requests[face.requests[node.gone].done].last)


@compiled_part
def weigh(play: RunEvents, rules: FleetRules, able: int, now: float) -> None:
    """Update the recorded loads of the engines that the router may choose; if always all, only those that changed."""
    turn, returns = play.fleet.turn[0], play.returns
    if not rules.undisturbed:
        for k in range(able):
            weigh_one(play, k, play.able[k], now)
        return
    for k in range(turn.changed):
        n = play.fleet.changed[k]
        play.own[n].changed = 0
        weigh_again(play, rules, n, now)
    turn.changed = 0
    while returns.size[0] > 0 and returns.time[returns.order[0]] <= now:
        weigh_again(play, rules, take_first(returns), now)


@compiled_part
def chosen(play: RunEvents, rules: FleetRules, able: int, count: int, home: int) -> int:
    """Return the engine that the router chooses after `count` assignments; -1: the caller must choose."""
    at = play.at[0]
    if at.chosen >= 0:
        k, at.chosen = at.chosen, -1
        return int(k)
    if able == 1:
        return 0
    if rules.router_rule < 0:
        at.found, at.home = able, home
        return -1
    if rules.undisturbed and choose_least(rules.router_rule, home):
        return int(play.least[1])
    return choose(rules.router_rule, count, play.loads[:able], home)


@compiled_part
def name_content(state: State, columns: Columns, row: int, index: int, last: int) -> None:
    """Record the content of a request's blocks by a trace's hashes or its session (`Contents.name`)."""
    if state.contents.size == 0:
        return
    content = state.contents[index]
    if columns.pieces.size > 0:
        first, tokens, pool = columns.pieces[row], columns.input_tokens[row], state.pool
        content.hashes = first
        content.hashed = min((columns.pieces[row + 1] - first) * pool.piece, tokens, pool.shared)
        if columns.session.size > 0 and pool.shared < ALL_TOKENS:
            content.hashed = tokens + last
    elif columns.session.size > 0:
        content.hashes = -1 - columns.session[row] * MOST_PIECES
        content.hashed = columns.input_tokens[row] + last


@compiled_part
def carry(state: State, columns: Columns, row: int, index: int, cached: int) -> None:
    """Set the progress that a request has made on another engine (`Engine.resume`)."""
    request = state.requests[index]
    request.generated, request.cached = columns.generated[row], cached
    request.target = request.input + request.generated - (1 if cached > 0 else 0)
    request.first, request.last = columns.first_s[row], columns.last_s[row]


@compiled_part
def when(play: RunEvents, row: int) -> float:
    """Return the time at which a request is assigned."""
    return float(max(play.rows.arrival_s[row], play.at[0].then))


@compiled_code
def take_in(loop: EngineArrays, columns: Columns, row: int, arrival: float, last: int, cached: int) -> int:
    """Queue a request on an engine, up to its `last` token; return 0 if there is no free row."""
    st = loop.state
    if st.counters[0].submitted >= st.requests.shape[0]:
        return 0
    if not hooks.on_submit(st, st.counters[0].submitted, columns.id[row]):
        return 0
    i = append_request(st, arrival, columns.input_tokens[row], last)
    if columns.generated[row] == 0:
        hand_over(st.front, st.requests, i, columns.input_tokens[row : row + 1])
    st.requests[i].row = row
    name_content(st, columns, row, i, last)
    if columns.generated[row] > 0:
        carry(st, columns, row, i, cached)
    return 1


@compiled_part
def give(play: RunEvents, rules: FleetRules) -> int:
    """Submit the chosen request to its engine; return a status if the caller must do it."""
    at = play.at[0]
    n, row = at.into, at.row
    if n < 0:
        return Status.REACHED
    if play.own[n].given:
        return GIVE
    last = play.rows.output_tokens[row]
    if n < play.fleet.first and two_pools(rules) and at.cached == 0:  # a prefill node generates only the next token
        last = play.rows.generated[row] + 1
    arrival = float(max(play.rows.arrival_s[row], at.then))
    if called_at(play.fleet.takes[n], play.fleet.loops[n], (play.rows, row, arrival, last, at.cached)) == 0:
        return ROOM
    at.into = -1
    play.own[n].held_tokens += play.rows.input_tokens[row]
    wake(play.fleet, n)
    return Status.REACHED


@compiled_given("rules.transfers", otherwise=lambda rules: False)
def two_pools(rules: FleetRules) -> bool:
    """Return whether the run has separate prefill and decode pools."""
    return True


@compiled_part
def fits(play: RunEvents, engine: int, size: float) -> bool:
    """Return whether an engine can store that number of bytes; an idle engine accepts any admitted request."""
    promised = play.own[engine].promised
    return bool(promised == 0.0 or promised + size <= play.own[engine].capacity)


@compiled_given("rules.transfers", otherwise=lambda p, rules, row, n: True)
def keep_prompt(play: RunEvents, rules: FleetRules, row: int, engine: int) -> bool:
    """Reserve KV bytes for a prompt whose cache must wait for transfer; return whether they fit."""
    size = kv_bytes(rules.transfers.first, play.rows.input_tokens[row] + play.rows.generated[row])
    if not fits(play, engine, size):
        return False
    play.own[engine].promised += size
    rules.transfers.trips[row].kept = size
    return True


@compiled_part
def home_of(play: RunEvents, rules: FleetRules, row: int, able: int) -> int:
    """Return the index of the engine that the request's session ran on last; -1 if there is none."""
    if play.homes.size > 0 and rules.undisturbed:
        return int(play.homes[play.rows.session[row]])
    if play.homes.size > 0:
        for k in range(able):
            if play.able[k] == play.homes[play.rows.session[row]]:
                return k
    return -1


@compiled_part
def assign(play: RunEvents, rules: FleetRules) -> int:
    """Assign waiting requests to engines in order, while one is up and has room; return why the caller must act."""
    at = play.at[0]
    while True:
        status = give(play, rules)
        if status != Status.REACHED or play.gate.span[1] == 0:
            return status
        row, first = play.gate.kept[play.gate.span[0]], play.fleet.first if two_pools(rules) else play.own.size
        able = find_able(play, rules, 0, first)
        if able == 0:
            return Status.REACHED
        if rules.by_load and at.chosen < 0:
            weigh(play, rules, able, when(play, row))
            look(play, row, able)
        k = chosen(play, rules, able, at.dealt, home_of(play, rules, row, able))
        if k < 0:
            return CHOOSE
        n = play.able[k]
        if not keep_prompt(play, rules, row, n):
            return Status.REACHED
        drop_first(play.gate)
        at.dealt += 1
        if play.recall.starts.size > 0:
            note_sent(play.recall, row, play.rows.input_tokens[row] + play.rows.output_tokens[row], n)
        if play.homes.size > 0:
            play.homes[play.rows.session[row]] = n
        at.row, at.into, at.cached = row, n, 0

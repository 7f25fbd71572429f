"""KV transfers from prefill to decode, compiled.

A prompt runs in the prefill pool, which emits the first token. Its KV cache waits there until a decode node has room
for the request, is transferred, and the request continues. Blocks are kept at the source until the end of the transfer,
and at the target from before its start. A node has one port per rank, combined from the rank's devices, for one cache
at a time. A cache takes the earliest free port of either side, so a slower link never delivers one earlier. The node
network's ports also carry blocks of a shared tier, and exchanges with disaggregated experts.
"""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_part, int64
from ....workloads.jit_address import bring
from ....workloads.records import records
from ...engine.allocation import kv_bytes
from ...engine.kv import rank_rules
from ...engine.state import Status
from ...fleet.advance import F8, face_of, is_done
from ...fleet.assignment import (
    CROSSED,
    KINDS,
    LOST,
    TRIP,
    Between,
    How,
    RunEvents,
    at_time,
    chosen,
    find_able,
    fits,
    weigh,
)
from ...fleet.clock import Clock
from ...fleet.pools import KvLink
from ...fleet.rings import drop_first, new_ring, put_first, put_last
from ..experts_apart.side import Worker
from ..kv_tiers.state import DOWN

LEAST = 0.01
"""Share of a port that caches get in any case."""


@compiled_part
def cross(between: Between, source: int, target: int, now: float, begun: float, wire_s: float) -> tuple[float, float]:
    """Send a cache over the ports of both sides that are free first; when it leaves and when it is there [s].

    Caches are sent in order; none overtakes another one. Prompt and receiver are ready `now`; the first of the cache
    could leave at `begun`: `now`, unless layers leave one by one, the last of them not before `now`.
    """
    i, j = np.argmin(between.free_s[source]), np.argmin(between.free_s[target])
    k, m = np.argmin(between.last_s[source]), np.argmin(between.last_s[target])
    took = between.latency + wire_s
    last = max(now, between.last_s[source, k], between.last_s[target, m])
    if begun < now:
        start = max(begun, between.free_s[source, i], between.free_s[target, j])
        free = start + took
        end = max(free, last + (between.latency + wire_s / between.layers))
    else:
        start = last
        free = end = start + took
    between.free_s[source, i] = between.free_s[target, j] = free
    between.last_s[source, k] = between.last_s[target, m] = end
    return start, end


@compiled_part
def wait_for_tier(between: Between, n: int, links: F8) -> None:
    """Start the next cache transfer after a node's pending writes to a tier on its ports: first come, first served."""
    for r in range(links.shape[0] if between.tier >= 0 else 0):
        between.free_s[n, r] = max(between.free_s[n, r], links[r, between.tier, DOWN])
        between.last_s[n, r] = max(between.last_s[n, r], links[r, between.tier, DOWN])


@compiled_part
def hold_tier(between: Between, n: int, links: F8) -> None:
    """Queue a node's writes to a tier after the caches that are on its ports."""
    for r in range(links.shape[0] if between.tier >= 0 else 0):
        links[r, between.tier, DOWN] = max(links[r, between.tier, DOWN], between.free_s[n, r])


@compiled_part
def left_over(exchanged_s: float, stepping_s: float) -> float:
    """Return the share of a port left by steps, whose exchanges with separate experts come first."""
    return max(1.0 - exchanged_s / stepping_s, LEAST) if stepping_s > 0.0 else 1.0


@compiled_part
def whole_bytes(between: Between, tokens: int) -> float:
    """Return the KV bytes that all devices of a rank of the second pool receive for a number of tokens."""
    return kv_bytes(between.whole, tokens) * between.wide


@compiled_part
def cached(play: RunEvents, row: int) -> int:
    """Tokens in a request's KV cache once its latest token has come."""
    return int(play.rows.input_tokens[row] + play.rows.generated[row] - 1)


@compiled_part
def find_room(play: RunEvents, how: How, between: Between, need: float) -> int:
    """Find the nodes with room for one more request and its bytes; return their number."""
    candidates, able = find_able(play, how, play.fleet.first, play.own.size), int64(0)
    for k in range(candidates):
        n = play.able[k]
        node, submitted = play.own[n], face_of(play.fleet, n).counters[0].submitted
        live = submitted - node.delivered + node.asked
        if live + node.inbound < between.places and fits(play, n, need):
            play.able[able] = n
            able += 1
    return able


@compiled_part
def leave(play: RunEvents, between: Between, row: int, target: int) -> None:
    """Send a cache on its way."""
    trip, now, begun = between.trips[row], play.at[0].then, play.at[0].then
    source = trip.source
    links, other = face_of(play.fleet, source).links, face_of(play.fleet, target)
    rate = between.bandwidth * min(between.lanes[source], between.lanes[target])
    if between.exchanges and not is_done(other):
        rate *= left_over(other.exchanged[Worker.BACK], other.clocks[0].busy)
    wire_s = whole_bytes(between, cached(play, row)) / rate
    if between.by_layer and now == play.rows.last_s[row] and trip.again == 0:
        begun = play.rows.scheduled_s[row]  # it had room at once
    wait_for_tier(between, source, links)
    start, end = cross(between, source, target, now, begun, wire_s)
    hold_tier(between, source, links)
    for n in (source, target):
        play.own[n].busy_s += between.latency + wire_s
        play.own[n].sent_s = max(play.own[n].sent_s, end)
    trip.target, trip.there = target, play.own[target].life
    trip.start_s, trip.end_s = start, end
    at_time(play, end, CROSSED + KINDS * row)


@compiled_part
def next_cache(play: RunEvents, how: How) -> int:
    """Let the next cache leave if a node has room for its request; the request, -1: none, -2: ask the caller."""
    b, at = how.between, play.at[0]
    if b.ready.span[1] == 0:
        return -1
    row = b.ready.kept[b.ready.span[0]]
    tokens = cached(play, row) + 1
    if b.reserve:
        tokens = play.rows.input_tokens[row] + play.rows.output_tokens[row] - 1
    need = kv_bytes(b.second, tokens)
    able = find_room(play, how, b, need)
    if able == 0:
        return -1
    if how.looks and at.chosen < 0:
        weigh(play, how, able, at.then)
    k = chosen(play, how, able, at.sent, -1)
    if k < 0:
        return -2
    target = play.able[k]
    drop_first(b.ready)
    at.sent += 1
    play.own[target].inbound += 1
    play.own[target].promised += need
    trip = b.trips[row]
    trip.parked, trip.kept = trip.kept, need
    leave(play, b, row, target)
    return int(row)


@compiled_part
def let_go(play: RunEvents, n: int, size: float) -> None:
    """Give kept bytes back; no remainder of rounding is left on an empty node."""
    play.own[n].promised = max(play.own[n].promised - size, 0.0)


@compiled_part
def arrive(play: RunEvents, how: How, row: int) -> int:
    """Complete a KV transfer, unless its source or target has failed since."""
    b, at = how.between, play.at[0]
    trip = b.trips[row]
    source, target = trip.source, trip.target
    at.moves += 1
    at.moved += whole_bytes(b, cached(play, row))
    at.then = trip.end_s
    b.stamps[row, 0], b.stamps[row, 1] = trip.start_s, trip.end_s
    alive = play.own[target].life == trip.there
    if alive:
        play.own[target].inbound -= 1
    if play.own[source].life != trip.life:  # the cache went down with its node
        if alive:
            let_go(play, target, trip.kept)
        at.row = row
        return LOST
    if alive:
        let_go(play, source, trip.parked)
        at.row, at.into, at.cached = row, target, cached(play, row)
    else:
        trip.kept = trip.parked
        put_first(b.ready, row)
    return Status.REACHED


@compiled_part
def goes_on(play: RunEvents, how: How, row: int, n: int) -> bool:
    """Whether a request that has ended on a node goes on in the other pool: its cache waits to leave."""
    b, x = how.between, play.rows
    trip = b.trips[row]
    if x.generated[row] < x.output_tokens[row]:
        trip.source, trip.life = n, play.own[n].life
        put_last(b.ready, row)
        return True
    let_go(play, n, trip.kept)
    return False


bring(Between, next_cache=next_cache, arrive=arrive, goes_on=goes_on)


def between(clock: Clock) -> Between:
    """Return the state between two pools."""
    link, nodes, second = clock.link, clock.all, clock.decode[0].engine
    assert link is not None
    most = max(node.engine.deployment.ranks for node in nodes)
    free = np.full((len(nodes), most), np.inf)
    for n, node in enumerate(nodes):
        free[n, : node.engine.deployment.ranks] = 0.0
    d = second.deployment
    return Between(
        clock.entry[0].engine.kv, second.kv, rank_rules(d, second.cache), d.layout.tp, new_ring(1), free,
        free.copy(), records(0, TRIP), np.zeros((0, 2)), np.array([node.lanes for node in nodes]),
        second.policy.max_sequences * d.ranks, len(clock.entry[0].engine.deployment.model.layers),
        second.policy.reserve, link.by_layer, link.bandwidth_bytes_per_s, link.latency_s, *_beside(clock, link),
    )  # fmt: skip


def _beside(clock: Clock, link: KvLink) -> tuple[int, bool]:
    """What else is on the ports of a link between two pools, see `Between`: nothing unless it is the nodes' network."""
    first, second = clock.entry[0].engine, clock.decode[0].engine
    networks = [engine.deployment.system.device.node_link for engine in (first, second)]
    names, tiers, apart = {network.name for network in networks}, first.cache.tiers, second.deployment.apart
    if link.name not in names:
        return -1, False
    rate = networks[0].bandwidth_bytes_per_s
    on_network = [t.shared and t.bandwidth_bytes_per_s == rate for t in (tiers.tiers if tiers else ())]
    return on_network.index(True) if True in on_network else -1, apart is not None and apart.link.name in names

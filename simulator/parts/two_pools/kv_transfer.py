"""KV transfers from the prefill pool to the decode pool, compiled.

A prompt runs in the prefill pool, which produces the first token. Its KV cache waits there until a decode node has free
memory and a free sequence; it is transferred, and the request continues. The source keeps the blocks until the end of the
transfer. The target reserves its blocks before the start.

A node has one port per device. All caches in transfer are flows that share the ports of both sides max-min fairly, each at
most at the rate of one rank's devices. vLLM's NIXL connector posts the reads of each request at once (`_read_blocks`);
SGLang has four queues of transfers (`SGLANG_DISAGGREGATION_QUEUE_SIZE`). The ports of the node network also carry blocks
of a shared KV tier, and exchanges with disaggregated experts.
"""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_part, int64
from ....workloads.jit_address import bring
from ....workloads.records import Records, named, records
from ...engine.allocation import kv_bytes
from ...engine.kv import rank_rules
from ...engine.state import Status
from ...fleet.advance import face_of, is_done
from ...fleet.assignment import (
    CROSSED,
    KINDS,
    LOST,
    TRIP,
    Between,
    FleetRules,
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

FLOW = named("row source target last", "limit most rate before end_s")
"""Fields of a flow: its request; its two links; whether only its last layer is left; the ports that it can use at most, the
ports that its links allow, its ports now, and its ports before the last change; its end [s].
"""

LINK = named("open", "ports room fair full_s")
"""Fields of a node's link in one direction: flows whose rate is not set yet; its ports, unassigned ports, and fair share of
a flow; latest time at which less than one rank's ports were free [s].
"""

SHARED = named("caches", "since next_s")
"""Caches in transfer; time of the last change of rates, and time at which the next flow sends its last byte [s]."""

LEAST = 0.01
"""Minimum share of a port that is left for KV caches."""
MOMENT = 1e-9
"""Tolerance of times [s]: a flow with less time left has ended."""


@compiled_part
def share_links(links: Records, flows: Records, count: int) -> None:
    """Set the max-min fair rates: all rates grow together until a flow's limit or a full link (progressive filling)."""
    left = count
    for k in range(links.size):
        links[k].open, links[k].room = 0, links[k].ports
    for f in range(count):
        flows[f].before, flows[f].rate = flows[f].rate, -1.0
        links[flows[f].source].open += 1
        links[flows[f].target].open += 1
    while left > 0:
        rate = np.inf
        for k in range(links.size):
            links[k].fair = max(links[k].room, 0.0) / max(links[k].open, 1)
        for f in range(count):
            flow = flows[f]
            if flow.rate < 0.0:
                flow.most = min(flow.limit, links[flow.source].fair, links[flow.target].fair)
                rate = min(rate, flow.most)
        for f in range(count):
            flow = flows[f]
            if flow.rate < 0.0 and flow.most <= rate:
                flow.rate = rate
                left -= 1
                for k in (flow.source, flow.target):
                    links[k].open -= 1
                    links[k].room -= rate


@compiled_part
def change_rates(links: Records, flows: Records, count: int, now: float, latency: float) -> None:
    """Set the rates from `now` on, and the end of each flow at its new rate; the latency follows the last byte."""
    share_links(links, flows, count)
    for f in range(count):
        flow = flows[f]
        left = (flow.end_s - latency - now) * flow.before
        if left > 0.0 and flow.rate != flow.before:
            flow.end_s = now + (latency + left / flow.rate)


@compiled_part
def written(play: RunEvents, between: Between, f: int, later: float) -> float:
    """Delay the writes of a rank to the shared tier by `later` [s]; return the time at which all its writes end [s]."""
    links, rank = face_of(play.fleet, between.flows[f].source).links, f % between.ranks[0]
    links[rank, between.tier, DOWN] += later
    return float(links[rank, between.tier, DOWN])


@compiled_part
def set_rates(play: RunEvents, between: Between) -> None:
    """Share the links from the last event on; a rank writes one block after another, so its writes are one flow."""
    b, shared = between, between.shared[0]
    for f in range(b.writers):
        b.flows[f].limit = b.lanes[b.flows[f].source] * (written(play, b, f, 0.0) - shared.since > MOMENT)
    change_rates(b.links, b.flows, b.writers + shared.caches, shared.since, b.latency)


@compiled_part
def settle(play: RunEvents, between: Between, time: float) -> float:
    """Advance all flows to a time; return this time, which is never before the last event.

    Steps follow events, so new writes have begun at the last event. The rate that caches take from a writer delays the end
    of its last block, and with it later blocks.
    """
    b, shared, since = between, between.shared[0], between.shared[0].since
    now = max(time, since)
    set_rates(play, b)
    for f in range(b.writers + shared.caches if now > since else 0):
        flow = b.flows[f]
        for k in (flow.source, flow.target):
            if flow.rate > 0.0 and flow.last == 0 and b.links[k].room * b.ranks[k % b.ranks.size] < b.links[k].ports:
                b.links[k].full_s = now
        if f < b.writers and flow.rate > 0.0:
            written(play, b, f, (1.0 - flow.rate / flow.limit) * (now - since))
    shared.since = now
    return float(now)


@compiled_part
def refresh(play: RunEvents, between: Between) -> None:
    """Share the links again from the time of `settle` on; schedule an event for the next flow that sends its last byte."""
    b, shared, soonest = between, between.shared[0], np.inf
    set_rates(play, b)
    for f in range(b.writers + shared.caches):
        flow, end = b.flows[f], b.flows[f].end_s - b.latency
        if f < b.writers and flow.rate > 0.0:
            end = shared.since + (written(play, b, f, 0.0) - shared.since) * flow.limit / flow.rate
        if flow.rate > 0.0:
            soonest = min(soonest, end)
    if shared.caches > 0 and soonest != shared.next_s:
        shared.next_s = soonest
        at_time(play, soonest, CROSSED - KINDS)


@compiled_part
def send_last(play: RunEvents, between: Between) -> None:
    """End the flows of caches that send their last byte now; each cache arrives after the latency."""
    b, shared, f, now = between, between.shared[0], between.writers, settle(play, between, play.at[0].now)
    if shared.next_s - now <= MOMENT:
        shared.next_s = 0.0  # this is the scheduled event
    while f < b.writers + shared.caches:
        flow = b.flows[f]
        if flow.end_s - b.latency - now > MOMENT:
            f += 1
            continue
        b.trips[flow.row].end_s = flow.end_s
        at_time(play, flow.end_s, CROSSED + KINDS * flow.row)
        shared.caches -= 1
        b.flows[f] = b.flows[b.writers + shared.caches]
    refresh(play, b)


@compiled_part
def left_over(exchanged_s: float, stepping_s: float) -> float:
    """Return the share of a port that steps leave free; their exchanges with separate experts have precedence."""
    return max(1.0 - exchanged_s / stepping_s, LEAST) if stepping_s > 0.0 else 1.0


@compiled_part
def whole_bytes(between: Between, tokens: int) -> float:
    """Return the KV bytes that all devices of a rank of the second pool receive for a number of tokens."""
    return kv_bytes(between.whole, tokens) * between.wide


@compiled_part
def cached(play: RunEvents, row: int) -> int:
    """Return the number of tokens in a request's KV cache after its latest token."""
    return int(play.rows.input_tokens[row] + play.rows.generated[row] - 1)


@compiled_part
def find_room(play: RunEvents, rules: FleetRules, between: Between, need: float) -> int:
    """Find the decode nodes with a free sequence and enough free memory for one more request; return their number."""
    candidates, able = find_able(play, rules, play.fleet.first, play.own.size), int64(0)
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
    """Start a KV transfer: a flow over one port group of each side, which it shares with other flows."""
    trip, b, shared, then = between.trips[row], between, between.shared[0], play.at[0].then
    source, other, share = trip.source, face_of(play.fleet, target), 1.0
    into, now = target + b.lanes.size, settle(play, b, then)
    begun = now
    if b.exchanges and not is_done(other):
        share = left_over(other.exchanged[Worker.BACK], other.clocks[0].busy)
    lanes = min(b.lanes[source], b.lanes[target])
    took = b.latency + whole_bytes(b, cached(play, row)) / (b.bandwidth * lanes * share)
    b.links[into].ports = b.ranks[target] * b.lanes[target] * share
    if b.by_layer and then == play.rows.last_s[row] and trip.again == 0:  # a node had free memory at once
        begun = max(play.rows.scheduled_s[row], b.links[source].full_s, b.links[into].full_s)
    flow = b.flows[b.writers + shared.caches]
    flow.row, flow.source, flow.target = row, source, into
    flow.limit = flow.rate = lanes * share
    flow.last, flow.end_s, wire_s = 0, begun + took, took - b.latency
    if begun < now:
        flow.last = begun + wire_s <= now
        flow.end_s = max(flow.end_s, now + (b.latency + wire_s / b.layers))
        for k in (source, into):  # layer-wise transfers use the time until now one after another
            b.links[k].full_s = begun + min(now - begun, wire_s) * flow.limit / b.links[k].ports
    shared.caches += 1
    play.own[source].busy_s += took
    play.own[target].busy_s += took
    trip.target, trip.there = target, play.own[target].life
    trip.start_s = begun
    refresh(play, b)


@compiled_part
def next_cache(play: RunEvents, rules: FleetRules) -> int:
    """Start the next KV transfer if a node can take its request; return the request, -1 for none, -2 to ask the caller."""
    b, at = rules.transfers, play.at[0]
    if b.writers * b.shared[0].caches > 0:
        settle(play, b, at.now)
        refresh(play, b)
    if b.ready.span[1] == 0:
        return -1
    row = b.ready.kept[b.ready.span[0]]
    tokens = cached(play, row) + 1
    if b.reserve:
        tokens = play.rows.input_tokens[row] + play.rows.output_tokens[row] - 1
    need = kv_bytes(b.second, tokens)
    able = find_room(play, rules, b, need)
    if able == 0:
        return -1
    if rules.by_load and at.chosen < 0:
        weigh(play, rules, able, at.then)
    k = chosen(play, rules, able, at.sent, -1)
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
    """Release reserved bytes; rounding leaves nothing on an empty node."""
    play.own[n].promised = max(play.own[n].promised - size, 0.0)


@compiled_part
def arrive(play: RunEvents, rules: FleetRules, row: int) -> int:
    """Complete a KV transfer, unless its source or target has failed since; with row -1 a flow may have sent its last byte."""
    b, at = rules.transfers, play.at[0]
    if row < 0:
        send_last(play, b)
        return Status.REACHED
    trip = b.trips[row]
    source, target = trip.source, trip.target
    at.moves += 1
    at.moved += whole_bytes(b, cached(play, row))
    at.then = trip.end_s
    b.stamps[row, 0], b.stamps[row, 1] = trip.start_s, trip.end_s
    alive = play.own[target].life == trip.there
    play.own[source].sent_s = play.own[target].sent_s = trip.end_s
    if alive:
        play.own[target].inbound -= 1
    if play.own[source].life != trip.life:  # the cache was lost with its node
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
def goes_on(play: RunEvents, rules: FleetRules, row: int, n: int) -> bool:
    """Queue the KV cache of a request that needs more tokens for its transfer; return False if the request is complete."""
    b, x = rules.transfers, play.rows
    trip = b.trips[row]
    if x.generated[row] < x.output_tokens[row]:
        trip.source, trip.life = n, play.own[n].life
        put_last(b.ready, row)
        return True
    let_go(play, n, trip.kept)
    return False


bring(Between, next_cache=next_cache, arrive=arrive, goes_on=goes_on)


def between(clock: Clock) -> Between:
    """Build the state of the transfers between two pools."""
    link, nodes, second = clock.link, clock.all, clock.decode[0].engine
    assert link is not None
    d, first, count = second.deployment, len(clock.entry), len(nodes)
    tier, exchanges = _beside(clock, link)
    lanes = np.array([node.lanes for node in nodes])
    ranks = np.array([node.engine.deployment.ranks for node in nodes])
    links, writers = records(2 * count + 1, LINK), first * int(ranks[0]) if tier >= 0 else 0
    links.ports = links.room = [*lanes * ranks, *lanes * ranks, np.inf]  # out, in; writes to the tier enter no node
    flows = records(writers + 1, FLOW)
    flows.source[:writers] = np.arange(writers) // ranks[0]
    flows.target, flows.end_s = 2 * count, -np.inf
    return Between(
        clock.entry[0].engine.kv, second.kv, rank_rules(d, second.cache), d.layout.tp, new_ring(1), links, flows,
        records(1, SHARED), records(0, TRIP), np.zeros((0, 2)), lanes, ranks,
        second.policy.max_sequences * d.ranks, len(clock.entry[0].engine.deployment.model.layers), writers,
        second.policy.reserve, link.by_layer, link.bandwidth_bytes_per_s, link.latency_s, tier, exchanges,
    )  # fmt: skip


def _beside(clock: Clock, link: KvLink) -> tuple[int, bool]:
    """Return the shared tier on the link (-1: none), and whether expert exchanges use it; see `Between`."""
    first, second = clock.entry[0].engine, clock.decode[0].engine
    networks = [engine.deployment.system.device.node_link for engine in (first, second)]
    names, tiers, apart = {network.name for network in networks}, first.cache.tiers, second.deployment.apart
    if link.name not in names:
        return -1, False
    rate = networks[0].bandwidth_bytes_per_s
    on_network = [t.shared and t.bandwidth_bytes_per_s == rate for t in (tiers.tiers if tiers else ())]
    return on_network.index(True) if True in on_network else -1, apart is not None and apart.link.name in names

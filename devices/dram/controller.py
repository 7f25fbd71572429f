"""The memory controller, tick by tick: requests enter, refresh, one column command, one row command.

Idle ticks are skipped: every attempt stores the first tick at which another could succeed (`col_wait`, `row_wait`), and
every event that could change it lowers it.
"""

from __future__ import annotations

from typing import Any

from ...workloads.jit import compiled, compiled_inside
from .maintenance import maintain, pair_free, plan_closing, plan_refresh, sent
from .queues import accept, fetch, release, take
from .state import NEVER
from .timing import CommandCode, activate, at_act, at_column, at_pre, close, column, precharge, record, rising

MOST_PER_TICK = 2
"""Maximum number of requests that enter in one tick."""


@compiled_inside
def is_barred(channel: Any, queue: int, b: int) -> bool:
    """Return whether a bank's open row must not be closed for the oldest miss in `queue`.

    This holds while a request waits for that row. In the scheduler that prefers row hits it also holds while the queue
    has a hit that is at least as old.
    """
    bank, requests = channel.banks[b], channel.lists[queue, b]
    if bank.active > 0:
        return True
    if channel.config[0].row_hits_first == 0 or requests.hit < 0:
        return False
    return channel.entries[requests.hit].arrive <= channel.entries[requests.miss].arrive  # type: ignore[no-any-return]


@compiled_inside
def row_ready(channel: Any, queue: int, bank: int) -> int:
    """Return the first tick for the ACT or PRE that a bank's oldest miss in `queue` needs; NEVER if barred."""
    if channel.lists[queue, bank].miss < 0:
        return NEVER
    if channel.banks[bank].open < 0:
        return at_act(channel, bank)
    return NEVER if is_barred(channel, queue, bank) else at_pre(channel, bank)


@compiled_inside
def enter(channel: Any) -> int:
    """Let requests enter in the order of the stream; return the first tick at which more could enter."""
    s, c = channel.s[0], channel.config[0]
    s.credit += c.rate
    if s.blocked:
        return NEVER
    for _ in range(MOST_PER_TICK):
        if c.rate_one > 0 and s.credit < c.rate_one:
            # `credit` grows once a tick before it is looked at: n more ticks are needed.
            more = (c.rate_one - s.credit + c.rate - 1) // c.rate
            return s.clock + 1 + more  # type: ignore[no-any-return]
        if not s.held:
            fetch(channel)
        if not accept(channel):
            s.blocked = 1
            return NEVER
        s.held = 0
        s.accepted += 1
        if c.rate_one > 0:
            s.credit -= c.rate_one
        if s.held_write == s.write_mode:
            b, q = s.held_bank, s.write_mode
            if channel.lists[q, b].hit >= 0:
                s.col_wait = min(s.col_wait, at_column(channel, b, q))
            s.row_wait = min(s.row_wait, row_ready(channel, q, b))
    return s.clock + 2  # type: ignore[no-any-return]


@compiled_inside
def turns(channel: Any) -> bool:
    """Return whether the write watermarks would now change the queue in charge."""
    s, c = channel.s[0], channel.config[0]
    if s.write_mode == 0:
        return s.writes >= c.high or s.reads == 0  # type: ignore[no-any-return]
    return s.writes <= c.low and s.reads != 0  # type: ignore[no-any-return]


@compiled_inside
def turn(channel: Any) -> int:
    """Apply the write watermarks; return the queue in charge (reads 0, writes 1)."""
    s = channel.s[0]
    if turns(channel):
        s.write_mode = 1 - s.write_mode
        s.turns += 1
        s.col_wait = s.row_wait = 0
    return s.write_mode  # type: ignore[no-any-return]


@compiled_inside
def column_slot(channel: Any) -> None:
    """Send the best column command, or set the tick of the next attempt."""
    s = channel.s[0]
    soon = NEVER
    best, oldest = -1, NEVER
    for i in range(s.active):
        e = channel.entries[channel.active[i]]
        if channel.banks[e.bank].open != e.row:
            continue
        if s.active_writes == 0 and channel.banks[e.bank].next_rd > s.clock:
            soon = min(soon, channel.banks[e.bank].next_rd)
            break  # reads wait in the order of their ACTs
        ready = at_column(channel, e.bank, e.write)
        if ready > s.clock:
            soon = min(soon, ready)
        elif e.arrive < oldest:
            best, oldest = i, e.arrive
    if best >= 0:
        index = channel.active[best]
        for i in range(best, s.active - 1):
            channel.active[i] = channel.active[i + 1]
        s.active -= 1
        s.active_writes -= channel.entries[index].write
        channel.banks[channel.entries[index].bank].active -= 1
        serve(channel, index)
        return
    if s.kept > 0:
        s.col_wait = soon
        return
    queue_column(channel, soon)


@compiled_inside
def queue_column(channel: Any, soon: int) -> None:
    """Send the oldest ready row hit of the queue in charge, or set the tick of the next attempt."""
    s, c = channel.s[0], channel.config[0]
    q = turn(channel)
    best, oldest = -1, NEVER
    for p in range(c.pcs):
        bus = channel.pcs[p].next_wr if q else channel.pcs[p].next_rd
        if bus > s.clock:
            if channel.counts[q, p] > 0:
                soon = min(soon, bus)
            continue
        for k in range(channel.counts[q, p]):
            b = channel.hits[q, p, k]
            seq = channel.entries[channel.lists[q, b].hit].seq
            ready = at_column(channel, b, q)
            if ready > s.clock:
                soon = min(soon, ready)
            elif seq < oldest:
                best, oldest = b, seq
    if best < 0:
        s.col_wait = soon
        return
    s.hits += 1
    index = channel.lists[q, best].hit
    take(channel, index)
    serve(channel, index)


@compiled_inside
def serve(channel: Any, index: int) -> None:
    """Send a request's RD or WR (with auto-precharge if the policy requires it) and finish the request."""
    s, c, e = channel.s[0], channel.config[0], channel.entries[index]
    b = e.bank
    bank = channel.banks[b]
    auto = c.cap > 0 and bank.accesses >= c.cap
    record(channel, (CommandCode.RDA if auto else CommandCode.RD) + e.write, b, e.row)
    column(channel, b, e.write, auto)
    if auto:
        close(channel, b)
    else:
        bank.accesses += 1
    if e.write:
        s.writes_done += 1
    else:
        s.reads_done += 1
        s.latency += s.clock + c.latency - e.arrive
        if c.window > 0:
            n = channel.flying.shape[0]
            channel.flying[(s.flying_from + s.flying) % n] = s.clock + c.latency
            s.flying += 1
    release(channel, index)
    s.col_wait = s.col_bus
    if s.kept > 0:
        s.row_wait = 0
    else:
        s.row_wait = min(s.row_wait, row_ready(channel, s.write_mode, b))


@compiled_inside
def row_slot(channel: Any, edge: bool) -> None:
    """Send the best row command for the queue in charge, or set the tick of the next attempt."""
    s, c = channel.s[0], channel.config[0]
    q = s.write_mode
    soon, more = NEVER, False
    best, oldest = -1, NEVER
    for p in range(c.pcs):
        pc, n = channel.pcs[p], channel.counts[2 + q, p]
        # No bank can do better than what its pseudo channel allows.
        first_act = max(max(pc.next_act, pc.act4 + c.faw), max(s.row_bus, s.clock))
        first_act, first_pre = rising(c, first_act), max(pc.next_pre, s.row_bus)
        if n > 0 and min(first_act, first_pre) > s.clock:
            soon = min(soon, min(first_act, first_pre))
            continue
        for k in range(n):
            b = channel.misses[q, p, k]
            bank, requests = channel.banks[b], channel.lists[q, b]
            if bank.open < 0:
                ready = max(bank.next_act, channel.groups[bank.group].next_act)
                ready = max(first_act, rising(c, ready))
            elif is_barred(channel, q, b):
                continue
            else:
                ready = max(first_pre, bank.next_pre)
                if ready <= s.clock and not edge and not pair_free(channel, p, b):
                    ready = s.clock + 1
            if ready > s.clock:
                soon = min(soon, ready)
                continue
            more = more or best >= 0
            seq = channel.entries[requests.miss].seq
            if seq < oldest:
                best, oldest = b, seq
    if best < 0:
        s.row_wait = soon
        return
    b = best
    if channel.banks[b].open >= 0:
        precharge(channel, b)
        sent(channel, CommandCode.PRE, channel.banks[b].pc, b, edge)
        s.row_wait = s.clock + 1 if more else min(soon, at_act(channel, b))
        return
    index = channel.lists[q, b].miss
    take(channel, index)
    channel.active[s.active] = index
    s.active += 1
    s.active_writes += q
    channel.banks[b].active += 1
    activate(channel, b, channel.entries[index].row)
    sent(channel, CommandCode.ACT, channel.banks[b].pc, b, edge)
    s.row_wait = s.row_bus if more else max(soon, s.row_bus)
    s.col_wait = min(s.col_wait, min(channel.banks[b].next_rd, channel.banks[b].next_wr))


@compiled_inside
def returned(channel: Any) -> int:
    """Remove completed reads from the window; return the tick of the next one."""
    s = channel.s[0]
    n = channel.flying.shape[0]
    while s.flying > 0 and channel.flying[s.flying_from] <= s.clock:
        s.flying_from = (s.flying_from + 1) % n
        s.flying -= 1
        s.outstanding -= 1
        s.blocked = 0
    return channel.flying[s.flying_from] if s.flying > 0 else NEVER


@compiled
def advance(channel: Any, until: int, accepted: int) -> None:
    """Run a channel until tick `until`, or until it has accepted the given number of requests."""
    s, c = channel.s[0], channel.config[0]
    while s.clock < until and s.accepted < accepted:
        soon = enter(channel)
        was_blocked = s.blocked
        s.clock += 1
        if c.window > 0:
            soon = min(soon, returned(channel))
        soon = min(soon, plan_refresh(channel))
        if c.cap > 0:
            soon = min(soon, plan_closing(channel))
        edge = c.half == 0 or (s.clock & 1) == 1
        if edge:
            if s.kept == 0 and s.clock < s.col_wait:
                turn(channel)
            if s.clock >= s.col_wait:
                column_slot(channel)
        if s.kept > 0:
            if s.clock >= s.row_wait:
                maintain(channel, edge)
        else:
            turn(channel)
            if s.clock >= s.row_wait:
                row_slot(channel, edge)
        if s.blocked == 0 and (was_blocked or c.rate_one == 0):
            soon = s.clock + 1
        soon = min(soon, min(s.row_wait, s.col_wait))
        if s.accepted < accepted and soon > s.clock + 1 and (s.kept > 0 or not turns(channel)):
            skip = min(soon, until + 1) - 1 - s.clock
            s.clock += skip
            s.credit += skip * c.rate

"""The controller, tick by tick: enter, refresh, one column command, one row command.

Ticks at which nothing can happen are skipped: every look that finds nothing returns the first
tick at which it could find something (see `advance`).
"""

from __future__ import annotations

from typing import Any

from ...workloads.jit import compiled, compiled_part
from .queues import accept, fetch, release, take
from .state import (
    ALL,
    CLOSE_BANK,
    MAX_KEPT,
    NEVER,
    PER_BANK,
    REFRESH_ALL,
    REFRESH_BANK,
)
from .timing import (
    ACT,
    PRE,
    PREAB,
    RD,
    RDA,
    REFAB,
    REFPB,
    activate,
    at_act,
    at_column,
    at_pre,
    close,
    column,
    precharge,
    precharge_all,
    record,
    refresh_all,
    refresh_bank,
)

MOST_PER_TICK = 2
"""Requests that enter in one tick at most."""


@compiled_part
def enter(st: Any) -> int:
    """Let requests in, in the order of the stream; the first tick at which more could come."""
    s, c = st.s[0], st.config[0]
    s.credit += c.rate
    for _ in range(MOST_PER_TICK):
        if c.rate_one > 0 and s.credit < c.rate_one:
            # `credit` grows once a tick before it is looked at: n more ticks are needed.
            more = (c.rate_one - s.credit + c.rate - 1) // c.rate
            return s.clock + 1 + more  # type: ignore[no-any-return]
        if not s.held:
            fetch(st)
        if not accept(st):
            return NEVER
        s.held = 0
        s.accepted += 1
        s.changed = 1
        if c.rate_one > 0:
            s.credit -= c.rate_one
    return s.clock + 2  # type: ignore[no-any-return]


@compiled_part
def keep(st: Any, kind: int, pc: int, bank: int) -> None:
    """Put a command on the maintenance list."""
    s = st.s[0]
    place = st.kept[(s.kept_from + s.kept) % MAX_KEPT]
    place.kind, place.pc, place.bank = kind, pc, bank
    s.kept += 1
    s.changed = 1


@compiled_part
def plan_refresh(st: Any) -> int:
    """Put refreshes that are due on the list; the tick of the next one."""
    s, c = st.s[0], st.config[0]
    if c.refresh == ALL:
        if s.clock == s.next_refresh:
            s.next_refresh += c.refi
            for pc in range(c.pcs):
                keep(st, REFRESH_ALL, pc, -1)
        return s.next_refresh  # type: ignore[no-any-return]
    if c.refresh != PER_BANK:
        return NEVER
    if c.pb_pairs == 0:
        if s.clock == s.next_refresh:
            s.next_refresh += c.refipb
            keep(st, REFRESH_BANK, st.banks[s.pb_bank].pc, s.pb_bank)
            s.pb_bank = (s.pb_bank + 1) % c.bank_count
        return s.next_refresh  # type: ignore[no-any-return]
    return plan_pairs(st)


@compiled_part
def plan_pairs(st: Any) -> int:
    """Per-bank refresh of HBM3: the same bank of every pseudo channel, one a tick, then the next."""
    s, c = st.s[0], st.config[0]
    if s.pb_left > 0:
        send_pair(st, c.pcs - s.pb_left)
        return s.clock + 1  # type: ignore[no-any-return]
    if s.clock < s.next_refresh:
        return s.next_refresh  # type: ignore[no-any-return]
    if s.clock < st.allowed[s.pb_sid]:
        s.next_refresh = s.clock + 1
        return s.clock + 1  # type: ignore[no-any-return]
    s.pb_left = c.pcs
    send_pair(st, 0)
    s.next_refresh += c.refipb
    return s.clock + 1  # type: ignore[no-any-return]


@compiled_part
def send_pair(st: Any, pc: int) -> None:
    """One half of a pair; behind the last, the next bank (and behind the last bank, the next SID)."""
    s, c = st.s[0], st.config[0]
    each = c.groups * c.banks
    keep(st, REFRESH_BANK, pc, (pc * c.sids + s.pb_sid) * each + s.pb_bank)
    s.pb_left -= 1
    if s.pb_left > 0:
        return
    s.pb_bank += 1
    if s.pb_bank == each:
        st.allowed[s.pb_sid] = s.clock + c.rfcpb
        s.pb_bank = 0
        s.pb_sid = (s.pb_sid + 1) % c.sids


@compiled_part
def plan_closing(st: Any) -> int:
    """Closed-page policy: a PRE for every bank that has had its accesses, as soon as it may go."""
    s, c = st.s[0], st.config[0]
    soon = NEVER
    for b in range(c.bank_count):
        bank = st.banks[b]
        if bank.accesses < c.cap or bank.injected:
            continue
        ready = at_pre(st, b)
        if ready <= s.clock:
            bank.injected = 1
            keep(st, CLOSE_BANK, bank.pc, b)
        else:
            soon = min(soon, ready)
    return soon


@compiled_part
def turn(st: Any) -> int:
    """Look at the watermarks; the queue in charge (reads 0, writes 1)."""
    s, c = st.s[0], st.config[0]
    if s.write_mode == 0:
        if s.writes >= c.high or s.reads == 0:
            s.write_mode, s.changed = 1, 1
            s.turns += 1
    elif s.writes <= c.low and s.reads != 0:
        s.write_mode, s.changed = 0, 1
        s.turns += 1
    return s.write_mode  # type: ignore[no-any-return]


@compiled_part
def rising(c: Any, tick: int) -> int:
    """The first tick from `tick` on with a rising edge."""
    return tick + 1 - (tick & 1) if c.half else tick


@compiled_part
def column_slot(st: Any) -> int:
    """Send the best column command; 0 if one went out, else the first tick for a next look."""
    s, c = st.s[0], st.config[0]
    soon = NEVER
    best, best_at, oldest = -1, -1, NEVER
    for i in range(s.active):
        e = st.entries[st.active[i]]
        if st.banks[e.bank].open != e.row:
            continue
        ready = max(at_column(st, e.bank, e.write), s.col_bus)
        if ready > s.clock:
            soon = min(soon, ready)
        elif e.arrive < oldest:
            best, best_at, oldest = st.active[i], i, e.arrive
    if best >= 0:
        for i in range(best_at, s.active - 1):
            st.active[i] = st.active[i + 1]
        s.active -= 1
        st.banks[st.entries[best].bank].active -= 1
        serve(st, best)
        return 0
    if s.kept > 0:
        return soon
    q = turn(st)
    for p in range(c.pcs):
        bus = st.pcs[p].next_wr if q else st.pcs[p].next_rd
        if st.counts[q, p] == 0:
            continue
        if bus > s.clock or s.col_bus > s.clock:
            soon = min(soon, max(bus, s.col_bus))
            continue
        for k in range(st.counts[q, p]):
            b = st.hits[q, p, k]
            ready = at_column(st, b, q)
            if ready > s.clock:
                soon = min(soon, ready)
            elif st.entries[st.lists[q, b].hit].seq < oldest:
                best, oldest = st.lists[q, b].hit, st.entries[st.lists[q, b].hit].seq
    if best < 0:
        return soon
    s.hits += 1
    take(st, best)
    serve(st, best)
    return 0


@compiled_part
def serve(st: Any, index: int) -> None:
    """Send a request's RD or WR (with auto-precharge where the policy asks) and finish it."""
    s, c, e = st.s[0], st.config[0], st.entries[index]
    bank = st.banks[e.bank]
    auto = c.cap > 0 and bank.accesses >= c.cap
    record(st, (RDA if auto else RD) + e.write, e.bank, e.row)
    column(st, e.bank, e.write, auto)
    if auto:
        close(st, e.bank)
    else:
        bank.accesses += 1
    if e.write:
        s.writes_done += 1
    else:
        s.reads_done += 1
        s.latency += s.clock + c.latency - e.arrive
        if c.window > 0:
            n = st.flying.shape[0]
            st.flying[(s.flying_from + s.flying) % n] = s.clock + c.latency
            s.flying += 1
    release(st, index)
    s.changed = 1


@compiled_part
def pair_free(st: Any, pc: int, b: int) -> bool:
    """Whether a PRE may share its clock with the row command of the rising edge before it.

    `b` is -1 for a PREab.
    """
    s = st.s[0]
    if s.clock != s.pair_tick or s.pair_pc != pc:
        return True
    return s.pair_bank >= 0 and b >= 0 and s.pair_bank != b  # type: ignore[no-any-return]


@compiled_part
def sent(st: Any, command: int, pc: int, b: int, edge: bool) -> int:
    """Remember a row command of a rising edge for the falling one that it is paired with."""
    s, c = st.s[0], st.config[0]
    s.changed = 1
    if edge and c.half:
        s.pair_pc = pc
        s.pair_bank = -1 if command in (PREAB, REFAB) else b
        s.pair_tick = s.clock + (c.act_len if command == ACT else 1)
    return 0


@compiled_part
def row_slot(st: Any, edge: bool) -> int:
    """Send the best row command; 0 if one went out, else the first tick for a next look."""
    s, c = st.s[0], st.config[0]
    if s.kept > 0:
        return maintain(st, edge)
    q = turn(st)
    soon = NEVER
    best, oldest = -1, NEVER
    for p in range(c.pcs):
        for k in range(st.counts[2 + q, p]):
            b = st.misses[q, p, k]
            own, bank = st.lists[q, b], st.banks[b]
            e = st.entries[own.miss]
            if bank.open < 0:
                ready = rising(c, max(at_act(st, b), s.clock))
            else:
                if bank.active > 0 or (
                    c.row_hits_first and own.hit >= 0 and st.entries[own.hit].arrive <= e.arrive
                ):
                    continue
                ready = at_pre(st, b)
                if ready <= s.clock and not edge and not pair_free(st, p, b):
                    ready = s.clock + 1
            if ready > s.clock:
                soon = min(soon, ready)
            elif e.seq < oldest:
                best, oldest = own.miss, e.seq
    if best < 0:
        return soon
    e = st.entries[best]
    b = e.bank
    if st.banks[b].open >= 0:
        precharge(st, b)
        return sent(st, PRE, st.banks[b].pc, b, edge)
    take(st, best)
    st.active[s.active] = best
    s.active += 1
    st.banks[b].active += 1
    activate(st, b, e.row)
    return sent(st, ACT, st.banks[b].pc, b, edge)


@compiled_part
def any_open(st: Any, p: int) -> int:
    """State of a pseudo channel: 0 closed, 1 rows open, 2 with requests waiting for them."""
    each = st.config[0].bank_count // st.config[0].pcs
    out = 0
    for b in range(p * each, (p + 1) * each):
        if st.banks[b].active > 0:
            return 2
        if st.banks[b].open >= 0:
            out = 1
    return out


@compiled_part
def maintain(st: Any, edge: bool) -> int:
    """Send what the head of the maintenance list needs; 0 if something went out, else when."""
    s, c = st.s[0], st.config[0]
    head = st.kept[s.kept_from]
    pc, b = head.pc, head.bank
    own = st.pcs[pc]
    command = PRE if head.kind == CLOSE_BANK else REFPB
    if head.kind == REFRESH_ALL:
        rows = open_rows(st, pc)
        command = REFAB if rows == 0 else PREAB
        ready = max(own.next_refab if rows == 0 else own.next_preab, s.row_bus)
        if command == PREAB and any_open(st, pc) == 2:
            return NEVER
    elif command == PRE or st.banks[b].open >= 0:
        command = PRE
        ready = at_pre(st, b)
        if st.banks[b].active > 0:
            return NEVER
    else:
        bank = st.banks[b]
        ready = max(max(bank.next_refpb, st.groups[bank.group].next_refpb),
                    max(own.next_refpb, s.row_bus))  # fmt: skip
    if command in (REFAB, REFPB):
        ready = rising(c, max(ready, s.clock))
    elif ready <= s.clock and not edge and not pair_free(st, pc, -1 if command == PREAB else b):
        ready = s.clock + 1
    if ready > s.clock:
        return ready  # type: ignore[no-any-return]
    if command == PREAB:
        precharge_all(st, pc)
    elif command == PRE:
        precharge(st, b)
    elif command == REFAB:
        refresh_all(st, pc)
    else:
        refresh_bank(st, b)
    if command in (REFAB, REFPB) or head.kind == CLOSE_BANK:
        s.kept_from = (s.kept_from + 1) % MAX_KEPT
        s.kept -= 1
    return sent(st, command, pc, b, edge)


@compiled_part
def open_rows(st: Any, p: int) -> int:
    """Banks of a pseudo channel with an open row, counted up to one."""
    each = st.config[0].bank_count // st.config[0].pcs
    for b in range(p * each, (p + 1) * each):
        if st.banks[b].open >= 0:
            return 1
    return 0


@compiled_part
def returned(st: Any) -> int:
    """Reads that have come back leave the window; the tick of the next one."""
    s = st.s[0]
    n = st.flying.shape[0]
    while s.flying > 0 and st.flying[s.flying_from] <= s.clock:
        s.flying_from = (s.flying_from + 1) % n
        s.flying -= 1
        s.outstanding -= 1
        s.changed = 1
    return st.flying[s.flying_from] if s.flying > 0 else NEVER  # type: ignore[no-any-return]


@compiled
def advance(st: Any, until: int, accepted: int) -> None:
    """Run a channel to tick `until` (done), or until it has accepted so many requests."""
    s, c = st.s[0], st.config[0]
    while s.clock < until and s.accepted < accepted:
        s.changed = 0
        soon = enter(st)
        s.clock += 1
        if c.window > 0:
            soon = min(soon, returned(st))
        soon = min(soon, plan_refresh(st))
        if c.cap > 0:
            soon = min(soon, plan_closing(st))
        edge = c.half == 0 or (s.clock & 1) == 1
        if edge:
            soon = min(soon, rising(c, column_slot(st)))
        soon = min(soon, row_slot(st, edge))
        if edge and s.changed == 0 and soon > s.clock + 1:
            skip = min(soon, until + 1) - 1 - s.clock
            if skip > 0:
                s.clock += skip
                s.credit += skip * c.rate

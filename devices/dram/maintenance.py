"""Refresh and row closing: what joins the maintenance list, and what its head sends.

While the list holds something, nothing is taken from the queues.
"""

from __future__ import annotations

from typing import Any

from ...workloads.jit import compiled_inside, compiled_part
from .state import ALL, CLOSE_BANK, MAX_KEPT, NEVER, PER_BANK, REFRESH_ALL, REFRESH_BANK
from .timing import ACT, PRE, PREAB, REFAB, REFPB, at_pre, precharge, precharge_all, refresh_all, refresh_bank, rising


@compiled_part
def keep(st: Any, kind: int, pc: int, bank: int) -> None:
    """Put a command on the maintenance list."""
    s = st.s[0]
    place = st.kept[(s.kept_from + s.kept) % MAX_KEPT]
    place.kind, place.pc, place.bank = kind, pc, bank
    s.kept += 1
    s.col_wait = s.row_wait = 0


@compiled_inside
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
    banks = c.groups * c.banks
    keep(st, REFRESH_BANK, pc, (pc * c.sids + s.pb_sid) * banks + s.pb_bank)
    s.pb_left -= 1
    if s.pb_left > 0:
        return
    s.pb_bank += 1
    if s.pb_bank == banks:
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


@compiled_inside
def pair_free(st: Any, pc: int, b: int) -> bool:
    """Whether a PRE may share its clock with the row command of the rising edge before it.

    `b` is -1 for a PREab.
    """
    s = st.s[0]
    if s.clock != s.pair_tick or s.pair_pc != pc:
        return True
    return s.pair_bank >= 0 and b >= 0 and s.pair_bank != b


@compiled_inside
def sent(st: Any, command: int, pc: int, b: int, edge: bool) -> None:
    """Remember a row command of a rising edge for the falling one that it is paired with."""
    s, c = st.s[0], st.config[0]
    if edge and c.half:
        s.pair_pc = pc
        s.pair_bank = -1 if command in (PREAB, REFAB) else b
        s.pair_tick = s.clock + (c.act_len if command == ACT else 1)


@compiled_part
def rows_open(st: Any, p: int) -> int:
    """State of a pseudo channel: 0 closed, 1 rows open, 2 with requests waiting for them."""
    banks = st.config[0].bank_count // st.config[0].pcs
    out = 0
    for b in range(p * banks, (p + 1) * banks):
        if st.banks[b].open >= 0:
            out = 1
    for b in range(p * banks, (p + 1) * banks):
        if out == 1 and st.banks[b].active > 0:
            return 2
    return out


@compiled_part
def head_ready(st: Any, edge: bool) -> tuple[int, int]:
    """Command that the head of the list needs next, and the first tick for it."""
    s, c = st.s[0], st.config[0]
    head = st.kept[s.kept_from]
    pc, b = head.pc, head.bank
    channel = st.pcs[pc]
    command, ready = REFPB, s.row_bus
    if head.kind == REFRESH_ALL:
        rows = rows_open(st, pc)
        if rows == 2:
            return PREAB, NEVER
        command = REFAB if rows == 0 else PREAB
        ready = max(channel.next_refab if rows == 0 else channel.next_preab, s.row_bus)
    elif head.kind == CLOSE_BANK or st.banks[b].open >= 0:
        if st.banks[b].active > 0:
            return PRE, NEVER
        command, ready = PRE, at_pre(st, b)
    else:
        bank = st.banks[b]
        group = st.groups[bank.group]
        ready = max(max(bank.next_refpb, group.next_refpb), max(channel.next_refpb, s.row_bus))
    if command in (REFAB, REFPB):
        ready = rising(c, max(ready, s.clock))
    elif ready <= s.clock and not edge and not pair_free(st, pc, -1 if command == PREAB else b):
        ready = s.clock + 1
    return command, ready


@compiled_part
def maintain(st: Any, edge: bool) -> None:
    """Send what the head of the maintenance list needs, or set the tick of the next look."""
    s = st.s[0]
    command, ready = head_ready(st, edge)
    if ready > s.clock:
        s.row_wait = ready
        return
    head = st.kept[s.kept_from]
    pc, b = head.pc, head.bank
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
        s.col_wait = 0
    s.row_wait = 0
    sent(st, command, pc, b, edge)

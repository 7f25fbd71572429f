"""Refresh and row closing: commands on the maintenance list have priority over requests.

While the list is not empty, no request is taken from the queues.
"""

from __future__ import annotations

from typing import Any

from ...workloads.jit import compiled_inside, compiled_part
from .state import MAX_KEPT, NEVER, Maintenance, Refresh
from .timing import CommandCode, at_pre, precharge, precharge_all, refresh_all, refresh_bank, rising


@compiled_part
def keep(channel: Any, kind: int, pc: int, bank: int) -> None:
    """Append a command to the maintenance list."""
    s = channel.s[0]
    place = channel.kept[(s.kept_from + s.kept) % MAX_KEPT]
    place.kind, place.pc, place.bank = kind, pc, bank
    s.kept += 1
    s.col_wait = s.row_wait = 0


@compiled_inside
def plan_refresh(channel: Any) -> int:
    """Append the refreshes that are due to the maintenance list; return the tick of the next refresh."""
    s, c = channel.s[0], channel.config[0]
    if c.refresh == Refresh.ALL:
        if s.clock == s.next_refresh:
            s.next_refresh += c.refi
            for pc in range(c.pcs):
                keep(channel, Maintenance.REFRESH_ALL, pc, -1)
        return s.next_refresh  # type: ignore[no-any-return]
    if c.refresh != Refresh.PER_BANK:
        return NEVER
    if c.pb_pairs == 0:
        if s.clock == s.next_refresh:
            s.next_refresh += c.refipb
            keep(channel, Maintenance.REFRESH_BANK, channel.banks[s.pb_bank].pc, s.pb_bank)
            s.pb_bank = (s.pb_bank + 1) % c.bank_count
        return s.next_refresh  # type: ignore[no-any-return]
    return plan_pairs(channel)


@compiled_part
def plan_pairs(channel: Any) -> int:
    """Append per-bank refreshes of HBM3: the same bank of every pseudo channel, one per tick; return the next tick."""
    s, c = channel.s[0], channel.config[0]
    if s.pb_left > 0:
        send_pair(channel, c.pcs - s.pb_left)
        return s.clock + 1  # type: ignore[no-any-return]
    if s.clock < s.next_refresh:
        return s.next_refresh  # type: ignore[no-any-return]
    if s.clock < channel.allowed[s.pb_sid]:
        s.next_refresh = s.clock + 1
        return s.clock + 1  # type: ignore[no-any-return]
    s.pb_left = c.pcs
    send_pair(channel, 0)
    s.next_refresh += c.refipb
    return s.clock + 1  # type: ignore[no-any-return]


@compiled_part
def send_pair(channel: Any, pc: int) -> None:
    """Append the refresh of one pseudo channel's bank; after the last pseudo channel, go on to the next bank or SID."""
    s, c = channel.s[0], channel.config[0]
    banks = c.groups * c.banks
    keep(channel, Maintenance.REFRESH_BANK, pc, (pc * c.sids + s.pb_sid) * banks + s.pb_bank)
    s.pb_left -= 1
    if s.pb_left > 0:
        return
    s.pb_bank += 1
    if s.pb_bank == banks:
        channel.allowed[s.pb_sid] = s.clock + c.rfcpb
        s.pb_bank = 0
        s.pb_sid = (s.pb_sid + 1) % c.sids


@compiled_part
def plan_closing(channel: Any) -> int:
    """Append a PRE for every bank that had its accesses under the closed-page policy; return the tick of the next."""
    s, c = channel.s[0], channel.config[0]
    soon = NEVER
    for b in range(c.bank_count):
        bank = channel.banks[b]
        if bank.accesses < c.cap or bank.injected:
            continue
        ready = at_pre(channel, b)
        if ready <= s.clock:
            bank.injected = 1
            keep(channel, Maintenance.CLOSE_BANK, bank.pc, b)
        else:
            soon = min(soon, ready)
    return soon


@compiled_inside
def pair_free(channel: Any, pc: int, bank: int) -> bool:
    """Return whether a PRE may share its clock with the row command of the preceding rising edge.

    `bank` is -1 for a PREab.
    """
    s = channel.s[0]
    if s.clock != s.pair_tick or s.pair_pc != pc:
        return True
    return s.pair_bank >= 0 and bank >= 0 and s.pair_bank != bank


@compiled_inside
def sent(channel: Any, command: int, pc: int, bank: int, edge: bool) -> None:
    """Store a row command of a rising edge, for the falling edge that is paired with it."""
    s, c = channel.s[0], channel.config[0]
    if edge and c.half:
        s.pair_pc = pc
        s.pair_bank = -1 if command in (CommandCode.PREAB, CommandCode.REFAB) else bank
        s.pair_tick = s.clock + (c.act_len if command == CommandCode.ACT else 1)


@compiled_part
def rows_open(channel: Any, p: int) -> int:
    """Return the state of a pseudo channel: 0 closed, 1 rows open, 2 rows open with waiting requests."""
    banks = channel.config[0].bank_count // channel.config[0].pcs
    out = 0
    for b in range(p * banks, (p + 1) * banks):
        if channel.banks[b].open >= 0:
            out = 1
    for b in range(p * banks, (p + 1) * banks):
        if out == 1 and channel.banks[b].active > 0:
            return 2
    return out


@compiled_part
def head_ready(st: Any, edge: bool) -> tuple[int, int]:
    """Return the command that the head of the list needs next, and the first tick for it."""
    s, c = st.s[0], st.config[0]
    head = st.kept[s.kept_from]
    pc, b = head.pc, head.bank
    channel = st.pcs[pc]
    command, ready = CommandCode.REFPB, s.row_bus
    if head.kind == Maintenance.REFRESH_ALL:
        rows = rows_open(st, pc)
        if rows == 2:
            return CommandCode.PREAB, NEVER
        command = CommandCode.REFAB if rows == 0 else CommandCode.PREAB
        ready = max(channel.next_refab if rows == 0 else channel.next_preab, s.row_bus)
    elif head.kind == Maintenance.CLOSE_BANK or st.banks[b].open >= 0:
        if st.banks[b].active > 0:
            return CommandCode.PRE, NEVER
        command, ready = CommandCode.PRE, at_pre(st, b)
    else:
        bank = st.banks[b]
        group = st.groups[bank.group]
        ready = max(max(bank.next_refpb, group.next_refpb), max(channel.next_refpb, s.row_bus))
    if command in (CommandCode.REFAB, CommandCode.REFPB):
        ready = rising(c, max(ready, s.clock))
    elif ready <= s.clock and not edge and not pair_free(st, pc, -1 if command == CommandCode.PREAB else b):
        ready = s.clock + 1
    return command, ready


@compiled_part
def maintain(channel: Any, edge: bool) -> None:
    """Send the command that the head of the maintenance list needs, or set the tick of the next attempt."""
    s = channel.s[0]
    command, ready = head_ready(channel, edge)
    if ready > s.clock:
        s.row_wait = ready
        return
    head = channel.kept[s.kept_from]
    pc, b = head.pc, head.bank
    if command == CommandCode.PREAB:
        precharge_all(channel, pc)
    elif command == CommandCode.PRE:
        precharge(channel, b)
    elif command == CommandCode.REFAB:
        refresh_all(channel, pc)
    else:
        refresh_bank(channel, b)
    if command in (CommandCode.REFAB, CommandCode.REFPB) or head.kind == Maintenance.CLOSE_BANK:
        s.kept_from = (s.kept_from + 1) % MAX_KEPT
        s.kept -= 1
        s.col_wait = 0
    s.row_wait = 0
    sent(channel, command, pc, b, edge)

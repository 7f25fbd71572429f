"""Timing rules of DRAM commands: functions that send a command, and functions that return the earliest tick for one."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from ...workloads.jit import compiled_inside, compiled_part
from .queues import closed, opened

CommandCode = IntEnum("CommandCode", "ACT PRE PREAB RD WR RDA WRA REFAB REFPB", start=0)
COMMANDS = ("ACT", "PRE", "PREab", "RD", "WR", "RDA", "WRA", "REFab", "REFpb")


@compiled_inside
def record(channel: Any, command: int, bank: int, row: int) -> None:
    """Write a command into the timeline if one is recorded."""
    s, c = channel.s[0], channel.config[0]
    if s.logged < c.log_rows:
        n = s.logged
        channel.log[n, 0], channel.log[n, 1], channel.log[n, 2], channel.log[n, 3] = s.clock, command, bank, row
        s.logged += 1


@compiled_inside
def rising(c: Any, tick: int) -> int:
    """Return the first tick from `tick` on with a rising clock edge."""
    return tick + 1 - (tick & 1) if c.half else tick


@compiled_inside
def at_column(channel: Any, b: int, write: int) -> int:
    """Return the first tick for a read or write of a bank's open row."""
    bank = channel.banks[b]
    pc, sid, group = channel.pcs[bank.pc], channel.sids[bank.sid], channel.groups[bank.group]
    if write:
        return max(max(bank.next_wr, group.next_wr), max(sid.next_wr, pc.next_wr))  # type: ignore[no-any-return]
    return max(max(bank.next_rd, group.next_rd), max(sid.next_rd, pc.next_rd))  # type: ignore[no-any-return]


@compiled_inside
def at_act(channel: Any, b: int) -> int:
    """Return the first tick for an ACT of a closed bank."""
    bank, c = channel.banks[b], channel.config[0]
    pc = channel.pcs[bank.pc]
    earliest = max(bank.next_act, channel.groups[bank.group].next_act)
    return max(max(earliest, pc.next_act), max(pc.act4 + c.faw, channel.s[0].row_bus))  # type: ignore[no-any-return]


@compiled_inside
def at_pre(channel: Any, b: int) -> int:
    """Return the first tick for a PRE of a bank."""
    bank = channel.banks[b]
    return max(bank.next_pre, max(channel.pcs[bank.pc].next_pre, channel.s[0].row_bus))  # type: ignore[no-any-return]


@compiled_inside
def column(channel: Any, b: int, write: int, auto: bool) -> None:
    """Send RD, WR, RDA or WRA to a bank."""
    s, c, bank = channel.s[0], channel.config[0], channel.banks[b]
    t = s.clock
    pc, group = channel.pcs[bank.pc], channel.groups[bank.group]
    s.col_bus = t + c.col_len
    first = bank.pc * c.sids
    if write:
        pc.next_wr = max(pc.next_wr, t + c.wr_wr)
        pc.next_rd = max(pc.next_rd, t + c.wr_rd)
        group.next_wr = max(group.next_wr, t + c.ccd_l)
        group.next_rd = max(group.next_rd, t + c.wr_rd_l)
        channel.sids[bank.sid].next_wr = max(channel.sids[bank.sid].next_wr, t + c.ccd_s)
        pre, act, ref = c.wr_pre, c.wra_act, c.wra_ref
    else:
        pc.next_rd = max(pc.next_rd, t + c.rd_rd)
        pc.next_wr = max(pc.next_wr, t + c.rd_wr)
        group.next_rd = max(group.next_rd, t + c.ccd_l)
        for k in range(first, first + c.sids):
            apart = c.ccd_s if k == bank.sid else c.ccd_r
            channel.sids[k].next_rd = max(channel.sids[k].next_rd, t + apart)
        pre, act, ref = c.rd_pre, c.rda_act, c.rda_ref
    if auto:
        bank.next_act = max(bank.next_act, t + act)
        pc.next_refab = max(pc.next_refab, t + ref)
    else:
        bank.next_pre = max(bank.next_pre, t + pre)
        pc.next_preab = max(pc.next_preab, t + pre)


@compiled_inside
def activate(channel: Any, b: int, row: int) -> None:
    """Send an ACT to a closed bank."""
    s, c, bank = channel.s[0], channel.config[0], channel.banks[b]
    t = s.clock
    pc, group = channel.pcs[bank.pc], channel.groups[bank.group]
    record(channel, CommandCode.ACT, b, row)
    s.row_bus = t + c.act_len
    s.acts += 1
    pc.act4, pc.act3, pc.act2, pc.act1 = pc.act3, pc.act2, pc.act1, t
    pc.next_act = max(pc.next_act, t + c.act_act)
    pc.next_preab = max(pc.next_preab, t + c.act_pre)
    pc.next_refab = max(pc.next_refab, t + c.act_refab)
    pc.next_refpb = max(pc.next_refpb, t + c.act_refpb)
    group.next_act = max(group.next_act, t + c.act_act_l)
    if c.act_refpb_l > 0:
        group.next_refpb = max(group.next_refpb, t + c.act_refpb_l)
    bank.next_act = max(bank.next_act, t + c.rc)
    bank.next_rd = max(bank.next_rd, t + c.act_rd)
    bank.next_wr = max(bank.next_wr, t + c.act_wr)
    bank.next_pre = max(bank.next_pre, t + c.act_pre)
    bank.next_refpb = max(bank.next_refpb, t + c.act_refpb_bank)
    bank.open = row
    opened(channel, b)


@compiled_inside
def close(channel: Any, b: int) -> None:
    """Mark a bank as closed and reset the counter of the closed-page policy."""
    bank = channel.banks[b]
    bank.accesses, bank.injected = 0, 0
    if bank.open >= 0:
        bank.open = -1
        closed(channel, b)


@compiled_inside
def precharge(channel: Any, b: int) -> None:
    """Send a PRE to one bank."""
    s, c, bank = channel.s[0], channel.config[0], channel.banks[b]
    t = s.clock
    pc = channel.pcs[bank.pc]
    record(channel, CommandCode.PRE, b, bank.open)
    s.pres += 1
    pc.next_pre = max(pc.next_pre, t + c.pre_pre)
    pc.next_preab = max(pc.next_preab, t + c.pre_pre)
    pc.next_refab = max(pc.next_refab, t + c.pre_ref)
    bank.next_act = max(bank.next_act, t + c.pre_act)
    bank.next_refpb = max(bank.next_refpb, t + c.pre_ref)
    close(channel, b)


@compiled_part
def precharge_all(channel: Any, p: int) -> None:
    """Send a PREab, which closes every bank of a pseudo channel."""
    s, c = channel.s[0], channel.config[0]
    t, pc = s.clock, channel.pcs[p]
    banks = c.bank_count // c.pcs
    record(channel, CommandCode.PREAB, p * banks, -1)
    pc.next_act = max(pc.next_act, t + c.pre_act)
    pc.next_refab = max(pc.next_refab, t + c.pre_ref)
    pc.next_pre = max(pc.next_pre, t + c.pre_pre)
    pc.next_preab = max(pc.next_preab, t + c.pre_pre)
    for b in range(p * banks, (p + 1) * banks):
        close(channel, b)


@compiled_part
def refresh_all(channel: Any, p: int) -> None:
    """Send a REFab to a pseudo channel."""
    s, c = channel.s[0], channel.config[0]
    t, pc = s.clock, channel.pcs[p]
    record(channel, CommandCode.REFAB, p * (c.bank_count // c.pcs), -1)
    s.refreshes += 1
    pc.next_act = max(pc.next_act, t + c.ref_act)
    pc.next_preab = max(pc.next_preab, t + c.ref_preab)


@compiled_part
def refresh_bank(channel: Any, b: int) -> None:
    """Send a REFpb to one bank."""
    s, c, bank = channel.s[0], channel.config[0], channel.banks[b]
    t, pc, group = s.clock, channel.pcs[bank.pc], channel.groups[bank.group]
    record(channel, CommandCode.REFPB, b, -1)
    s.refreshes += 1
    pc.next_act = max(pc.next_act, t + c.refpb_act)
    if c.refpb_refpb > 0:
        pc.next_refpb = max(pc.next_refpb, t + c.refpb_refpb)
    if c.refpb_act_l > 0:
        group.next_act = max(group.next_act, t + c.refpb_act_l)
    bank.next_act = max(bank.next_act, t + c.refpb_act_bank)

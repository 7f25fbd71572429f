"""Detection of exact repetition: a regular stream is simulated only until the channel's state repeats.

The state is stored relative to the clock and to the stream's row. If it is equal at two refresh boundaries, everything
between them repeats, shifted by rows, and whole periods are added without a simulation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...workloads.jit import compiled, compiled_part, int64
from .mapping import AddressMapping
from .state import I8, MAX_KEPT, Channel
from .streams import Pattern

ADDED = ("accepted", "acts", "pres", "refreshes", "reads_done", "writes_done", "latency", "hits", "turns")
"""Counters that grow by the same amount in every period."""

MOST_STATES = 2048
"""Maximum number of stored states while looking for a repetition."""

MARGIN = 4096
"""Minimum distance of a skip from the end of an address range [requests]."""


@compiled_part
def put(out: I8, n: int, value: int) -> int:
    """Append a number to the record of a state; return the next index."""
    out[n] = value
    return n + 1


@compiled_part
def put_requests(channel: Any, out: I8, n: int, base: int, rows: int) -> int:
    """Append all waiting requests, bank by bank, and those whose row was opened for them; return the next index."""
    s = channel.s[0]
    for q in range(2):
        for b in range(channel.banks.shape[0]):
            e = channel.lists[q, b].head
            if e >= 0:
                n = put(out, n, -1 - b)
            while e >= 0:
                r = channel.entries[e]
                n = put(out, n, (r.row - base) & (rows - 1))
                n = put(out, n, r.col)
                n = put(out, n, s.clock - r.arrive)
                n = put(out, n, s.seq - r.seq)
                e = r.next
        n = put(out, n, -1000)
    for i in range(s.active):
        r = channel.entries[channel.active[i]]
        n = put(out, n, r.bank)
        n = put(out, n, (r.row - base) & (rows - 1))
        n = put(out, n, s.clock - r.arrive)
        n = put(out, n, r.write)
    return n


@compiled_part
def put_scopes(channel: Any, out: I8, n: int, base: int, rows: int) -> int:
    """Append the remaining waits of every scope, and the open rows; return the next index."""
    t, faw = channel.s[0].clock, channel.config[0].faw
    for p in channel.pcs:
        for value in (p.next_rd, p.next_wr, p.next_act, p.next_pre, p.next_preab, p.next_refab, p.next_refpb):
            n = put(out, n, max(value - t, 0))
        for value in (p.act1, p.act2, p.act3, p.act4):
            n = put(out, n, max(value - t, -faw))
    for scopes in (channel.sids, channel.groups):
        for p in scopes:
            for value in (p.next_rd, p.next_wr, p.next_act, p.next_refpb):
                n = put(out, n, max(value - t, 0))
    for b in channel.banks:
        n = put(out, n, (b.open - base) & (rows - 1) if b.open >= 0 else -1)
        for value in (b.next_act, b.next_rd, b.next_wr, b.next_pre, b.next_refpb):
            n = put(out, n, max(value - t, 0))
        if channel.config[0].cap > 0:
            n = put(out, n, 2 * b.accesses + b.injected)
    return n


@compiled
def snapshot(channel: Any, out: I8, base: int, rows: int) -> int:
    """Write a channel's state relative to its clock and to row `base`; return how many numbers were written."""
    s, t = channel.s[0], channel.s[0].clock
    n = int64(0)
    for value in (s.write_mode, s.reads, s.writes, s.active, s.kept, s.pb_sid, s.pb_bank,
                  s.pb_left, s.credit, s.outstanding, s.held, s.blocked):  # fmt: skip
        n = put(out, n, value)
    for value in (s.next_refresh, s.row_bus, s.col_bus):
        n = put(out, n, max(value - t, 0))
    if s.pair_tick > t:
        n = put(out, n, s.pair_tick - t)
        n = put(out, n, 1000 * s.pair_pc + s.pair_bank)
    if s.held:
        n = put(out, n, s.held_bank)
        n = put(out, n, (s.held_row - base) & (rows - 1))
        n = put(out, n, 2 * s.held_col + s.held_write)
    for i in range(s.kept):
        k = channel.kept[(s.kept_from + i) % MAX_KEPT]
        n = put(out, n, (k.kind * 2 + k.pc) * 1000 + k.bank)
    for i in range(s.flying):
        n = put(out, n, channel.flying[(s.flying_from + i) % channel.flying.shape[0]] - t)
    for value in channel.allowed:
        n = put(out, n, max(value - t, 0))
    n = put_scopes(channel, out, n, base, rows)
    return put_requests(channel, out, n, base, rows)


@dataclass(frozen=True, slots=True)
class Position:
    """Position of a regular stream.

    Attributes
    ----------
    row : int
        Row that the others are counted from.
    phase : tuple of int
        What must be equal for the addresses that follow to differ by rows only.
    read : int
        Requests taken from the stream so far.
    block : int
        Block that the rows are counted by.
    horizon : int
        Requests that follow, at least, until the addresses break (a wrap of the stride, a carry out of the row bits).
    """

    row: int
    phase: tuple[int, ...]
    read: int
    block: int
    horizon: int


def position(channel: Channel, mapping: AddressMapping) -> Position:
    """Return the position of a channel's stream, which must have one half (only reads, or only writes)."""
    t = {name: int(channel.streams[name][0]) for name in channel.streams.dtype.names or ()}
    other = t["first"] == 0 and t["second"] > 0
    read, left = (t["wrote"], t["other_left"]) if other else (t["read"], t["left"])
    at = t["other_next"] if other else t["next"]
    turn = read // t["turn"] if t["kind"] == Pattern.MULTI else 0
    if t["kind"] == Pattern.MULTI:
        at = turn // t["many"] * t["turn"]
    unit = 1 << (mapping.row_low + mapping.fold_bits)
    row = (at >> mapping.row_low) & -(1 << mapping.fold_bits)
    above, horizon = 0, 1 << 60
    if 1 << mapping.row_high < t["blocks"]:
        # Something is above the row: its value is part of the phase, and a carry ends the stretch.
        above = at >> mapping.row_high
        horizon = (1 << mapping.row_high) - at % (1 << mapping.row_high)
        if t["kind"] == Pattern.MULTI:
            horizon = 0
        if t["kind"] == Pattern.STRIDE:
            horizon = horizon * t["atom"] // t["stride"] * t["touched"]
    if t["kind"] == Pattern.STRIDE:
        k, capacity = read // t["touched"], t["blocks"] * t["atom"]
        done = k * t["stride"] // capacity
        ends = -(-(done + 1) * capacity // t["stride"]) * t["touched"]
        horizon = min(horizon, ends - read)
        above += done << 40
    left = 0 if t["kind"] == Pattern.SEQ else left  # counts down to the end of the channel
    phase = (at % unit, above, left, turn % t["many"], t["period"])
    return Position(row, phase, read, at, horizon)


def repeats(channel: Channel, mapping: AddressMapping, regular: bool) -> bool:
    """Return whether a channel's run can repeat, so that whole periods can be skipped."""
    halves = int(channel.streams["first"][0]), int(channel.streams["second"][0])
    return regular and min(halves) == 0 and mapping.row_high > mapping.row_low


@dataclass(slots=True)
class PeriodWatch:
    """Searches for a repetition at the refresh boundaries of one channel's run."""

    st: Channel
    mapping: AddressMapping
    rows: int
    seen: dict[tuple[bytes, tuple[int, ...]], tuple[int, Position, dict[str, int]]] = field(default_factory=dict)
    buffer: I8 = field(default_factory=lambda: np.zeros(1 << 16, np.int64))

    def period(self) -> Period | None:
        """Store the current state; return the period if the state occurred before."""
        at = position(self.st, self.mapping)
        n = snapshot(self.st, self.buffer, at.row, self.rows)
        key = (self.buffer[:n].tobytes(), at.phase)
        s = self.st.s
        now = int(s["clock"][0]), at, {name: int(s[name][0]) for name in ADDED}
        before = self.seen.get(key)
        if before is None:
            if len(self.seen) < MOST_STATES:
                self.seen[key] = now
            return None
        added = {name: now[2][name] - before[2][name] for name in ADDED}
        read, blocks = at.read - before[1].read, at.block - before[1].block
        if read <= 0 or blocks <= 0:
            return None
        return Period(now[0] - before[0], read, blocks, added, at.horizon - MARGIN)


@dataclass(frozen=True, slots=True)
class Period:
    """Ticks, requests, blocks and counters between two equal states.

    `room` is the number of requests that may follow before the addresses break.
    """

    ticks: int
    read: int
    blocks: int
    added: dict[str, int]
    room: int

    def times(self, requests: int) -> int:
        """Return the number of whole periods that fit before the given number of further requests."""
        return min((requests - 1) // max(self.added["accepted"], 1), self.room // self.read)


def skip(channel: Channel, mapping: AddressMapping, rows: int, period: Period, times: int) -> None:
    """Advance a channel by `times` periods without simulating them."""
    ticks, blocks = times * period.ticks, times * period.blocks
    delta = blocks >> mapping.row_low
    for records, names in (
        (channel.s, ("clock", "next_refresh", "row_bus", "col_bus", "pair_tick")),
        (channel.pcs, channel.pcs.dtype.names or ()),
        (channel.sids, channel.sids.dtype.names or ()),
        (channel.groups, channel.groups.dtype.names or ()),
        (channel.banks, ("next_act", "next_rd", "next_wr", "next_pre", "next_refpb")),
        (channel.entries, ("arrive",)),
    ):
        for name in names:
            records[name] += ticks
    channel.flying[:] += ticks
    channel.allowed[:] += ticks
    channel.s["col_wait"] = channel.s["row_wait"] = 0
    for name, value in period.added.items():
        channel.s[name] += times * value
    channel.banks["open"] = np.where(channel.banks["open"] < 0, -1, (channel.banks["open"] + delta) % rows)
    channel.entries["row"] = (channel.entries["row"] + delta) % rows
    channel.s["held_row"] = (channel.s["held_row"] + delta) % rows
    t = channel.streams
    other = t["first"][0] == 0 and t["second"][0] > 0
    read, at = ("wrote", "other_next") if other else ("read", "next")
    t[read] += times * period.read
    t[at] = (t[at] + blocks) % t["blocks"]
    if t["kind"][0] == Pattern.SEQ:
        t["other_left" if other else "left"] = t["blocks"] - t[at]

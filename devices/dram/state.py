"""State of the compiled controller: timings in ticks, scopes, banks, queues and counters.

Times are ticks of the controller; ``next_x`` is the first tick at which command x may be sent.
"""

from __future__ import annotations

from enum import IntEnum
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...workloads.jit_address import by_address
from .mapping import AddressMapping, read_mapping
from .pattern import PatternRun
from .spec import DramSpec
from .streams import STREAM, new_streams

Records = NDArray[Any]
I8 = NDArray[np.int64]

READ, WRITE = 0, 1
Refresh = IntEnum("Refresh", "NONE ALL PER_BANK", start=0)
Maintenance = IntEnum("Maintenance", "REFRESH_ALL REFRESH_BANK CLOSE_BANK", start=0)
"""Kinds of maintenance: REFab of a pseudo channel, REFpb of a bank, a PRE of the closed-page policy."""

REFRESHES = ("none", "all", "pb")


def _row(*names: str) -> np.dtype[Any]:
    return np.dtype([(name, np.int64) for name in names])


CONFIG = _row(
    "half", "pcs", "sids", "groups", "banks", "bank_count",
    "rd_rd", "wr_wr", "rd_wr", "wr_rd", "ccd_s", "ccd_l", "ccd_r", "wr_rd_l",
    "rd_pre", "wr_pre", "act_act", "act_act_l", "faw", "rc", "act_rd", "act_wr", "act_pre",
    "act_refab", "act_refpb", "act_refpb_l", "act_refpb_bank",
    "pre_act", "pre_pre", "pre_ref", "rda_act", "wra_act", "rda_ref", "wra_ref",
    "ref_act", "ref_preab", "refpb_act", "refpb_act_l", "refpb_act_bank", "refpb_refpb",
    "col_len", "act_len", "latency", "refi", "refipb", "rfcpb", "refresh", "pb_pairs",
    "read_queue", "write_queue", "high", "low", "window", "rate", "rate_one",
    "row_hits_first", "cap", "log_rows",
)  # fmt: skip
"""Record of timings (in ticks, including command lengths) and settings; see `new_config`."""

CHANNEL = _row(
    "clock", "accepted", "seq", "write_mode", "reads", "writes", "free", "active", "active_writes",
    "kept", "kept_from", "next_refresh", "pb_sid", "pb_bank", "pb_left", "row_bus", "col_bus",
    "pair_tick", "pair_pc", "pair_bank", "credit", "outstanding", "flying", "flying_from",
    "held", "held_bank", "held_row", "held_col", "held_write", "held_auto",
    "acts", "pres", "refreshes", "reads_done", "writes_done", "latency", "hits", "turns",
    "col_wait", "row_wait", "blocked", "logged",
)  # fmt: skip
"""Record of one channel's clock, counts and statistics.

`col_wait` and `row_wait` are ticks before which no column or row command can be sent; `blocked` means that the fetched
request waits for a free entry.
"""

PSEUDO = _row("next_rd", "next_wr", "next_act", "next_pre", "next_preab", "next_refab",
              "next_refpb", "act1", "act2", "act3", "act4")  # fmt: skip
SCOPE = _row("next_rd", "next_wr", "next_act", "next_refpb")
BANK = _row("pc", "sid", "group", "open", "next_act", "next_rd", "next_wr", "next_pre",
            "next_refpb", "active", "accesses", "injected")  # fmt: skip
LIST = _row("head", "tail", "hit", "miss", "hit_at", "miss_at")
"""Record of one bank's requests in one queue: oldest, youngest, oldest row hit, oldest other request; -1 is none."""
ENTRY = _row("bank", "row", "col", "arrive", "seq", "write", "next", "prev")
KEPT = _row("kind", "pc", "bank")

MAX_KEPT = 4096
NEVER = 1 << 60


@by_address
class Channel(NamedTuple):
    """Complete state of one channel: P pseudo channels, B banks, E entries for requests."""

    config: Records  # [1] CONFIG
    s: Records  # [1] CHANNEL
    pcs: Records  # [P] PSEUDO
    sids: Records  # [P * sids] SCOPE
    groups: Records  # [P * sids * groups] SCOPE
    banks: Records  # [B] BANK
    lists: Records  # [2, B] LIST of reads and of writes
    hits: I8  # [2, P, B] banks with a row hit in that queue
    misses: I8  # [2, P, B] banks with another request in that queue
    counts: I8  # [4, P] lengths of hits (reads, writes) and misses (reads, writes)
    entries: Records  # [E] ENTRY
    active: I8  # [B] requests whose ACT has gone out, in that order
    kept: Records  # [MAX_KEPT] KEPT, a ring: maintenance
    flying: I8  # [F] ticks at which reads return, a ring
    allowed: I8  # [sids] first tick of a stack id's next round of per-bank refresh
    streams: Records  # [1] STREAM
    tables: I8  # [BYTES, 256] of the mapping
    log: I8  # [L, 4] tick, command, bank, row


def new_config(memory: DramSpec, run: PatternRun) -> Records:
    """Return the timings in ticks: latency + (ticks of the first command - 1) - (ticks of the second - 1)."""
    t, org, m = memory.timings, memory.organisation, memory.ticks_per_clock
    half = m == 2
    act, col = (3, 2) if half else (2, 1)
    recover = t.CWL + t.BL + t.WR
    out = np.zeros(1, CONFIG)
    ticks = {
        "rd_rd": t.BL, "wr_wr": t.BL, "rd_wr": t.read_to_write, "wr_rd": t.CWL + t.BL + t.WTR_S,
        "ccd_s": t.CCD_S, "ccd_l": t.CCD_L, "ccd_r": t.CCD_R, "wr_rd_l": t.CWL + t.BL + t.WTR_L,
        "rd_pre": t.RTP, "wr_pre": recover, "act_act": t.RRD_S, "act_act_l": t.RRD_L,
        "faw": t.FAW, "rc": t.RC, "act_rd": t.RCD_RD, "act_wr": t.RCD_WR, "act_pre": t.RAS,
        "act_refab": t.RC, "act_refpb": t.RRD_S, "act_refpb_bank": t.RC, "pre_act": t.RP,
        "pre_pre": t.PPD, "pre_ref": t.RP, "rda_act": t.RTP + t.RP, "wra_act": recover + t.RP,
        "rda_ref": t.RTP + t.RP, "wra_ref": recover + t.RP, "ref_act": t.RFC,
        "ref_preab": t.RFC, "refpb_act": t.RREFD, "refpb_act_bank": t.RFC_PB or 0,
        "refpb_refpb": t.RREFD if half else 0, "latency": t.CL + t.BL, "refi": t.REFI,
        "refipb": t.REFI_PB or 0, "rfcpb": t.RFC_PB or 0,
    }  # fmt: skip
    extra = {
        "rd_pre": col - 1, "wr_pre": col - 1, "act_rd": act - col, "act_wr": act - col,
        "act_pre": act - 1, "act_refab": act - 1, "act_refpb": act - 1, "act_refpb_bank": act - 1,
        "pre_act": 1 - act, "rda_act": col - act, "wra_act": col - act, "rda_ref": col - 1,
        "wra_ref": col - 1, "ref_act": 1 - act, "refpb_act": 1 - act, "refpb_act_bank": 1 - act,
    }  # fmt: skip
    for name, clocks in ticks.items():
        out[name] = clocks * m + extra.get(name, 0)
    if memory.protocol == "hbm4":
        out["act_refpb_l"], out["refpb_act_l"] = t.RRD_L * m + act - 1, t.RRD_L * m + 1 - act
    out["half"], out["act_len"], out["col_len"], out["pb_pairs"] = half, act, col, half
    out["pcs"], out["sids"], out["groups"] = org.pseudo_channels, org.sids, org.bank_groups
    out["banks"], out["bank_count"] = org.banks, org.banks_per_channel
    _settings(out, memory, run)
    return out


def _settings(out: Records, memory: DramSpec, run: PatternRun) -> None:
    """Set queues, refresh and rate of a run; the write watermarks are 0.8 and 0.2 in single precision."""
    out["refresh"] = REFRESHES.index(run.refresh)
    out["read_queue"], out["write_queue"] = run.read_queue, run.write_queue
    size = np.arange(run.write_queue + 2)
    high, low = np.float32(0.8) * run.write_queue, np.float32(0.2) * run.write_queue
    out["high"] = int(size[size > high][0])
    out["low"] = int(size[size < low][-1])
    out["window"] = run.window or 0
    out["row_hits_first"], out["cap"] = run.row_hits_first, run.closed_after or 0
    if run.rate is not None:
        ticks = memory.timings.BL * memory.ticks_per_clock
        step = run.rate * Fraction(memory.organisation.pseudo_channels, ticks)
        out["rate"], out["rate_one"] = step.numerator, step.denominator


def new_channel(memory: DramSpec, run: PatternRun, channel: int = 0, log: int = 0) -> Channel:
    """Return an idle channel before its first tick, with all banks closed; it logs up to `log` commands."""
    config = new_config(memory, run)
    org = memory.organisation
    pcs, count = org.pseudo_channels, org.banks_per_channel
    sids, groups = pcs * org.sids, pcs * org.sids * org.bank_groups
    mapping: AddressMapping = read_mapping(run.mapping, memory)
    entries = run.read_queue + run.write_queue + count + 2
    out = Channel(
        config=config, s=np.zeros(1, CHANNEL), pcs=np.zeros(pcs, PSEUDO),
        sids=np.zeros(sids, SCOPE), groups=np.zeros(groups, SCOPE), banks=np.zeros(count, BANK),
        lists=np.full((2, count), -1, np.int64).astype(LIST), hits=np.zeros((2, pcs, count), np.int64),
        misses=np.zeros((2, pcs, count), np.int64), counts=np.zeros((4, pcs), np.int64),
        entries=np.zeros(entries, ENTRY), active=np.zeros(count + 1, np.int64),
        kept=np.zeros(MAX_KEPT, KEPT), flying=np.zeros(max(run.window or 0, 1) + 4, np.int64),
        allowed=np.zeros(org.sids, np.int64), streams=new_streams(memory, run, channel),
        tables=mapping.tables, log=np.zeros((max(log, 1), 4), np.int64),
    )  # fmt: skip
    index = np.arange(count)
    out.banks["group"] = index // org.banks
    out.banks["sid"] = index // org.banks_per_sid
    out.banks["pc"] = index // (count // pcs)
    out.banks["open"] = -1
    out.entries["next"] = np.arange(1, entries + 1)
    for field in ("act1", "act2", "act3", "act4"):
        out.pcs[field] = -NEVER
    for field in ("pair_tick",):
        out.s[field] = -1
    config["log_rows"] = log
    out.s["next_refresh"] = config["refi"] if run.refresh == "all" else config["refipb"]
    return out


__all__ = ["STREAM", "Channel", "new_channel"]

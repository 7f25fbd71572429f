"""Commands that read many banks at once: in-bank units (AttAcc) and bank bundles (Logic-PIM).

A stream of such commands runs in order. One command reads an atom in every bank of a *set*: all banks of a channel, one
bank of every bank group, stack id and pseudo channel, one bank in both pseudo channels, or a bundle. Rows of a set are
opened together; while a set is read, the next one can be opened. Activation current (tFAW) is ignored unless asked for,
as simulators of in-bank units do.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...workloads.errors import InputError
from .spec import DramSpec, PimTimings

AHEAD = 32
"""Number of commands that the controller sees in advance."""


@dataclass(frozen=True, slots=True)
class PimStream:
    """Commands of one channel that read many banks at once.

    Attributes
    ----------
    commands : int
        Commands in all.
    interval : int
        Clocks from a command to the next [clock cycles].
    banks : int
        Banks that respond to a command.
    sets : int
        Sets that take turns; with one, every row change waits for the row before.
    columns : int
        Commands a row.
    refresh : bool
        Whether all banks are refreshed each tREFI.
    acts : int
        ACTs that one set takes, spaced by tRRD and tFAW; 1 where a command opens the whole set.
    pseudo_channels : int
        Pseudo channels that the stream's banks belong to.
    best : int
        Clocks between commands at best, which the fraction of peak counts by; 0 for `interval`.
    """

    commands: int
    interval: int
    banks: int
    sets: int = 1
    columns: int = 32
    refresh: bool = True
    acts: int = 1
    pseudo_channels: int = 2
    best: int = 0


def opening_clocks(memory: DramSpec, acts: int) -> int:
    """Return the clocks from the first to the last of `acts` ACTs of one pseudo channel."""
    t = memory.timings
    fours, rest = divmod(acts - 1, 4)
    return fours * max(t.FAW, 4 * t.RRD_S) + rest * t.RRD_S


def run_stream(memory: DramSpec, stream: PimStream) -> int:
    """Return the clock cycles from the first to the last command of a stream.

    Row by row: an ACT waits for tRP after the PRE and tRC after the ACT of its set, a PRE for tRTP after the last
    column and tRAS after the ACT. A refresh closes all sets first; the row that it cut is opened again.
    """
    t = memory.timings
    spread = opening_clocks(memory, stream.acts)
    opened = [-t.RC] * stream.sets  # clock of each set's last ACT
    free = [0] * stream.sets  # first clock for each set's next ACT
    column, left, row = -stream.interval, stream.commands, 0
    refresh = t.REFI if stream.refresh else 1 << 62
    while left > 0:
        at, todo = row % stream.sets, min(stream.columns, left)
        # The next row's first command is seen so many commands before it is sent.
        seen = column - (AHEAD - 1) * stream.interval if stream.sets > 1 else column
        act = max(free[at], opened[at] + t.RC, seen, 0)
        while todo > 0:
            start = max(act + spread + t.RCD_RD, column + stream.interval)
            done = todo
            if start + (todo - 1) * stream.interval >= refresh:
                done = max(0, -(-(refresh - start) // stream.interval))
            if done > 0:
                column = start + (done - 1) * stream.interval
                opened[at] = act
            todo, left = todo - done, left - done
            if todo > 0:
                closed = max(refresh, column + t.RTP, max(opened) + t.RAS)
                act = closed + t.RP + t.RFC
                free, refresh = [act] * stream.sets, refresh + t.REFI
        free[at] = max(column + t.RTP, opened[at] + t.RAS) + t.RP
        row += 1
    return column + 1


def stream_of(memory: DramSpec, name: str, commands: int, refresh: bool) -> PimStream:
    """Return the stream of a pattern such as ``pim_mac_sb_rot`` or ``pim_mac_ab_col16``.

    Raises
    ------
    InputError
        An unknown pattern, or a memory without such commands.
    """
    parts = name.split("_")
    org, t = memory.organisation, memory.timings
    kind, options = (parts[2] if len(parts) > 2 else ""), parts[3:]
    columns = org.columns
    for option in list(options):
        if option.startswith("col") and option[3:].isdecimal() and int(option[3:]) > 0:
            columns = min(int(option[3:]), org.columns)
            options.remove(option)
    known: dict[str, list[list[str]]] = {
        "ab": [[]],
        "sb": [[], ["rot"], ["fix"]],
        "pb": [[], ["bgint"], ["rowlin"]],
        "bundle": [[], ["rot"], ["fix"]],
    }
    if parts[:2] != ["pim", "mac"] or options not in known.get(kind, []):
        raise InputError(
            f"pattern {name!r}",
            "is none of pim_mac_ab, pim_mac_sb_rot, pim_mac_sb_fix, pim_mac_pb_bgint, "
            "pim_mac_pb_rowlin, pim_mac_bundle_rot, pim_mac_bundle_fix (_colN behind it)",
        )
    pim = memory.pim or PimTimings()
    intervals = {
        "ab": pim.interval_all,
        "sb": pim.interval_same,
        "pb": t.BL,
        "bundle": t.CCD_L if pim.bundle_banks else None,
    }
    interval_each = intervals[kind]
    if interval_each is None:
        raise InputError(f"pattern {name!r}", f"{memory.name} has no timing of these commands (pim:)")
    rotating = options != ["fix"]
    if kind == "ab":
        return PimStream(commands, interval_each, org.banks_per_channel, 1, columns, refresh)
    if kind == "sb":
        banks = org.banks_per_channel // org.banks
        return PimStream(commands, interval_each, banks, org.banks if rotating else 1, columns, refresh)
    if kind == "pb":
        interleaved = options != ["rowlin"]
        interval = max(t.BL, t.CCD_S) if interleaved else t.CCD_L
        # Bank groups in turn share their rows' lifetime: one long row of all groups.
        all_columns = columns * org.bank_groups if interleaved else columns
        banks, sets = org.pseudo_channels, org.banks
        return PimStream(commands, interval, banks, sets, all_columns, refresh, best=t.BL)
    bundle = pim.bundle_banks or 1
    bundles = org.sids * org.banks_per_sid // bundle if rotating else 1
    return PimStream(commands, interval_each, bundle, bundles, columns, refresh, pseudo_channels=1)


@dataclass(frozen=True, slots=True)
class PimOutcome:
    """Result of a stream: fraction of the peak command rate, rate [B/s], rate over the pins' rate, and seconds."""

    fraction: float
    bytes_per_s: float
    over_pins: float
    seconds: float


def measure(memory: DramSpec, stream: PimStream) -> PimOutcome:
    """Run a stream and return its rates; at peak it sends a command every `best` clocks."""
    clocks = run_stream(memory, stream)
    seconds = clocks * memory.tCK_s
    rate = stream.commands * stream.banks * memory.organisation.atom_bytes / seconds
    peak = stream.best or stream.interval
    org = memory.organisation
    pins = memory.channel_bytes_per_s * min(stream.pseudo_channels, org.pseudo_channels)
    over = rate * org.pseudo_channels / pins
    return PimOutcome(stream.commands * peak / clocks, rate, over, seconds)

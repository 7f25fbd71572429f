"""Run a pattern on a memory and measure: bandwidth, latency, row hits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...workloads.errors import InputError
from .controller import advance
from .mapping import read_mapping
from .pattern import MAX_QUEUE, PatternRun
from .period import ADDED, PeriodWatch, repeats, skip
from .spec import DramSpec, Timings
from .state import Channel, new_channel
from .timing import COMMANDS, CommandCode

FOREVER = 1 << 59
MOST_REQUESTS = 1 << 40


@dataclass(frozen=True, slots=True)
class DramResult:
    """Result of a run.

    Attributes
    ----------
    fraction : float
        Bytes accepted in the measuring window over what the pins carry in it.
    bytes_per_s : float
        The same in bytes, over all channels [B/s].
    requests : int
        Requests that all channels accepted until the end.
    simulated : int
        Requests that were simulated one by one; the others follow from repetition.
    seconds : float
        Length of the whole run [s].
    read_latency_s : float or None
        Mean time of a read from its entry to its data [s].
    row_hits : float
        Share of requests that found their row open.
    acts_per_request : float
        ACT commands a request.
    """

    fraction: float
    bytes_per_s: float
    requests: int
    simulated: int
    seconds: float
    read_latency_s: float | None
    row_hits: float
    acts_per_request: float


@dataclass(slots=True)
class _Track:
    """One channel's run: the accepted requests at every boundary, and the number simulated one by one."""

    st: Channel
    step: int
    accepted: list[int]
    simulated: int


def check(memory: DramSpec, run: PatternRun) -> None:
    """Refuse a run that this memory does not support.

    Raises
    ------
    InputError
        Per-bank refresh without its timings, too many channels, too many requests.
    """
    t = memory.timings
    if run.refresh == "pb" and (t.RFC_PB is None or t.REFI_PB is None):
        raise InputError(memory.name, "has no timings RFC_PB and REFI_PB, which refresh=pb needs; use refresh=all")
    if run.channels > memory.organisation.channels:
        raise InputError(f"nch={run.channels}", f"{memory.name} has only {memory.organisation.channels} channels")
    if not 10 <= run.length < MOST_REQUESTS:
        raise InputError(f"requests={run.length}", "must be a number of requests from 10 to 2^40 - 1")


def simulate(memory: DramSpec, run: PatternRun) -> DramResult:
    """Simulate the run of a pattern on a memory.

    The measuring window starts at the first multiple of tREFI after every channel has accepted a
    tenth of its requests, and ends at the first one after some channel has accepted all; without
    refresh it starts and ends where that happens.

    Examples
    --------
    >>> from .spec import load_memory
    >>> from .pattern import read_pattern
    >>> memory = load_memory("hbm3-6400-8hi")
    >>> round(simulate(memory, read_pattern("seq_read:rdq=64,wrq=64")).fraction, 5)
    0.89333
    """
    check(memory, run)
    # The channels of a stream without random numbers are fed alike: one stands for all.
    alike = run.pattern.kind in ("seq", "stride")
    numbers = range(1) if alike else range(run.channels)
    if run.refresh == "none":
        tracks, spans, ticks = _unaligned(memory, run, numbers)
    else:
        tracks = [_follow(memory, run, n) for n in numbers]
        tenth, length = run.length // 10, run.length
        start = max(_first(t.accepted, tenth) for t in tracks)
        end = max(min(_first(t.accepted, length) for t in tracks), start + 1)
        if end >= min(len(t.accepted) for t in tracks):
            raise InputError(f"requests={length}", "are too few, because the loads of the channels differ; use more")
        spans = [t.accepted[end] - t.accepted[start] for t in tracks]
        ticks = (end - start) * tracks[0].step
    return _outcome(memory, run, tracks, sum(spans) / len(spans), ticks)


def _first(accepted: list[int], wanted: int) -> int:
    """Return the index of the first boundary with at least `wanted` accepted requests."""
    return next(k for k, n in enumerate(accepted) if n >= wanted)


def _follow(memory: DramSpec, run: PatternRun, channel: int) -> _Track:
    """Run one channel from boundary to boundary until it has accepted its requests."""
    st = new_channel(memory, run, channel)
    step = int(st.config["refi"][0])
    track = _Track(st, step, [], 0)
    mapping, rows = read_mapping(run.mapping, memory), memory.organisation.rows
    watch = PeriodWatch(st, mapping, rows) if repeats(st, mapping, run.pattern.regular) else None
    idle = 0
    tenth = run.length // 10
    # At least one whole interval lies between the boundaries of the measuring window.
    while len(track.accepted) < 2 or track.accepted[-1] < run.length or track.accepted[-2] < tenth:
        before = int(st.s["accepted"][0])
        advance(st, (len(track.accepted) + 1) * step, FOREVER)
        now = int(st.s["accepted"][0])
        track.accepted.append(now)
        track.simulated += now - before
        idle = idle + 1 if now == before else 0
        if idle > 1000:
            raise AssertionError("a channel accepts nothing")
        if watch and now < run.length:
            period = watch.period()
            if period is not None:
                times = period.times(run.length - now)
                if times > 0:
                    n = period.ticks // step
                    gains = [a - now for a in track.accepted]
                    cycle = [g + period.added["accepted"] for g in gains[-n:]]
                    skip(st, mapping, rows, period, times)
                    for k in range(times):
                        track.accepted += [now + k * period.added["accepted"] + g for g in cycle]
                watch = PeriodWatch(st, mapping, rows) if times > 0 else watch
    return track


def _run_to(memory: DramSpec, run: PatternRun, channel: Channel, requests: int) -> int:
    """Run a channel until it has accepted the given requests; return the number simulated one by one."""
    mapping, rows = read_mapping(run.mapping, memory), memory.organisation.rows
    step, simulated = int(channel.config["refi"][0]), 0
    looking = repeats(channel, mapping, run.pattern.regular)
    watch = PeriodWatch(channel, mapping, rows)
    while int(channel.s["accepted"][0]) < requests:
        before = int(channel.s["accepted"][0])
        until = (int(channel.s["clock"][0]) // step + 1) * step if looking else FOREVER
        advance(channel, until, requests)
        now = int(channel.s["accepted"][0])
        simulated += now - before
        period = watch.period() if looking and now < requests else None
        times = period.times(requests - now) if period else 0
        if period and times > 0:
            skip(channel, mapping, rows, period, times)
            watch = PeriodWatch(channel, mapping, rows)
    return simulated


def _unaligned(memory: DramSpec, run: PatternRun, numbers: range) -> tuple[list[_Track], list[int], int]:
    """Run all channels, and measure from the point where each has accepted a tenth to where one has accepted all."""
    tracks, starts, ends = [], [], []
    for n in numbers:
        st = new_channel(memory, run, n)
        simulated = _run_to(memory, run, st, run.length // 10)
        starts.append(int(st.s["clock"][0]))
        first = int(st.s["accepted"][0])
        simulated += _run_to(memory, run, st, run.length)
        ends.append(int(st.s["clock"][0]))
        last = int(st.s["accepted"][0])
        tracks.append(_Track(st, 1, [first, last], simulated))
    start, end = max(starts), min(ends)
    spans = []
    for n, track in zip(numbers, tracks, strict=True):
        if len(tracks) == 1:
            spans.append(track.accepted[1] - track.accepted[0])
            continue
        st = new_channel(memory, run, n)
        advance(st, start, FOREVER)
        first = int(st.s["accepted"][0])
        advance(st, end, FOREVER)
        spans.append(int(st.s["accepted"][0]) - first)
    return tracks, spans, end - start


def _outcome(memory: DramSpec, run: PatternRun, tracks: list[_Track], accepted: float, ticks: int) -> DramResult:
    """Return the result from counts: `accepted` requests of a channel in a window of `ticks`."""
    total = {name: sum(int(t.st.s[name][0]) for t in tracks) for name in ADDED}
    served = total["reads_done"] + total["writes_done"]
    latency = total["latency"] / total["reads_done"] if total["reads_done"] else None
    copies = run.channels / len(tracks)
    rate = accepted * memory.organisation.atom_bytes / (ticks * memory.tick_s)
    return DramResult(
        fraction=rate / memory.channel_bytes_per_s,
        bytes_per_s=rate * run.channels,
        requests=round(copies * total["accepted"]),
        simulated=sum(t.simulated for t in tracks),
        seconds=max(int(t.st.s["clock"][0]) for t in tracks) * memory.tick_s,
        read_latency_s=None if latency is None else latency * memory.tick_s,
        row_hits=max(0.0, 1.0 - total["acts"] / max(served, 1)),
        acts_per_request=total["acts"] / max(served, 1),
    )


def drain_fraction(memory: DramSpec, run: PatternRun) -> float:
    """Return the fraction of the pins' rate over a whole run, from its first tick until all requests have entered."""
    check(memory, run)
    st = new_channel(memory, run)
    advance(st, FOREVER, run.length)
    seconds = int(st.s["clock"][0]) * memory.tick_s
    moved = int(st.s["accepted"][0]) * memory.organisation.atom_bytes
    return moved / seconds / memory.channel_bytes_per_s


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a timeline: start [s], name, occupied time of its target [s], and target.

    `bank` is -1 for commands to all banks of a pseudo channel, `row` for those without a row.
    """

    start_s: float
    name: str
    length_s: float
    pseudo_channel: int
    bank: int
    row: int


def timeline(memory: DramSpec, run: PatternRun, most: int) -> list[Command]:
    """Return the first `most` commands of a run's first channel."""
    check(memory, run)
    st = new_channel(memory, run, log=most)
    advance(st, FOREVER, 4 * most)
    t = memory.timings
    clocks = {
        CommandCode.ACT: t.RCD_RD,
        CommandCode.RD: t.BL,
        CommandCode.RDA: t.BL,
        CommandCode.WR: t.BL,
        CommandCode.WRA: t.BL,
        CommandCode.REFAB: t.RFC,
        CommandCode.REFPB: t.RFC_PB or 1,
    }
    banks = memory.organisation.banks_per_channel // memory.organisation.pseudo_channels
    all_banks = {COMMANDS.index("PREab"), CommandCode.REFAB}
    out = []
    for tick, command, bank, row in st.log[: int(st.s["logged"][0])].tolist():
        length = clocks.get(command, t.RP) * memory.tCK_s
        out.append(
            Command(tick * memory.tick_s, COMMANDS[command], length, bank // banks,
                    -1 if command in all_banks else bank % banks, row)
        )  # fmt: skip
    return out


@dataclass(frozen=True, slots=True)
class NamedLimit:
    """A timing constraint: its name, a title, and the fraction of peak without it.

    `gain` is this fraction over the fraction with the constraint, minus one.
    """

    name: str
    title: str
    fraction: float
    gain: float


LIFTED = {
    "bank": ("row cycle of a bank (tRCD, tRAS, tRP, tRTP, tWR)",
             {"RCD_RD": 1, "RCD_WR": 1, "RAS": 1, "RP": 1, "RC": 1, "RTP": 1, "WR": 1}),
    "bank groups": ("distance inside a bank group (tCCD_L, tRRD_L)", {}),
    "activation": ("activation limits (tFAW, tRRD)", {"FAW": 1, "RRD_S": 1, "RRD_L": 1}),
    "turnaround": ("bus turnaround (tRTW, tWTR)", {"RTW": 1, "WTR_S": 1, "WTR_L": 1}),
    "stack ids": ("distance of two stack ids (tCCD_R)", {}),
}  # fmt: skip
"""Title of each constraint, and the timings that are set to their least value to lift it."""


def limits_of(memory: DramSpec, run: PatternRun, fraction: float) -> tuple[NamedLimit, ...]:
    """Return the effect of lifting each constraint separately, largest gain first.

    Constraints hide each other, so gains do not add up.
    """
    t = memory.timings
    changes = {name: (title, dict(values)) for name, (title, values) in LIFTED.items()}
    changes["bank groups"][1].update(CCD_L=t.CCD_S, RRD_L=t.RRD_S, WTR_L=t.WTR_S)
    changes["stack ids"][1].update(CCD_R=t.CCD_S)
    if not run.pattern.writes or not run.pattern.reads:
        changes.pop("turnaround")
    if memory.organisation.sids == 1:
        changes.pop("stack ids")
    tried = [(name, title, _with(memory, values), run) for name, (title, values) in changes.items()]
    if run.refresh != "none":
        tried.append(("refresh", "refresh", memory, replace(run, refresh="none")))
    deep = {side: min(4 * getattr(run, side), MAX_QUEUE) for side in ("read_queue", "write_queue")}
    longer = replace(run, **deep, requests=run.length)
    tried.append(("queues", "queues, with four times the entries", memory, longer))
    if run.window is not None:
        tried.append(("window", "window of outstanding reads", memory, replace(run, window=None)))
    if run.rate is not None:
        tried.append(("offered rate", "offered rate", memory, replace(run, rate=None)))
    out = []
    for name, title, spec, work in tried:
        fraction_found = simulate(spec, work).fraction
        out.append(NamedLimit(name, title, fraction_found, fraction_found / fraction - 1.0))
    return tuple(sorted(out, key=lambda limit: -limit.gain))


def _with(memory: DramSpec, values: dict[str, int]) -> DramSpec:
    """Return the memory with other timings; they are not checked, because a lifted constraint need not be possible."""
    timings: Timings = memory.timings.model_copy(update=values)
    return memory.model_copy(update={"timings": timings})

"""Bandwidth of a memory for an access pattern, and the constraints that limit it (``opbyte dram``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ...devices.dram.pattern import PatternRun, read_pattern
from ...devices.dram.pim import PimOutcome, PimStream, measure, stream_of
from ...devices.dram.run import Command, DramResult, NamedLimit, limits_of, simulate, timeline
from ...devices.dram.spec import DramSpec, load_memory
from ...workloads.errors import InputError
from ..show.declared import text
from ..show.output import SIGNIFICANT, OutputFolder
from ..show.result import Result
from ..show.text import Blocks, Rows, si
from ..show.timeline import write_commands

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ..plots.files import Picture

PIM_COMMANDS = 32_768
"""Default number of commands of a stream over many banks; ``commands=`` in the pattern changes it."""

STRIDES = tuple(64 << k for k in range(12))
BLOCKS = tuple(64 << k for k in range(9))
"""X-axis of the plot [B]: stride between accesses of 64 B, and size of blocks that are read at random addresses."""


@dataclass(frozen=True, slots=True)
class DramAnswer(Result):
    """Bandwidth, latency and row hits of a pattern, and what limits it.

    Attributes
    ----------
    pattern : str
        Access pattern as the user wrote it.
    limits : tuple of NamedLimit
        Bandwidth gained by removing each constraint, largest gain first.
    """

    FILE = "dram.json"

    memory: DramSpec
    pattern: str
    run: PatternRun
    outcome: DramResult
    limits: tuple[NamedLimit, ...]

    @property
    def limited_by(self) -> str:
        """Return the name of the constraint that costs the most bandwidth; "pins" if no constraint costs any."""
        return self.limits[0].name if self.limits and self.limits[0].gain > 0.005 else "pins"

    @property
    def peak(self) -> float:
        """Bandwidth of the pins [B/s]."""
        return self.run.channels * self.memory.channel_bytes_per_s

    @property
    def without(self) -> dict[str, float]:
        """Return the fraction of the peak bandwidth that the pattern would reach without each constraint."""
        return {limit.name: limit.fraction for limit in self.limits}

    def rows(self) -> Rows:
        return [
            {"without": limit.title, "fraction of peak": f"{limit.fraction:.1%}", "gain": f"{limit.gain:+.1%}"}
            for limit in self.limits
        ]

    def records(self) -> Rows:
        return [{"without": limit.name, "fraction": limit.fraction, "gain": limit.gain} for limit in self.limits]

    def blocks(self) -> Blocks:
        o = self.outcome
        channels = f"{self.run.channels} channel{'s' if self.run.channels > 1 else ''}"
        gets = f"{si(o.bytes_per_s, 'B/s')} of {si(self.peak, 'B/s')} from {channels}, {o.fraction:.1%}"
        first = f"{self.pattern} on {self.memory.name}: {gets}"
        return [first, text(self, "second"), *([self.rows()] if self.limits else [])]

    def figure(self, table: pd.DataFrame) -> Figure:
        """Plot the result of `sweep`."""
        from ..plots.memory import bandwidth

        note = f"Mapping {self.run.mapping}, {self.run.read_queue} entries; strides touch 64 B."
        return bandwidth(table, f"{self.memory.title}: bandwidth by access", note)

    def write(self, folder: OutputFolder) -> None:
        """Also write the sweep, its plot and the commands as a timeline."""
        table = self.sweep()
        folder.table("sweep.csv", table, SIGNIFICANT)
        folder.figure("bandwidth.png", self.figure(table))
        folder.write("timeline.json", partial(write_commands, self.commands()))
        Result.write(self, folder)

    def plot(self, which: int = 0) -> Picture:
        """Return the plot of bandwidth over strides and block sizes, which is simulated now."""
        from ..plots.files import Picture

        return Picture(self.figure(self.sweep()))

    def sweep(self) -> pd.DataFrame:
        """Return the fraction of peak bandwidth over strides and block sizes, with this run's mapping and queues."""
        import pandas as pd

        atom = self.memory.organisation.atom_bytes
        length = min(self.run.length, 20_000)
        rows = []
        for kind, sizes in (("stride", STRIDES), ("rand", BLOCKS)):
            for size in (max(size, atom) for size in sizes):
                pattern = replace(self.run.pattern, kind=kind, S=size, X=max(64, atom), reads=1, writes=0, a=1, b=0)
                one = replace(self.run, pattern=pattern, channels=1, requests=length, rate=None)
                outcome = simulate(self.memory, one)
                rows.append({"kind": kind, "bytes": size, "fraction": outcome.fraction})
        return pd.DataFrame(rows)

    def commands(self, most: int = 5000) -> list[Command]:
        """Return the first commands of one channel, at most `most`."""
        return timeline(self.memory, self.run, most)


@dataclass(frozen=True, slots=True)
class PimAnswer(Result):
    """Rate of a stream of commands over many banks, on one channel."""

    FILE = "dram.json"

    memory: DramSpec
    pattern: str
    stream: PimStream
    outcome: PimOutcome

    def rows(self) -> Rows:
        return [self.to_dict()]

    def blocks(self) -> Blocks:
        o = self.outcome
        whose = "channel" if self.stream.pseudo_channels > 1 else "pseudo channel"
        text = (
            f"{self.pattern} on {self.memory.name}: {si(o.bytes_per_s, 'B/s')} of a {whose}'s "
            f"banks, {o.over_pins:.2f} times its pins; {o.fraction:.1%} of a command each "
            f"{self.stream.interval} clocks to {self.stream.banks} banks"
        )
        return [text]


def dram(pattern: str, memory: str | DramSpec, limits: bool = True) -> DramAnswer | PimAnswer:
    """Run an access pattern on a memory.

    Parameters
    ----------
    pattern : str
        ``KIND`` or ``KIND:KEY=VALUE,...``: seq_read, rand_read, stride_read, multistream_read,
        mix_read, the same with ``_rw``, or ``pim_mac_...`` (commands over many banks).
    memory : str or DramSpec
        Name of a DRAM standard, its YAML file, or the standard.
    limits : bool
        Whether to repeat the run without each constraint, to find the ones that limit the bandwidth.

    Examples
    --------
    >>> result = dram("rand_read:S=1024", "hbm3-5200-8hi", limits=False)
    >>> round(result.outcome.fraction, 5)
    0.73135
    """
    spec = load_memory(memory) if isinstance(memory, str) else memory
    if pattern.startswith("pim_"):
        return _pim(pattern, spec)
    run = read_pattern(pattern)
    outcome = simulate(spec, run)
    limits_found = limits_of(spec, run, outcome.fraction) if limits else ()
    return DramAnswer(spec, pattern, run, outcome, limits_found)


def _pim(pattern: str, spec: DramSpec) -> PimAnswer:
    """Simulate a stream of PIM commands over many banks of one channel."""
    name, _, rest = pattern.partition(":")
    commands, refresh = PIM_COMMANDS, "all"
    for part in (p for p in rest.replace(";", ",").split(",") if p):
        key, _, value = part.partition("=")
        if key == "commands" and value.isdecimal() and 0 < int(value) < 1 << 30:
            commands = int(value)
        elif key == "refresh" and value in ("all", "none"):
            refresh = value
        else:
            raise InputError(f"pattern {pattern!r}", f"{part!r}: give commands=N or refresh=all|none")
    stream = stream_of(spec, name, commands, refresh == "all")
    return PimAnswer(spec, pattern, stream, measure(spec, stream))

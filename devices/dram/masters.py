"""Two masters on one stack: a processor and units near memory that need the same bank bundles.

A bundle serves one side at a time. Each side visits bundles in its own order; a bundle whose last visit was the other
side's pays a row switch first.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...workloads.errors import InputError
from .spec import DramSpec


@dataclass(frozen=True, slots=True)
class BundleRead:
    """Columns read from one bundle in one go, `clocks` of the clock each [clock cycles]."""

    bundle: int
    columns: int
    clocks: int


@dataclass(slots=True)
class Meeting:
    """What came of it.

    Attributes
    ----------
    clocks : int
        Until both sides are done.
    finished : list of int
        When each side was done.
    columns : list of int
        Columns that each side has read.
    switches : int
        Times a bundle changed sides.
    """

    clocks: int = 0
    finished: list[int] = field(default_factory=lambda: [0, 0])
    columns: list[int] = field(default_factory=lambda: [0, 0])
    switches: int = 0


def bundles_of(memory: DramSpec) -> int:
    """Bank bundles of one pseudo channel."""
    size = memory.pim.bundle_banks if memory.pim else None
    if size is None:
        raise InputError(memory.name, "has no bank bundles (pim: bundle_banks)")
    return memory.organisation.sids * memory.organisation.banks_per_sid // size


def switch_clocks(memory: DramSpec) -> int:
    """Clocks to put one row in the place of another: tRTP + tRP + tRCD."""
    t = memory.timings
    return t.RTP + t.RP + t.RCD_RD


def meet(memory: DramSpec, first: Sequence[BundleRead], second: Sequence[BundleRead]) -> Meeting:
    """Let two masters work on one pseudo channel's bundles at the same time.

    Returns
    -------
    Meeting
        At least the longer side in isolation, at most both in sequence plus a switch for every change.

    Examples
    --------
    >>> from .catalog import load_memory
    >>> memory = load_memory("hbm3-5200-8hi")
    >>> meet(memory, [BundleRead(0, 32, 4)], [BundleRead(1, 32, 2)]).clocks
    128
    """
    import simpy

    count = bundles_of(memory)
    for visit in (*first, *second):
        if not 0 <= visit.bundle < count:
            raise InputError(f"bundle {visit.bundle}", f"{memory.name} has bundles 0 to {count - 1}")
    out = Meeting()
    env = simpy.Environment()
    bundles = [simpy.Resource(env) for _ in range(count)]
    last: list[int | None] = [None] * count
    price = switch_clocks(memory)

    def side(number: int, visits: Sequence[BundleRead]) -> Generator[Any, Any, None]:
        for visit in visits:
            with bundles[visit.bundle].request() as turn:
                yield turn
                if last[visit.bundle] not in (None, number):
                    out.switches += 1
                    yield env.timeout(price)
                last[visit.bundle] = number
                yield env.timeout(visit.columns * visit.clocks)
                out.columns[number] += visit.columns
        out.finished[number] = int(env.now)

    env.process(side(0, first))
    env.process(side(1, second))
    env.run()
    out.clocks = max(out.finished)
    return out

"""What keeps a pattern from the pins' rate: each constraint removed separately, and simulated again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .pattern import MAX_QUEUE, PatternRun
from .run import simulate
from .spec import DramSpec, Timings


@dataclass(frozen=True, slots=True)
class NamedLimit:
    """A constraint: its name, a title, and the fraction of peak without it.

    `gain` is that fraction relative to the one with it, less one.
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
"""Name -> title and the timings that are set to the least possible."""


def limits_of(memory: DramSpec, run: PatternRun, fraction: float) -> tuple[NamedLimit, ...]:
    """Lift one constraint after the other; most gained first.

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
    """The memory with other timings, unchecked: a lifted constraint need not be possible."""
    timings: Timings = memory.timings.model_copy(update=values)
    return memory.model_copy(update={"timings": timings})

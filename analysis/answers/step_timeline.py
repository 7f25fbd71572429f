"""A step as bars: when each op runs, on which processor or link, and in which layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ...simulator.streams import COMPUTE, Timeline
from ..show.text import Records, seconds

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Bar:
    """One op on one device of the slowest rank; times are from the start of the step [s].

    Attributes
    ----------
    stage : int
        Pipeline stage.
    layer : int
        Layer of the model; -1 for the embedding, the head and transfers between stages.
    lane : str
        Processor or link that runs the op; it runs no other op at that time.
    stream : str
        "compute", or the link of an exchange.
    op, kind : str
        Name of the op, and the part of the model it belongs to.
    chunk : int
        Chunk of the batch; -1 for the whole batch.
    bound : str
        Bound of the op: "compute", "memory", "link" or "latency".
    step : int
        Step of a run; 0 for a single step.
    """

    stage: int
    layer: int
    lane: str
    stream: str
    op: str
    kind: str
    chunk: int
    bound: str
    start_s: float
    end_s: float
    step: int = 0


def bars_of(timelines: Sequence[Timeline], begin_s: float = 0.0) -> tuple[Bar, ...]:
    """Return the bars of a step, ordered by start; pipeline stages follow one after another.

    Parameters
    ----------
    begin_s : float
        When the step starts.
    """
    out: list[Bar] = []
    for stage, line in enumerate(timelines):
        for task, start, end in zip(line.graph.tasks, line.starts, line.ends, strict=True):
            for part in task.parts:
                low = begin_s + start + part.start
                # The end of the last part is set to the end of its task: sums of floats may differ in the last bit.
                last = part.start + part.seconds >= task.seconds * (1.0 - 1e-12)
                high = begin_s + end if last else low + part.seconds
                if high > low:
                    link = task.resource != COMPUTE
                    out.append(
                        Bar(stage, task.layer, part.unit, task.resource, part.name,
                            part.kind, task.chunk, "link" if link and part.bound == "memory"
                            else part.bound, low, high)
                    )  # fmt: skip
        begin_s += line.makespan
    return tuple(sorted(out, key=lambda bar: (bar.start_s, bar.lane)))


def records_of(bars: Sequence[Bar]) -> Records:
    """Return the bars as plain data."""
    return [asdict(bar) for bar in bars]


def frame_of(bars: Sequence[Bar]) -> pd.DataFrame:
    """Return the bars as the table that `plots.gantt` needs."""
    import pandas as pd

    return pd.DataFrame(records_of(bars), columns=list(Bar.__slots__))


def lane_rows(bars: Sequence[Bar]) -> Records:
    """Return the busy time of each processor and link as a printed table."""
    total = max((bar.end_s for bar in bars), default=0.0)
    busy: dict[str, float] = {}
    for bar in bars:
        busy[bar.lane] = busy.get(bar.lane, 0.0) + (bar.end_s - bar.start_s)
    return [{"busy": lane, "time": seconds(took), "of step": f"{took / total:.1%}"} for lane, took in busy.items()]


LAYERS = 2
"""Layers that a plot of a step shows."""


def middle_of(bars: Sequence[Bar]) -> tuple[float, float]:
    """Return the time range of `LAYERS` layers in the middle of a step [s]; all of it if there are fewer."""
    numbers = sorted({bar.layer for bar in bars if bar.layer >= 0})
    if len(numbers) <= LAYERS + 1:
        return bars[0].start_s, max(bar.end_s for bar in bars)
    first = (len(numbers) - LAYERS) // 2
    shown = [bar for bar in bars if bar.layer in numbers[first : first + LAYERS]]
    return min(bar.start_s for bar in shown), max(bar.end_s for bar in shown)

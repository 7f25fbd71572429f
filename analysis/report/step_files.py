"""The files of a step as bars: a Chrome trace for Perfetto."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..answers.step_timeline import Bar

Event = dict[str, object]
DIGITS = 4
"""Of microseconds: a tenth of a nanosecond."""


def write_bars(bars: Sequence[Bar], path: Path) -> None:
    """Write a step as a Chrome trace: a process a pipeline stage, a thread a processor or link.

    Parameters
    ----------
    path : Path
        File to write; its times are microseconds, as the format demands.
    """
    lanes: dict[tuple[int, str], int] = {}
    events: list[Event] = []
    for bar in bars:
        tid = lanes.setdefault((bar.stage, bar.lane), len(lanes) + 1)
        # Both ends are rounded, so that what touches does not overlap.
        start, end = (round(1e6 * at, DIGITS) for at in (bar.start_s, bar.end_s))
        about: Event = {"kind": bar.kind, "bound": bar.bound}
        about |= {"layer": bar.layer} if bar.layer >= 0 else {}
        about |= {"chunk": bar.chunk + 1} if bar.chunk >= 0 else {}
        events.append(
            {
                "name": bar.op, "cat": bar.kind, "ph": "X", "pid": bar.stage + 1, "tid": tid,
                "ts": start, "dur": round(end - start, DIGITS), "args": about,
            }
        )  # fmt: skip
    named: list[Event] = []
    for (stage, lane), tid in lanes.items():
        at: Event = {"ph": "M", "pid": stage + 1, "tid": tid}
        named.append({"name": "thread_name", **at, "args": {"name": lane}})
        named.append({"name": "thread_sort_index", **at, "args": {"sort_index": tid}})
    for stage in sorted({stage for stage, _ in lanes}):
        name = {"name": f"pipeline stage {stage + 1}"}
        named.append({"name": "process_name", "ph": "M", "pid": stage + 1, "args": name})
    text = ",\n".join(json.dumps(event) for event in named + events)
    path.write_text(f'{{"displayTimeUnit": "ns", "traceEvents": [\n{text}\n]}}\n', "utf-8")

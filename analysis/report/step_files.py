"""The files of steps as bars, and of what requests go through: a Chrome trace for Perfetto."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..answers.run_steps import Span
from ..answers.step_timeline import Bar

Event = dict[str, object]
DIGITS = 4
"""Of microseconds: a tenth of a nanosecond."""


REQUESTS = 100
"""Process number of the requests."""


def write_bars(bars: Sequence[Bar], path: Path, spans: Sequence[Span] = ()) -> None:
    """Write steps as a Chrome trace: a process a pipeline stage, a thread a processor or link.

    Parameters
    ----------
    spans : sequence of Span
        Spans of requests, which are threads of a separate process.
    path : Path
        File to write; its times are microseconds, as the format demands.
    """
    lanes: dict[tuple[int, str], int] = {}
    events: list[Event] = []
    for bar in bars:
        tid = lanes.setdefault((bar.stage, bar.lane), len(lanes) + 1)
        about: Event = {"kind": bar.kind, "bound": bar.bound}
        about |= {"layer": bar.layer} if bar.layer >= 0 else {}
        about |= {"chunk": bar.chunk + 1} if bar.chunk >= 0 else {}
        about |= {"step": bar.step} if spans else {}
        events.append(_event(bar.op, bar.kind, bar.stage + 1, tid, bar.start_s, bar.end_s, about))
    for span in spans:
        about = {"tokens": span.tokens}
        ends = span.start_s, span.end_s
        events.append(_event(span.what, "request", REQUESTS, span.request + 1, *ends, about))
    named: list[Event] = []
    for (stage, lane), tid in lanes.items():
        at: Event = {"ph": "M", "pid": stage + 1, "tid": tid}
        named.append({"name": "thread_name", **at, "args": {"name": lane}})
        named.append({"name": "thread_sort_index", **at, "args": {"sort_index": tid}})
    for stage in sorted({stage for stage, _ in lanes}):
        name = {"name": f"pipeline stage {stage + 1}"}
        named.append({"name": "process_name", "ph": "M", "pid": stage + 1, "args": name})
    for request in sorted({span.request for span in spans}):
        meta: Event = {"ph": "M", "pid": REQUESTS, "tid": request + 1}
        named.append({"name": "thread_name", **meta, "args": {"name": f"request {request}"}})
    if spans:
        args = {"name": "requests"}
        named.append({"name": "process_name", "ph": "M", "pid": REQUESTS, "args": args})
    text = ",\n".join(json.dumps(event) for event in named + events)
    path.write_text(f'{{"displayTimeUnit": "ns", "traceEvents": [\n{text}\n]}}\n', "utf-8")


def _event(name: str, kind: str, pid: int, tid: int, start_s: float, end_s: float, about: Event) -> Event:
    """A complete event; both ends are rounded, so that what touches does not overlap."""
    start, end = (round(1e6 * at, DIGITS) for at in (start_s, end_s))
    return {
        "name": name, "cat": kind, "ph": "X", "pid": pid, "tid": tid, "ts": start,
        "dur": round(end - start, DIGITS), "args": about,
    }  # fmt: skip

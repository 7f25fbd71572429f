"""Chrome traces, for Perfetto or chrome://tracing: a run's stages, a step's ops, the commands of a DRAM."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ...devices.dram.run import Command

MAX_STAGES = 200_000
"""Stages written at most; viewers struggle with more. The first ones are kept."""
FIRST_LANE = 100
"""Thread number of the first batch in flight."""
REQUESTS = 100
"""Process number of the requests."""
DIGITS = 4
"""Of microseconds in the trace of a step: a tenth of a nanosecond."""

Event = dict[str, object]


def _write(path: Path, events: Iterable[Event], unit: str = "ms") -> None:
    """Write a trace; its times are microseconds, as the format demands. `unit` is what viewers show."""
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"displayTimeUnit": "{unit}", "traceEvents": [')
        for i, event in enumerate(events):
            file.write((",\n" if i else "\n") + json.dumps(event))
        file.write("\n]}\n")


def _named(what: str, name: str, pid: int, tid: int | None = None) -> Event:
    """Return the trace event that names a process or a thread."""
    return {"name": what, "ph": "M", "pid": pid, **({} if tid is None else {"tid": tid}), "args": {"name": name}}


def _threads(names: Mapping[int, str], pid: int) -> Iterator[Event]:
    """Yield the trace events that name threads and set their order."""
    for tid, name in names.items():
        yield _named("thread_name", name, pid, tid)
        yield {"name": "thread_sort_index", "ph": "M", "pid": pid, "tid": tid, "args": {"sort_index": tid}}


def _ends(start_s: float, end_s: float, digits: int = 3) -> Event:
    """Return an event's start and duration [us] from its rounded ends, which keeps adjacent events from overlapping."""
    start, end = (round(1e6 * at, digits) for at in (start_s, end_s))
    return {"ts": start, "dur": round(end - start, digits)}


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """An engine as a separate process of the trace.

    Attributes
    ----------
    lanes : int
        Batches in flight at once (pipeline parallel); each has a separate track.
    """

    name: str
    devices: int
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class Sent:
    """KV transfers between prefill and decode pools: request, start and end [s], shape (n,) each."""

    request_id: npt.NDArray[np.int64]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]


def write_timeline(
    stages: dict[str, npt.NDArray[np.float64]], engines: Sequence[EngineProcess], path: Path, sent: Sent | None = None
) -> None:
    """Stream stages, processors and links as events; queue, sequences, KV bytes and power as counters.

    A stage is a group of steps with the same batch. Within it, a processor's or link's event is as long as it was busy,
    averaged over the devices; its position in the stage is not known.

    Parameters
    ----------
    stages : dict of array
        See `simulator.fleet.run.Run.stages`; times in seconds.
    engines : sequence of EngineProcess
        One that represents all, or one for each number in the column ``node``.
    sent : Sent, optional
        KV transfers between the pools, on a separate process.
    """
    _write(path, _run_events(stages, engines, sent))


def _run_events(
    stages: dict[str, npt.NDArray[np.float64]], engines: Sequence[EngineProcess], sent: Sent | None
) -> Iterator[Event]:
    """Events of a run's steps in Chrome's trace format, a process an engine."""
    tracks = [name for name in stages if name.startswith("busy_")]
    threads = ["stages", *(name.removeprefix("busy_").removesuffix("_s") for name in tracks)]
    for pid, engine in enumerate(engines, 1):
        yield _named("process_name", engine.name, pid)
        flights = {FIRST_LANE + k: f"batch in flight {k + 1}" for k in range(engine.lanes if engine.lanes > 1 else 0)}
        yield from _threads(dict(enumerate(threads, 1)) | flights, pid)
    seen = [0] * len(engines)
    for i in range(min(len(stages.get("start_s", ())), MAX_STAGES)):
        row = {name: float(column[i]) for name, column in stages.items()}
        node = int(row.get("node", 0))
        engine = engines[node]
        lane = FIRST_LANE + seen[node] % engine.lanes if engine.lanes > 1 else 1
        seen[node] += 1
        for event in [*_events(row, lane), *_busy(row, tracks, engine.devices)]:
            yield event | {"pid": node + 1}
    if sent is not None:
        yield from _sent(sent, len(engines) + 1)


def _sent(sent: Sent, pid: int) -> Iterator[Event]:
    """Transfers of caches as trace events that may overlap."""
    yield _named("process_name", "KV link", pid)
    columns = sent.request_id.tolist(), sent.start_s.tolist(), sent.end_s.tolist()
    for request, start, end in islice(zip(*columns, strict=True), MAX_STAGES):
        if not isnan(end):
            both: Event = {"name": f"KV cache of {request}", "cat": "kv", "id": request, "pid": pid, "tid": 1}
            yield both | {"ph": "b", "ts": round(start * 1e6, 3)}
            yield both | {"ph": "e", "ts": round(end * 1e6, 3)}


def write_bars(bars: Sequence[Any], path: Path, spans: Sequence[Any] = ()) -> None:
    """Write steps as a Chrome trace: a process a pipeline stage, a thread a processor or link.

    Parameters
    ----------
    bars : sequence of `run_steps.Bar`
    spans : sequence of `run_steps.Span`
        Spans of requests, which are threads of a separate process.
    """
    lanes: dict[tuple[int, str], int] = {}
    events: list[Event] = []
    for bar in bars:
        tid = lanes.setdefault((bar.stage, bar.lane), len(lanes) + 1)
        about: Event = {"kind": bar.kind, "bound": bar.bound}
        about |= {"layer": bar.layer} if bar.layer >= 0 else {}
        about |= {"chunk": bar.chunk + 1} if bar.chunk >= 0 else {}
        about |= {"step": bar.step} if spans else {}
        where: Event = {"name": bar.op, "cat": bar.kind, "ph": "X", "pid": bar.stage + 1, "tid": tid}
        events.append(where | _ends(bar.start_s, bar.end_s, DIGITS) | {"args": about})
    for span in spans:
        where = {"name": span.what, "cat": "request", "ph": "X", "pid": REQUESTS, "tid": span.request + 1}
        events.append(where | _ends(span.start_s, span.end_s, DIGITS) | {"args": {"tokens": span.tokens}})
    named = [event for (stage, lane), tid in lanes.items() for event in _threads({tid: lane}, stage + 1)]
    stages, requests = sorted({stage for stage, _ in lanes}), sorted({span.request for span in spans})
    named += [_named("process_name", f"pipeline stage {stage + 1}", stage + 1) for stage in stages]
    named += [_named("thread_name", f"request {request}", REQUESTS, request + 1) for request in requests]
    named += [_named("process_name", "requests", REQUESTS)] if spans else []
    _write(path, [*named, *events], "ns")


def write_commands(commands: Sequence[Command], path: Path) -> None:
    """Write commands as a Chrome trace: a process a pseudo channel, a track a bank."""
    channels = sorted({c.pseudo_channel for c in commands})
    banks = sorted({(c.pseudo_channel, c.bank) for c in commands})
    events = [_named("process_name", f"pseudo channel {pc}", pc + 1) for pc in channels]
    events += [
        _named("thread_name", "all banks" if bank < 0 else f"bank {bank}", pc + 1, bank + 2) for pc, bank in banks
    ]
    events += [
        {
            "name": c.name, "ph": "X", "pid": c.pseudo_channel + 1, "tid": c.bank + 2,
            "ts": round(1e6 * c.start_s, 6), "dur": round(1e6 * c.length_s, 6),
            **({"args": {"row": c.row}} if c.row >= 0 else {}),
        }
        for c in commands
    ]  # fmt: skip
    _write(path, events, "ns")


def _events(row: dict[str, float], lane: int) -> list[Event]:
    """Events of one step: its span, its sequences, its KV cache and its power."""
    start = round(row["start_s"] * 1e6, 3)
    stage: Event = {
        "name": _kind(row), "ph": "X", "pid": 1, "tid": lane, "ts": start,
        "dur": round((row["end_s"] - row["start_s"]) * 1e6, 3),
        "args": {k: int(row[k]) for k in ("steps", "decodes", "prefill_tokens", "prompts")},
    }  # fmt: skip
    counts: Event = {
        "name": "sequences", "ph": "C", "pid": 1, "ts": start,
        "args": {"running": int(row["running"]), "waiting": int(row["waiting"])},
    }  # fmt: skip
    kv: Event = {"name": "KV cache [bytes per device]", "ph": "C", "pid": 1, "ts": start,
          "args": {"held": int(row["kv_bytes"])}}  # fmt: skip
    power: Event = {"name": "power of a device [W]", "ph": "C", "pid": 1, "ts": start,
          "args": {"mean": round(row["watts"], 1)}}  # fmt: skip
    return [stage, counts, kv, power]


def _busy(row: dict[str, float], tracks: list[str], devices: int) -> list[Event]:
    """One trace event for each busy processor, and one for links."""
    return [
        {
            "name": f"{_kind(row)}, {row[name] / devices / (row['end_s'] - row['start_s']):.0%} busy",
            "ph": "X", "pid": 1, "tid": tid, "ts": round(row["start_s"] * 1e6, 3),
            "dur": round(row[name] / devices * 1e6, 3),
        }
        for tid, name in enumerate(tracks, 2)
        if row[name] > 0.0
    ]  # fmt: skip


def _kind(row: dict[str, float]) -> str:
    return "mixed" if row["prefill_tokens"] else "decoding-only"

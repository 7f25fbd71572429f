"""A run's stages as a Chrome trace, for Perfetto or chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isnan
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...simulator.streams.scheduler import Timeline

MAX_STAGES = 200_000
"""Stages written at most; viewers struggle with more. The first ones are kept."""

FIRST_LANE = 100
"""Thread number of the first batch in flight."""

Event = dict[str, object]


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
    """KV caches on their way between two pools: by request, from when to when [s]."""

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
        See `simulator.serving.run.Run.stages`; times in seconds.
    engines : sequence of EngineProcess
        One that represents all, or one for each number in the column ``node``.
    path : Path
        File to write; its times are microseconds, as the format demands.
    sent : Sent, optional
        KV transfers between the pools, on a separate process.
    """
    rows = min(len(stages.get("start_s", ())), MAX_STAGES)
    tracks = [name for name in stages if name.startswith("busy_")]
    names = [event for pid, engine in enumerate(engines, 1) for event in _names(tracks, engine, pid)]
    seen = [0] * len(engines)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        file.write(",\n".join(json.dumps(event) for event in names))
        for i in range(rows):
            row = {name: float(column[i]) for name, column in stages.items()}
            node = int(row.get("node", 0))
            engine = engines[node]
            lane = FIRST_LANE + seen[node] % engine.lanes if engine.lanes > 1 else 1
            seen[node] += 1
            for event in [*_events(row, lane), *_busy(row, tracks, engine.devices)]:
                file.write(",\n" + json.dumps(event | {"pid": node + 1}))
        for event in () if sent is None else _sent(sent, len(engines) + 1):
            file.write(",\n" + json.dumps(event))
        file.write("\n]}\n")


def _sent(sent: Sent, pid: int) -> Iterator[Event]:
    """Caches as events that may overlap."""
    yield {"name": "process_name", "ph": "M", "pid": pid, "args": {"name": "KV link"}}
    columns = sent.request_id.tolist(), sent.start_s.tolist(), sent.end_s.tolist()
    for request, start, end in islice(zip(*columns, strict=True), MAX_STAGES):
        if not isnan(end):
            both: Event = {"name": f"KV cache of {request}", "cat": "kv", "id": request, "pid": pid, "tid": 1}
            yield both | {"ph": "b", "ts": round(start * 1e6, 3)}
            yield both | {"ph": "e", "ts": round(end * 1e6, 3)}


def write_streams(timelines: Sequence[Timeline], path: Path) -> None:
    """Write one step as a Chrome trace: a thread a stream, an event a task.

    Parameters
    ----------
    timelines : sequence of Timeline
        Of the pipeline stages, one after another.
    path : Path
        File to write; its times are microseconds.
    """
    events: list[Event] = []
    begin = 0.0
    threads: dict[str, int] = {}
    for line in timelines:
        for task, start, end in zip(line.graph.tasks, line.starts, line.ends, strict=True):
            tid = threads.setdefault(task.resource, len(threads) + 1)
            events.append({
                "name": task.name, "ph": "X", "pid": 1, "tid": tid,
                "ts": round((begin + start) * 1e6, 3), "dur": round((end - start) * 1e6, 3),
                "args": {"chunk": task.chunk, "part": task.label},
            })  # fmt: skip
        begin += line.makespan
    named: list[Event] = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": {"name": name}}
        for name, tid in threads.items()
    ]
    text = ",\n".join(json.dumps(event) for event in named + events)
    path.write_text(f'{{"displayTimeUnit": "ms", "traceEvents": [\n{text}\n]}}\n', "utf-8")


def _names(tracks: list[str], process: EngineProcess, pid: int) -> list[Event]:
    """Names of an engine's tracks, in the order they are shown."""
    threads = ["stages", *(name.removeprefix("busy_").removesuffix("_s") for name in tracks)]
    lanes = process.lanes if process.lanes > 1 else 0
    out: list[Event] = [{"name": "process_name", "ph": "M", "pid": pid, "args": {"name": process.name}}]
    flights = [(FIRST_LANE + k, f"batch in flight {k + 1}") for k in range(lanes)]
    for tid, name in [*enumerate(threads, 1), *flights]:
        meta: Event = {"ph": "M", "pid": pid, "tid": tid}
        out.append({"name": "thread_name", **meta, "args": {"name": name}})
        out.append({"name": "thread_sort_index", **meta, "args": {"sort_index": tid}})
    return out


def _events(row: dict[str, float], lane: int) -> list[Event]:
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
    """One event a processor that was busy, and one for links."""
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

"""A run's stages as a Chrome trace, for Perfetto or chrome://tracing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAX_STAGES = 200_000
"""Stages written at most; viewers struggle with more. The first ones are kept."""


def write_timeline(stages: dict[str, npt.NDArray[np.float64]], path: Path) -> None:
    """Stream stages as events and queue length, running sequences and KV bytes as counters.

    Times are microseconds, as the format demands.
    """
    rows = min(len(stages.get("start_s", ())), MAX_STAGES)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        file.write(
            '{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "engine"}},\n'
            '{"name": "thread_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": "stages"}}'
        )
        for i in range(rows):
            row = {name: float(column[i]) for name, column in stages.items()}
            for event in _events(row):
                file.write(",\n" + json.dumps(event))
        file.write("\n]}\n")


def _events(row: dict[str, float]) -> list[dict[str, object]]:
    start = round(row["start_s"] * 1e6, 3)
    stage: dict[str, object] = {
        "name": "mixed" if row["prefill_tokens"] else "decoding-only",
        "ph": "X", "pid": 1, "tid": 1, "ts": start,
        "dur": round((row["end_s"] - row["start_s"]) * 1e6, 3),
        "args": {k: int(row[k]) for k in ("steps", "decodes", "prefill_tokens", "prompts")},
    }  # fmt: skip
    counts: dict[str, object] = {
        "name": "sequences", "ph": "C", "pid": 1, "ts": start,
        "args": {"running": int(row["running"]), "waiting": int(row["waiting"])},
    }  # fmt: skip
    kv: dict[str, object] = {"name": "KV cache [bytes per device]", "ph": "C", "pid": 1, "ts": start,
          "args": {"held": int(row["kv_bytes"])}}  # fmt: skip
    return [stage, counts, kv]

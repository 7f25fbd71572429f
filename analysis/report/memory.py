"""The files of ``opbyte dram --out``: commands as a timeline, bandwidth over strides and blocks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...devices.dram.timeline import Command
from ..answers.dram import DramAnswer, PimAnswer
from ..show.output import SIGNIFICANT, OutputFolder


def write_dram(result: DramAnswer | PimAnswer, folder: OutputFolder) -> None:
    """Write dram.json, and for streams of requests the sweep, its plot and the timeline."""
    if isinstance(result, DramAnswer):
        table = result.sweep()
        folder.frame("sweep.csv", table, SIGNIFICANT)
        folder.figure("bandwidth.png", result.figure(table))
        folder.write("timeline.json", partial(write_commands, result.commands()))
    folder.answer("dram.json", result)


def write_commands(commands: Sequence[Command], path: Path) -> None:
    """Write commands as a Chrome trace: a process a pseudo channel, a track a bank.

    Times are microseconds, as the format demands.
    """
    events: list[dict[str, object]] = []
    for pc in sorted({c.pseudo_channel for c in commands}):
        args = {"name": f"pseudo channel {pc}"}
        events.append({"name": "process_name", "ph": "M", "pid": pc + 1, "args": args})
    for pc, bank in sorted({(c.pseudo_channel, c.bank) for c in commands}):
        args = {"name": "all banks" if bank < 0 else f"bank {bank}"}
        tid = bank + 2
        events.append({"name": "thread_name", "ph": "M", "pid": pc + 1, "tid": tid, "args": args})
    for c in commands:
        event: dict[str, object] = {
            "name": c.name, "ph": "X", "pid": c.pseudo_channel + 1, "tid": c.bank + 2,
            "ts": round(1e6 * c.start_s, 6), "dur": round(1e6 * c.length_s, 6),
        }  # fmt: skip
        if c.row >= 0:
            event["args"] = {"row": c.row}
        events.append(event)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ns", "traceEvents": [\n')
        file.write(",\n".join(json.dumps(event) for event in events))
        file.write("\n]}\n")

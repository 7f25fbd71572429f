"""The table of serving points: columns, layouts in the notes, and rows that cannot be used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....devices.catalog import device_names
from ....workloads.csvfile import header_of, read_rows
from ....workloads.kernel_tables import Skipped
from ....workloads.requests.options import MAX_SIZE

COUNTS = ("gpus", "tp", "pp", "ep", "attention_dp", "isl", "osl", "batch_or_concurrency")
TIMES = ("ttft_s", "tpot_s")
SHORTEST_S = 1e-12
"""A measured time is none below it."""
TEXTS = ("source", "device", "framework", "framework_version", "model", "weight_dtype", "kv_dtype", "mode", "notes")
MODES = ("agg", "disagg")
LAYOUT = re.compile(r"prefill (\d+)x\(tp(\d+) dp(\d+) ep(\d+)\) decode (\d+)x\(tp(\d+) dp(\d+) ep(\d+)\)")
SUSPECT = "TTFT suspect"
BENCHMARK = "InferenceX"


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """A number of equal workers, each of ``tp * dp * pp`` devices with its experts sharded over `ep` groups."""

    count: int
    tp: int
    dp: int
    ep: int
    pp: int = 1

    @property
    def devices(self) -> int:
        """Return the number of devices of one worker."""
        return self.tp * self.dp * self.pp


@dataclass(frozen=True, slots=True)
class ServingPoint:
    """One measured run.

    Attributes
    ----------
    line : int
        In the file; the header is line 1.
    source : str
        Snapshot it was taken from.
    device, device_name : str
        Name in the catalog, and in the table.
    version : tuple of int
        Of the framework, its leading numbers; empty if not recorded: the public benchmark's split runs give their
        container's (Dynamo 0.8.1, not TensorRT-LLM 0.8).
    framework, model, weight_dtype, kv_dtype, mode : str
        As in the table; a mode is "agg" or "disagg".
    workers : WorkerGroup
        What serves; of a split deployment, what decodes.
    prefill : WorkerGroup or None
        What prefills in a split deployment.
    isl, osl, clients : int
        Nominal prompt and output [tokens], and clients of the closed loop.
    ttft_s, tpot_s : float
        Measured [s].
    suspect : bool
        Whether the table warns of its TTFT.
    """

    line: int
    source: str
    device: str
    device_name: str
    framework: str
    version: tuple[int, ...]
    model: str
    weight_dtype: str
    kv_dtype: str
    mode: str
    workers: WorkerGroup
    prefill: WorkerGroup | None
    isl: int
    osl: int
    clients: int
    ttft_s: float
    tpot_s: float
    suspect: bool

    @property
    def scripted(self) -> bool:
        """Whether the run is the public benchmark's, whose launch scripts are known."""
        return self.source.startswith(BENCHMARK)

    @property
    def gpus(self) -> int:
        """Devices of the whole deployment."""
        sides = (self.workers, self.prefill)
        return sum(w.count * w.devices for w in sides if w is not None)


def is_points(path: Path) -> bool:
    """Whether a table is of this form, by its header."""
    return {*TEXTS, *COUNTS, *TIMES} <= set(header_of(path))


def read_points(path: Path) -> tuple[list[ServingPoint], list[Skipped]]:
    """Read a table in the form of ``$OPBYTE_DATA/serving_points/points.csv``.

    Returns
    -------
    points, skipped
        Rows that can be simulated, and the others with the reason.

    Raises
    ------
    InputError
        No such file, no table, a missing column, or a cell that is not a number.
    """
    names = device_names()
    points: list[ServingPoint] = []
    skipped: list[Skipped] = []
    for line, named in read_rows(path, TEXTS, COUNTS, TIMES, SHORTEST_S, MAX_SIZE):
        reason = _unusable(named, names)
        if reason:
            skipped.append(Skipped(path.name, line, reason))
        else:
            points.append(_point(line, named, names))
    return points, skipped


def _unusable(row: dict[str, Any], names: dict[str, str]) -> str | None:
    """Return the reason why a row cannot be simulated; None if it can."""
    if row["device"] not in names:
        return f"device {row['device']!r} is not in the catalog"
    if row["mode"] not in MODES:
        return f"mode {row['mode']!r} is none of {', '.join(MODES)}"
    if row["mode"] == "disagg" and row["pp"] != 1:
        return f"pipeline parallel of {row['pp']} in separate pools is not simulated"
    devices = row["tp"] * row["attention_dp"] * row["pp"]
    if row["mode"] == "agg" and devices != row["gpus"]:
        return f"tp x attention_dp x pp is {devices}, not the {row['gpus']} GPUs of the row"
    if row["mode"] == "disagg":
        layout = _layout(row)
        if layout is None:
            return "its notes do not give the layout of prefill and decode workers"
        used = sum(w.count * w.devices for w in layout)
        if used != row["gpus"]:
            return f"the workers in its notes have {used} GPUs, not {row['gpus']}"
    return None


def _layout(row: dict[str, Any]) -> tuple[WorkerGroup, WorkerGroup] | None:
    """Return the prefill and decode workers from a row's notes; None if the notes do not give them."""
    match = LAYOUT.search(row["notes"])
    if match is None:
        return None
    n = [int(text) for text in match.groups()]
    return WorkerGroup(*n[:4]), WorkerGroup(*n[4:])


def _version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (1, 2, 0) for 1.2.0rc6.post2."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _point(line: int, row: dict[str, Any], names: dict[str, str]) -> ServingPoint:
    """Return the point of a table row; engines in a vendor's container have no known version."""
    prefill, workers = None, WorkerGroup(1, row["tp"], row["attention_dp"], row["ep"], row["pp"])
    if row["mode"] == "disagg":
        sides = _layout(row)
        assert sides is not None
        prefill, workers = sides
    contained = prefill is not None and row["source"].startswith(BENCHMARK)
    return ServingPoint(
        line=line, source=row["source"], device=names[row["device"]], device_name=row["device"],
        framework=row["framework"],
        version=() if contained else _version(row["framework_version"]), model=row["model"], weight_dtype=row["weight_dtype"],
        kv_dtype=row["kv_dtype"], mode=row["mode"], workers=workers, prefill=prefill,
        isl=row["isl"], osl=row["osl"], clients=row["batch_or_concurrency"],
        ttft_s=row["ttft_s"], tpot_s=row["tpot_s"], suspect=SUSPECT in row["notes"],
    )  # fmt: skip

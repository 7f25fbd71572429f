"""The DRAM model against runs of other simulators (``opbyte validate dram``)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...devices.dram.pattern import PatternRun, run_of
from ...devices.dram.pim import measure, stream_of
from ...devices.dram.run import drain_fraction, simulate
from ...devices.dram.spec import DramSpec, load_memory
from ...workloads.csvfile import read_whole
from ...workloads.errors import InputError, nearest, typed_number
from ...workloads.textfile import at_line
from ..show.output import SIGNIFICANT
from ..show.text import Blocks, Rows
from .check import Compared

COLUMNS = ("simulator", "config", "pattern", "params")
RESULTS = ("peak_x_ext", "achieved_x_ext")
"""Parameters with results of the simulator, like all that start with ``out_``; they are not part of a row's id."""

WORST, MEDIAN = 0.03, 0.003
"""Largest accepted error of a row with a tolerance, and of the median over Ramulator 2.1's rows."""

RAMULATOR, DRAMSIM, ATTACC = "ramulator2.1", "dramsim3", "attacc-ramulator2"
JUDGED_PIM = ("pim_mac_ab", "pim_mac_sb")
"""Patterns of AttAcc's simulator with a tolerance: streams over many banks. Other patterns are only reported."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One row of a table of DRAM runs: `measured` is the fraction of peak bandwidth that the simulator reached."""

    simulator: str
    config: str
    pattern: str
    params: Mapping[str, str]
    measured: float | None
    where: str

    @property
    def id(self) -> str:
        """Return the row's name: ``simulator/config/pattern/params``, without results."""
        params = ";".join(f"{key}={value}" for key, value in self.params.items())
        return f"{self.simulator}/{self.config}/{self.pattern}/{params}"

    @property
    def judged(self) -> bool:
        """Return whether the row has a measurement and a tolerance."""
        if self.measured is None:
            return False
        return self.simulator == RAMULATOR or (self.simulator == ATTACC and self.pattern.startswith(JUDGED_PIM))

    @property
    def timed(self) -> bool:
        """Return whether the row counts for the reported simulation speed: Ramulator 2.1 with one channel."""
        return self.simulator == RAMULATOR and self.params.get("nch", "1") == "1"


@dataclass(frozen=True, slots=True)
class Simulated:
    """A reference row with the model's value, the simulation's CPU time `cpu_s` [s] and its number of requests."""

    row: Reference
    simulated: float
    cpu_s: float
    requests: int

    @property
    def error(self) -> float | None:
        """Return the relative error, simulated / measured - 1; None without a measurement."""
        measured = self.row.measured
        return None if not measured else self.simulated / measured - 1.0

    @property
    def within(self) -> bool:
        """Return whether the error is within the tolerance; True for rows without a tolerance."""
        return not self.row.judged or (self.error is not None and abs(self.error) <= WORST)


@dataclass(frozen=True, slots=True)
class DramValidation(Compared):
    """The rows of a table of DRAM runs with simulated values, in the order of the file."""

    FILE = "dram.json"
    TABLES = (("rows.csv", "frame", SIGNIFICANT),)

    compared: tuple[Simulated, ...]

    @property
    def median_error(self) -> float | None:
        """Return the median absolute relative error of Ramulator 2.1's rows; None without such rows."""
        errors = [abs(c.error) for c in self.compared
                  if c.row.judged and c.row.simulator == RAMULATOR and c.error is not None]  # fmt: skip
        return float(np.median(errors)) if errors else None

    @property
    def passed(self) -> bool:
        """Return whether the errors of all rows and the median error are within their tolerances."""
        median = self.median_error
        return all(c.within for c in self.compared) and (median is None or median <= MEDIAN)

    @property
    def cpu_s(self) -> float:
        """Return the CPU time of all one-channel rows of Ramulator 2.1, without compilation and start [s]."""
        return sum(c.cpu_s for c in self.compared if c.row.timed)

    @property
    def requests(self) -> int:
        """Return the number of requests in all one-channel rows of Ramulator 2.1."""
        return sum(c.requests for c in self.compared if c.row.timed)

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": [
                {"id": c.row.id, "measured": c.row.measured, "simulated": round(c.simulated, 6)} for c in self.compared
            ],
            "cpu_s": self.cpu_s,
            "requests": self.requests,
            "median_error": self.median_error,
            "passed": self.passed,
        }

    def records(self) -> Rows:
        return [
            {
                "id": c.row.id, "measured": c.row.measured, "simulated": c.simulated,
                "error": c.error, "judged": c.row.judged, "within": c.within, "cpu_s": c.cpu_s,
                "requests": c.requests,
            }
            for c in self.compared
        ]  # fmt: skip

    def rows(self) -> Rows:
        out = []
        for key in dict.fromkeys((c.row.simulator, c.row.config) for c in self.compared):
            some = [c for c in self.compared if (c.row.simulator, c.row.config) == key]
            errors = [abs(c.error) for c in some if c.error is not None]
            out.append(
                {
                    "simulator": key[0], "memory": key[1], "rows": len(some),
                    "judged": sum(c.row.judged for c in some),
                    "median error": _percent(np.median(errors)) if errors else "-",
                    "worst": _percent(max(errors)) if errors else "-",
                    "failed": sum(not c.within for c in some),
                }
            )  # fmt: skip
        return out

    def blocks(self) -> Blocks:
        failed = [c for c in self.compared if not c.within]
        lines: Blocks = [self.rows()]
        for c in failed[:10]:
            lines.append(f"failed: {c.row.id}: {c.simulated:.5f} against {c.row.measured:.5f}")
        judged = sum(c.row.judged for c in self.compared)
        verdict = "PASS" if self.passed else "FAIL"
        lines.append(
            f"{verdict}: {judged - len(failed)} of {judged} judged rows within {WORST:.0%}"
            + ("" if self.median_error is None else f", median error of {RAMULATOR} {_percent(self.median_error)}")
        )
        if self.cpu_s > 0:
            lines.append(
                f"{self.requests:,} requests in {self.cpu_s:.2f} CPU seconds "
                f"({self.requests / self.cpu_s / 1e6:.1f} M a second; one-channel {RAMULATOR} rows)"
            )
        return lines


def validate_dram(path: str | Path) -> DramValidation:
    """Simulate every row of a table of DRAM runs and compare.

    Parameters
    ----------
    path : str or Path
        CSV with the columns simulator, config, pattern, params and, if there are results, fraction. Other columns are
        ignored.

    Raises
    ------
    InputError
        A file, column or parameter that cannot be used, with the line.
    """
    rows = read_references(Path(path))
    prepared = [_prepare(row) for row in rows]
    warm = next((work for work in prepared if isinstance(work[1], PatternRun)), None)
    if warm is not None:  # compiles, or loads what an earlier process has compiled
        simulate(warm[0], run_of("stride_read", {"S": "4096", "requests": "2000"}, "warm-up"))
    return DramValidation(tuple(_compare(*pair) for pair in zip(rows, prepared, strict=True)))


def read_references(path: Path) -> list[Reference]:
    """Read the rows of a table without simulating them."""
    columns = read_whole(path, COLUMNS)
    lines = columns[COLUMNS[0]].lines
    return [
        _reference({name: str(c.cells[i]).strip() for name, c in columns.items()}, at_line(path, n))
        for i, n in enumerate(lines)
    ]


def _reference(cells: Mapping[str, str], where: str) -> Reference:
    """Return the reference that a table row describes."""
    known = (RAMULATOR, DRAMSIM, ATTACC)
    if cells["simulator"] not in known:
        hint = nearest(cells["simulator"], known)
        raise InputError(where, f"unknown simulator {cells['simulator']!r}{hint}")
    params: dict[str, str] = {}
    for part in (p for p in cells["params"].split(";") if p):
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(where, f"params: {part!r} is not KEY=VALUE")
        if not key.startswith("out_") and key not in RESULTS:
            params[key] = value
    text = cells.get("fraction", "")
    measured = typed_number(text) if text else None
    if measured is not None and not 0 < measured < 100:
        raise InputError(where, f"fraction must be a positive number, not {text!r}")
    simulator, config, pattern = cells["simulator"], cells["config"], cells["pattern"]
    return Reference(simulator, config, pattern, params, measured, where)


Prepared = tuple[DramSpec, PatternRun | int]
"""A memory, and the requests to simulate or the number of commands of a stream over many banks."""


def _prepare(row: Reference) -> Prepared:
    """Build the simulation of a row; every input error is reported here."""
    try:
        memory = load_memory(row.config)
    except InputError as error:
        raise InputError(row.where, f"config: {error.reason} ({row.config})") from None
    params = dict(row.params)
    if row.simulator != ATTACC:
        params.pop("bankq", None)
        return memory, run_of(row.pattern, params, row.where)
    commands = params.get("cmds_per_ch", "")
    if not commands.isdecimal() or int(commands) < 1:
        raise InputError(row.where, f"params: cmds_per_ch must be a count, not {commands!r}")
    if row.pattern.startswith("pim_"):
        stream_of(memory, row.pattern, int(commands), True)
        return memory, int(commands)
    read = {"map": "bgi", "refresh": params.get("refresh", "all"), "requests": commands}
    return memory, run_of(row.pattern.removeprefix("ext_"), read, row.where)


def _compare(row: Reference, work: Prepared) -> Simulated:
    """Simulate one row and measure the CPU time of the simulation."""
    memory, what = work
    start = time.process_time()
    if not isinstance(what, PatternRun):
        stream = stream_of(memory, row.pattern, what, row.params.get("refresh", "all") != "none")
        fraction, requests = measure(memory, stream).fraction, what
    elif row.simulator == ATTACC:
        fraction, requests = drain_fraction(memory, what), what.length
    else:
        outcome = simulate(memory, what)
        fraction, requests = outcome.fraction, outcome.requests
    return Simulated(row, fraction, time.process_time() - start, requests)


def _percent(value: float) -> str:
    return f"{100 * value:.3f} %"

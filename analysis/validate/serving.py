"""Measured runs whose every request is known, replayed request by request (``opbyte validate runs``)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...devices.catalog import device_names
from ...devices.hosts.catalog import placed_in
from ...devices.hosts.spec import HostSpec
from ...devices.spec import SystemSpec
from ...simulator.engine.policies import without_front
from ...simulator.fleet.run import run
from ...simulator.frameworks.settings import EngineSettings
from ...simulator.results.record import Run
from ...simulator.scenario import Scenario
from ...simulator.scenario.build import engine_settings
from ...simulator.scenario.load import load
from ...simulator.scenario.place import deployed
from ...workloads.csvfile import numbers, read_whole
from ...workloads.errors import InputError
from ...workloads.kernel_tables import read_tables
from ...workloads.model import ModelSpec
from ...workloads.requests import RequestBlock, RequestStream
from ...workloads.requests.agents import MAX_TIME
from ...workloads.requests.options import MAX_SIZE
from ..answers.ranges import coverage
from ..answers.run_interval import RunIntervals, run_intervals
from ..show.text import Records
from .check import RunCheck
from .statistics import figures, per_token

if TYPE_CHECKING:
    import pandas as pd

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

STAMPS = ("queued_s", "first_token_s", "last_token_s")
LENGTHS = ("input_tokens", "output_tokens")


def latencies(table: MeasuredRequests, first_s: F8, last_s: F8) -> dict[str, F8]:
    """Return the times of requests by their timestamps [s] (README of $OPBYTE_DATA/serving_runs); TPOT is NaN for one token."""
    tpot = per_token(first_s, last_s, table.output_tokens)
    return {"ttft": first_s - table.queued_s, "tpot": tpot, "e2e": last_s - table.queued_s}


@dataclass(frozen=True, slots=True)
class MeasuredRequests:
    """Measured requests in order of queueing, shape (n,) each; lengths in tokens, timestamps in s."""

    request_id: npt.NDArray[np.object_]
    input_tokens: I8
    output_tokens: I8
    queued_s: F8
    first_token_s: F8
    last_token_s: F8

    def __len__(self) -> int:
        return len(self.request_id)

    @property
    def times(self) -> dict[str, F8]:
        """Measured `latencies`."""
        return latencies(self, self.first_token_s, self.last_token_s)


@dataclass(frozen=True, slots=True)
class ServingRun:
    """One run: measured and simulated times of the same requests.

    Attributes
    ----------
    name : str
        Folder of the run.
    simulated_first_s, simulated_last_s : float64 array, shape (n,)
    preemptions : int
        In the simulation.
    costs : str
        What the ops' times came from.
    coverage : list of dict
        How often they lay outside the kernel tables; see `coverage.coverage`.
    intervals : RunIntervals or None
        Factors on the simulated values; a whole request has the factors of its tokens.
    """

    name: str
    table: MeasuredRequests
    simulated_first_s: F8
    simulated_last_s: F8
    preemptions: int
    costs: str
    coverage: Records
    intervals: RunIntervals | None = None

    @property
    def simulated(self) -> dict[str, F8]:
        """Simulated `latencies`."""
        return latencies(self.table, self.simulated_first_s, self.simulated_last_s)

    @property
    def entry(self) -> RunCheck:
        """Return mean and quantiles of every latency, measured and simulated, with intervals."""
        measured, sure = figures(self.table.times), self.intervals
        factors = {} if sure is None else {n: sure.ttft if n.startswith("ttft") else sure.tpot for n in measured}
        return RunCheck(self.name, 0, measured, figures(self.simulated), self.costs, factors=factors)

    def requests(self) -> pd.DataFrame:
        """One row a request: measured and simulated latencies [s]."""
        import pandas as pd

        columns = {"request_id": self.table.request_id, "input_tokens": self.table.input_tokens,
                   "output_tokens": self.table.output_tokens}  # fmt: skip
        for name, measured in self.table.times.items():
            columns |= {f"{name}_measured_s": measured, f"{name}_simulated_s": self.simulated[name]}
        return pd.DataFrame(columns)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A run whose every request is known, ready to be served in any host.

    Attributes
    ----------
    kernels : bool
        By its own kernel tables.
    """

    folder: Path
    kernels: bool
    scenario: Scenario
    engine: EngineSettings
    table: MeasuredRequests
    system: SystemSpec
    model: ModelSpec

    def served(self, host: str | Path | HostSpec | None) -> Run:
        """Simulate the measured requests: they arrive when the engine queued them."""
        system = placed_in(self.system, host)
        d = deployed(self.model, system, self.scenario.deployment, self.engine)
        engine = self.engine.on(d)
        return run(d, without_front(engine.policy), _stream(self.folder.name, self.table), cache=engine.cache_for(d))


def read_replayed(folder: Path, kernels: bool) -> Replayed:
    """Read a run's folder: ``engine.json``, ``config.json``, ``requests.csv`` and ``kernels/``.

    `kernels` costs ops by the run's own kernel tables; otherwise the device's models do.

    Raises
    ------
    InputError
        A missing file or column, or a device that is not in the catalog.
    """
    tables = folder / "kernels" if kernels else None
    scenario = Scenario.of(folder / "config.json", engine=folder, kernels=tables)
    engine = engine_settings(scenario)
    devices = (engine.tp or 1) * (engine.dp or 1) * (engine.pp or 1)
    table = _requests(folder / "requests.csv")
    model, system = load(
        folder / "config.json", f"{_device(folder)}-x{devices}", engine.dtype, engine.kv_dtype, engine.max_model_len
    )
    return Replayed(folder, kernels, scenario, engine, table, system, model)


def replay_requests(folder: Path, kernels: bool, host: str | Path | None = None) -> ServingRun:
    """Replay one run request by request; see `read_replayed`."""
    kernels = kernels and (folder / "kernels").is_dir()
    known = read_replayed(folder, kernels)
    served = known.served(host)
    result = served.requests
    costs = "kernel tables of the run" if kernels else "the device's kernel models"
    return ServingRun(
        folder.name, known.table, result.first_token_s, result.last_token_s,
        int(result.preemptions.sum()), f"{known.system.name}, {costs}", coverage(served),
        run_intervals(served, open_loop=True),
    )  # fmt: skip


def _stream(name: str, table: MeasuredRequests) -> RequestStream:
    """Return the requests as a stream; each arrives when the engine queued it, between two steps."""
    block = RequestBlock(np.arange(len(table)), table.queued_s, table.input_tokens, table.output_tokens)
    return RequestStream(name, True, None, lambda: iter([block]))


def _device(folder: Path) -> str:
    """Return the catalog device of a run, from its kernel tables."""
    names = device_names()
    table_devices: list[str] = []
    if (folder / "kernels").is_dir():
        tables, _ = read_tables([folder / "kernels"], every_op=True)
        table_devices = sorted({str(name) for table in tables.values() for name in table["device"]})
    known = {names[name] for name in table_devices if name in names}
    if len(known) != 1:
        what = f"tables of {', '.join(table_devices)}" if table_devices else "no kernel tables"
        raise InputError(folder / "kernels", f"holds {what}; needs the tables of one device of the catalog")
    return known.pop()


def _requests(path: Path) -> MeasuredRequests:
    """Read the requests of a run, in order of queueing."""
    columns = read_whole(path, ("request_id", *LENGTHS, *STAMPS))
    lengths = [numbers(columns[n], 1, MAX_SIZE, whole=True).astype(np.int64) for n in LENGTHS]
    stamps = [numbers(columns[name], 0, MAX_TIME) for name in STAMPS]
    for (name, before), (later, after) in pairwise(zip(STAMPS, stamps, strict=True)):
        if (before > after).any():
            raise columns[name].error(int(np.argmax(before > after)), f"lies after {later}")
    ids = np.array(columns["request_id"].cells, dtype=object)
    order = np.lexsort((ids.astype(str), stamps[0]))
    return MeasuredRequests(*(column[order] for column in (ids, *lengths, *stamps)))

"""Residuals of a measured run, from which host numbers are fitted.

A run with known requests has one residual per request, of its time per output token; a run known by stages has one per
value of a stage and sample of its requests. TTFT is not used: it depends on queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ....devices.hosts.spec import HostSpec
from ....devices.spec import SystemSpec
from ....simulator.serving.finished import Requests as Simulated
from ....simulator.serving.record import Run
from ....workloads.csvfile import read_whole
from ....workloads.errors import InputError
from ..runs.replay import deployment_of, served_draws
from ..runs.result import KERNELS
from ..runs.spec import MeasuredRun, find_runs, read_run
from ..serving import Latencies, Replayed, read_replayed
from ..statistics import per_token

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
STRETCHES = 16
"""Time segments for resampling a run's requests: requests of one segment ran at the same time."""
STEPS = ("tpot", "itl")
"""Values of a stage that depend on its steps."""


@dataclass(frozen=True, slots=True)
class HostResult:
    """A run simulated in one host.

    Attributes
    ----------
    residuals : float64 array, shape (n,)
        Logarithms of simulated over measured seconds.
    group : int64 array, shape (n,)
        Residuals of one group rise and fall together.
    fitted : bool array, shape (n,)
        Values that a fit may use; the others are the test set.
    figures : mapping of str to (float, float)
        Measured and simulated seconds of each value.
    shares : mapping of str to float
        Shares of the steps' time: "link" for collectives.
    """

    residuals: F8
    group: I8
    fitted: npt.NDArray[np.bool_]
    figures: Mapping[str, tuple[float, float]]
    shares: Mapping[str, float]


class HostRun(Protocol):
    """A measured run, ready to be simulated in any host."""

    @property
    def name(self) -> str:
        """Of the run."""

    @property
    def system(self) -> SystemSpec:
        """What it ran on."""

    def compared(self, host: HostSpec) -> HostResult:
        """The run simulated in a host, against what was measured."""


def read_measured(path: Path, part: float = 1.0) -> HostRun:
    """Read the run of a folder, in any of the forms that ``opbyte validate runs`` takes.

    Parameters
    ----------
    part : float
        Share of the run, by the time of sending, whose requests a fit may use.

    Raises
    ------
    InputError
        No run, several, or one that `part` cannot cut.
    """
    if not path.is_dir():
        raise InputError(path, "is not a folder of a run")
    runs = find_runs(path)
    folders = [*runs.runs, *runs.requests]
    if len(folders) != 1:
        raise InputError(path, f"holds {len(folders)} runs; a host is fitted to one of them")
    if runs.requests:
        folder = runs.requests[0]
        known = read_replayed(folder, (folder / "kernels").is_dir())
        return ByRequest(folder.name, known.system, known, part)
    run = read_run(runs.runs[0])
    system = deployment_of(run, KERNELS)[0].system
    if run.requests is not None:
        return Recorded(run.name, system, run, part)
    if part < 1.0:
        raise InputError("--part", f"needs recorded requests; {run.name} is known by its stages")
    return ByStage(run.name, system, run)


@dataclass(frozen=True, slots=True)
class ByRequest:
    """A run with the engine's timestamps of every request."""

    name: str
    system: SystemSpec
    known: Replayed
    part: float

    def compared(self, host: HostSpec) -> HostResult:
        served, t = self.known.served(host), self.known.table
        queued, tokens, out = t.queued_s, t.output_tokens, served.requests
        measured = Latencies.of(queued, t.first_token_s, t.last_token_s, tokens)
        simulated = Latencies.of(queued, out.first_token_s, out.last_token_s, tokens)
        statistics = measured.statistics()
        figures = {k: (statistics[k], x) for k, x in simulated.statistics().items()}
        return _requests(queued, measured.tpot, simulated.tpot, self.part, figures, served)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run written by `opbyte record`: a client's timestamps of every request."""

    name: str
    system: SystemSpec
    run: MeasuredRun
    part: float

    def compared(self, host: HostSpec) -> HostResult:
        d, settings = deployment_of(self.run, KERNELS, host)
        ((metrics, served),) = served_draws(self.run, d, settings, 1)
        out = served.requests
        measured = self._tpot(out)
        figures = {k: (x, metrics[0][k]) for k, x in self.run.measured[0].items()}
        simulated = per_token(out.first_token_s, out.last_token_s, out.output_tokens)
        return _requests(out.arrival_s, measured, simulated, self.part, figures, served)

    def _tpot(self, out: Simulated) -> F8:
        """Measured seconds per output token, in the order of the simulated requests; NaN without."""
        assert self.run.requests is not None
        names = ("request_id", "first_token_s", "last_token_s", "output_tokens")
        columns = read_whole(self.run.requests, names)
        ids, first, last, tokens = (np.array([_number(c) for c in columns[n].cells]) for n in names)
        order = np.argsort(ids, kind="stable")
        return per_token(first, last, tokens)[order[np.searchsorted(ids[order], out.request_id)]]


@dataclass(frozen=True, slots=True)
class ByStage:
    """A run that is known by its load and the values of its stages."""

    name: str
    system: SystemSpec
    run: MeasuredRun
    draws: int = 3

    def compared(self, host: HostSpec) -> HostResult:
        d, settings = deployment_of(self.run, KERNELS, host)
        drawn = list(served_draws(self.run, d, settings, self.draws))
        residuals, group = [], []
        for i, (metrics, _) in enumerate(drawn):
            for s, statistics in enumerate(self.run.measured):
                for name, value in statistics.items():
                    if name.startswith(STEPS):
                        residuals.append(np.log(metrics[s][name] / value))
                        group.append(i * len(self.run.measured) + s)
        figures = {
            f"{name} of stage {s}": (value, float(np.mean([m[s][name] for m, _ in drawn])))
            for s, statistics in enumerate(self.run.measured)
            for name, value in statistics.items()
        }
        return HostResult(
            np.array(residuals), np.array(group, dtype=np.int64),
            np.ones(len(residuals), dtype=bool), figures, _shares(drawn[0][1]),
        )  # fmt: skip


def _requests(
    sent: F8, measured: F8, simulated: F8, part: float, figures: Mapping[str, tuple[float, float]], served: Run
) -> HostResult:
    """Return residuals of requests with more than one token, in segments of their sending time."""
    there = np.isfinite(measured) & (measured > 0.0) & (simulated > 0.0)
    if not there.any():
        raise InputError(served.workload, "has no request of more than one token")
    order = np.argsort(sent[there], kind="stable")
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    span = float(np.ptp(sent[there])) or 1.0
    used = sent[there] - sent[there].min() <= part * span
    group = ranks * STRETCHES // len(ranks)
    logs = np.log(simulated[there] / measured[there])
    return HostResult(logs, group, used, figures, _shares(served))


def _shares(served: Run) -> dict[str, float]:
    """Share of the ops' time that collectives inside a node take."""
    total = sum(op.wall_s for op in served.ops)
    links = sum(op.wall_s for op in served.ops if op.layer == "communication")
    return {"link": links / total if total else 0.0}


def _number(cell: object) -> float:
    """A cell of a request; what a request lacks, since it failed, is NaN."""
    try:
        return float(str(cell))
    except ValueError:
        return float("nan")

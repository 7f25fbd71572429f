"""Residuals of a measured run, from which host numbers are fitted.

A run with known requests has one residual per request, of its time per output token; a run known by stages has one per
value of a stage and sample of its requests. TTFT is not used: it depends on queues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ....devices.hosts.spec import HostSpec
from ....devices.spec import SystemSpec
from ....simulator.results.record import Run
from ....workloads.csvfile import read_whole
from ....workloads.errors import InputError, typed_number
from ..runs.replay import deployment_of, served_draws
from ..runs.result import KERNELS
from ..runs.spec import MeasuredRun, find_runs, read_run
from ..serving import Replayed, latencies, read_replayed
from ..statistics import figures, per_token

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
STRETCHES = 16
"""Number of groups of consecutive requests for resampling: requests of one group ran at about the same time."""
STEPS, DRAWS = ("tpot", "itl"), 3
"""Metrics of a stage that a fit uses, because they depend on steps; number of samples of a run's requests."""


@dataclass(frozen=True, slots=True)
class HostResult:
    """Result of simulating a measured run with one host's numbers.

    Attributes
    ----------
    residuals : float64 array, shape (n,)
        ln(simulated / measured time).
    group : int64 array, shape (n,)
        Group of each residual; residuals of one group are correlated.
    fitted : bool array, shape (n,)
        Whether a fit may use the residual; the others are the test set.
    figures : mapping of str to (float, float)
        Measured and simulated time of each metric [s].
    shares : mapping of str to float
        Share of the ops' time in collectives, under "link".
    """

    residuals: F8
    group: I8
    fitted: npt.NDArray[np.bool_]
    figures: Mapping[str, tuple[float, float]]
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class HostRun:
    """A measured run that can be simulated with any host.

    Attributes
    ----------
    compared : callable
        Simulates the run with a host and compares it with the measured times.
    """

    name: str
    system: SystemSpec
    compared: Callable[[HostSpec], HostResult]


def read_measured(path: Path, part: float = 1.0) -> HostRun:
    """Read the run of a folder, in any of the forms that ``opbyte validate runs`` takes.

    Parameters
    ----------
    part : float
        Share of the run's duration from which a fit may use requests, by sending time from the start.

    Raises
    ------
    InputError
        No run, several runs, or `part` below 1 for a run without recorded requests.
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
        return HostRun(folder.name, known.system, partial(_by_request, known, part))
    run = read_run(runs.runs[0])
    if run.requests is None and part < 1.0:
        raise InputError("--part", f"needs recorded requests; {run.name} has only results per stage")
    compared = partial(_by_stage, run) if run.requests is None else partial(_recorded, run, run.requests, part)
    return HostRun(run.name, deployment_of(run, KERNELS)[0].system, compared)


def _by_request(known: Replayed, part: float, host: HostSpec) -> HostResult:
    """Simulate a run that has the engine's timestamps of every request."""
    served, table = known.served(host), known.table
    simulated = latencies(table, served.requests.first_token_s, served.requests.last_token_s)
    statistics = figures(table.times)
    both = {k: (statistics[k], x) for k, x in figures(simulated).items()}
    return _requests(table.queued_s, table.times["tpot"], simulated["tpot"], part, both, served)


def _recorded(run: MeasuredRun, requests: Path, part: float, host: HostSpec) -> HostResult:
    """Simulate a run of `opbyte record`, which has a client's timestamps of every request."""
    d, settings = deployment_of(run, KERNELS, host)
    ((metrics, served),) = served_draws(run, d, settings, 1)
    out = served.requests
    both = {k: (x, metrics[0][k]) for k, x in run.measured[0].items()}
    names = ("request_id", "first_token_s", "last_token_s", "output_tokens")
    columns = read_whole(requests, names)
    ids, first, last, tokens = (np.array([typed_number(c) for c in columns[n].cells]) for n in names)
    order = np.argsort(ids, kind="stable")
    measured = per_token(first, last, tokens)[order[np.searchsorted(ids[order], out.request_id)]]
    simulated = per_token(out.first_token_s, out.last_token_s, out.output_tokens)
    return _requests(out.arrival_s, measured, simulated, part, both, served)


def _by_stage(run: MeasuredRun, host: HostSpec) -> HostResult:
    """Simulate a run that has only its load and the measured values of its stages."""
    d, settings = deployment_of(run, KERNELS, host)
    samples = list(served_draws(run, d, settings, DRAWS))
    measured = [(s, name, value) for s, stage in enumerate(run.measured) for name, value in stage.items()]
    steps = [
        (np.log(metrics[s][name] / value), i * len(run.measured) + s)
        for i, (metrics, _) in enumerate(samples) for s, name, value in measured if name.startswith(STEPS)
    ]  # fmt: skip
    both = {
        f"{name} of stage {s}": (value, float(np.mean([m[s][name] for m, _ in samples]))) for s, name, value in measured
    }
    residuals, group = np.array(steps).reshape(-1, 2).T
    used = np.ones(len(residuals), dtype=bool)
    return HostResult(residuals, group.astype(np.int64), used, both, _shares(samples[0][1]))


def _requests(
    sent: F8, measured: F8, simulated: F8, part: float, both: Mapping[str, tuple[float, float]], served: Run
) -> HostResult:
    """Return the residuals of requests with more than one token; groups are requests sent one after another.

    `measured` and `simulated` are times per output token [s], `both` the metrics of the run.
    """
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
    return HostResult(logs, group, used, both, _shares(served))


def _shares(served: Run) -> dict[str, float]:
    """Return the share of the ops' time in communication, by name ``link``."""
    total = sum(op.wall_s for op in served.ops)
    links = sum(op.wall_s for op in served.ops if op.layer == "communication")
    return {"link": links / total if total else 0.0}

"""`opbyte capacity`: the highest load within a service level, and what stands in the way of more.

Load is requests per second. A trace keeps its own arrivals, played faster or slower; lengths
alone get Poisson (or gamma) arrivals. The search runs whole simulations: it doubles the load
until the level is missed, then bisects on the logarithm down to the tolerance.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...devices.spec import SystemSpec
from ...simulator.serving.record import Run
from ...workloads.errors import CapacityError, InputError, nearest
from ...workloads.requests import open_requests
from ...workloads.requests.options import check_count, check_real
from ..answers.limits import Limit, limit_of
from ..answers.load import load
from ..answers.simulate import Simulation, simulate
from ..answers.summary import LATENCIES, MOST_WAITING, QUANTILES, waiting_at_end
from ..show.result import Result, seconds, show
from ..show.workers import worker_pool
from .sweep.point import costs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..report import Drawing, Section

Told = Callable[[int, int], None]
MEASURES = {name.removesuffix("_s"): name for name in LATENCIES}
"""Names in a service level -> names in results."""
DEFAULT_REQUESTS = 1000
PROBE_CLIENTS, PROBE_REQUESTS = 64, 256
"""Closed loop whose rate says where to begin: a quarter of it."""
LOWEST, HIGHEST = 1 / 1024, 4096.0
"""Loads tried at least and at most, as multiples of the first."""
SEARCHED = ("rate", "rate_scale", "closed_loop", "seeds", "keep_stages", "progress", "model",
            "system")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tried:
    """One simulated load.

    Attributes
    ----------
    load_per_s : float
        Requests per second.
    output_tokens_per_s : float or None
    figures : dict of str to float
        The latencies of the service level, by name [s].
    missed : tuple of str
        Names whose limit is exceeded; "load" where requests come faster than they are served.
    """

    load_per_s: float
    output_tokens_per_s: float | None
    figures: dict[str, float | None]
    missed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The capacity of one system.

    Attributes
    ----------
    load_per_s : float or None
        Highest load within the level; None if even the lightest misses it.
    next_load_per_s : float or None
        Lowest load tried that misses it.
    joules_per_token, usd_per_million_tokens : float or None
        At that load; None without a price or a load.
    limit : Limit or None
        Why the next load fails.
    reason : str
        The same in a sentence.
    tried : tuple of Tried
        Every load, in order.
    spec, sources, evidence
        What the figures rest on; see `Simulation`.
    """

    system: str
    devices: int
    load_per_s: float | None
    next_load_per_s: float | None
    output_tokens_per_s: float | None
    joules_per_token: float | None
    usd_per_million_tokens: float | None
    limit: Limit | None
    reason: str
    tried: tuple[Tried, ...]
    spec: SystemSpec
    sources: Mapping[str, str]
    evidence: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Capacity(Result):
    """Highest loads within a service level; see `capacity`."""

    model: str
    workload: str
    level: dict[str, float]
    found: tuple[Found, ...]
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        names = ("system", "devices", "load_per_s", "next_load_per_s", "output_tokens_per_s",
                 "joules_per_token", "usd_per_million_tokens", "reason")  # fmt: skip
        return {
            "model": self.model,
            "workload": self.workload,
            "slo": self.level,
            "tolerance": self.tolerance,
            "rows": [
                {name: getattr(f, name) for name in names}
                | {"limit": f.limit.to_dict() if f.limit else None}
                | {"at_load": best.figures if best else None}
                for f in self.found
                for best in [_best(f)]
            ],
            "tried": self.curve(),
        }

    def curve(self) -> list[dict[str, Any]]:
        """One row per simulated load: run, load, throughput, latencies, whether it holds."""
        return [
            {
                "run": f.system,
                "load_per_s": t.load_per_s,
                "output_tokens_per_s": t.output_tokens_per_s,
                **{MEASURES_OF[name]: t.figures[name] for name in self.level},
                "within": not t.missed,
            }
            for f in self.found
            for t in f.tried
        ]

    def records(self) -> Sequence[Mapping[str, Any]]:
        rows: list[dict[str, Any]] = self.to_dict()["rows"]
        return [
            {k: v for k, v in row.items() if k not in ("limit", "at_load")}
            | (row["at_load"] or dict.fromkeys(self.level))
            for row in rows
        ]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        out = []
        for f in self.found:
            best = _best(f)
            out.append(
                {
                    "system": f.system,
                    "requests/s": "none" if f.load_per_s is None else show(f.load_per_s),
                    "output tokens/s": f.output_tokens_per_s,
                    **{
                        name.replace("_", " "): seconds(best.figures[name]) if best else None
                        for name in self.level
                    },
                    "J/token": f.joules_per_token,
                    "USD/M tokens": f.usd_per_million_tokens,
                    "limited by": f.limit.resource if f.limit else "-",
                }
            )
        return out

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        level = ", ".join(f"{n.replace('_', ' ')} <= {seconds(x)}" for n, x in self.level.items())
        return [
            f"{self.model}, {self.workload}: highest load with {level}",
            self.rows(),
            *(f"{f.system}: {f.reason}" for f in self.found),
        ]

    def sections(self) -> Sequence[Section]:
        from ..report.studies import capacity_sections

        return capacity_sections(self)

    def drawings(self) -> Sequence[Drawing]:
        from ..report import Drawing

        caption = "Latencies of the service level against load; dashed: the most allowed."
        return [Drawing(self.figure(), caption)]

    def figure(self) -> Figure:
        """Draw the latencies of the level against load."""
        import pandas as pd

        from ..plots import throughput_latency

        names = tuple(MEASURES_OF[name] for name in self.level)[:3]
        limits = {MEASURES_OF[name]: most for name, most in self.level.items()}
        title = f"{self.model}, {self.workload}"
        return throughput_latency(
            pd.DataFrame(self.curve()), names, title, load="load_per_s", limits=limits
        )


MEASURES_OF = {f"{s}_{q}": f"{name}_{q}" for s, name in MEASURES.items() for q in QUANTILES}
"""``ttft_p99`` -> ``ttft_s_p99``."""


def _best(found: Found) -> Tried | None:
    return next((t for t in found.tried if t.load_per_s == found.load_per_s), None)


def read_level(given: str | Mapping[str, float]) -> dict[str, float]:
    """Read a service level: latency and quantile -> most seconds.

    Raises
    ------
    InputError
        Not of the form, an unknown name, or no positive number.

    Examples
    --------
    >>> read_level("ttft_p99=1, tbt_p99=0.05")
    {'ttft_p99': 1.0, 'tbt_p99': 0.05}
    """
    pairs: dict[str, Any] = {}
    if isinstance(given, str):
        for entry in given.split(","):
            name, equals, text = (part.strip() for part in entry.partition("="))
            if not equals or name in pairs:
                raise InputError("--slo", f"must be NAME=SECONDS, each once, not {entry!r}")
            try:
                if "_" in text:  # Python reads 1_0 as 10; no other option does
                    raise ValueError
                pairs[name] = float(text)
            except ValueError:
                raise InputError(f"--slo {name}", f"must be seconds, not {text!r}") from None
    else:
        pairs = dict(given)
    for name, value in pairs.items():
        if name not in MEASURES_OF:
            raise InputError(f"--slo {name!r}", f"unknown latency{nearest(name, MEASURES_OF)}")
        check_real(value, f"--slo {name}", 1e-9, 1e9)
    if not pairs:
        raise InputError("--slo", "needs at least one limit, for example ttft_p99=1")
    return {name: float(value) for name, value in pairs.items()}


def capacity(
    model: str | Path,
    systems: Sequence[str | Path] | str,
    slo: str | Mapping[str, float],
    *,
    requests: int | None = None,
    tolerance: float = 0.02,
    workers: int | None = None,
    told: Told | None = None,
    **options: Any,
) -> Capacity:
    """Find the highest load that each system serves within a service level.

    Parameters
    ----------
    model : str or Path
    systems : sequence of str or Path, or str
        Names or files; one text may hold several, parted by commas.
    slo : str or mapping of str to float
        For example ``ttft_p99=1,tbt_p99=0.05``: ttft, tbt, tpot or e2e, with mean, p50, p90 or
        p99, and the most seconds allowed.
    requests : int, optional
        Requests of every simulation (of a trace, the first ones); 1,000 by default.
    tolerance : float
        Load is found to this fraction.
    workers : int, optional
        Processes; one a system, at most one a core, by default.
    told : callable, optional
        Told (systems done, systems in all).
    **options
        Other arguments of `simulate`, such as ``trace``, ``input_len`` or ``policy``.

    Returns
    -------
    Capacity

    Raises
    ------
    InputError
        Anything wrong with the arguments or files.
    """
    level = read_level(slo)
    listed: Sequence[str | Path] = systems.split(",") if isinstance(systems, str) else systems
    names = [name.strip() if isinstance(name, str) else name for name in listed]
    if not names or not all(map(str, names)):
        raise InputError("--systems", "needs names by commas, for example h100-x4,duplex-x4")
    for name in options:
        if name in SEARCHED:
            raise InputError(f"--{name.replace('_', '-')}", "is what the search sets")
    check_real(tolerance, "--tolerance", 1e-4, 1.0)
    limit = check_count(DEFAULT_REQUESTS if requests is None else requests, "--requests", 2)
    task = _Task(str(model), level, tolerance, {**options, "requests": limit})
    if workers is None:
        workers = min(os.cpu_count() or 1, len(names))
    check_count(workers, "--workers", 1, 1024)
    found: dict[str | Path, tuple[Found, str, str]] = {}
    if workers == 1 or len(names) == 1:
        for i, system in enumerate(names):
            found[system] = _search(task, system)
            if told is not None:
                told(i + 1, len(names))
    else:
        with worker_pool(workers) as pool:
            futures = {pool.submit(_search, task, system): system for system in names}
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                if told is not None:
                    told(len(found), len(names))
    ordered = [found[system] for system in names]
    return Capacity(
        ordered[0][1], ordered[0][2], level, tuple(f for f, _, _ in ordered), tolerance
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Task:
    """What all systems are asked."""

    model: str
    level: dict[str, float]
    tolerance: float
    options: dict[str, Any]

    def run(self, system: str | Path, **changes: Any) -> Simulation:
        result = simulate(self.model, system, **{**self.options, **changes})
        assert isinstance(result, Simulation)
        return result


def _search(task: _Task, system: str | Path) -> tuple[Found, str, str]:
    """Capacity of one system, with the names of model and workload."""
    try:
        return _searched(task, system)
    except CapacityError as error:  # a load that no system of this size can carry is an answer
        model, where = load(task.model, system)
        found = Found(
            system=where.name, devices=where.nodes * where.devices_per_node, load_per_s=None,
            next_load_per_s=None, output_tokens_per_s=None, joules_per_token=None,
            usd_per_million_tokens=None, limit=Limit("memory capacity", 1.0, str(error)),
            reason=error.reason, tried=(), spec=where, sources={}, evidence=(),
        )  # fmt: skip
        return found, model.name, str(task.options.get("trace") or "the workload")


def _searched(task: _Task, system: str | Path) -> tuple[Found, str, str]:
    knob, unit = _knob(task)
    tried: dict[float, Tried] = {}
    within: dict[float, Simulation] = {}

    def passes(rate: float) -> bool:
        simulation = task.run(system, **{knob: rate / unit})
        tried[rate] = _judged(simulation.run, rate, task.level)
        if not tried[rate].missed:
            within.clear()  # of the loads that pass, the last is the highest
            within[rate] = simulation
        return not tried[rate].missed

    probe = task.run(
        system, closed_loop=PROBE_CLIENTS, requests=min(task.options["requests"], PROBE_REQUESTS),
        warmup=None, spread=None,  # a closed loop has no stamps to spread
    )  # fmt: skip
    start = len(probe.run.requests.request_id) / probe.run.makespan_s / 4
    low, high = _bracket(passes, start)
    while low is not None and high is not None and high / low > 1 + task.tolerance:
        middle = float(f"{(low * high) ** 0.5:.6g}")
        if middle in (low, high):
            break
        low, high = (middle, high) if passes(middle) else (low, middle)
    best = None if low is None else within[low]
    limit, reason = None, ""
    if high is None:
        reason = f"still within the level at {low:g} requests/s, the highest load tried"
    else:
        failing = task.run(system, **{knob: high / unit}, keep_stages=True)
        missed = tried[high].missed
        limit = limit_of(failing.run, {n: x for n, x in task.level.items() if n in missed})
        reason = _reason(tried[high], task.level, limit, low is None)
    shown = best or probe
    where = shown.run.deployment.system
    rate = best.run.output_tokens_per_s if best else None
    fleet = task.options.get("fleet")
    price = costs(shown, rate, fleet.replicas if fleet else 1)
    found = Found(
        system=where.name, devices=int(price["devices"] or 0), load_per_s=low,
        next_load_per_s=high, output_tokens_per_s=rate,
        joules_per_token=best.run.joules_per_token if best else None,
        usd_per_million_tokens=price["usd_per_million_tokens"],
        limit=limit, reason=reason,
        tried=tuple(sorted(tried.values(), key=lambda t: t.load_per_s)),
        spec=where, sources=shown.sources, evidence=shown.evidence,
    )  # fmt: skip
    return found, shown.run.deployment.model.name, shown.run.workload


def _knob(task: _Task) -> tuple[str, float]:
    """The argument that sets the load, and the load [1/s] at which it is 1."""
    trace = task.options.get("trace")
    if trace is None:
        return "rate", 1.0
    names = ("spread", "duration", "seed")
    kept = {name: task.options[name] for name in names if task.options.get(name) is not None}
    try:
        block = open_requests(trace, limit=task.options["requests"], **kept).read()
    except InputError as error:
        if "no arrival times" in error.reason:
            return "rate", 1.0
        raise
    span = float(block.arrival_s[-1] - block.arrival_s[0]) if len(block) > 1 else 0.0
    if span <= 0:
        return "rate", 1.0
    return "rate_scale", (len(block) - 1) / span


def _bracket(passes: Callable[[float], bool], start: float) -> tuple[float | None, float | None]:
    """A load that passes and one that fails, a factor of two apart; None where there is none."""
    load = float(f"{start:.6g}")
    if passes(load):
        while load < start * HIGHEST:
            if not passes(2 * load):
                return load, 2 * load
            load *= 2
        return load, None
    while load > start * LOWEST:
        if passes(load / 2):
            return load / 2, load
        load /= 2
    return None, load


def _judged(run: Run, load: float, level: Mapping[str, float]) -> Tried:
    figures = {
        name: getattr(getattr(run, MEASURES[name.partition("_")[0]]), name.partition("_")[2])
        for name in level
    }
    missed = [name for name, most in level.items() if (figures[name] or 0.0) > most]
    if waiting_at_end(run) > MOST_WAITING:
        missed.append("load")
    return Tried(load, run.output_tokens_per_s, figures, tuple(missed))


def _reason(tried: Tried, level: Mapping[str, float], limit: Limit, none: bool) -> str:
    parts = [
        f"{name.replace('_', ' ')} is {seconds(value)}, {value / level[name] - 1:.1%} too long"
        for name in tried.missed
        if (value := tried.figures.get(name)) is not None
    ]
    if "load" in tried.missed:
        parts.append("requests come faster than they are served")
    even = "even at " if none else "at "
    return f"{even}{show(tried.load_per_s)} requests/s {' and '.join(parts)}: {limit.why}"

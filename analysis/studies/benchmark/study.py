"""Run a benchmark: each scenario by its own scoring, on the best split of the devices into replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ....devices.catalog import load_system
from ....devices.spec import SystemSpec
from ....simulator.scenario import Scenario
from ....workloads.errors import CapacityError, InputError
from ...answers.benchmarks import BENCHMARKS, CURVE, OFFLINE, SERVER, Benchmark, Published, replica_sizes
from ...answers.interval import Interval, interval_dict
from ...answers.simulate import Simulation, simulate
from ...parallel import OnProgress
from ...show.result import Result
from ...show.text import seconds
from ..capacity import capacity

if TYPE_CHECKING:
    from ....simulator.scenario.keywords import ScenarioKeywords

CLIENTS, GENERATIONS = (128, 256, 512, 1024), 6
"""Sequences at once in a replica in scenario "offline", of which the best is taken as who submits would, and
requests for each."""
SET_HERE = ("rate", "rate_scale", "closed_loop", "trace", "input_len", "output_len", "lengths", "system")
"""Options that the benchmark sets."""


@dataclass(frozen=True, slots=True)
class Score:
    """One score.

    Attributes
    ----------
    clients : int or None
        Of a closed loop, a replica's.
    layout : str
        Replicas and their degrees.
    output_tokens_per_s : float or None
        The score, of the whole system; None where no load is within the level.
    requests_per_s : float or None
        Load of scenario "server".
    interval : Interval or None
        Factors on the score.
    reason : str
        What stands in the way of more, in scenario "server".
    """

    scenario: str
    clients: int | None
    layout: str
    output_tokens_per_s: float | None
    requests_per_s: float | None = None
    ttft_p99_s: float | None = None
    tpot_p99_s: float | None = None
    tpot_mean_s: float | None = None
    interval: Interval | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BenchmarkResult(Result):
    """Scores of a system in a benchmark, and what others published."""

    benchmark: Benchmark
    model: str
    system: str
    devices: int
    scored: tuple[Score, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark.name, "model": self.model, "system": self.system,
            "devices": self.devices, "assumed": self.benchmark.assumed,
            "wording": self.benchmark.wording,
            "rows": [
                {
                    "scenario": s.scenario, "clients": s.clients, "layout": s.layout,
                    "output_tokens_per_s": s.output_tokens_per_s,
                    "output_tokens_per_s_per_device": _over(s.output_tokens_per_s, self.devices),
                    "requests_per_s": s.requests_per_s, "ttft_s_p99": s.ttft_p99_s,
                    "tpot_s_p99": s.tpot_p99_s, "tpot_s_mean": s.tpot_mean_s,
                    "interval": interval_dict(s.output_tokens_per_s, s.interval),
                    "reason": s.reason,
                }
                for s in self.scored
            ],
            "published": [
                {"name": p.name, "version": p.version, "id": p.ident, "scenario": p.scenario,
                 "output_tokens_per_s": p.score}
                for p in self.benchmark.published
            ],
        }  # fmt: skip

    def records(self) -> Sequence[Mapping[str, Any]]:
        return [{k: v for k, v in row.items() if k != "interval"} for row in self.to_dict()["rows"]]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {
                "scenario": s.scenario, "clients": "" if s.clients is None else s.clients,
                "layout": s.layout, "output tokens/s": _shown(s.output_tokens_per_s),
                "a device": _shown(_over(s.output_tokens_per_s, self.devices)),
                "80% interval": _range(s), "TTFT p99": seconds(s.ttft_p99_s),
                "TPOT p99": seconds(s.tpot_p99_s),
            }
            for s in self.scored
        ]  # fmt: skip

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        b = self.benchmark
        out: list[str | Sequence[Mapping[str, Any]]] = [
            f"{b.name} on {self.system}: {self.model}, {b.input_len}+{b.output_len} tokens", self.rows(),
        ]  # fmt: skip
        out += [f"{s.scenario}: {s.reason}" for s in self.scored if s.reason]
        if b.published:
            out += ["published:", [_published(p) for p in b.published]]
        return [*out, *filter(None, (b.assumed and f"assumed: {b.assumed}", b.wording))]

    def headline(self) -> str:
        lines = [
            f"{s.scenario} {_shown(s.output_tokens_per_s)} output tokens/s"
            for s in self.scored
            if s.clients is None or s.scenario == OFFLINE
        ]
        return "; ".join(lines) or f"{len(self.scored)} points of a curve"


def _over(value: float | None, count: int) -> float | None:
    return None if value is None else value / count


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f}"


def _range(s: Score) -> str:
    if s.interval is None or s.output_tokens_per_s is None:
        return ""
    low, high = s.interval.of(s.output_tokens_per_s)
    return f"{low:,.0f} to {high:,.0f}" if high is not None else f"from {low:,.0f}"


def _published(p: Published) -> dict[str, Any]:
    return {
        "name": p.name, "version": p.version, "ID": p.ident, "scenario": p.scenario,
        "output tokens/s": f"{p.score:,.0f}",
    }  # fmt: skip


def benchmark(
    name: str, system: str | Path, *, model: str | Path | None = None, tolerance: float = 0.02,
    progress: OnProgress | None = None, **options: Unpack[ScenarioKeywords],
) -> BenchmarkResult:  # fmt: skip
    """Score a system in a benchmark.

    Parameters
    ----------
    name : str
        Of ``opbyte list benchmarks``.
    system : str or Path
        The whole system. Without ``tp`` its devices are split into as many replicas as score most.
    model : str or Path, optional
        Another model than the benchmark's.
    tolerance : float
        Load of scenario "server" is found to this fraction.
    progress : callable, optional
        Called with (scores done, scores in all).
    **options
        Other options of `Scenario`; the workload is the benchmark's. Policy and kernels are vLLM's on GPUs unless said.

    Raises
    ------
    InputError
        An unknown benchmark, or anything wrong with the options.
    """
    rules = BENCHMARKS[name]
    for own in SET_HERE:
        if own in options:
            raise InputError(f"--{own.replace('_', '-')}", f"is set by {name}")
    whole = load_system(system)
    base = Scenario.of(model or rules.model, **_defaults(rules, options))
    jobs = [
        (scenario, clients)
        for scenario in rules.scenarios
        for clients in (rules.clients if scenario == CURVE else (None,))
    ]
    scored = []
    for done, (scenario, clients) in enumerate(jobs, 1):
        found = [_score(rules, base, part, count, scenario, clients, tolerance) for part, count in _splits(whole, base)]
        fitting = [s for s in found if s is not None]
        if not fitting:
            reason = f"{base.model} does not fit, however its devices are split"
            raise CapacityError(whole.name, reason)
        scored.append(max(fitting, key=lambda s: s.output_tokens_per_s or 0.0))
        if progress is not None:
            progress(done, len(jobs))
    scored = _ordered(scored)
    shown = str(model or rules.model)
    return BenchmarkResult(rules, shown, whole.name, whole.devices_per_node * whole.nodes, tuple(scored))


def _ordered(scored: Sequence[Score]) -> list[Score]:
    """Scores of which none contradicts another: what Poisson arrivals get, all at once get too."""
    served = max((s.output_tokens_per_s or 0.0 for s in scored if s.scenario == SERVER), default=0.0)
    return [
        replace(s, output_tokens_per_s=served, clients=None,
                reason="that of the server scenario, which requests sent all at once can have too")
        if s.scenario == OFFLINE and (s.output_tokens_per_s or 0.0) < served
        else s
        for s in scored
    ]  # fmt: skip


def _defaults(rules: Benchmark, options: Mapping[str, Any]) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "input_len": rules.input_len, "output_len": rules.output_len, "lengths": rules.lengths,
        "dtype": rules.dtype,
    }  # fmt: skip
    return usual | dict(options)


def _splits(whole: SystemSpec, base: Scenario) -> list[tuple[SystemSpec, int]]:
    """Parts of a system that hold one replica each, and how many there are."""
    if base.deployment.tp is not None or base.deployment.dp is not None or whole.nodes > 1:
        return [(whole, 1)]
    devices = whole.devices_per_node
    return [(load_system(f"{whole.device.name}-x{n}"), devices // n) for n in replica_sizes(devices)]


def _score(
    rules: Benchmark, base: Scenario, part: SystemSpec, replicas: int, scenario: str, clients: int | None,
    tolerance: float,
) -> Score | None:  # fmt: skip
    """One scenario on equal replicas; None where the model does not fit in one."""
    try:
        if scenario == CURVE:
            each = max((clients or 0) // replicas, 1)
            return _closed(base, part, replicas, scenario, each, clients)
        if scenario == OFFLINE:
            found = [_closed(base, part, replicas, scenario, n, n) for n in CLIENTS]
            return max(found, key=lambda s: s.output_tokens_per_s or 0.0)
        return _server(rules, base, part, replicas, tolerance)
    except CapacityError:
        return None


def _closed(base: Scenario, part: SystemSpec, replicas: int, scenario: str, each: int, clients: int | None) -> Score:
    closed = base.changed(system=part, closed_loop=each, requests=max(GENERATIONS * each, 40))
    found = simulate(closed)
    run, rate = found.run, found.run.output_tokens_per_s
    sure = found.intervals
    return Score(
        scenario, clients, _layout(found, replicas), None if rate is None else rate * replicas,
        None, run.ttft_s.p99, run.tpot_s.p99, run.tpot_s.mean, sure.throughput if sure else None,
    )  # fmt: skip


def _server(rules: Benchmark, base: Scenario, part: SystemSpec, replicas: int, tolerance: float) -> Score:
    limits = capacity(base, [part.name], dict(rules.slo), tolerance=tolerance, workers=1)
    found = limits.found[0]
    if found.limit is not None and found.limit.resource == "memory capacity":
        raise CapacityError(part.name, found.reason)
    load, rate = found.load_per_s, found.output_tokens_per_s
    held = next((t for t in found.tried if t.load_per_s == load), None)
    latencies = held.figures if held is not None else {}
    return Score(
        SERVER, None, f"{replicas} x {part.name}",
        None if rate is None or load is None else rate * replicas,
        None if load is None else load * replicas, latencies.get("ttft_p99"),
        latencies.get("tpot_p99"), None, found.held, found.reason if load is None else "",
    )  # fmt: skip


def _layout(found: Simulation, replicas: int) -> str:
    d = found.run.deployment
    way = " ".join(f"{n} {getattr(d.layout, n)}" for n in ("tp", "dp", "ep", "pp") if getattr(d.layout, n) > 1)
    return f"{replicas} x {d.system.name}" + (f", {way}" if way else "")

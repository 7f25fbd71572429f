"""Run a benchmark: each scenario by its own scoring, on the best split of the devices into replicas."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ....devices.catalog import load_system
from ....devices.spec import SystemSpec
from ....simulator.option import flag_of
from ....simulator.scenario import Scenario
from ....workloads.errors import CapacityError, InputError
from ...answers.benchmarks import BENCHMARKS, CURVE, FULL, OFFLINE, SCORERS, SERVER, Benchmark, Score, best_score
from ...answers.interval import interval_dict
from ...answers.simulate import Simulation, simulate
from ...parallel import OnProgress
from ...show.declared import record
from ...show.result import Result
from ...show.text import Blocks, Rows, seconds
from ..capacity import capacity

if TYPE_CHECKING:
    from ....simulator.scenario.keywords import ScenarioKeywords

CLIENTS, GENERATIONS, LEAST = (128, 256, 512, FULL), 16, 1000
"""Sequences per replica in scenario "offline", of which the best is used; requests for each, and their minimum. With
six for each there is no steady part, and a 405B with 64 at once is 12 % slower because lengths differ."""
CHUNK = 2048
"""Tokens of a step that are tried too between pipeline stages, which prompts in small pieces leave fewer gaps."""
SET_HERE = ("rate", "rate_scale", "closed_loop", "trace", "input_len", "output_len", "lengths", "system")
"""Options that the benchmark sets."""


@dataclass(frozen=True, slots=True)
class BenchmarkResult(Result):
    """Scores of a system in a benchmark, and what others published."""

    benchmark: Benchmark
    model: str
    system: str
    devices: int
    scored: tuple[Score, ...]

    def to_dict(self) -> dict[str, Any]:
        per_device = [s.output_tokens_per_s and s.output_tokens_per_s / self.devices for s in self.scored]
        return record(self) | {
            "rows": [
                record(s)
                | {"output_tokens_per_s_per_device": rate, "interval": interval_dict(s.output_tokens_per_s, s.interval)}
                for s, rate in zip(self.scored, per_device, strict=True)
            ],
            "published": [
                {"name": p["name"], "version": p["version"], "id": p["id"], "scenario": name, "output_tokens_per_s": p[name]}
                for p in self.benchmark.published for name in (OFFLINE, SERVER) if name in p
            ],
        }  # fmt: skip

    def records(self) -> Rows:
        return [{k: v for k, v in row.items() if k != "interval"} for row in self.to_dict()["rows"]]

    def rows(self) -> Rows:
        return [
            {
                "scenario": s.scenario, "clients": "" if s.clients is None else s.clients,
                "layout": s.layout, "output tokens/s": _shown(s.output_tokens_per_s),
                "a device": _shown(s.output_tokens_per_s and s.output_tokens_per_s / self.devices),
                "80% interval": _range(s), "TTFT p99": seconds(s.ttft_p99_s),
                "TPOT p99": seconds(s.tpot_p99_s),
            }
            for s in self.scored
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        b = self.benchmark
        out: Blocks = [
            f"{b.name} on {self.system}: {self.model}, {b.input_len}+{b.output_len} tokens", self.rows(),
        ]  # fmt: skip
        out += [f"{s.scenario}: {s.reason}" for s in self.scored if s.reason]
        if scores := self.to_dict()["published"]:
            out += ["published:", [s | {"output_tokens_per_s": _shown(s["output_tokens_per_s"])} for s in scores]]
        return [*out, *filter(None, (b.assumed and f"assumed: {b.assumed}", b.wording))]

    def headline(self) -> str:
        lines = [
            f"{s.scenario} {_shown(s.output_tokens_per_s)} output tokens/s"
            for s in self.scored
            if s.clients is None or s.scenario == OFFLINE
        ]
        return "; ".join(lines) or f"{len(self.scored)} points of a curve"


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f}"


def _range(s: Score) -> str:
    if s.interval is None or s.output_tokens_per_s is None:
        return ""
    low, high = s.interval.of(s.output_tokens_per_s)
    return f"{low:,.0f} to {high:,.0f}" if high is not None else f"from {low:,.0f}"


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
    for option in SET_HERE:
        if option in options:
            raise InputError(flag_of(option), f"is set by {name}")
    described = load_system(system)
    base = rules.scenario(model, **options)
    jobs = [(s, clients) for s in rules.scenarios for clients in (rules.clients if s == CURVE else (None,))]
    scored: list[Score] = []
    for done, (scenario, clients) in enumerate(jobs, 1):
        most = next((s for s in scored if s.scenario == OFFLINE), None)
        scored.append(best_score(rules, base, described, scenario, clients, tolerance, most=most))
        if progress is not None:
            progress(done, len(jobs))
    shown = str(model or rules.model)
    return BenchmarkResult(rules, shown, described.name, described.devices_per_node * described.nodes, tuple(scored))


@SCORERS.register(CURVE)
@SCORERS.register(OFFLINE)
def _at_once(rules: Benchmark, base: Scenario, part: SystemSpec, replicas: int, clients: int | None, _: float) -> Score:
    """Return the requests in flight: the given number, or the number with the best score."""
    sizes = CLIENTS if clients is None else (max(clients // replicas, 1),)
    tuned = (base.deployment.pp or 1) > 1 and clients is None and base.serving.token_budget is None
    cuts = (base, base.changed(token_budget=CHUNK)) if tuned else (base,)
    scores = [_closed(cut, part, replicas, clients, n) for cut in cuts for n in sizes]
    return max(scores, key=lambda s: s.output_tokens_per_s or 0.0)


@SCORERS.register(SERVER)
def _server(
    rules: Benchmark, base: Scenario, part: SystemSpec, replicas: int, _: int | None, tolerance: float
) -> Score:
    """Return the highest Poisson rate that meets the SLO."""
    limits = capacity(base, [part.name], dict(rules.slo), tolerance=tolerance, workers=1)
    limit = limits.found[0]
    if limit.limit is not None and limit.limit.resource == "memory capacity":
        raise CapacityError(part.name, limit.reason)
    best = max((t for t in limit.tried if t.holds), key=lambda t: t.load_per_s, default=None)
    reason = limit.reason if limit.load_per_s is None else ""
    way = f"{replicas} x {part.name}"
    if best is None:
        return Score(SERVER, None, way, None, reason=reason)
    return Score(
        SERVER, None, way, (best.output_tokens_per_s or 0.0) * replicas,
        best.load_per_s * replicas, best.figures.get("ttft_p99"), best.figures.get("tpot_p99"), None,
        limit.held, reason,
    )  # fmt: skip


def _closed(base: Scenario, part: SystemSpec, replicas: int, clients: int | None, sequences: int) -> Score:
    result = simulate(base.changed(system=part, closed_loop=sequences, requests=max(GENERATIONS * sequences, LEAST)))
    run, rate, sure = result.run, result.run.output_tokens_per_s, result.intervals
    return Score(
        CURVE if clients else OFFLINE, clients or sequences, _layout(result, replicas), None if rate is None else rate * replicas,
        None, run.ttft_s.p99, run.tpot_s.p99, run.tpot_s.mean, sure.throughput if sure else None,
    )  # fmt: skip


def _layout(simulation: Simulation, replicas: int) -> str:
    d = simulation.run.deployment
    way = " ".join(f"{n} {getattr(d.layout, n)}" for n in ("tp", "dp", "ep", "pp") if getattr(d.layout, n) > 1)
    way += f", {simulation.run.policy.token_budget:,} tokens a step" if d.layout.pp > 1 else ""
    return f"{replicas} x {d.system.name}" + (f", {way}" if way else "")

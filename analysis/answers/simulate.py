"""The result of one simulation (``opbyte simulate``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Unpack

from ...devices.catalog import describe_system
from ...devices.hosts.catalog import host_sources
from ...devices.spec import SystemSpec
from ...simulator.parts.two_pools.asked import counted
from ...simulator.parts.two_pools.run import pools_of
from ...simulator.quantity import entries
from ...simulator.results.progress import Progress
from ...simulator.results.record import OpTotal, Run, typical
from ...simulator.scenario import Scenario
from ...simulator.scenario.build import run_scenario
from ...workloads.errors import InputError
from ...workloads.latencies import QUANTILES, read_quantiles
from ...workloads.model import ModelSpec
from ..show.result import Drawing, Result
from ..show.text import Blocks, Records, Rows, seconds, show
from .autoscale import replicas_drawn, start_up_evidence
from .error_factors import engine_of_scenario
from .evidence import Known, apart_evidence, evidence_blocks, link_evidence
from .groups import play_groups
from .interval import Interval, interval_dict, power_interval, spoken
from .part_answers import COUNTS, LENGTHS, RATES, STATE, blocks_of, columns_of, entries_after, text_of
from .price import carbon_of, carbon_text, check_prices, costs_of
from .ranges import Ranges, coverage, coverage_blocks, ranges_of_run
from .replayed import replayed
from .run_interval import RunIntervals, run_intervals
from .run_steps import Steps, read_window, steps_seen
from .run_warnings import warnings_of
from .started import started
from .summary import (
    LATENCIES,
    figure_rows,
    figures,
    flat,
    heading,
    latency_rows,
    took,
    where_rows,
    window_dict,
    window_text,
)
from .usual import as_usual, served_by, uncached

if TYPE_CHECKING:
    import pandas as pd

    from ...simulator.scenario.keywords import ScenarioKeywords


@dataclass(frozen=True, slots=True)
class Simulation(Result):
    """Result of one simulation with all measurements; see `simulate`.

    Attributes
    ----------
    run : Run
        The simulator's result: timestamps of requests, op totals, metrics.
    evidence : list of dict
        Cost models and assumptions of the run, see `evidence`.
    warnings : tuple of str
        Reasons to doubt the result.
    sources : mapping of str to str
        Key path of the system's description -> source of that number.
    scenario : Scenario
        The simulated scenario.
    intervals : RunIntervals or None
        Factors on the run's values, see `interval`; None if too small a part is based on measurements.
    steps : Steps or None
        Detailed steps, if a window of steps was requested.
    ranges : Ranges or None
        The part of the run that is out of range of its cost models.
    why : bool
        Whether the evidence is printed as a table instead of one line.
    emit : str or None
        Kind of the manifest that is also printed, see `manifests.WRITERS`.
    shown : tuple of str
        The mean and the percentiles of latencies in JSON, tables and reports.
    """

    run: Run
    evidence: Records
    warnings: tuple[str, ...]
    sources: Mapping[str, str]
    scenario: Scenario
    intervals: RunIntervals | None = None
    steps: Steps | None = None
    ranges: Ranges | None = None
    why: bool = False
    emit: str | None = None
    shown: tuple[str, ...] = QUANTILES

    def __getattr__(self, name: str) -> Any:
        hint = f"; its run has it: .run.{name}" if hasattr(Run, name) and not name.startswith("_") else ""
        raise AttributeError(f"'Simulation' object has no attribute {name!r}{hint}")

    def remarks(self) -> Sequence[str]:
        return self.warnings

    def to_dict(self) -> dict[str, Any]:
        r = self.run
        return {
            "model": r.deployment.model.name, "system": r.deployment.system.name,
            "policy": r.policy.name, "placement": r.deployment.placement,
            "workload": r.workload, "seed": r.seed, **entries(r, COUNTS),
            "token_budget": r.policy.token_budget, "max_sequences": r.policy.max_sequences,
            "max_sequences_why": r.policy.sequences_why or None, "prefix_cache": not uncached(r),
            **{name: getattr(r.deployment.layout, name) for name in ("tp", "dp", "ep", "pp")},
            **entries(r, LENGTHS),
            "window": window_dict(r.window),
            **entries(r, RATES),
            **carbon_of(r, self.scenario.grid_gCO2_per_kWh),
            **entries(r, STATE),
            **entries_after(r.parts, "figures"),
            **{name: getattr(r, name).as_dict(self.shown) for name in LATENCIES},
            "layers": [op_row(op) for op in layer_totals(r)],
            **entries_after(r.parts, "layers"),
            "intervals": self._interval_dict(),
            **entries_after(r.parts, "intervals"),
            "evidence": self.evidence,
            "kernel_tables": coverage(r),
            **({"steps": self.steps.records()} if self.steps else {}),
            "out_of_range": None if self.ranges is None else self.ranges.to_dict(),
            "warnings": list(self.warnings),
            "wall_s": None,  # real time is in `timing`, so that equal runs give equal bytes
        }  # fmt: skip

    def timing(self) -> dict[str, Any]:
        return {"wall_s": self.run.wall_s}

    def rows(self) -> Rows:
        latencies = latency_rows(self.run, self.shown)
        return [
            *({"metric": label, "value": text_of(x, unit)} for label, x, unit in figures(self.run)),
            *({"metric": f"{row['latency']}, {q}", "value": row[q]} for row in latencies for q in self.shown),
        ]

    def records(self) -> Rows:
        return [
            {"metric": name, "value": value}
            for name, value in (flat(self.run, self.shown) | columns_of(self.run)).items()
        ]

    def blocks(self) -> Blocks:
        return [
            heading(self.run), figure_rows(self.run), window_text(self.run.window),
            *carbon_text(self.run, self.scenario.grid_gCO2_per_kWh),
            *blocks_of(self.run.parts, late=False), self.sure(), latency_rows(self.run, self.shown),
            *blocks_of(self.run.parts, late=True), where_rows(self.run),
            *(self.steps.blocks() if self.steps else []),
            *self.outside_tables(), *evidence_blocks([self.rests_on()], self.why),
            f"Served with {served_by(self.run, self.scenario)} (--policy, --framework).",
            *([f"{self.emit}.yaml:\n\n{self.manifest()}"] if self.emit else []),
            took(self.run.wall_s),
        ]  # fmt: skip

    def manifest(self) -> str:
        """Return the manifest that starts all replicas, of the kind that `emit` names."""
        return started(str(self.emit), self.scenario, self.run)

    def headline(self) -> str:
        """Return a sentence with throughput, latencies, and the op that takes the most time."""
        r = self.run
        parts = [f"{show(r.output_tokens_per_s)} output tokens/s"]
        if r.ttft_s.p50 is not None:
            parts.append(f"a first token after {seconds(r.ttft_s.p50)} (p99 {seconds(r.ttft_s.p99)})")
        if r.tpot_s.p50 is not None:
            parts.append(f"then one every {seconds(r.tpot_s.p50)}")
        if r.joules_per_token is not None:
            parts.append(f"{show(r.joules_per_token)} J a token")
        text = ", ".join(parts) + "."
        longest = next(iter(layer_totals(r)), None)
        if longest is None:
            return text
        return f"{text} Most of the time is spent in {longest.name} on {longest.processor}."

    def sure(self) -> str:
        """Return the uncertainty of the values as one sentence."""
        intervals = self.intervals
        if intervals is None:
            return "No interval: too small a part of the time is based on measurements."
        parts = {"throughput": "throughput", "TPOT": "tpot", "TTFT": "ttft", "cost of a token": "cost"}
        text = ", ".join(f"{name} {spoken(getattr(intervals, of))}" for name, of in parts.items())
        wide = f" Wide because: {', '.join(intervals.reasons)}." if intervals.reasons else ""
        return f"{intervals.step.level:.0%} intervals from the errors of the kernels and of measured deployments: {text}.{wide}"

    def _interval_dict(self) -> dict[str, Any] | None:
        """Return the intervals of the values."""
        r, intervals = self.run, self.intervals
        if intervals is None:
            return None
        price = costs_of(r, self.scenario, r.output_tokens_per_s)["usd_per_million_tokens"]
        power = power_interval(r.deployment)
        served: dict[str, tuple[float | None, Interval | None]] = {
            "step_factor": (1.0, intervals.step), "output_tokens_per_s": (r.output_tokens_per_s, intervals.throughput),
            "usd_per_million_tokens": (price, intervals.cost),
        }  # fmt: skip
        for quantile in ("mean", "p50"):
            for what in ("tpot", "ttft", "e2e"):
                value = getattr(getattr(r, f"{what}_s"), quantile)
                served[f"{what}_s_{quantile}"] = (value, getattr(intervals, what))
        served["watts_per_device"] = (r.watts_per_device, power)
        served["joules_per_token"] = (r.joules_per_token, intervals.joules(power))
        given = {name: interval_dict(*known) for name, known in served.items()}
        return {**given, "wide_because": list(intervals.reasons)}

    def outside_tables(self) -> Blocks:
        """Return a table of how often ops were outside the kernel tables; empty if no tables are in use."""
        return coverage_blocks(coverage(self.run))

    def drawings(self) -> Sequence[Drawing]:
        from ..plots import latency

        name = f"{self.run.deployment.model.name} on {self.run.deployment.system.name}"
        text = "Latency of requests as cumulative shares; output and arrivals over time."
        return [Drawing(latency(self.requests(), name), text), *replicas_drawn(self.run, name)]

    def rests_on(self) -> Known:
        """Return the evidence, the system's name, and the part that is out of range."""
        return self.evidence, self.run.deployment.system.name, self.ranges

    def requests(self) -> pd.DataFrame:
        """Return one row per finished request: lengths and timestamps [s]."""
        import pandas as pd

        return pd.DataFrame(self.run.request_columns())

    def stages(self) -> pd.DataFrame:
        """Return groups of equal batches in order (empty unless they were kept)."""
        import pandas as pd

        return pd.DataFrame(self.run.stages)

    def ops(self) -> pd.DataFrame:
        """Return the totals of every op by processor: time, work and energy of all devices."""
        import pandas as pd

        name = self.run.deployment.system.name
        return pd.DataFrame([{"run": name, **op_row(op)} for op in self.run.ops])


def op_row(total: OpTotal) -> dict[str, Any]:
    """Return an op's totals as a table row."""
    names = ("layer", "name", "kind", "processor", "wall_s", "busy_s", "flops", "bytes", "op_per_byte")
    return {name: getattr(total, name) for name in names} | {f"{path}_joules": j for path, j in total.joules.items()}


def layer_totals(run: Run) -> list[OpTotal]:
    """Return the op totals, those with the longest time first."""
    return sorted(run.ops, key=lambda op: (-op.wall_s, op.name, op.processor))


def simulate(
    model: Scenario | str | Path | ModelSpec | None = None,
    system: str | Path | SystemSpec | None = None,
    *,
    keep_stages: bool = False,
    steps: str | None = None,
    progress: Progress | None = None,
    groups: int | None = None,
    workers: int | None = None,
    dask: str | None = None,
    percentiles: str | None = None,
    **options: Unpack[ScenarioKeywords],
) -> Simulation:
    """Serve requests with a model on a system.

    Parameters
    ----------
    model : Scenario, or str, Path or ModelSpec
        The whole scenario, or a model by catalog name or file.
    system : str, Path or SystemSpec
        Catalog name or file.
    keep_stages : bool
        Whether to keep the table of stages.
    steps : str, optional
        Steps to show in detail (`Simulation.steps`): "N" for the first N, or "A:B". All steps are then
        simulated one by one, which takes longer. Supports only one engine with one rank.
    progress : callable, optional
        Called from time to time with (requests completed, requests known, simulated seconds).
    groups : int, optional
        Simulate the replicas in N separate groups: identical with round-robin routing, approximate if the router uses
        loads (`Simulation.warnings` says so).
    workers : int, optional
        Number of processes for the groups; default: one per core.
    dask : str, optional
        Address of a Dask scheduler, whose workers run the groups instead.
    percentiles : str, optional
        Percentiles of latencies that are shown in addition, such as "p95,p99.9".
    **options
        Options of `Scenario` by their names, such as ``rate``, ``policy`` or ``tp``.

    Raises
    ------
    InputError
        Anything that cannot be used; the message says what would be right.
    """
    scenario, shown = as_usual(Scenario.of(model, system, **options)), read_quantiles(percentiles)
    check_prices(scenario)
    window = None if steps is None else read_window(steps)
    if window is not None and groups is not None:
        raise InputError("--steps", "need one engine, without --groups")

    def play(asked: Scenario, keep: bool = False, told: Progress | None = None) -> Run:
        began = perf_counter()
        parts = play_groups(asked, groups, workers, dask, keep, told)
        first = window.stop if window and asked is scenario else 0
        run = run_scenario(asked, keep_stages=keep, steps=first, progress=told, groups=parts)
        return replace(run, wall_s=perf_counter() - began) if parts else run

    made = play(scenario, keep_stages, progress)
    result = simulation_of(scenario, made, window)
    return replace(result, shown=shown, intervals=replayed(scenario, made, result.intervals, play))


def simulation_of(scenario: Scenario, made: Run, window: range | None = None) -> Simulation:
    """Return a run as a result, with its evidence and uncertainty.

    Parameters
    ----------
    window : range, optional
        Steps that are shown one by one.
    """
    sources, batches = _sources(scenario, scenario.system), typical(made)
    ranges = ranges_of_run(made, batches)
    ranges.refuse(scenario.deployment.strict)
    beside = _sources(scenario, scenario.parts["experts-apart"].experts_on)
    entries = apart_evidence(made.deployment, sources, beside, made.policy, batches)
    entries += start_up_evidence(made)
    if scenario.parts.asks("two-pools"):
        entries, sources = _both(scenario, made)
    seen = steps_seen(made, window) if window else None
    return Simulation(
        made, entries, warnings_of(scenario, made), sources, scenario, intervals_of(scenario, made), seen, ranges
    )


def intervals_of(scenario: Scenario, made: Run) -> RunIntervals | None:
    """Return the intervals of a run of a scenario."""
    clients = scenario.workload.closed_loop
    burst = clients is not None and clients >= len(made.requests)
    return run_intervals(made, clients is None, engine_of_scenario(scenario), burst)


def _sources(scenario: Scenario, where: str | Path | SystemSpec | None) -> Mapping[str, str]:
    """Return the sources of a system's numbers: key path of its description -> source."""
    if where is None or isinstance(where, SystemSpec):
        return {}
    known, sources = describe_system(where)
    return sources | host_sources(known, scenario.deployment.host)


def _both(scenario: Scenario, run: Run) -> tuple[Records, Mapping[str, str]]:
    """Return the evidence of both pools with their names, and the sources of the decode pool."""
    out: Records = []
    for pool, flag in zip(
        pools_of(run), (scenario.parts["two-pools"].prefill, scenario.parts["two-pools"].decode), strict=True
    ):
        sources = _sources(scenario, counted(str(flag), f"--{pool.name}")[0])
        beside = _sources(scenario, scenario.parts["experts-apart"].experts_on)
        entries = apart_evidence(pool.deployment, sources, beside, pool.policy, typical(run))
        out += [{**entry, "applies_to": f"{entry['applies_to']}, {pool.name}"} for entry in entries]
    if (left := run.parts.get("two-pools")) is not None:
        node_link = run.deployment.system.device.node_link.name
        out.append(link_evidence(left.moves.link.name, node_link, sources))
    return out, sources

"""Many simulations, each small: run on all cores, each once, in an order that does not matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from opbyte.extend.answers import NOTHING, Crew, Kept, OnProgress, whole

if TYPE_CHECKING:
    from opbyte.extend.devices import SystemSpec
    from opbyte.extend.systems import Run

MARGIN = 8
"""Requests there are for each that completes, so that the load never ends before the run."""

OF_SYSTEMS: dict[str, Any] = {
    "device": "", "size": "", "latency_s": None, "efficiency": None, "memory": "flat", "layout_of": None,
}  # fmt: skip
"""What of a `Point` changes nothing about its requests, made equal."""


@dataclass(frozen=True, slots=True)
class Point:
    """One closed-loop or Poisson run of the Duplex paper's kind.

    Attributes
    ----------
    model, device, size : str
        Catalog names or files, and how many devices: "x4" or "2x8".
    batch : int
        Requests in flight (closed loop) or at most at once (`rate` given).
    input_len, output_len : int
        Mean lengths.
    seed : int
    routing : str
    lengths : str
        "gaussian", the paper's, or "fixed".
    rate : float or None
        Poisson arrivals per second [1/s]; None is a closed loop.
    warmup, stop : int
        Completions left out, and after which the run ends with the system still full.
    latency_s, efficiency : float or None
        Other link latency [s], and other DRAM efficiency of all processors, than the device's.
    memory : str
        "flat" or "derived"; see `deploy`.
    layout_of : str or None
        Device whose data layout this one uses, instead of its own.
    """

    model: str
    device: str
    size: str
    batch: int
    input_len: int
    output_len: int
    seed: int
    routing: str = "uniform"
    lengths: Literal["gaussian", "fixed"] = "gaussian"
    rate: float | None = None
    warmup: int = 0
    stop: int = 0
    latency_s: float | None = None
    efficiency: float | None = None
    memory: Literal["flat", "derived"] = "flat"
    layout_of: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a point yields; times in seconds, rates per second.

    Attributes
    ----------
    completion_rate : float
        Requests per second after the warm-up.
    t2ft_growth : float
        Median T2FT of the last quarter over the second.
    mixed_share : float
        Steps that hold any prompt, as a share of all.
    decodes : float
        Most sequences that decoded in one step.
    joules : mapping of (str, str) to float
        Dynamic energy per output token by layer group ("fc", "attention", "moe") and path
        ("dram", "compute") [J].
    """

    output_tokens_per_s: float
    joules_per_token: float
    tbt_p50: float
    tbt_p90: float
    tbt_p99: float
    t2ft_p50: float
    e2e_p50: float
    completion_rate: float
    t2ft_growth: float
    mixed_share: float
    decodes: float
    joules: Mapping[tuple[str, str], float]


def system_of(point: Point) -> SystemSpec:
    """The point's devices on their links, with what it changes about them."""
    from opbyte.extend import load_device
    from opbyte.extend.devices import of_device

    nodes, _, each = point.size.rpartition("x")
    system, _ = of_device(point.device, int(each), int(nodes or 1), counted=bool(nodes))
    device = system.device
    if point.latency_s is not None:
        link = device.link.model_copy(update={"latency_s": point.latency_s})
        device = device.model_copy(update={"link": link})
    if point.efficiency is not None:
        update = {"memory_efficiency": point.efficiency}
        processors = {n: p.model_copy(update=update) for n, p in device.processors.items()}
        device = device.model_copy(update={"processors": processors})
    if point.layout_of is not None:
        layout = load_device(point.layout_of)[0].memory.dram
        memory = device.memory.model_copy(update={"dram": layout})
        device = device.model_copy(update={"memory": memory})
    return system.model_copy(update={"device": device})


def run_point(point: Point) -> Measured:
    """Simulate one point: only its run, without evidence and intervals."""
    from opbyte.extend.systems import Scenario, run_scenario

    asked = Scenario.of(
        point.model,
        system_of(point),
        rate=point.rate,
        closed_loop=None if point.rate is not None else point.batch,
        requests=MARGIN * point.stop,
        stop=point.stop,
        input_len=point.input_len,
        output_len=point.output_len,
        lengths=point.lengths,
        policy="mixed",
        max_seqs=point.batch,
        routing=point.routing,
        warmup=point.warmup,
        memory=point.memory,
        seed=point.seed,
    )
    return _measured(run_scenario(asked, keep_stages=True), point.warmup)


def run_alike(points: Sequence[Point]) -> list[Measured]:
    """Simulate points that differ in their systems: the experts of their requests are sampled once."""
    from opbyte.extend.systems import drawn_once

    with drawn_once():
        return [run_point(point) for point in points]


def _measured(run: Run, warmup: int) -> Measured:
    import numpy as np

    table = run.requests
    late = table.order >= warmup
    ends = np.sort(table.last_token_s[late])
    t2ft = (table.first_token_s - table.arrival_s)[late]
    quarter = max(len(t2ft) // 4, 1)
    growth = np.median(t2ft[-quarter:]) / np.median(t2ft[quarter : 2 * quarter])
    span = float(ends[-1] - ends[0])
    late = run.stages["start_s"] >= run.makespan_s - run.interval_s
    steps, mixed = run.stages["steps"] * late, run.stages["prompts"] > 0
    return Measured(
        output_tokens_per_s=run.output_tokens_per_s or 0.0,
        joules_per_token=run.joules_per_token or 0.0,
        tbt_p50=run.tbt_s.p50 or 0.0,
        tbt_p90=run.tbt_s.p90 or 0.0,
        tbt_p99=run.tbt_s.p99 or 0.0,
        t2ft_p50=run.ttft_s.p50 or 0.0,
        e2e_p50=run.e2e_s.p50 or 0.0,
        completion_rate=(len(ends) - 1) / span if span > 0 else 0.0,
        t2ft_growth=float(growth),
        mixed_share=float(steps[mixed].sum() / steps.sum()),
        decodes=float(run.stages["decodes"].max()),
        joules=_joules(run),
    )


def _joules(run: Run) -> dict[tuple[str, str], float]:
    """Energy per output token by layer group and path; links are not part of Fig. 15.

    What an op takes is known of the whole run; its share is taken for that after the warm-up.
    """
    out = {(g, p): 0.0 for g in ("fc", "attention", "moe") for p in ("dram", "compute")}
    for op in run.ops:
        group = "fc"
        if op.kind == "experts":
            group = "moe"
        elif op.kind.startswith("attention"):
            group = "attention"
        for path in ("dram", "compute"):
            out[group, path] += op.joules[path]
    scale = (run.joules_per_token or 0.0) / sum(out.values())
    return {key: joules * scale for key, joules in out.items()}


class Runner:
    """Simulates points on a crew; a point asked for twice runs once.

    Attributes
    ----------
    results : dict of Point to Measured
        All points run so far.
    """

    def __init__(self, crew: Crew, progress: OnProgress | None = None, kept: Kept = NOTHING) -> None:
        self.results: dict[Point, Measured] = {}
        self._crew, self._progress, self._kept = crew, progress, kept
        self._compiled = False

    def __getitem__(self, point: Point) -> Measured:
        return self.results[point]

    def run(self, points: Iterable[Point]) -> None:
        """Simulate what has not been; the longest first, so that none is left at the end."""
        new = [p for p in dict.fromkeys(points) if p not in self.results and not self._found(p)]
        new.sort(key=lambda p: -p.stop * p.output_len / p.batch)
        if new and not self._compiled:
            last = new.pop()
            self._add(last, *run_alike([last]))  # compile once, before each worker would
            self._compiled = True
        total = len(self.results) + len(new)
        alike: dict[Point, list[Point]] = {}
        for p in new:
            alike.setdefault(replace(p, **OF_SYSTEMS), []).append(p)
        groups = list(alike.values())
        for i, measured in self._crew.run(run_alike, groups):
            for point, found in zip(groups[i], measured, strict=True):
                self._add(point, found)
            if self._progress is not None:
                self._progress(len(self.results), total)

    def _found(self, point: Point) -> bool:
        """Whether an earlier call has kept a point; it is then among the results."""
        found = self._kept.find(_identity(point)) if self._kept else None
        if found is not None:
            self.results[point] = found[0]
        return found is not None

    def _add(self, point: Point, measured: Measured) -> None:
        self.results[point] = measured
        if self._kept:
            self._kept.keep(_identity(point), measured)


def _identity(point: Point) -> list[Any]:
    """All that a point's result depends on: its system may come from a file."""
    return [point, whole(system_of(point))]

"""Many small simulations of papers, each run once, on all cores and in any order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from opbyte.extend.answers import NOTHING, Crew, Kept, OnProgress, whole

if TYPE_CHECKING:
    from opbyte.extend.devices import SystemSpec
    from opbyte.extend.systems import Run

OF_REQUESTS: dict[str, Any] = {
    "batch": 1, "input_len": 1, "output_len": 1, "lengths": "fixed", "rate": None, "warmup": 0, "stop": 0,
}  # fmt: skip
"""Fixed values for the fields of a `Point` that do not change its deployment, so equal deployments compare equal."""


@dataclass(frozen=True, slots=True)
class Point:
    """One closed-loop or Poisson run in the form of the Duplex paper.

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

    @property
    def starts_running(self) -> bool:
        """Whether the run starts with a full batch in progress: a closed loop with random lengths."""
        return self.rate is None and self.lengths != "fixed"


@dataclass(frozen=True, slots=True)
class Measured:
    """Metrics of a point; times in seconds, rates per second.

    Attributes
    ----------
    completion_rate : float
        Requests per second after the warm-up.
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
    mixed_share: float
    decodes: float
    joules: Mapping[tuple[str, str], float]


def system_of(point: Point) -> SystemSpec:
    """Return the point's system, with its changes to link latency, efficiency and data layout."""
    from opbyte.extend import load_device
    from opbyte.extend.devices import of_device

    nodes, _, node_devices = point.size.rpartition("x")
    system, _ = of_device(point.device, int(node_devices), int(nodes or 1), counted=bool(nodes))
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


MARGIN = 2
"""Requests beyond those that complete, as a multiple of the batch: the load never ends before the run."""
STAGES = 10_000
"""Stages that the authors' simulator runs without time before it measures (LLMSimulator, cluster.cpp)."""
SURPLUS = 1.5
"""Requests sampled for each client, over those that the stages take in the mean: 6 sigma of the sum."""


@lru_cache(maxsize=64)
def _deployed(point: Point) -> tuple[Any, Any]:
    """Return the deployment of a point; with prefill and decode pools, the deployment of the decode pool."""
    from opbyte.extend.systems import Scenario, deployment_of

    system = system_of(point)
    share = system.mapping.prefill_share
    if share is not None:
        mapping = system.mapping.model_copy(update={"prefill_share": None})
        devices = round(system.devices_per_node * (1 - share))
        system = system.model_copy(update={"mapping": mapping, "devices_per_node": devices})
    return deployment_of(
        Scenario.of(
            point.model,
            system,
            policy="mixed",
            routing=point.routing,
            memory=point.memory,
            seed=point.seed,
            closed_loop=1,
        )
    )


def that_fits(point: Point) -> Point:
    """Limit the requests in flight of a closed loop to the number that fits memory at the mean length.

    The authors' simulator makes the batch smaller at the start (LLMSimulator, cluster.cpp).
    """
    from opbyte.extend.systems import kv_rules, sequences_that_fit

    deployment, _ = _deployed(replace(point, **OF_REQUESTS))
    fit = sequences_that_fit(kv_rules(deployment), point.input_len + point.output_len - 1) * deployment.layout.dp
    if fit >= point.batch:
        return point
    return replace(point, batch=fit, warmup=point.warmup * fit // point.batch, stop=point.stop * fit // point.batch)


def requests_of(point: Point) -> list[dict[str, float]]:
    """Return a point's requests; a closed loop of random lengths starts in its state after `STAGES` stages.

    If all requests began at once, their ends would come in waves for many generations of nearly equal lengths. Each
    client sends one request after the other, and a request makes a token a stage. The tokens that its current request
    has made by then are part of the prompt here.
    """
    import numpy as np

    from opbyte.extend import open_requests

    batch = point.batch
    rounds = math.ceil(SURPLUS * STAGES / point.output_len) + 1 if point.starts_running else 0
    drawn = open_requests(
        input_len=point.input_len, output_len=point.output_len, lengths=point.lengths, seed=point.seed,
        closed_loop=batch, limit=rounds * batch + point.stop + MARGIN * batch,
    ).read()  # fmt: skip
    lengths = np.stack([drawn.input_tokens, drawn.output_tokens])
    later = lengths[:, rounds * batch :]
    if point.starts_running:
        before = lengths[:, : rounds * batch].reshape(2, rounds, batch)
        ends = before[1].cumsum(axis=0)
        current = (ends <= STAGES).argmin(axis=0), np.arange(batch)
        left = ends[current] - STAGES
        running = np.stack([before[0][current] + before[1][current] - left, left])
        later = np.concatenate([running, later], axis=1)
    return [{"arrived_at": 0.0, "num_prefill_tokens": i, "num_decode_tokens": o} for i, o in later.T.tolist()]


def run_point(point: Point) -> Measured:
    """Simulate one point: only its run, without evidence and intervals."""
    from opbyte.extend.systems import Scenario, run_scenario

    if point.starts_running:
        point = that_fits(point)
    system = system_of(point)
    asked = Scenario.of(
        point.model,
        system,
        trace=requests_of(point),
        rate=point.rate,
        closed_loop=None if point.rate is not None else point.batch,
        stop=point.stop,
        policy="mixed",
        max_seqs=point.batch,
        routing=point.routing,
        warmup=point.warmup,
        memory=point.memory,
        seed=point.seed,
    )
    made = None
    if system.mapping.prefill_share is None:
        deployment, settings = _deployed(replace(point, **OF_REQUESTS))
        made = deployment, replace(settings, policy=replace(settings.policy, max_sequences=point.batch))
    return _measured(run_scenario(asked, keep_stages=True, made=made), point.warmup)


def _measured(run: Run, warmup: int) -> Measured:
    """Return the metrics of a run after its warm-up, with the definitions of the papers."""
    import numpy as np

    table = run.requests
    late = table.order >= warmup
    ends = np.sort(table.last_token_s[late])
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
        mixed_share=float(steps[mixed].sum() / steps.sum()),
        decodes=float(run.stages["decodes"].max()),
        joules=_joules(run),
    )


def _joules(run: Run) -> dict[tuple[str, str], float]:
    """Return the energy per output token by layer group and path; links are not part of Fig. 15.

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
        """Simulate the points without results; points with equal deployments are neighbours, as workers cache them."""
        new = [p for p in dict.fromkeys(points) if p not in self.results and not self._found(p)]
        new.sort(key=lambda p: (p.rate is None, p.model, p.seed, -p.stop * p.output_len / p.batch))
        if new and not self._compiled:
            last = new.pop()
            self._add(last, run_point(last))  # compile once, before each worker would
            self._compiled = True
        total = len(self.results) + len(new)
        for i, measured in self._crew.run(run_point, new):
            self._add(new[i], measured)
            if self._progress is not None:
                self._progress(len(self.results), total)

    def _found(self, point: Point) -> bool:
        """Load the result of an earlier call, if there is one; return whether there is."""
        stored = self._kept.find(_identity(point)) if self._kept else None
        if stored is not None:
            self.results[point] = stored[0]
        return stored is not None

    def _add(self, point: Point, measured: Measured) -> None:
        self.results[point] = measured
        if self._kept:
            self._kept.keep(_identity(point), measured)


def _identity(point: Point) -> list[Any]:
    """Return everything that a point's result depends on, including its system, which may come from a file."""
    return [point, whole(system_of(point))]

"""Replicas over time: the phases of each replica, and the device hours, energy and cost that result."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Literal

import numpy as np

from ....devices.spec import DeviceSpec
from ....workloads.errors import InputError
from ...deploy.deployment import Deployment
from ...engine.state import F8, I8
from ...fleet.run_state import RunState
from ...quantity import Figures, Quantity
from ...results.record import Run
from ...results.steady import Window
from ..experts_apart.holders import expert_bytes
from .asked import Autoscale

ENGINE_START_S = 38.7
"""Time from the start of the process until it serves, without reading weights [s]: imports, compilation (cached),
profiling and graph capture. vLLM with Llama-2-7B on an A100 and graphs up to 512 sequences: 46.15 s in all, 7.42 s
of them loading weights (means of five runs, github.com/upb-cn/vllm-startup-profiler 9ef96f47,
experiments/A100/examples/batch_size; arXiv 2606.07362). Other models and hosts differ, and the first start, which
compiles."""


def start_up_s(deployment: Deployment) -> float:
    """Seconds from asking for a replica until it serves, as far as a description tells.

    All devices read their weights at once, from the disk and through the host's memory, whichever
    is slower; finding a machine and its container are left out.

    Raises
    ------
    InputError
        A device whose description gives neither a disk nor a host's memory.
    """
    took = _read_s(deployment, deployment.memory(math.inf).weights)
    if deployment.apart is not None:  # both groups at once
        holder = deployment.apart.holder
        took = max(took, _read_s(holder, max(expert_bytes(holder))))
    return took + ENGINE_START_S


def _read_s(deployment: Deployment, weights: float) -> float:
    """Return the seconds until every device has read its weights."""
    device = deployment.system.device
    rates = [tier.bandwidth_bytes_per_s for tier in (device.disk, device.host_memory) if tier is not None]
    if not rates:
        reason = f"{device.name} loads its weights at an unknown rate (no disk or host_memory in its file); add start=SECONDS"
        raise InputError("--autoscale", reason)
    return weights / min(rates)


Phase = Literal["starting", "ready", "draining"]
PHASES: tuple[Phase, ...] = ("starting", "ready", "draining")


@dataclass(frozen=True, slots=True)
class ReplicaSpan:
    """A period in which a replica holds its devices: start and end [s], and the replica's phase."""

    replica: int
    phase: Phase
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """History of an autoscaler in a run.

    Attributes
    ----------
    start_s : float
        Seconds that a replica took to start.
    devices : int
        Of one replica.
    device : DeviceSpec
        What they are.
    spans : tuple of ReplicaSpan
        In order of their start; a replica that is not in one holds no devices.
    end_s : float
        End of the run [s].
    attained : float or None
        Share of requests whose first token came within `Autoscale.slo_s`; None without it.
    """

    spec: Autoscale
    start_s: float
    devices: int
    device: DeviceSpec
    spans: tuple[ReplicaSpan, ...]
    end_s: float = np.inf
    attained: float | None = None

    def until(self, end: float, ttft_s: F8) -> Scaling:
        """Return the scaling of a run that ended at `end`, given the times to first token of its requests [s]."""
        cut = [replace(span, end_s=min(span.end_s, end)) for span in self.spans]
        spans = sorted((span for span in cut if span.start_s < span.end_s), key=lambda s: (s.start_s, s.replica))
        limit = self.spec.slo_s
        attained = None if limit is None else float(np.mean(ttft_s <= limit))
        return replace(self, spans=tuple(spans), end_s=end, attained=attained)

    def held_s(self, phase: Phase | None = None, begin: float = 0.0, end: float = np.inf) -> float:
        """Return the replica-seconds in which devices were held between two times, in one phase or in all [s]."""
        return sum(
            max(min(span.end_s, end) - max(span.start_s, begin), 0.0)
            for span in self.spans
            if phase in (None, span.phase)
        )

    def mean_devices(self, window: Window) -> float:
        """Return the mean number of devices held over a window."""
        held_s = self.held_s(begin=window.start_s, end=window.end_s)
        return held_s * self.devices / window.length_s

    @property
    def changes(self) -> bool:
        """Return whether the number of replicas can change."""
        return self.spec.decides

    @property
    def usd(self) -> float | None:
        """Return the rent of all devices [USD]; None if they have no price."""
        price = self.device.price_USD_per_hour
        return None if price is None else self.device_hours * price

    @property
    def idle_W(self) -> float:
        """Return the static power of a replica's devices [W]."""
        return self.device.static_W * self.devices

    @property
    def device_hours(self) -> float:
        """Time of allocated devices over the whole run [h]."""
        return self.held_s() * self.devices / 3600

    @property
    def most(self) -> int:
        """Return the largest number of replicas that held devices at once."""
        counts = self.counts()[1]
        return int(counts.sum(axis=1).max(initial=0))

    def counts(self) -> tuple[F8, I8]:
        """Return the number of replicas in each of `PHASES` over time.

        Returns
        -------
        times : float64 array, shape (n,)
            When a number changes, from 0 on [s].
        counts : int64 array, shape (n, 3)
            From that time on.
        """
        edges = sorted({0.0} | {t for s in self.spans for t in (s.start_s, s.end_s)})
        times = np.array(edges)
        change = np.zeros((len(times), len(PHASES)), dtype=np.int64)
        for span in self.spans:
            column = PHASES.index(span.phase)
            change[np.searchsorted(times, span.start_s), column] += 1
            change[np.searchsorted(times, span.end_s), column] -= 1
        return times, np.cumsum(change, axis=0)


def scaling_left(run: Run, served: RunState, *_: object) -> Scaling | dict[str, Scaling] | None:
    """Return the history of the autoscaler until the end of the run; two pools have one each."""
    ttft_s = run.requests.first_token_s - run.requests.arrival_s
    scalings = [own and own.until(run.makespan_s, ttft_s) for own in served.presence]
    if not served.pools.decode:
        return scalings[0]  # type: ignore[return-value]
    return {name: own for name, own in zip(("prefill", "decode"), scalings, strict=True) if own} or None  # type: ignore[misc]


def _hours(phase: str) -> Quantity:
    def value(scaling: Scaling) -> float:
        return scaling.held_s(phase) * scaling.devices / 3600  # type: ignore[arg-type]

    return Quantity(
        f"{phase}_device_hours", f"Device-hours of replicas that are {phase} [h].", value, "1", f"of them {phase}"
    )


POOL = (
    Quantity("least", "Minimum number of replicas.", "spec.least"),
    Quantity("most", "Maximum number of replicas.", "spec.most"),
    Quantity("rule", "Autoscaling rule.", "spec.by", label="rule"),
    Quantity("target", "Target value of the rule.", lambda s: s.spec.target if s.spec.by else None),
    Quantity("start_s", "Time that a replica takes to start [s].", unit="s", label="start"),
    Quantity("device_hours", "Total device-hours [h].", unit="1", label="device-hours"),
    *map(_hours, PHASES),
    Quantity("mean_replicas", "Mean number of replicas over the run.", lambda s: s.held_s() / s.end_s if s.end_s > 0 else None, "1", "mean replicas"),
    Quantity("most_replicas", "Largest number of replicas at one time.", "most", label="most at once"),
    Quantity("started", "Replicas started.", lambda s: sum(span.phase == "starting" for span in s.spans)),
    Quantity("drained", "Replicas drained.", lambda s: sum(span.phase == "draining" for span in s.spans)),
    Quantity("usd", "Rent of all devices [USD].", "usd", "1", "USD"),
    Quantity("static_joules", "Energy of static power of all replicas [J].", lambda s: s.idle_W * s.held_s()),
    Quantity("starting_joules", "Energy of static power of starting replicas [J].", lambda s: s.idle_W * s.held_s("starting")),
    Quantity("slo_ttft_s", "TTFT limit of the rule [s].", "spec.slo_s", "s", "SLO of the first token"),
    Quantity("slo_attained", "Share of requests with a TTFT within the limit.", "attained", "%", "within it"),
)  # fmt: skip
FIGURES = Figures("autoscale", "Autoscaling", POOL)


def figures(left: Scaling | dict[str, Scaling]) -> Figures:
    """Metrics of scaling: one entry, or one for each of two pools that scales."""
    if isinstance(left, Scaling):
        return FIGURES
    pools = (Quantity(name, f"Of the pool that does {name}.", itemgetter(name), inside=POOL) for name in left)
    return Figures("autoscale", "Autoscaling", tuple(pools))

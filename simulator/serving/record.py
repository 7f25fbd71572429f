"""What a simulation leaves: its requests, its ops, its totals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..batching.policies import Policy
from ..batching.state import F8
from ..deploy.deployment import Deployment
from ..parts.adapters.run import AdapterCounts
from ..parts.drafts.run import Speculated
from ..parts.encoders.run import EncoderCounts
from ..parts.expert_cache.counts import StepFetch
from ..parts.experts_apart.run import ApartRun
from ..parts.kv_tiers.run import TiersRun
from ..parts.two_pools.pools import KvLink
from .finished import AT_ONCE, Blocks, Requests
from .metrics import Quantiles
from .replicas import Scaling
from .steady import Window
from .tasks import Tasks

if TYPE_CHECKING:
    from ..parts.classes.kinds import Classes
    from .steps import RunStep


@dataclass(frozen=True, slots=True)
class OpTotal:
    """What one op did on one processor over the whole run, all devices together.

    Attributes
    ----------
    wall_s : float
        Seconds it contributed to the clock (critical path), on all its processors together. With
        pipeline parallel, to that of its stage; the stages work side by side.
    busy_s : float
        Device-seconds it kept this processor busy.
    flops, stream_bytes, act_bytes : float
        Work done; streamed bytes are weights and KV.
    joules : mapping of str to float
        Dynamic energy by path.
    runs : float
        Times it ran (layers x steps x devices).
    outside : float
        How many of them lay outside the kernel tables, where some are in use.
    by_bound : mapping of str to float
        Its busy seconds by what bounded the op: "compute", "memory" (of an op on a link, the
        link's bandwidth) and "latency".
    """

    layer: str
    name: str
    kind: str
    processor: str
    wall_s: float
    busy_s: float
    flops: float
    stream_bytes: float
    act_bytes: float
    joules: Mapping[str, float]
    runs: float
    outside: float
    by_bound: Mapping[str, float]

    @property
    def bound(self) -> str:
        """What bounded it for most of its time: a price's own word, kept through the run."""
        most = max(self.by_bound, key=lambda name: self.by_bound[name])
        return "link" if self.layer == "communication" and most == "memory" else most

    @property
    def bytes(self) -> float:
        """Main-memory traffic [B]."""
        return self.stream_bytes + self.act_bytes

    @property
    def op_per_byte(self) -> float | None:
        return self.flops / self.bytes if self.bytes else None


@dataclass(frozen=True, slots=True)
class PoolRun:
    """What one of two pools did.

    Attributes
    ----------
    name : str
        "prefill" or "decode".
    deployment : Deployment
        Of one replica.
    devices : int
        Of all replicas.
    stepping : float
        Share of the window that a replica spends in steps.
    sending : float
        Share of the run that a port of the link is busy.
    kv_peak : float
        See `Run.kv_peak`.
    scaling : Scaling or None
        Which replicas there were when, where an autoscaler decides.
    """

    name: str
    deployment: Deployment
    policy: Policy
    replicas: int
    devices: int
    stepping: float
    sending: float
    kv_peak: float
    kv_capacity: float
    iterations: int
    preemptions: int
    output_tokens: int
    prompt_tokens: int
    scaling: Scaling | None = None

    def mean_devices(self, window: Window) -> float:
        """Its devices; of replicas that come and go their mean over a window."""
        return self.devices if self.scaling is None else self.scaling.mean_devices(window)


@dataclass(frozen=True, slots=True)
class KvMoves:
    """The KV caches that crossed from a pool to the other.

    Attributes
    ----------
    count : int
        Caches sent; those sent again after a failure count again.
    wait_s : Quantiles
        From the first token until its cache leaves; 0 where layers left before.
    transfer_s : Quantiles
        From the first token, or from when it leaves where that is later, until it is there.
    share : float or None
        Both together, as a share of all requests' time from arrival to last token.
    start_s, end_s : float64 array
        When each request's cache left and was there, as rows of `Run.requests`; NaN without one.
    """

    link: KvLink
    count: int
    total_bytes: float
    wait_s: Quantiles
    transfer_s: Quantiles
    share: float | None
    start_s: F8
    end_s: F8


@dataclass(frozen=True, slots=True)
class Run:
    """Result of one simulation.

    Attributes
    ----------
    workload : str
        Name of the request stream.
    stages : dict of str to array
        Stretches of equal batches in order of start (empty unless kept).
    iterations, preemptions, output_tokens, prompt_tokens : int
        Over the whole run; prompt tokens are those computed, recomputed ones included.
    cached : bool
        Whether an engine could find prompts in a prefix cache.
    cached_tokens : int
        Prompt tokens found in the prefix cache instead.
    makespan_s : float
        Last completion, from the first arrival.
    window : Window
        What rates and energy per token are of: the steady part of the run, where it has one.
    interval_output_tokens, interval_prompt_tokens : float
        Tokens in it; those of a stretch that it cuts are counted in proportion.
    joules, interval_joules : float
        Dynamic energy of the whole run and of the window.
    interval_static_joules : float
        Static power of all devices over the window.
    interval_busy_joules : float
        What devices draw on top while they run kernels, beside the energy of the work.
    joules_half_width : float or None
        Half of the 95 % interval of energy per token, as a fraction of it; see `Window.half_width`.
    devices : int
        Devices of all replicas.
    ttft_s, tbt_s, tpot_s, e2e_s : Quantiles
        Of requests completed after the warm-up, as the engine sees them; `client_ttft_s` and
        `client_e2e_s` are what clients see.
    kv_peak : float
        Most of the KV capacity in use on any device, as a fraction.
    kv_capacity : float
        Bytes of KV cache that a device may hold, the engine's settings counted (of two pools, one that decodes).
    failures, restarts : int
        Replicas that failed, and requests that had to be computed again because of it.
    pools : tuple of PoolRun
        Of two pools: prefill and decode.
    moves : KvMoves or None
        What crossed from the one to the other.
    wall_s : float
        Seconds of real time the simulation took.
    fetch : StepFetch or None
        What its expert caches did, all steps together, where there were some.
    adapters : AdapterCounts or None
        What requests asked of the slots for adapters, where not all fit.
    speculated : Speculated or None
        What speculation did, where there was some.
    steps : tuple of RunStep
        Its first steps, where they were kept.
    encoder : EncoderCounts or None
        What requests with images asked of their encoder.
    scaling : Scaling or None
        Which replicas there were when, where an autoscaler decides.
    tasks : Tasks or None
        What sessions or agents' tasks took, where requests follow others.
    classes : Classes or None
        The same by class and tenant, where requests have one.
    tiers : TiersRun or None
        What KV cache tiers did, where there were some.
    apart : ApartRun or None
        What devices that attend and devices that hold experts did, where these are not the same.
    groups : int
        Groups of replicas that were simulated each on its own, where their router would have looked at all.
    every : callable or None
        Of a long run whose requests are a sample: the columns of all of them, block by block.
    """

    deployment: Deployment
    policy: Policy
    workload: str
    seed: int
    requests: Requests
    stages: dict[str, F8]
    ops: tuple[OpTotal, ...]
    iterations: int
    preemptions: int
    output_tokens: int
    prompt_tokens: int
    cached_tokens: int
    cached: bool
    makespan_s: float
    window: Window
    interval_output_tokens: float
    interval_prompt_tokens: float
    joules: float
    interval_joules: float
    interval_static_joules: float
    interval_busy_joules: float
    joules_half_width: float | None
    devices: int
    ttft_s: Quantiles
    tbt_s: Quantiles
    tpot_s: Quantiles
    e2e_s: Quantiles
    kv_peak: float
    kv_capacity: float
    wall_s: float
    failures: int = 0
    restarts: int = 0
    pools: tuple[PoolRun, ...] = ()
    moves: KvMoves | None = None
    fetch: StepFetch | None = None
    adapters: AdapterCounts | None = None
    speculated: Speculated | None = None
    steps: tuple[RunStep, ...] = ()
    encoder: EncoderCounts | None = None
    scaling: Scaling | None = None
    tasks: Tasks | None = None
    classes: Classes | None = None
    tiers: TiersRun | None = None
    apart: ApartRun | None = None
    groups: int = 1
    every: Blocks | None = None

    def __repr__(self) -> str:
        return (
            f"<Run: {self.deployment.model.name} on {self.deployment.system.name}, "
            f"{len(self.requests):,} requests from {self.workload}>"
        )

    @property
    def moved_bytes(self) -> float:
        """KV caches sent from devices that prefill to devices that decode."""
        return 0.0 if self.moves is None else self.moves.total_bytes

    @property
    def interval_s(self) -> float:
        """Length of the window [s]."""
        return self.window.length_s

    @property
    def outside_s(self) -> float:
        """What a request spends outside all steps; see `Host.request_s` [s]."""
        return self.policy.host.request_s

    @property
    def client_ttft_s(self) -> Quantiles:
        """From sending a request until its client sees its first token."""
        return self.ttft_s.later(self.outside_s)

    @property
    def client_e2e_s(self) -> Quantiles:
        """From sending a request until its client sees its last token."""
        return self.e2e_s.later(self.outside_s)

    def request_blocks(self) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
        """`request_columns` of all requests, those of a long run too, block by block."""
        if self.every is not None:
            yield from (self._seen(block) for block in self.every())
            return
        columns = self.request_columns()
        for first in range(0, len(self.requests.request_id), AT_ONCE):
            yield {name: c[first : first + AT_ONCE] for name, c in columns.items()}

    def _seen(self, columns: dict[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
        """Columns with what clients see where that is known to differ."""
        if self.outside_s:
            names = ("arrival_s", "first_token_s", "last_token_s")
            arrival, first, last = (np.asarray(columns[name], dtype=np.float64) for name in names)
            columns["client_ttft_s"] = first - (arrival - self.outside_s)
            columns["client_e2e_s"] = last - (arrival - self.outside_s)
        return columns

    def request_columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """Columns of requests.csv, of a long run those of a sample; with what clients see where that differs."""
        columns = self._seen(self.requests.columns())
        if self.classes is not None:
            columns |= self.classes.labels.columns()
        if self.moves is not None:
            columns["kv_start_s"], columns["kv_end_s"] = self.moves.start_s, self.moves.end_s
        return columns

    @property
    def output_tokens_per_s(self) -> float | None:
        return self.interval_output_tokens / self.interval_s if self.interval_s > 0 else None

    @property
    def total_tokens_per_s(self) -> float | None:
        """Output tokens and processed prompt tokens (recomputed ones included) per second."""
        tokens = self.interval_output_tokens + self.interval_prompt_tokens
        return tokens / self.interval_s if self.interval_s > 0 else None

    @property
    def joules_per_token(self) -> float | None:
        """All energy of the devices per output token [J]."""
        if not self.interval_output_tokens:
            return None
        return self.board_joules / self.interval_output_tokens

    @property
    def board_joules(self) -> float:
        """All energy of the devices over the window [J]."""
        return self.interval_joules + self.interval_static_joules + self.interval_busy_joules

    @property
    def mean_devices(self) -> float:
        """Devices of all replicas; of those that come and go their mean over the window."""
        if self.interval_s <= 0:
            return self.devices
        if any(pool.scaling is not None for pool in self.pools):
            return sum(pool.mean_devices(self.window) for pool in self.pools)
        return self.devices if self.scaling is None else self.scaling.mean_devices(self.window)

    @property
    def watts_per_device(self) -> float | None:
        """Mean power of a device over the window [W]."""
        device_s = self.interval_s * self.mean_devices
        return self.board_joules / device_s if device_s > 0 else None

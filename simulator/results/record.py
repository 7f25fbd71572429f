"""Results of one simulation: its requests, ops and totals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ...workloads.batch import Batch
from ...workloads.requests.block import ColumnArrays
from ..deploy.deployment import Deployment
from ..engine.policies import Policy
from ..engine.state import F8, I8
from ..registry import PARTS
from .metrics import Quantiles
from .steady import Window

if TYPE_CHECKING:
    from .steps import RunStep


FULL = 0.9
"""Share of a resource in use above which the resource counts as the limit."""


def steady_stages(run: Run) -> Mapping[str, F8]:
    """Return the log entries of the window that defines a run's rates."""
    stages, window = run.stages, run.window
    within = (stages["end_s"] > window.start_s) & (stages["start_s"] < window.end_s)
    return {name: column[within] for name, column in stages.items()}


def typical(run: Run) -> tuple[Batch, Batch]:
    """Return a typical decode step of a rank, and a typical step with a prompt."""
    rows, d = run.requests, run.deployment
    context = max(round(float((rows.input_tokens + rows.output_tokens / 2).mean())), 1)
    decode_s = float((rows.last_token_s - rows.first_token_s).sum())
    span = max(float(rows.last_token_s.max() - rows.arrival_s.min()), 1e-12)
    decodes = round(decode_s / span / (d.ranks * max(run.engines, 1.0)))
    decodes = int(np.clip(decodes, 1, run.policy.max_sequences))
    prompt = min(max(round(float(rows.input_tokens.mean())), 1), run.policy.token_budget)
    return usual_batches(decodes, context, prompt, d.several)


def usual_batches(decodes: int, context: int, prompt: int, new: int = 1) -> tuple[Batch, Batch]:
    """Return a batch of decodes with `new` tokens, without and with a prompt."""
    seen = [context] * decodes
    return Batch.of(seen, new=new), Batch.of(seen, [(prompt, 0)], new)


COLUMNS = (
    "request_id", "arrival_s", "input_tokens", "output_tokens", "scheduled_s", "first_token_s",
    "last_token_s", "preemptions",
)  # fmt: skip
"""Columns of requests.csv."""
AT_ONCE = 1 << 16
"""Rows that are written to a table at once."""

Blocks = Callable[[], Iterator[ColumnArrays]]
"""Function that yields the columns of a table, block by block."""


@dataclass(frozen=True, slots=True)
class Requests:
    """One row per finished request, by request id; times from the first arrival [s]."""

    request_id: I8
    arrival_s: F8
    input_tokens: I8
    output_tokens: I8
    scheduled_s: F8
    first_token_s: F8
    last_token_s: F8
    preemptions: I8
    order: I8
    count: int = 0  # of which these are a sample; 0: they are all

    def __repr__(self) -> str:
        return f"<Requests: {len(self):,} rows; see columns()>"

    def __len__(self) -> int:
        """Return the number of requests that have finished."""
        return self.count or len(self.request_id)

    def part(self, which: npt.NDArray[np.bool_] | I8) -> Requests:
        """Return some of the rows."""
        return _of(lambda name: getattr(self, name)[which])

    @staticmethod
    def joined(parts: Sequence[Requests]) -> Requests:
        """Return the rows of all parts in one table."""
        return _of(lambda name: np.concatenate([getattr(part, name) for part in parts]))

    def columns(self) -> ColumnArrays:
        """Return the columns of requests.csv."""
        return {name: getattr(self, name) for name in COLUMNS}


def _of(column: Callable[[str], Any]) -> Requests:
    return Requests(**{name: column(name) for name in (*COLUMNS, "order")})


@dataclass(frozen=True, slots=True)
class OpTotal:
    """Totals of one op on one processor over the whole run, summed over all devices.

    Attributes
    ----------
    wall_s : float
        Contribution to the clock [s] (critical path), on all its processors together. With pipeline parallelism, to the
        clock of its stage.
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
        """Return its limit for most of its time, as the cost model names it."""
        most = max(self.by_bound, key=lambda name: self.by_bound[name])
        return "link" if self.layer == "communication" and most == "memory" else most

    @property
    def bytes(self) -> float:
        """Return the main-memory traffic of the op [B]."""
        return self.stream_bytes + self.act_bytes

    @property
    def op_per_byte(self) -> float | None:
        return self.flops / self.bytes if self.bytes else None


@runtime_checkable
class HoldsDevices(Protocol):
    """Interface of a part's results in a run whose number of devices changed."""

    def mean_devices(self, window: Window) -> float:
        """Return the mean number of allocated devices over a window."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """Result of one simulation.

    Attributes
    ----------
    workload : str
        Name of the request stream.
    stages : dict of str to array
        Groups of equal batches in order of start (empty unless kept).
    iterations, preemptions, output_tokens, prompt_tokens : int
        Over the whole run; prompt tokens are those computed, recomputed ones included.
    cached : bool
        Whether an engine could find prompts in a prefix cache.
    cached_tokens : int
        Prompt tokens found in the prefix cache instead.
    makespan_s : float
        From the first arrival to the last completion, or the end of a step after it whose tokens are dropped.
    window : Window
        What rates and energy per token are of: the steady part of the run, where it has one.
    interval_output_tokens, interval_prompt_tokens : float
        Tokens in the window; groups of steps at its ends count in proportion.
    joules, interval_joules : float
        Dynamic energy of the whole run and of the window.
    interval_static_joules : float
        Static power of all devices over the window.
    interval_busy_joules : float
        Additional energy of devices that run kernels, without the energy of the work.
    joules_half_width : float or None
        Half of the 95 % interval of energy per token, as a fraction of it; see `Window.half_width`.
    devices : int
        Devices of all replicas.
    engines : float
        Engines that decode; of those that come and go the mean number.
    ttft_s, tbt_s, tpot_s, e2e_s : Quantiles
        Of requests completed after the warm-up, as the engine sees them; `client_ttft_s` and
        `client_e2e_s` are what clients see.
    kv_peak : float
        Most of the KV capacity in use on any device, as a fraction.
    kv_capacity : float
        Bytes of KV cache that a device may hold, the engine's settings counted (of two pools, one that decodes).
    failures, restarts : int
        Replicas that failed, and requests that had to be computed again because of it.
    wall_s : float
        Seconds of real time the simulation took.
    steps : tuple of RunStep
        Its first steps, where they were kept.
    parts : mapping of str to object
        Results of parts, by their names (`Part.figures` defines their output).
    groups : int
        Groups of replicas that were simulated separately where their router would have looked at all.
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
    steps: tuple[RunStep, ...] = ()
    parts: Mapping[str, Any] = field(default_factory=dict)
    engines: float = 1.0
    groups: int = 1
    every: Blocks | None = None

    def __repr__(self) -> str:
        return (
            f"<Run: {self.deployment.model.name} on {self.deployment.system.name}, "
            f"{len(self.requests):,} requests from {self.workload}>"
        )

    @property
    def interval_s(self) -> float:
        """Return the length of the window in which rates are measured [s]."""
        return self.window.length_s

    @property
    def outside_s(self) -> float:
        """Return the time that a request spends outside all engine steps [s]; see `Host.request_s`."""
        return self.policy.host.request_s

    @property
    def client_ttft_s(self) -> Quantiles:
        """Return the time from sending a request until its client sees the first token [s]."""
        return self.ttft_s.later(self.outside_s)

    @property
    def client_e2e_s(self) -> Quantiles:
        """Return the time from sending a request until its client sees the last token [s]."""
        return self.e2e_s.later(self.outside_s)

    def request_blocks(self) -> Iterator[ColumnArrays]:
        """Return `request_columns` of all requests, also of a long run, block by block."""
        if self.every is None:
            yield self.request_columns()
        else:
            yield from map(self._seen, self.every())

    def _seen(self, columns: ColumnArrays) -> ColumnArrays:
        """Add columns with times as clients see them, if they differ from the engine's."""
        if self.outside_s:
            names = ("arrival_s", "first_token_s", "last_token_s")
            arrival, first, last = (np.asarray(columns[name], dtype=np.float64) for name in names)
            columns["client_ttft_s"] = first - (arrival - self.outside_s)
            columns["client_e2e_s"] = last - (arrival - self.outside_s)
        return columns

    def request_columns(self) -> ColumnArrays:
        """Return the columns of requests.csv by arrival, of a sample for a long run; with client times if they differ."""
        columns = self._seen(self.requests.columns())
        for name, left in self.parts.items():
            if (hook := PARTS[name].hook("request_columns")) is not None:
                columns |= hook(left)
        rows = np.argsort(self.requests.arrival_s, kind="stable")  # next turns come after what came meanwhile
        return {name: column[rows] for name, column in columns.items()}

    @property
    def output_tokens_per_s(self) -> float | None:
        return self.interval_output_tokens / self.interval_s if self.interval_s > 0 else None

    @property
    def total_tokens_per_s(self) -> float | None:
        """Return output tokens plus computed prompt tokens (recomputed ones included) per second."""
        tokens = self.interval_output_tokens + self.interval_prompt_tokens
        return tokens / self.interval_s if self.interval_s > 0 else None

    @property
    def joules_per_token(self) -> float | None:
        """Return the energy of all devices per output token [J]."""
        if not self.interval_output_tokens:
            return None
        return self.board_joules / self.interval_output_tokens

    @property
    def board_joules(self) -> float:
        """Return the energy of all devices over the window [J]."""
        return self.interval_joules + self.interval_static_joules + self.interval_busy_joules

    @property
    def mean_devices(self) -> float:
        """Return the number of devices of all replicas; with autoscaling the mean over the window."""
        if self.interval_s <= 0:
            return self.devices
        device_means = [
            left.mean_devices(self.window) for left in self.parts.values() if isinstance(left, HoldsDevices)
        ]
        return device_means[0] if device_means else self.devices

    @property
    def watts_per_device(self) -> float | None:
        """Return the mean power of a device over the window [W]."""
        device_s = self.interval_s * self.mean_devices
        return self.board_joules / device_s if device_s > 0 else None

"""What a cluster knows of its requests and engines while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import simpy

from ...workloads.requests import Turns
from ..batching.kv import sequence_bytes
from ..batching.state import C_RELEASED, C_SUBMITTED, R_WAITING
from .engine import Engine
from .routers import Load

NAN = float("nan")


@dataclass(slots=True)
class Job:
    """One request on its way through the cluster; times in seconds.

    `promised` are the KV bytes on one device that its present node keeps for it, `hash_ids` the
    content of its prompt's blocks. Of a session: its first request, the request that this one
    follows (-1: none) and `think_s` after which, and the node where this one ran.
    """

    id: int
    arrival_s: float
    input_tokens: int
    output_tokens: int
    generated: int = 0
    scheduled_s: float = NAN
    first_s: float = NAN
    last_s: float = NAN
    preemptions: int = 0
    failures: int = 0
    order: int = -1
    promised: float = 0.0
    hash_ids: tuple[int, ...] | None = None
    session: int | None = None
    follows: int = -1
    think_s: float = 0.0
    home: Node | None = None

    @property
    def turns(self) -> Turns | None:
        """Its place in a session, as a block of one request."""
        if self.session is None:
            return None
        return Turns(
            np.array([self.follows]), np.array([self.session]), np.array([self.think_s])
        )  # fmt: skip

    @property
    def cached(self) -> int:
        """Tokens in the KV cache once the latest token has come."""
        return self.input_tokens + self.generated - 1


@dataclass(slots=True)
class Node:
    """One engine with what the cluster knows of it.

    Attributes
    ----------
    engine : Engine
        The present one; a failure replaces it.
    port : simpy.Resource
        Its end of the link: one transfer at a time.
    wake : simpy.Event
        What an idle one waits for.
    live : dict of int to Job
        Row in the engine's state -> request on it.
    up, failing : bool
        Whether it takes requests; whether it fails at the end of the step.
    life : int
        Failures so far; tells whether what was sent to or from it is still there.
    inbound : int
        Requests whose cache is on its way.
    promised : float
        KV bytes of one device kept for requests that are here, come, or have a cache parked here.
    """

    engine: Engine
    port: simpy.Resource
    wake: simpy.Event
    live: dict[int, Job] = field(default_factory=dict)
    up: bool = True
    failing: bool = False
    life: int = 0
    inbound: int = 0
    promised: float = 0.0

    @property
    def load(self) -> Load:
        """Requests that wait and that run, as of the step in progress."""
        state = self.engine.state
        late = int(state.counters[C_SUBMITTED] - state.counters[C_RELEASED])
        waiting = late + int(state.ranks[:, R_WAITING].sum())
        return Load(waiting, len(self.live) - waiting)

    @property
    def capacity(self) -> float:
        """KV bytes of one device, times the ranks that share the requests."""
        return self.engine.kv.capacity * self.engine.deployment.ranks

    def need(self, tokens: int) -> float:
        """KV bytes of `tokens` tokens on one device."""
        return float(sequence_bytes(self.engine.kv, np.array([tokens]))[0])

    def fits(self, size: float) -> bool:
        """Whether it can keep `size` bytes more; alone, anything that was let in fits."""
        return self.promised == 0.0 or self.promised + size <= self.capacity

    def promise(self, job: Job, size: float) -> None:
        """Keep bytes for a request."""
        job.promised = size
        self.promised += size

    def forget(self, size: float) -> None:
        """Give kept bytes back; no remainder of rounding is left on an empty node."""
        self.promised = max(self.promised - size, 0.0)

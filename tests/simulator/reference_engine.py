"""What all slow engines share: requests, batches, the host's work, and the loop of a host that works ahead.

`reference.py`, `reference_sglang.py` and `reference_trtllm.py` restate the rules of single engines on top of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opbyte.simulator.engine.policies import Policy
from opbyte.simulator.step.launches import Launches
from opbyte.workloads.batch import DECODE, PREFILL, Batch

HASH_TOKENS = 512
"""Prompt tokens that one prefix hash of a trace stands for."""


@dataclass(eq=False)
class Request:
    index: int
    arrival: float
    input: int
    output: int
    hashes: Sequence[int] = ()
    target: int = 0  # tokens that are computed as a prompt
    cached: int = 0  # tokens in the cache before the planned step
    generated: int = 0
    scheduled: float = math.nan
    first: float = math.nan
    last: float = math.nan
    preemptions: int = 0
    gaps: list[float] = field(default_factory=list)
    priority: int = 0
    finished: bool = False

    @property
    def in_prefill(self) -> bool:
        return self.cached < self.target

    @property
    def hashed(self) -> int:
        """Tokens whose content a trace tells."""
        return min(self.input, HASH_TOKENS * len(self.hashes))

    def content(self, at: int) -> tuple[object, ...]:
        """What a trace tells of the token at a place, which is one of `hashed`."""
        return ("hash", self.hashes[at // HASH_TOKENS], at % HASH_TOKENS)

    @property
    def length(self) -> int:
        return self.input + self.generated

    def emit(self, now: float) -> None:
        """Generate a token."""
        self.generated += 1
        if self.generated == 1:
            self.first = now
        else:
            self.gaps.append(now - self.last)
        self.last = now


LoweredModel = list[tuple[Any, int]]
"""Requests of a rank's next step, with their tokens."""


def batch_of(plan: LoweredModel) -> Batch:
    """The batch that a plan runs."""
    columns = (
        [tokens for _, tokens in plan],
        [r.cached for r, _ in plan],
        [PREFILL if r.in_prefill else DECODE for r, _ in plan],
        [r.index for r, _ in plan],
    )
    return Batch(*(np.array(c, dtype=np.int64) for c in columns))


def launching(policy: Policy, launches: Launches, tokens: int, prompts: bool, several: int = 1) -> float:
    """Seconds to launch a step with at most so many tokens on a rank, `several` of each decode."""
    each, captured = policy.host.launch_s, policy.captures(several) or policy.largest * several
    if not prompts:
        gap = policy.exact and tokens > 32 and tokens.bit_count() > 1
        return each * launches.decodes if policy.eager or gap or (captured and tokens > captured) else 0.0
    pieces = min(policy.pieces, policy.captured) if policy.graphs else policy.pieces
    return each * (launches.pieces if not policy.eager and tokens <= pieces else launches.prompts)


def with_host(
    policy: Policy, launches: Launches, batches: Sequence[Batch], devices: Sequence[float], several: int = 1
) -> list[float]:
    """Seconds of each stage of a step, the host's launches and work included."""
    tokens = max(batch.tokens for batch in batches)
    prompts = any(bool((batch.phase == PREFILL).any()) for batch in batches)
    starting = launching(policy, launches, tokens, prompts, several) / len(devices)
    sequences, chunks = (
        sum(len(b.q_len) for b in batches) / len(batches),
        sum(int((b.phase == PREFILL).sum()) for b in batches),
    )
    beside = launches.mixed_s / len(devices) * max(sequences - chunks, 0.0) if prompts else 0.0
    first, *others = (max(seconds + beside * (n == 0), starting) for n, seconds in enumerate(devices))
    work = policy.host.step_s + policy.host.sequence_s * sequences
    hidden = policy.ahead if len(devices) == 1 else not getattr(policy.rules, "serial", False)
    return [max(first, starting + work) if hidden else first + work, *others]


@dataclass
class Step:
    """A step that has been launched: of each rank its requests, and what the engine noted of them."""

    plans: list[LoweredModel]
    notes: list[Any]
    end: float


@dataclass
class Loop:
    """The host's loop over ranks that step together: plan and launch a step, then wait for the one before it.

    An engine gives `receive`, `launch` and `process`; its ranks say whether they have `work`.
    """

    rules: Any
    ranks: list[Any]
    seconds: Callable[[Sequence[Batch], int], Any]
    clients: int | None = None
    accept: Callable[[Any], int] = lambda request: 0
    steps: int = 0
    host: float = 0.0
    device: float = 0.0

    def begin(self, requests: list[Any]) -> None:
        for request in requests[: self.clients or 0]:
            request.arrival = 0.0
        self.to_come = list(requests)

    def serve(self, requests: list[Any]) -> None:
        self.begin(requests)
        last: Step | None = None
        while True:
            self.receive(last)
            step = self.launch()
            ended = last if self.rules.overlap else step
            if ended:
                self.process(ended)
            if step is None and last is None and not self.idle():
                return
            last = step if self.rules.overlap else None

    def receive(self, last: Step | None) -> None:
        raise NotImplementedError

    def launch(self) -> Step | None:
        raise NotImplementedError

    def process(self, step: Step) -> None:
        raise NotImplementedError

    def run(self, plans: Sequence[LoweredModel]) -> float:
        """When a step is through that is launched now."""
        self.device = max(self.host, self.device) + self.cost(plans)
        return self.device

    def cost(self, plans: Sequence[LoweredModel]) -> Any:
        self.steps += 1
        return self.seconds([batch_of(plan) for plan in plans], self.steps - 1)

    def emit(self, request: Any, accepted: int) -> None:
        """Generate the tokens of a step with so many accepted drafts, and what follows an end."""
        for _ in range(min(accepted + 1, request.output - request.generated)):
            request.emit(self.host)
        request.finished = request.generated == request.output
        following = [r for r in self.to_come if r.arrival == math.inf] if request.finished else []
        for other in following[:1]:  # a client's next request comes when it has been answered
            other.arrival = self.host

    def idle(self) -> bool:
        """Wait for the next request if nothing is left to do; False where there is none."""
        if any(rank.work for rank in self.ranks):
            return True
        if not self.to_come:
            return False
        self.host = max(self.host, self.to_come[0].arrival)
        return True


@dataclass
class StagedLoop(Loop):
    """The loop over pipeline stages: as many batches take turns. `seconds` gives those of each stage."""

    stages: int = 1
    places: int = 1  # requests that have memory at most

    def begin(self, requests: list[Any]) -> None:
        super().begin(requests)
        self.free = [0.0] * self.stages

    def run(self, plans: Sequence[LoweredModel]) -> float:
        end = self.host
        for s, seconds in enumerate(self.cost(plans)):
            self.free[s] = end = max(end, self.free[s]) + seconds
        return end

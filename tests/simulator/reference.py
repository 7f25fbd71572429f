"""A slow, obvious scheduler: one step at a time, lists and numbers, the explicit path's cost.

It restates the rules of batching in the plainest way, for `test_scheduler.py` to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from opbyte.simulator.policies import Policy
from opbyte.workloads.batch import DECODE, PREFILL, Batch


@dataclass
class Request:
    index: int
    arrival: float
    input: int
    output: int
    target: int = 0
    cached: int = 0
    generated: int = 0
    held: float = 0.0
    scheduled: float = math.nan
    first: float = math.nan
    last: float = math.nan
    preemptions: int = 0
    gaps: list[float] = field(default_factory=list)

    @property
    def in_prefill(self) -> bool:
        return self.cached < self.target


@dataclass
class Rank:
    free: float
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)


@dataclass
class Reference:
    """Serve requests on ranks that step together."""

    policy: Policy
    ranks: int
    capacity: float
    kv_bytes: Callable[[int], float]
    cost: Callable[[Sequence[Batch], int], float]
    clients: int | None = None
    steps: int = 0
    now: float = 0.0

    def serve(self, requests: list[Request]) -> None:
        to_come = list(requests)
        if self.clients is not None:
            for request in to_come[: self.clients]:
                request.arrival = 0.0
        ranks = [Rank(self.capacity) for _ in range(self.ranks)]
        while True:
            while to_come and to_come[0].arrival <= self.now:
                least = min(ranks, key=lambda r: len(r.running) + len(r.waiting))
                request = to_come.pop(0)
                request.target = request.input
                least.waiting.append(request)
            if not any(r.running or r.waiting for r in ranks):
                if not to_come:
                    return
                self.now = to_come[0].arrival
                continue
            plans = [self.plan(rank) for rank in ranks]
            assert any(plans), "no sequence can make progress"
            self.now += self.cost([batch_of(plan) for plan in plans], self.steps)
            self.steps += 1
            for rank, plan in zip(ranks, plans, strict=True):
                for request, tokens in plan:
                    self.stamp(request, tokens)
                done = [r for r in rank.running if r.generated == r.output]
                for request in done:
                    rank.running.remove(request)
                    rank.free += request.held
                    request.held = 0.0
                    if self.clients is not None:
                        unopened = [r for r in to_come if r.arrival == math.inf]
                        for following in unopened[:1]:
                            following.arrival = self.now
            assert all(0 <= r.free <= self.capacity for r in ranks)

    def plan(self, rank: Rank) -> list[tuple[Request, int]]:
        """New tokens of each sequence in the next step."""
        budget, plan, preempted = self.policy.token_budget, [], False
        for request in list(rank.running):
            if request not in rank.running:  # preempted for one before it
                continue
            left = request.target - request.cached
            tokens = min(left if left > 0 else 1, budget)
            while tokens and not self.hold(rank, request, request.cached + tokens):
                preempted = True
                victim = rank.running.pop()
                rank.free += victim.held
                victim.held, victim.cached = 0.0, 0
                victim.target = victim.input + victim.generated
                victim.preemptions += 1
                rank.waiting.insert(0, victim)
                if victim is request:
                    tokens = 0
            budget -= tokens
            if tokens:
                plan.append((request, tokens))
        prompts = 0
        while not preempted and rank.waiting and budget > 0:
            request, room = rank.waiting[0], budget
            if len(rank.running) == self.policy.max_sequences:
                break
            if not self.policy.chunked and request.target > room:
                if prompts:
                    break
                room = request.target  # too long for any step: the only prompt of its own
            whole = request.input + request.output - 1 if self.policy.reserve else request.target
            if not self.hold(rank, request, whole):
                break
            rank.waiting.pop(0)
            rank.running.append(request)
            if math.isnan(request.scheduled):
                request.scheduled = self.now
            tokens = min(request.target, room)
            plan.append((request, tokens))
            budget -= tokens
            prompts += 1
        return plan

    def hold(self, rank: Rank, request: Request, tokens: int) -> bool:
        """Raise what a sequence holds to `tokens` tokens, if that fits."""
        more = max(self.kv_bytes(tokens) - request.held, 0.0)
        if more > rank.free:
            return False
        rank.free -= more
        request.held += more
        return True

    def stamp(self, request: Request, tokens: int) -> None:
        request.cached += tokens
        if request.in_prefill:
            return
        request.generated += 1
        if request.generated == 1:
            request.first = self.now
        else:
            request.gaps.append(self.now - request.last)
        request.last = self.now


def batch_of(plan: Sequence[tuple[Request, int]]) -> Batch:
    """The batch that a plan runs."""
    columns = (
        [tokens for _, tokens in plan],
        [r.cached for r, _ in plan],
        [PREFILL if r.in_prefill else DECODE for r, _ in plan],
        [r.index for r, _ in plan],
    )
    return Batch(*(np.array(c, dtype=np.int64) for c in columns))

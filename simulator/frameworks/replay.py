"""Replay of workloads whose plans were made by vLLM's own scheduler, in an engine of this simulator.

The plans were made by vLLM's code with only the workers replaced; here every batch takes one
unit of time on every stage.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...devices.catalog import load_system
from ...workloads.catalog import load_model
from ...workloads.errors import InputError
from ...workloads.requests.block import RequestBlock, Turns
from ...workloads.textfile import read_regular
from ..deploy.deployment import Deployment, deploy
from ..engine.engine import Engine
from ..engine.host import HostDelay
from ..engine.policies import without_front
from .engine_file import engine_of
from .settings import EngineSettings

MODEL, DEVICE = "llama-3-8b", "h100"
"""Model and device of the simulated engine. Any would do whose batches take less than the unit of time, because a plan
depends on no other property of them.
"""

LARGEST = 1 << 28
"""Largest size of a file of cases [B]."""
UNIT_S = 1.0
"""Time of a batch on a stage [s]."""


@dataclass(frozen=True, slots=True)
class CaseRequest:
    """A request of a case; `follows` is the position of the request that it follows, -1 for none."""

    arrival: float
    input: int
    output: int
    hashes: tuple[int, ...] = ()
    follows: int = -1
    think: float = 0.0


@dataclass(frozen=True, slots=True)
class ScheduleCase:
    """A workload with the plans that vLLM made for it, as stored in the file."""

    name: str
    engine: EngineSettings
    requests: tuple[CaseRequest, ...]
    plans: list[Any]
    done: list[Any]


def replay(case: ScheduleCase, record: bool) -> tuple[list[Any], list[Any]]:
    """Run a case; return its plans (if they are recorded) and its requests in order of completion."""
    engine, order = _engine(case, record), list[int]()
    known = [(r.arrival, k) for k, r in enumerate(case.requests) if r.follows < 0]
    heapq.heapify(known)
    after: dict[int, list[int]] = {}
    for k, request in enumerate(case.requests):
        after.setdefault(request.follows, []).append(k)
    ended = 0
    while known or not engine.done:
        until = known[0][0] if known else math.inf
        engine.advance(until, engine.completed + 1)
        state = engine.state
        orders = state.requests.order[: len(order)]
        for row in np.flatnonzero(orders >= ended).tolist():
            for k in after.get(order[row], ()):
                asked, end = case.requests[k], float(state.requests.last[row])
                heapq.heappush(known, (max(asked.arrival, end + asked.think), k))
        before, ended = ended, int((orders >= 0).sum())
        while ended == before and known and known[0][0] <= until:  # that time is reached
            arrival, k = heapq.heappop(known)
            order.append(k)
            engine.submit(_block(case, k, arrival))
    return list(_plans(engine, order)), _done(engine, order)


def _engine(case: ScheduleCase, record: bool) -> Engine:
    """Return an engine with the case's settings, whose batches take one unit of time per stage."""
    settings = case.engine
    policy = without_front(settings.policy)  # arrivals are the times at which the engine has the requests
    engine = Engine(_deployment(settings.pp or 1), policy, cache=settings.cache, keep_plans=record)
    hidden = settings.policy.ahead or settings.pp != 1
    engine.limits = engine.limits._replace(host_delay=HostDelay(0.0, 0.0, UNIT_S, hidden, prompting_s=UNIT_S))
    return engine


@cache
def _deployment(stages: int) -> Deployment:
    """Return a deployment of a model with as many layers as there are stages, at least two."""
    model = load_model(MODEL)
    model = replace(model, layers=model.layers[: max(2, stages)])
    return deploy(model, load_system(f"{DEVICE}-x{stages}"), pp=stages)


def _block(case: ScheduleCase, k: int, arrival: float) -> RequestBlock:
    """Return one request of a case as a block for the engine."""
    asked, first = case.requests[k], k
    while case.requests[first].follows >= 0:
        first = case.requests[first].follows
    turns = None
    if any(r.follows >= 0 for r in case.requests):
        turns = Turns(np.array([asked.follows]), np.array([first]), np.array([asked.think]))
    return RequestBlock(
        np.array([k]), np.array([arrival]), np.array([asked.input]), np.array([asked.output]),
        None if turns is not None else (asked.hashes,), turns,
    )  # fmt: skip


def _plans(engine: Engine, order: Sequence[int]) -> Iterator[Any]:
    """Yield the recorded plans in the form of the file, without plans that neither run nor preempt a request."""
    block_bytes = float(engine.kv.block_bytes.sum())
    for plans, entries in engine.plans:
        start = 0
        for plan in plans:
            rows = entries[start : int(plan.end)]
            start = int(plan.end)
            if len(rows):
                ran = rows.tokens > 0
                work = [[order[i], q, cached] for i, q, cached in rows[ran].tolist()]
                preempted = [order[i] for i, _, _ in rows[~ran].tolist()]
                free = round(float(plan.free) / block_bytes)
                yield [float(plan.time), work, preempted, free]


def _done(engine: Engine, order: Sequence[int]) -> list[Any]:
    """Return the requests in order of completion, with the times of their first and last tokens."""
    state, count = engine.state, len(order)
    rows = np.argsort(state.requests.order[:count])
    return [[order[r], *state.requests[["first", "last"]][r].tolist()] for r in rows.tolist()]


def read_cases(path: Path) -> list[ScheduleCase]:
    """Return all cases of a file.

    Raises
    ------
    InputError
        A line that is not a case, or no line.
    """
    try:
        lines = read_regular(path, LARGEST, "schedules").decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 text ({error.reason})") from None
    cases = [_case(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not cases:
        raise InputError(path, "has no cases")
    return cases


def _case(path: Path, number: int, line: str) -> ScheduleCase:
    """Parse one line of a file of cases."""
    where = f"{path}, line {number}"
    try:
        values = json.loads(line)
        requests = tuple(_asked(request) for request in values["requests"])
        name, plans, done = str(values["name"]), list(values["plans"]), list(values["done"])
        settings = dict(values["engine"])
        settings.setdefault("version", str(values.get("vllm", "0.19.0")))
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise InputError(where, f"is not a schedule: {error!r}") from None
    for k, asked in enumerate(requests):
        if not (asked.follows < k and asked.input >= 1 and asked.output >= 1):
            raise InputError(
                where, f"request {k} must have input and output tokens, and may follow only an earlier request"
            )
    if len(done) != len(requests):
        raise InputError(where, f"has {len(requests)} requests, but `done` has {len(done)}")
    return ScheduleCase(name, engine_of(Path(where), settings), requests, plans, done)


def _asked(values: Mapping[str, Any]) -> CaseRequest:
    return CaseRequest(
        float(values["arrival"]),
        int(values["input"]),
        int(values["output"]),
        tuple(int(h) for h in values.get("hash_ids", ())),
        int(values.get("follows", -1)),
        float(values.get("think", 0.0)),
    )

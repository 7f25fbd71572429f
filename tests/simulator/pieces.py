"""One check for all schedulers: requests that come in pieces, and stops in between, change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.host import Host
from opbyte.simulator.engine.kv import CacheSettings, sequence_bytes
from opbyte.simulator.engine.policies import Policy
from opbyte.simulator.fleet.driver import RunSettings, RunState, serve
from opbyte.simulator.fleet.pools import Fleet, Pools
from opbyte.simulator.parts.drafts.explicit import speculative_stage
from opbyte.simulator.step.lowering import lower
from opbyte.simulator.step.step_totals import new_step_totals
from opbyte.simulator.step.timed import Lowered
from opbyte.workloads.batch import Batch
from opbyte.workloads.requests import RequestBlock, RequestStream
from opbyte.workloads.requests.block import Labels

from .reference import Blocks, Bytes, Pipeline, Reference, Request
from .reference_engine import HASH_TOKENS
from .two_paths import compiled_step

GAP_S = 2e-4
"""Scale of the gaps between arrivals: about a step of the tests' small models."""

hosts = st.one_of(
    st.just(Host()), st.builds(Host, st.floats(0, 3 * GAP_S), st.floats(0, GAP_S), st.floats(0, 0.2 * GAP_S))
)
"""Times of the host about as long as the devices'."""


def contexts_up_to(most: int, short: int = 40) -> st.SearchStrategy[int]:
    """Contexts, of which many are short."""
    return st.one_of(st.integers(0, short), st.integers(0, most))


def batches_up_to(most: int, short: int = 40) -> st.SearchStrategy[Batch]:
    """Batches of one rank at such contexts, with a decode at least."""
    contexts = contexts_up_to(most, short)
    return st.builds(
        Batch.of,
        st.lists(contexts, max_size=6).map(lambda found: [*found, 5]),
        st.lists(st.tuples(st.integers(1, 4000), contexts), max_size=2),
    )


def batches_with(decodes: st.SearchStrategy[list[int]], contexts: st.SearchStrategy[int]) -> st.SearchStrategy[Batch]:
    """Batches of one rank: some decodes, and up to three prompts, of which many are short."""
    tokens = st.one_of(st.integers(1, 40), st.integers(1, 4000))
    return st.builds(Batch.of, decodes, st.lists(st.tuples(tokens, contexts), max_size=3))


def paths(size: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Prefix hashes of a prompt, of some of its blocks: two ways on from every node of a tree."""

    def nodes(turns: list[bool]) -> tuple[int, ...]:
        path = [1]
        for turn in turns:
            path.append(2 * path[-1] + turn)
        return tuple(path[1:])

    return st.lists(st.booleans(), max_size=-(-size // HASH_TOKENS)).map(nodes)


def drawn_requests(draw: st.DrawFn, inputs: list[int], sizes: st.SearchStrategy[int]) -> dict[str, Any]:
    """Draw outputs, gaps, clients and prefixes of requests with the given prompts."""
    n = len(inputs)
    return {
        "inputs": inputs,
        "outputs": draw(st.lists(sizes, min_size=n, max_size=n)),
        "gaps": draw(st.lists(st.floats(0.0, 20.0), min_size=n, max_size=n)),
        "clients": draw(st.one_of(st.none(), st.integers(1, 5))),
        "hashes": draw(st.one_of(st.none(), st.tuples(*(paths(size) for size in inputs)))),
    }


def block_of(load: dict[str, Any], part: slice = slice(None)) -> RequestBlock:
    """Requests of a workload as one block."""
    inputs = np.array(load["inputs"], dtype=np.int64)
    labels = None
    if load.get("urgent") is not None:
        own = np.array(load["urgent"], dtype=np.int64)[part]
        labels = Labels(np.zeros_like(own), own, np.zeros_like(own), ["one"], ["one"])
    return RequestBlock(
        np.arange(len(inputs))[part],
        (np.cumsum(load["gaps"]) * GAP_S)[part],
        inputs[part],
        np.array(load["outputs"], dtype=np.int64)[part],
        load["hashes"][part] if load["hashes"] else None,
        labels=labels,
    )


def play(engine: Engine, load: dict[str, Any]) -> None:
    """Run a workload to its end; in a closed loop each client sends its next request when it has its answer."""
    count, clients = len(load["inputs"]), load["clients"]
    if clients is None:
        engine.submit(block_of(load))
    while engine.completed < count:
        for i in range(engine.submitted, min(engine.completed + (clients or 0), count)):
            engine.submit(replace(block_of(load, slice(i, i + 1)), arrival_s=np.array([engine.now])))
        engine.advance(math.inf, engine.completed + 1)
    engine.advance(math.inf)


def stamps(engine: Engine, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Arrival, schedule, first and last token of every request."""
    requests = engine.state.requests[:count]
    return np.stack([requests[name] for name in ("arrival", "scheduled", "first", "last")], 1)


def cache_of(load: dict[str, Any], spare: int = 0) -> CacheSettings:
    """Blocks for `room` of the longest request with so many tokens more."""
    block, tokens = block_of(load), load["block"]
    longest = int((block.input_tokens + block.output_tokens - 1).max()) + spare
    return CacheSettings(tokens, int(-(-longest // tokens) * load["room"]))


def small_engine(deployment: Deployment, load: dict[str, Any], spare: int = 0, **options: Any) -> Engine:
    """An engine with as little KV memory as the workload says."""
    options = {"policy": load["policy"], "keep_log": True, "cache": cache_of(load, spare)} | options
    engine = Engine(deployment, **options)
    if not engine.kv.cached:  # bytes need not be whole blocks
        block = block_of(load)
        most = sequence_bytes(engine.kv, block.input_tokens + block.output_tokens - 1 + spare).max()
        engine.kv = engine.kv._replace(capacity=float(most * load["room"]))
        engine.state.free[:] = engine.kv.capacity
    return engine


def step_cost(deployment: Deployment, policy: Policy, number: int = 0) -> Callable[[Sequence[Batch], int], Any]:
    """Seconds of a step of the engine of that number, of each stage where there are several.

    Schedules are asked here. Prices are the compiled path's, which `test_paths_agree` holds to the explicit one for any
    batch; steps with drafts have the explicit path's.
    """
    captured, windows = policy.captures(deployment.several), deployment.shard.windows
    if deployment.several > 1:
        return lambda batches, step: speculative_stage(deployment, batches, step=step, captured=captured).whole.seconds
    plan = lower(deployment, number)[0]
    model = Lowered(plan, new_step_totals(plan))

    def cost(batches: Sequence[Batch], step: int) -> Any:
        seconds = compiled_step(model, batches, [b.moments(windows) for b in batches], step, True, captured)
        return seconds if deployment.layout.pp == 1 else model.step_totals.stages.copy()

    return cost


def memory_of(engine: Engine) -> Blocks | Bytes:
    """The slow scheduler's memory of one rank of an engine."""
    kv = engine.kv
    if kv.cached:
        return Blocks(kv.block, list(range(kv.blocks)), kv.bare_first)
    return Bytes(kv.capacity, lambda tokens: float(sequence_bytes(kv, np.array([tokens]))[0]))


def slow_engine(engine: Engine, clients: int | None = None, kind: Any = None, **more: Any) -> Any:
    """The slow scheduler of an engine's policy, memory and deployment; of another `kind`, if its rules are others."""
    d = engine.deployment
    if d.layout.pp > 1:
        more["stages"] = d.layout.pp
    more.setdefault("memories", [memory_of(engine) for _ in range(d.ranks)])
    kind = kind or (Reference if d.layout.pp == 1 else Pipeline)
    cost = step_cost(d, engine.policy)
    return kind(policy=engine.policy, cost=cost, clients=clients, launches=engine.launches, **more)


def slow_requests(
    load: dict[str, Any], make: Callable[..., Any] = Request, more: Sequence[dict[str, Any]] = ()
) -> list[Any]:
    """A workload's requests for a slow scheduler; those of a closed loop come when their client is free."""
    block = block_of(load)
    arrivals = block.arrival_s if load["clients"] is None else np.full(len(block), np.inf)
    columns = arrivals, block.input_tokens, block.output_tokens, block.hash_ids or [()] * len(block)
    return [
        make(i, float(a), int(p), int(o), hashes, **(more[i] if more else {}))
        for i, (a, p, o, hashes) in enumerate(zip(*columns, strict=True))
    ]


def check_served(engine: Engine, slow: Any, requests: Sequence[Any]) -> None:
    """An engine's steps, preemptions, cache hits, stamps and token gaps are those of a slow scheduler.

    There is a gap for every token after a request's first; that of a preemption counts whole.
    """
    state, n = engine.state, len(requests)
    assert state.counters[0].steps == slow.steps
    assert state.counters[0].hits == slow.hits
    assert state.requests.preempted[:n].tolist() == [r.preemptions for r in requests]
    assert state.counters[0].preemptions == sum(r.preemptions for r in requests)
    expected = np.array([[r.arrival, r.scheduled, r.first, r.last] for r in requests])
    assert stamps(engine, n) == pytest.approx(expected, rel=1e-9)
    gaps = [gap for r in requests for gap in r.gaps]
    assert state.clocks[0].gap_count == state.hist.sum() == len(gaps)
    assert state.clocks[0].gap_sum == pytest.approx(sum(gaps), rel=1e-9)


def check_ended(engine: Engine, load: dict[str, Any]) -> None:
    """All requests have all their tokens, none waits, and all memory is free."""
    state, n = engine.state, len(load["outputs"])
    assert not state.ranks.waiting.any()
    assert state.counters[0].completed == n
    assert state.requests.generated[:n].tolist() == load["outputs"]
    assert state.counters[0].emitted == sum(load["outputs"])
    assert (state.free == engine.kv.capacity).all()


def check_pieces(
    new_engine: Callable[[], Engine], load: dict[str, Any], times: Sequence[float], splits: Sequence[int]
) -> None:
    """Submit all at once to one engine, and split at `splits`, with stops at `times`, to another."""
    block = block_of(load)
    whole = new_engine()
    whole.submit(block)
    whole.advance(math.inf)
    pieces = new_engine()
    for start, stop in zip([0, *splits], [*splits, len(block)], strict=True):
        pieces.submit(block_of(load, slice(start, stop)))
        known = block.arrival_s[stop] if stop < len(block) else math.inf
        for cut in (*(t for t in times if t < known), known):
            pieces.advance(cut)
    assert np.array_equal(stamps(whole, len(block)), stamps(pieces, len(block)))
    assert np.array_equal(whole.state.hist, pieces.state.hist)
    assert whole.step_totals.tally == pytest.approx(pieces.step_totals.tally, rel=1e-12)


def served_on(
    pools: Pools, policy: Policy, stream: RequestStream, router: str = "round-robin", faults: Any = None,
    autoscale: Any = None, **settings: Any,
) -> RunState:  # fmt: skip
    """A run on the nodes of pools, as `RunSettings` says."""
    fleet = Fleet(router, faults=faults, autoscale=autoscale)
    return serve(RunSettings(pools, policy, stream, fleet, **settings))


def served(
    deployment: Deployment, policy: Policy, requests: Sequence[tuple[float, int, int]],
    cache: CacheSettings | None = None,
) -> Engine:  # fmt: skip
    """Run requests of arrival [s], prompt and output tokens."""
    engine = Engine(deployment, policy, keep_log=True, cache=cache or CacheSettings())
    arrival, inputs, outputs = (np.array(x) for x in zip(*requests, strict=True))
    engine.submit(RequestBlock(np.arange(len(requests)), arrival.astype(float), inputs, outputs))
    engine.advance(math.inf)
    return engine


def log(engine: Engine, *columns: int) -> list[list[float]]:
    rows: list[list[float]] = np.concatenate(engine.logs)[:, columns].tolist()
    return rows

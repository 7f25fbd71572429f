"""Does the compiled scheduler do what a slow, obvious one does?

`reference.py` steps one token at a time through lists, costing every step on the explicit path.
Random small request sets under random policies, with little KV memory so that sequences are
preempted, must give the same stamps, preemptions and steps; and what every schedule owes holds:
all tokens come, memory is never overdrawn and all given back, stamps are in order.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.host import Host
from opbyte.simulator.engine.kv import CacheSettings
from opbyte.simulator.engine.policies import POLICIES, Policy
from opbyte.simulator.engine.state import LogColumn, Status
from opbyte.workloads.requests import RequestBlock

from .deployments import small
from .pieces import (
    GAP_S,
    block_of,
    check_ended,
    check_pieces,
    check_served,
    drawn_requests,
    hosts,
    play,
    slow_engine,
    slow_requests,
    small_engine,
    stamps,
)
from .reference_engine import HASH_TOKENS

SETUPS = (
    ("llama-3-8b", "h100-x1", "uniform", {}),
    ("windowed", "h100-x1", "uniform", {}),
    ("jamba-mini", "h100-x1", "uniform", {}),
    ("mixtral-8x7b", "duplex-x4", "uniform", {}),
    ("mixtral-8x7b", "h100-2x2", "measured", {}),
    ("mixtral-8x7b", "duplex-4x1", "power_law:1.0", {}),
    ("llama-3-8b", "h100-x4", "uniform", {"pp": 4}),
    ("windowed", "h100-x2", "uniform", {"pp": 2}),
    ("mixtral-8x7b", "h100-2x2", "measured", {"pp": 2, "tp": 1, "dp": 2}),
)


@st.composite
def workloads(draw: st.DrawFn, caching: bool = True) -> dict[str, Any]:
    """Draw requests, a policy and a KV capacity, in sequences of the longest request.

    Long prompts share prefixes: the hashes of a prompt are the nodes of its path through a tree.
    """
    n = draw(st.integers(1, 12))
    scale, block = draw(st.sampled_from([(1, 16), (1, 4), (24, 64), (24, 512)]))
    sizes = st.one_of(st.integers(1, 4), st.integers(1, 70))
    prompts = sizes if scale == 1 else st.one_of(sizes, st.integers(1, 1700), multiples)
    inputs = draw(st.lists(prompts, min_size=n, max_size=n))
    alone, wait = draw(st.booleans()), draw(st.sampled_from(["", "gather", "even"]))
    steps, chunked = draw(st.integers(1, 9)), draw(st.booleans())
    return {
        **drawn_requests(draw, inputs, sizes),
        "block": block,
        "policy": Policy(
            "random",
            token_budget=draw(st.one_of(st.integers(1, 8), st.integers(1, 200)) if scale == 1
                              else st.integers(90, 2500)),
            max_sequences=draw(st.integers(1, 6)),
            chunked=chunked,
            reserve=draw(st.booleans()),
            lazy=draw(st.booleans()) and not alone,
            ahead=draw(st.booleans()),
            caching=draw(st.booleans()) and caching,
            bare_first=draw(st.booleans()),
            serial_stages=draw(st.booleans()),
            threshold=draw(st.sampled_from([0, 0, 1, 5, 60])) if chunked else 0,
            lone=n % 2 == 0,
            waiting_load=draw(st.sampled_from([1, 4])),
            prompts_alone=alone,
            poll_steps=draw(st.sampled_from([1, 1, 2, 7])),
            gather_steps=steps if wait == "gather" else 0,
            gather_tokens=draw(st.integers(1, 300)),
            even_steps=steps if wait == "even" else 0,
            graphs=draw(st.booleans()),
            eager=draw(st.booleans()),
            pieces=draw(st.sampled_from([0, 40])),
            host=draw(hosts),
            order=draw(st.sampled_from(["", "", "shortest-prompt", "shortest-answer"])),
        ),
        "room": draw(st.floats(1.0, 4.0)),
    }  # fmt: skip


multiples = st.integers(1, 3).map(lambda k: k * HASH_TOKENS)


def meant_for(deployment: Deployment, load: dict[str, Any]) -> dict[str, Any]:
    """The same workload; pipelines refuse policies that poll or let prompts wait."""
    if deployment.layout.pp == 1:
        return load
    policy = replace(load["policy"], poll_steps=1, gather_steps=0, even_steps=0)
    return load | {"policy": policy}


@pytest.mark.parametrize(("model", "system", "routing", "degrees"), SETUPS)
@given(load=workloads())
@settings(max_examples=10)
def test_same_schedule_as_the_reference(
    model: str, system: str, routing: str, degrees: dict[str, int], load: dict[str, Any],
) -> None:  # fmt: skip
    deployment = small(model, system, routing, **degrees)
    load = meant_for(deployment, load)
    engine = small_engine(deployment, load)
    play(engine, load)
    slow, requests = slow_engine(engine, load["clients"]), slow_requests(load)
    slow.serve(requests)
    check_served(engine, slow, requests)


def check_pool(engine: Engine, count: int) -> None:
    """Every block is used or free, the free list holds the free ones, contents are told apart.

    Blocks with content have numbers, the others are counted.
    """
    state, pool, shared, apart = engine.state, engine.state.pool, 0, 0
    for r in range(len(state.ranks)):
        slots = pool.slots[r, : state.ranks.slots[r]].tolist()
        assert len(set(slots)) == len(slots) <= len(pool.held[r])
        assert set(slots) <= set(range(len(pool.held[r])))
        blocks, end = pool.blocks[r], len(pool.blocks[r]) - 1
        users, keys = blocks.users[:end], blocks.key[:end]
        free, bare, b = [], int(blocks.bare[end]), int(blocks.next[end])
        while b != end and len(free) <= end:
            free.append(b)
            bare += int(blocks.bare[b])
            assert blocks.previous[blocks.next[b]] == b
            b = int(blocks.next[b])
        numbers = np.flatnonzero(keys)
        assert sorted(free) == numbers[users[numbers] == 0].tolist()
        assert (blocks.bare >= 0).all()
        assert state.ranks.blocks[r] == len(free) + bare
        assert state.free[r] == (len(free) + bare) * engine.kv.block_bytes[0]
        unused, b = [], int(blocks.key[end])
        while b >= 0 and len(unused) <= end:
            unused.append(b)
            b = int(blocks.next[b])
        assert sorted([*unused, *numbers.tolist()]) == list(range(blocks.users[end]))
        found: list[int] = []
        for key, first in pool.table[r]:
            same = [int(first)] if key else []
            while same and pool.blocks.after[r, same[-1]] != first:
                same.append(int(pool.blocks.after[r, same[-1]]))
            assert all(keys[b] == key for b in same)
            found += same
        assert sorted(found) == numbers.tolist()
        shared += int(users[numbers].sum())
        apart += end - len(numbers) - bare
    held = state.contents[:count]
    assert shared == held.keyed.sum()
    assert apart == (held.blocks - held.keyed).sum()


def check_memory(engine: Engine, count: int) -> None:
    """Memory is never overdrawn, and what is not free is held."""
    assert (engine.state.free >= 0.0).all()
    if engine.kv.cached:
        check_pool(engine, count)
    else:
        held = engine.state.requests.kv_bytes[:count].sum()
        assert engine.state.free.sum() + held == pytest.approx(engine.deployment.ranks * engine.kv.capacity)


def test_blocks_planned_beyond_an_end_have_room() -> None:
    """With asynchronous scheduling on four stages a request is planned for a token more than it will
    ever have (`next_tokens`); here its 69th takes a block beyond the 17 of its 66 + 2 tokens."""
    deployment = small("llama-3-8b", "h100-x4", "uniform", pp=4)
    cache = CacheSettings(4, 60)
    policy = replace(POLICIES["vllm"], max_sequences=2, caching=True)
    engine = Engine(deployment, policy, keep_log=True, cache=cache)
    engine.submit(RequestBlock(np.arange(1), np.zeros(1), np.array([66]), np.array([2])))
    engine.advance(math.inf)
    check_pool(engine, 1)
    assert sorted(engine.state.pool.slots[0].tolist()) == [0, 1]


@pytest.mark.parametrize(("model", "system", "routing", "degrees"), SETUPS)
@given(load=workloads(), data=st.data())
@settings(max_examples=10)
def test_what_every_schedule_owes(
    model: str, system: str, routing: str, degrees: dict[str, int], load: dict[str, Any], data: st.DataObject,
) -> None:  # fmt: skip
    deployment = small(model, system, routing, **degrees)
    load = meant_for(deployment, load)
    engine, block = small_engine(deployment, load), block_of(load)
    engine.submit(block)
    state, n, capacity = engine.state, len(block), engine.kv.capacity
    for cut in (*data.draw(cuts), math.inf):
        engine.advance(cut)
        check_memory(engine, n)
    assert engine.advance(math.inf) == engine.now  # nothing is left
    assert Status.REACHED == 0
    check_ended(engine, load)
    prompt = state.counters[0].prompt_tokens + state.counters[0].hits
    assert prompt >= sum(load["inputs"])  # recomputed prompts count again
    if not state.counters[0].preemptions:
        assert prompt == sum(load["inputs"])
    assert sorted(state.requests.order[:n]) == list(range(n))
    arrival, scheduled, first, last = stamps(engine, n).T
    assert (arrival <= scheduled).all()
    assert (scheduled < first).all()
    assert ((first < last) | (np.array(load["outputs"]) == 1)).all()
    log = np.concatenate(engine.logs)
    assert (log[:, LogColumn.KV] <= deployment.ranks * capacity).all()
    assert state.clocks[0].kv_peak <= capacity
    if deployment.layout.pp == 1:  # stages work side by side
        busy = state.clocks[0].busy
        worked = engine.step_totals.wall.sum()
        assert worked <= busy * (1 + 1e-9)
        if load["policy"].host == Host():
            assert worked == pytest.approx(busy, rel=1e-9)
    else:
        assert not state.requests.in_flight[:n].any()


def test_an_engine_that_plans_ahead_rests_only_when_nothing_more_can_be_known() -> None:
    """What ended unknown to the plan made ahead holds its place in it, though the next request is submitted later."""
    load = {
        "inputs": [22, 3, 48], "outputs": [3, 3, 3], "gaps": [2.5456, 14.958, 1.0], "clients": None, "hashes": None,
        "block": 4, "policy": Policy("ahead", 5, 5, chunked=False, reserve=False, ahead=True), "room": 1.1,
    }  # fmt: skip
    check_pieces(lambda: small_engine(small("jamba-mini", "h100-x1", "uniform"), load), load, [], [0, 1, 2, 3])


cuts = st.lists(st.floats(0.0, 100.0).map(lambda x: x * GAP_S), max_size=6).map(sorted)


@pytest.mark.parametrize(("model", "system", "routing", "degrees"), SETUPS)
@given(load=workloads(), data=st.data())
@settings(max_examples=10)
def test_pieces_equal_one_go(
    model: str, system: str, routing: str, degrees: dict[str, int], load: dict[str, Any], data: st.DataObject,
) -> None:  # fmt: skip
    deployment = small(model, system, routing, **degrees)
    load = meant_for(deployment, load) | {"clients": None}
    splits = st.lists(st.integers(0, len(block_of(load))), max_size=4).map(sorted)
    check_pieces(lambda: small_engine(deployment, load), load, data.draw(cuts), data.draw(splits))


def test_a_request_of_another_block_while_a_batch_beyond_the_end_is_in_flight() -> None:
    policy = Policy("ahead", 1592, 5, chunked=False, reserve=False, ahead=True, serial_stages=True)
    load = {
        "inputs": [3, 249, 231], "outputs": [3, 4, 19], "gaps": [2.4897, 16.36, 0.0], "clients": None, "hashes": None,
        "block": 512, "policy": policy, "room": 3.05,
    }  # fmt: skip
    deployment = small("llama-3-8b", "h100-x4", "uniform", pp=4)
    check_pieces(lambda: small_engine(deployment, load), load, [], [1])

"""Do policies `sglang` and `tensorrt-llm` schedule as slow, obvious restatements of their rules do?

Random small request sets with little KV memory, so that requests are retracted or paused and content is
evicted, under random options, must give the same stamps, preemptions, steps and tokens found as
`reference_sglang.py` and `reference_trtllm.py`; and what every schedule owes holds.
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
from opbyte.simulator.engine.policies import Policy, make_policy
from opbyte.simulator.parts.sglang.radix import Tree
from opbyte.simulator.parts.sglang.state import SglangRules
from opbyte.simulator.parts.tensorrt_llm.rules import Trtllm, TrtllmRules
from opbyte.workloads.errors import InputError

from . import reference_sglang, reference_trtllm
from .deployments import small
from .pieces import (
    GAP_S,
    block_of,
    cache_of,
    check_ended,
    check_pieces,
    check_served,
    drawn_requests,
    hosts,
    play,
    slow_requests,
    stamps,
    step_cost,
)
from .reference_engine import with_host
from .test_speculation import SEED, drawn, speculative

SETUPS = (("llama-3-8b", "h100-x1", "uniform"), ("mixtral-8x7b", "h100-2x2", "measured"))
KINDS: dict[str, Any] = {"sglang": reference_sglang, "trtllm": reference_trtllm}


def sglang_rules(draw: st.DrawFn, long: bool, page: int, sequences: int) -> SglangRules:
    """Options of SGLang for small requests."""
    chunk = draw(st.sampled_from([0, 1, 2] if long else [0, 1, 2, 7])) * page
    priority = draw(st.booleans())
    return SglangRules(
        max_prefill_tokens=draw(st.sampled_from([20, 90, 2000])),
        chunked_prefill_size=chunk,
        mixed=draw(st.booleans()) and chunk > sequences,
        lpm=draw(st.booleans()) and not priority,
        radix=draw(st.integers(0, 3)) > 0,
        overlap=draw(st.booleans()),
        conservativeness=draw(st.sampled_from([0.0, 0.3, 1.0, 2.0])),
        priority=priority,
        low_first=draw(st.booleans()),
        threshold=draw(st.sampled_from([0, 0, 1, 10])),
        patch=draw(st.sampled_from([9, 12, 20, 21, 22, 23])),
    )


def trtllm_rules(draw: st.DrawFn, long: bool, page: int, sequences: int) -> TrtllmRules:
    """Options of TensorRT-LLM for small requests."""
    return TrtllmRules(
        max_num_tokens=max(draw(st.sampled_from([9, 50, 200, 2000])), page),
        chunked=draw(st.booleans()),
        evicts=draw(st.booleans()),
        reuse=draw(st.integers(0, 3)) > 0,
        overlap=draw(st.booleans()),
        wait_steps=draw(st.sampled_from([0, 0, 3, 8])),
        wait_tokens=draw(st.integers(1, 300)),
        even=draw(st.booleans()),
        even_steps=draw(st.integers(1, 9)),
        even_batches=draw(st.integers(0, 3)),
        serial=draw(st.booleans()),
    )


@st.composite
def workloads(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """Requests, options and a memory of a little more than the longest request."""
    n, sequences = draw(st.integers(1, 14)), draw(st.integers(1, 6))
    long, page = draw(st.sampled_from([(False, 1), (False, 4), (True, 64), (True, 512)]))
    sizes = st.one_of(st.integers(1, 4), st.integers(1, 70))
    prompts = sizes
    if long:
        prompts = st.one_of(sizes, st.integers(1, 1700), st.sampled_from([512, 1024]))
    inputs = draw(st.lists(prompts, min_size=n, max_size=n))
    make = sglang_rules if kind == "sglang" else trtllm_rules
    rules = make(draw, long, page, sequences)
    urgent = isinstance(rules, SglangRules) and rules.priority
    return {
        "urgent": draw(st.lists(st.sampled_from([0, 1, 2, 14]), min_size=n, max_size=n)) if urgent else None,
        **drawn_requests(draw, inputs, sizes),
        "block": page,
        "room": draw(st.floats(1.0, 3.0)),
        "policy": Policy(
            "random", 8192, sequences, chunked=True, reserve=False, ahead=rules.overlap,
            poll_steps=draw(st.sampled_from([1, 1, 3])) if kind == "sglang" else 1,
            graphs=draw(st.booleans()), eager=draw(st.booleans()), pieces=draw(st.sampled_from([0, 40])),
            host=draw(hosts), rules=rules,
            order="priority" if urgent else "",
        ),
    }  # fmt: skip


def engine_for(deployment: Deployment, load: dict[str, Any]) -> Engine:
    """An engine with as little memory as the workload says."""
    policy, drafts = load["policy"], deployment.parts.get("drafts")
    spare = policy.rules.spare(load["block"]) + (drafts.spare(False) if drafts else 0)
    if deployment.ranks > 1:  # SGLang refuses it with data-parallel attention
        policy = replace(policy, poll_steps=1)
    return Engine(deployment, policy, keep_log=True, cache=cache_of(load, spare), seed=SEED)


def slow_run(kind: str, engine: Engine, load: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The reference after the same workload, and its requests."""
    reference, policy, d = KINDS[kind], engine.policy, engine.deployment
    requests = slow_requests(load, reference.Request, [{"priority": p} for p in load["urgent"] or ()])
    cost, pp, drafts = step_cost(d, policy), d.layout.pp, d.several - 1

    def seconds(batches: Any, step: int) -> Any:
        found = with_host(policy, engine.launches, batches, np.atleast_1d(cost(batches, step)).tolist(), d.several)
        return found if pp > 1 else found[0]

    ranks = [
        reference.Rank(policy.rules, max(policy.max_sequences // pp, 1), engine.kv.blocks, engine.kv.block, drafts)
        for _ in range(d.ranks)
    ]
    more: dict[str, Any] = {"interval": policy.poll_steps} if policy.poll_steps > 1 else {}
    if pp > 1:
        more = {"stages": pp, "places": policy.max_sequences}
    if drafts:
        more["accept"] = lambda request: drawn(request.index, request.generated, load["rates"])
    slow = (reference.Reference if pp == 1 else reference.Stages)(policy.rules, ranks, seconds, load["clients"], **more)
    slow.serve(requests)
    return slow, requests


def check_tree(tree: Tree, ranks: list[Any]) -> None:
    """The heap holds the leaves that nobody locks, and pages are free or in the tree as they should."""
    for r, slow in enumerate(ranks):
        nodes, top = tree.nodes[r], tree.tops[r]
        known = {int(x) for x in tree.table[r, tree.table[r, :, 2] != 0, 2]}
        heap = tree.heap[r, : top.heap].tolist()
        assert set(heap) == {x for x in known if not nodes.children[x] and not nodes.lock[x]}
        assert [nodes.place[x] for x in heap] == list(range(len(heap)))
        for k in range(1, len(heap)):
            assert nodes.time[heap[(k - 1) // 2]] < nodes.time[heap[k]]
        assert top.evictable == sum(int(nodes.pages[x]) for x in known)
        for x in known:
            assert nodes.children[x] == sum(nodes.parent[y] == x for y in known)
            assert nodes.lock[x] == 0
        evictable = slow.available() // slow.page - slow.free
        assert (top.free, top.evictable) == (slow.free, evictable)


def check_blocks(trtllm: Trtllm, ranks: list[Any]) -> None:
    """All blocks are free, and what can be found hangs together."""
    for r, slow in enumerate(ranks):
        blocks, links = trtllm.blocks[r], trtllm.links[r]
        assert trtllm.ranks.free[r] == len(blocks) == len(slow.memory.free)
        assert not blocks.users.any()
        assert not blocks.mark.any()
        order, b = [], int(links.next[-1])
        while b != len(blocks):
            order.append(b)
            b = int(links.next[b])
        assert sorted(order) == list(range(len(blocks)))
        known = {int(b) - 1 for b in trtllm.table[r, trtllm.table[r, :, 2] != 0, 2]}
        assert known == set(np.flatnonzero(blocks.key).tolist())
        assert all(blocks.parent[b] in known | {-1} for b in known)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["eagle", "ngram"])
@given(data=st.data())
@settings(max_examples=5)
def test_drafts_are_verified_by_the_own_rules(
    kind: str, method: str, data: st.DataObject,
) -> None:  # fmt: skip
    """A step is planned when the results before it are known; memory of rejected drafts is free then."""
    load, rate = data.draw(workloads(kind)), st.sampled_from([0.0, 0.5, 0.9, 1.0])
    load["rates"] = tuple(data.draw(st.lists(rate, min_size=1, max_size=3)))
    d = speculative(small("llama-3-8b"), method, load["rates"], len(load["rates"]))
    check_schedule(kind, d, load)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("model", "system", "routing"), SETUPS)
@given(data=st.data())
@settings(max_examples=12)
def test_same_schedule_as_the_reference(
    kind: str, model: str, system: str, routing: str, data: st.DataObject,
) -> None:  # fmt: skip
    check_schedule(kind, small(model, system, routing), data.draw(workloads(kind)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pp", [2, 4])
@given(data=st.data())
@settings(max_examples=12)
def test_stages_run_by_the_own_rules(kind: str, pp: int, data: st.DataObject) -> None:
    """Batches that take turns, over one queue and one tree; a prompt's chunks may all be in flight."""
    load = data.draw(workloads(kind))
    load["policy"] = replace(load["policy"], poll_steps=1)
    check_schedule(kind, small("llama-3-8b", f"h100-x{pp}", "uniform", pp=pp), load)


def check_schedule(kind: str, deployment: Deployment, load: dict[str, Any]) -> None:
    """Run a workload on the engine and on the slow one, and compare all that they did."""
    engine = engine_for(deployment, load)
    assert engine.parts["scheduler"] is not None
    play(engine, load)
    slow, requests = slow_run(kind, engine, load)
    check_served(engine, slow, requests)
    check_ended(engine, load)
    assert engine.state.clocks[0].kv_peak <= engine.kv.capacity
    if hasattr(engine.parts["scheduler"], "tree"):
        check_tree(engine.parts["scheduler"].tree, slow.ranks)
    else:
        check_blocks(engine.parts["scheduler"], slow.ranks)


def test_what_makes_way_behind_several_steps_keeps_the_time_of_its_last_token() -> None:
    """Looking for arrivals every third step: it loses the last of the three, not the tokens of those before."""
    load = {
        "urgent": [1, 14], "inputs": [3, 3], "outputs": [12, 5], "gaps": [0.0, 2.0], "clients": None, "hashes": None,
        "block": 1, "room": 9.0,
        "policy": Policy(
            "late", 8192, 1, chunked=True, reserve=False, ahead=True, poll_steps=3, order="priority",
            rules=SglangRules(priority=True, threshold=1),
        ),
    }  # fmt: skip
    check_schedule("sglang", small("llama-3-8b", "h100-x1", "uniform"), load)


@pytest.mark.parametrize(("low_first", "threshold"), [(True, 0), (True, 5), (False, 0), (False, 4)])
def test_who_makes_way_for_whom(low_first: bool, threshold: int) -> None:
    """One place: requests of priorities 0, 5 and 9 that come while one of priority 4 runs.

    By hand: the place is given up at once if the best is better than 4 by more than the threshold; the first one
    then waits its turn among the others. The one that runs until then ends before them.
    """
    load = {
        "inputs": [8, 8, 8, 8], "outputs": [40, 3, 3, 3], "gaps": [0.0, 20.0, 0.0, 0.0], "hashes": None,
        "urgent": [4, 0, 5, 9], "clients": None, "block": 4, "room": 9.0,
        "policy": Policy(
            "one", 8192, 1, chunked=True, reserve=False, order="priority",
            rules=SglangRules(priority=True, low_first=low_first, threshold=threshold),
        ),
    }  # fmt: skip
    engine = engine_for(small("llama-3-8b", "h100-x1", "uniform"), load)
    engine.submit(block_of(load))
    engine.advance(math.inf)
    sign = 1 if low_first else -1
    order = sorted(range(1, 4), key=lambda i: sign * load["urgent"][i])
    better = [sign * (4 - load["urgent"][i]) for i in order]
    urgent = better[0] > threshold
    first = np.argsort(stamps(engine, 4)[1:, 2]) + 1
    assert first.tolist() == order
    last = stamps(engine, 4)[:, 3]
    before = [i for i, by in zip(order, better, strict=True) if urgent and by > 0]
    assert [i for i in order if last[i] < last[0]] == before
    assert engine.state.requests.preempted[:4].tolist() == [int(urgent), 0, 0, 0]


@pytest.mark.parametrize("reuse", [True, False])
def test_a_prompt_waits_for_what_another_computes(reuse: bool) -> None:
    """Two equal prompts of two whole pieces and a bit, with room for both in one step: the second takes both pieces
    over a step later, or computes all of its own at once where nothing is reused."""
    rules = TrtllmRules(max_num_tokens=4000, chunked=False, reuse=reuse, overlap=False)
    load = {
        "inputs": [1100, 1100], "outputs": [3, 3], "gaps": [0.0, 0.0], "hashes": ((1, 2), (1, 2)),
        "clients": None, "block": 512, "room": 9.0, "urgent": None,
        "policy": Policy("two", 8192, 4, chunked=False, reserve=False, rules=rules),
    }  # fmt: skip
    engine = engine_for(small("llama-3-8b", "h100-x1", "uniform"), load)
    engine.submit(block_of(load))
    engine.advance(math.inf)
    first, second = stamps(engine, 2)[:, 1]
    assert (second > first) == reuse
    assert engine.state.counters[0].hits == (1024 if reuse else 0)


def test_priorities_need_the_own_scheduler() -> None:
    """With attention windows its fields stand for it, and those know one order."""
    with pytest.raises(InputError, match="supports priorities only for models"):
        Engine(small("windowed"), make_policy("sglang+priority"))


cuts = st.lists(st.floats(0.0, 100.0).map(lambda x: x * GAP_S), max_size=6).map(sorted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("model", "system", "routing"), SETUPS)
@given(data=st.data())
@settings(max_examples=10)
def test_pieces_equal_one_go(kind: str, model: str, system: str, routing: str, data: st.DataObject) -> None:
    load = data.draw(workloads(kind)) | {"clients": None}
    deployment = small(model, system, routing)
    splits = st.lists(st.integers(0, len(block_of(load))), max_size=4).map(sorted)
    check_pieces(lambda: engine_for(deployment, load), load, data.draw(cuts), data.draw(splits))

"""Are two pools two queues in tandem, whatever they are made of, and is nothing lost between them?

Expected values: each pool alone; the slow scheduler of `reference.py` before and after a queue of
transfers in plain Python; closed forms of the link; conservation of tokens, blocks and bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.kv import CacheSettings, rank_rules, sequence_bytes
from opbyte.simulator.engine.policies import Policy, make_policy
from opbyte.simulator.fleet.pools import KvLink, Pools
from opbyte.simulator.fleet.routers import ROUTERS
from opbyte.simulator.fleet.run_state import RunState
from opbyte.simulator.parts.failures.failing import Faults
from opbyte.simulator.parts.kv_tiers.state import DOWN
from opbyte.simulator.parts.kv_tiers.store import moved
from opbyte.simulator.parts.two_pools.kv_transfer import cross, hold_tier, left_over, wait_for_tier
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import run_scenario
from opbyte.workloads.requests import RequestBlock, RequestStream

from .deployments import small
from .pieces import served_on, step_cost
from .reference import Bytes, Pipeline, Reference, Request

FREE = KvLink("free", math.inf, 0.0)

PAIRS = (
    (("llama-3-8b", "h100-x1", {}), ("llama-3-8b", "h100-x1", {})),
    (("mixtral-8x7b", "duplex-x4", {}), ("mixtral-8x7b", "duplex-2x1", {})),
    (("llama-3-8b", "h100-x2", {}), ("llama-3-8b", "duplex-gpu-x1", {})),
    (("windowed", "h100-x1", {}), ("windowed", "h100-x2", {})),
    (("llama-3-8b", "h100-x2", {"pp": 2}), ("llama-3-8b", "h100-x2", {"pp": 2})),
    (("deepseek-v3", "h200-x4", {"tp": 4}), ("deepseek-v3", "h200-x4", {"dp": 4})),
)
"""Prefill and decode deployments: equal ones, other layouts, other devices, windows, stages, MLA."""


def block_of(load: dict[str, Any]) -> RequestBlock:
    arrival = np.cumsum(load["gaps"]) * 1e-3
    inputs, outputs = (np.array(load[name]) for name in ("inputs", "outputs"))
    return RequestBlock(np.arange(len(inputs)), arrival, inputs, outputs)


@st.composite
def loads(draw: st.DrawFn) -> dict[str, Any]:
    """Requests and the rules of both pools."""
    n = draw(st.integers(1, 12))
    sizes = st.lists(st.integers(1, 70), min_size=n, max_size=n)

    def rules(name: str) -> Policy:
        return Policy(
            name, token_budget=draw(st.integers(1, 200)), max_sequences=draw(st.integers(1, 6)),
            chunked=draw(st.booleans()), reserve=draw(st.booleans()), ahead=draw(st.booleans()),
            serial_stages=draw(st.booleans()), waiting_load=draw(st.sampled_from([1, 4])),
        )  # fmt: skip

    return {
        "inputs": draw(sizes), "outputs": draw(sizes),
        "gaps": draw(st.lists(st.floats(0.0, 20.0), min_size=n, max_size=n)),
        "prefill": rules("first"), "decode": rules("second"),
    }  # fmt: skip


def served(
    sides: tuple[tuple[Deployment, ...], tuple[Deployment, ...]], load: dict[str, Any],
    link: KvLink = FREE, faults: Faults | None = None, blocks: int | None = None,
    router: str = "round-robin",
) -> RunState:  # fmt: skip
    cache = CacheSettings(16, blocks)
    pools = Pools(*sides, link, load["decode"], cache)
    block = block_of(load)
    stream = RequestStream("drawn", True, None, lambda: iter([block]))
    return served_on(pools, load["prefill"], stream, faults=faults, cache=cache, router=router)


def received(deployment: Deployment, tokens: Any) -> Any:
    """KV bytes that all devices of a rank get for so many tokens."""
    return sequence_bytes(rank_rules(deployment, CacheSettings(16)), tokens) * deployment.layout.tp


def stamps(found: RunState) -> Any:
    table = found.table
    rows = slice(0, table.count)
    return np.array([table.arrival_s[rows], table.first_s[rows], table.last_s[rows]]).T


def decoding(pipeline: bool) -> Any:
    """The slow scheduler of an engine whose requests come with their caches and first tokens."""
    base: Any = Pipeline if pipeline else Reference

    class Decoding(base):  # type: ignore[misc]
        def begin(self, requests: list[Any]) -> Any:
            begun = super().begin(requests)
            for request in requests:
                request.cached, request.generated, request.last = request.input, 1, request.first
            return begun

        def admit(self, rank: Any, budget: int) -> list[Any]:
            plan: list[Any] = []
            while rank.waiting and budget > 0:
                request, room = rank.waiting[0], budget
                if len(rank.running) + len(rank.late) == self.policy.max_sequences:
                    break
                left = request.target - request.cached
                if not self.policy.chunked and left > room:
                    if plan:
                        break
                    room = left
                tokens = min(left, room) or 1  # what is cached whole decodes at once
                whole = max(request.target, request.cached + tokens)
                if self.policy.reserve:
                    whole = request.input + request.output - 1
                if not rank.kv.hold(request, whole):
                    break
                rank.waiting.pop(0)
                rank.running.append(request)
                rank.admitted.append(request)
                plan.append((request, tokens))
                budget -= min(tokens, budget)
            return plan

    return Decoding


def slowly(made: Any, deployment: Deployment, policy: Policy, requests: list[Any], kv: Any, number: int = 0) -> None:
    """Serve requests on one engine, of that number, step by step."""
    stages = {"stages": deployment.layout.pp} if deployment.layout.pp > 1 else {}
    requests = sorted(requests, key=lambda r: r.arrival)  # stable
    made(policy, [kv() for _ in range(deployment.ranks)], step_cost(deployment, policy, number), **stages).serve(
        requests
    )


@pytest.mark.parametrize("pair", PAIRS)
@given(load=loads(), rate=st.sampled_from([math.inf, 1e7, 1e9]), latency=st.floats(0, 5e-3))
@settings(max_examples=3)
def test_two_pools_are_two_queues_in_tandem(pair: Any, load: dict[str, Any], rate: float, latency: float) -> None:
    """Memory for all: prompts on the one, then a link with a port a rank, then the other."""
    entry, decode = (small(model, system, **degrees) for model, system, degrees in pair)
    load["decode"] = replace(load["decode"], max_sequences=12)  # nobody waits for a place
    found = served(((entry,), (decode,)), load, KvLink("drawn", rate, latency))
    block = block_of(load)
    requests = [
        Request(i, float(a), int(p), 1)
        for i, (a, p) in enumerate(zip(block.arrival_s, block.input_tokens, strict=True))
    ]

    def memory(deployment: Deployment) -> Callable[[], Any]:
        kv = Engine(deployment, load["prefill"]).kv
        return lambda: Bytes(1e18, lambda tokens: float(sequence_bytes(kv, np.array([tokens]))[0]))

    plain = Pipeline if entry.layout.pp > 1 else Reference
    ended: list[int] = []
    slowly(plain, entry, load["prefill"], requests, memory(entry))
    ended = sorted(range(len(requests)), key=lambda i: requests[i].last)
    firsts = [r.first for r in requests]
    order = found.parts["two-pools"].start_s if "two-pools" in found.parts else np.zeros(0)
    going = [i for i in ended if block.output_tokens[i] > 1]
    going.sort(key=lambda i: (firsts[i], order[i]))  # of one step: in the engine's order
    sides = [d.layout.tp * d.layout.pp for d in (entry, decode)]
    out, into = [0.0] * entry.ranks, [0.0] * decode.ranks
    later = []
    for i in going:
        layers = decode.model.layers
        shard = decode.shard.kv_classes()
        kept = {w: min(int(block.input_tokens[i]), w) if w else int(block.input_tokens[i]) for w in shard}
        size = sum(b * 16 * math.ceil(kept[w] / 16) for w, b in shard.items()) * decode.layout.tp
        assert len(layers) == 2
        start = max(firsts[i], min(out), min(into))
        end = start + latency + size / rate / min(sides)
        out[out.index(min(out))] = into[into.index(min(into))] = end
        later.append(Request(i, end, int(block.input_tokens[i]),
                                       int(block.output_tokens[i]), first=firsts[i]))  # fmt: skip
    made = decoding(decode.layout.pp > 1)
    slowly(made, decode, load["decode"], later, memory(decode), 1)
    lasts = dict(enumerate(firsts)) | {r.index: r.last for r in later}
    expected = np.array([[r.arrival, r.first, lasts[r.index]] for r in sorted(requests, key=lambda r: r.index)])
    np.testing.assert_allclose(stamps(found), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pair", [PAIRS[1], PAIRS[3], PAIRS[5]])
@given(
    load=loads(), counts=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    at=st.lists(st.tuples(st.integers(0, 1), st.floats(0.0, 0.2)), max_size=4),
    repair=st.floats(0.0, 0.02), blocks=st.integers(9, 40), rate=st.sampled_from([1e7, 1e9]),
    router=st.sampled_from(sorted(ROUTERS)), by_layer=st.booleans(),
)  # fmt: skip
@settings(max_examples=5)
def test_nothing_is_lost_between_two_pools(
    pair: Any, load: dict[str, Any], counts: tuple[int, int],
    at: list[tuple[int, float]], repair: float, blocks: int, rate: float, router: str,
    by_layer: bool,
) -> None:  # fmt: skip
    """Tokens, memory and bytes through failures in either pool, with little memory."""
    entry, decode = (small(model, system, **degrees) for model, system, degrees in pair)
    sides = (entry,) * counts[0], (decode,) * counts[1]
    faults = Faults(at=tuple((n * counts[0], time) for n, time in at), repair_s=repair)
    link = KvLink("drawn", rate, 1e-5, by_layer)
    got = served(sides, load, link, faults, blocks, router)
    table = got.table
    rows = slice(0, table.count)
    assert got.completed == table.count == len(load["inputs"])
    assert table.generated[rows].tolist() == load["outputs"]
    assert (table.last_s[rows] >= table.first_s[rows]).all()
    emitted = sum(int(n.engine.state.counters[0].emitted) for n in got.nodes)
    assert emitted == sum(load["outputs"])  # none twice, whatever failed
    for node in got.nodes:
        assert (node.promised, node.inbound) == (0.0, 0)
        kv = node.engine.kv
        late = node.engine.state.ranks.late.sum()  # hold their blocks for one more plan
        assert late or (node.engine.state.free == kv.capacity).all()
    target = got.nodes[-1]
    bytes_of = received(target.engine.deployment, table.input_tokens[rows])
    once = bytes_of[table.output_tokens[rows] > 1].sum()
    if not got.failures:  # else some go over the link again
        assert got.parts["two-pools"].total_bytes == pytest.approx(once)
        assert got.parts["two-pools"].count == (table.output_tokens[rows] > 1).sum()
    sent = np.isfinite(got.parts["two-pools"].end_s)
    assert (got.parts["two-pools"].end_s[sent] <= table.last_s[rows][sent]).all()


@given(
    jobs=st.lists(
        st.tuples(st.floats(0, 5), st.floats(0, 2), st.floats(0, 3), st.integers(0, 1), st.integers(0, 1)),
        min_size=1, max_size=12,
    ),
    ports=st.integers(1, 3), by_layer=st.booleans(), slower=st.floats(1.0, 8.0),
)  # fmt: skip
def test_a_slower_link_brings_no_cache_earlier(
    jobs: list[tuple[float, float, float, int, int]], ports: int, by_layer: bool, slower: float
) -> None:
    """Nor does waiting for the last layer make one faster; a port has one cache at a time."""
    layers, now, ends, sent = 4, 0.0, [], getattr(cross, "py_func", cross)
    for factor, overlap in ((1.0, by_layer), (slower, by_layer), (slower, False)):
        link = KvLink("drawn", 1.0, 0.1 * factor, overlap)
        times = np.zeros((4, ports))
        between = SimpleNamespace(free_s=times.copy(), last_s=times.copy(), latency=link.latency_s, layers=layers)
        own, spans, now = [], [], 0.0
        for gap, ran, wire, i, j in jobs:
            now += gap
            begun = max(now - ran, 0.0) if overlap else now
            took = wire * factor
            start, end = sent(between, i, 2 + j, now, begun, took)
            assert start >= begun
            assert end + 1e-9 >= max(start + link.latency_s + took, now)
            assert end + 1e-9 >= now + took / layers
            spans.append((i, start, start + link.latency_s + took))
            own.append(end)
        for side in range(2):
            mine = [span[1:] for span in spans if span[0] == side]
            for at, _ in mine:
                assert sum(a <= at < b - 1e-9 for a, b in mine) <= ports
        ends.append(own)
    for fast, slow in pairwise(ends):
        assert all(a <= b + 1e-9 for a, b in zip(fast, slow, strict=True))


def test_layers_that_leave_one_by_one_hide_all_but_the_last() -> None:
    """A prompt that takes longer than its cache does on the wire: one of two layers is left."""
    d = small("llama-3-8b", "h100-x1")
    load = {"inputs": [3000], "outputs": [2], "gaps": [0.0], "prefill": make_policy("chunked"),
            "decode": make_policy("chunked")}  # fmt: skip
    size = 3008 * 2 * 8 * 128 * 2 * 2  # K and V of 8 heads of 128 in two bytes, two layers
    prefill_s = stamps(served(((d,), (d,)), load))[0, 1]
    rate = size / prefill_s * 1.5
    got = served(((d,), (d,)), load, KvLink("drawn", rate, 0.0, by_layer=True))
    assert got.parts["two-pools"].start_s[0] == 0.0
    assert got.parts["two-pools"].end_s[0] == pytest.approx(prefill_s + size / rate / 2)
    slow = served(((d,), (d,)), load, KvLink("drawn", rate / 4, 0.0, by_layer=True))
    assert slow.parts["two-pools"].end_s[0] == pytest.approx(4 * size / rate)


@pytest.mark.parametrize("options", [{"policy": "vllm", "decode_max_seqs": 3}, {"adapters": 3, "prefill": "h100-x1x2"}])
def test_other_features_go_through_both_drivers_alike(options: dict[str, Any]) -> None:
    """A failure that never comes lets every event be played."""
    scenario = Scenario.of(
        "llama-3-8b", rate=30.0, requests=60, input_len=300, output_len=24, lengths="uniform",
        **{"prefill": "h100-x1", "decode": "h100-x1", **options},
    )  # fmt: skip
    one, other = (run_scenario(s) for s in (scenario, scenario.changed(fail=("0@1000000",))))
    for name, column in one.request_columns().items():
        np.testing.assert_allclose(other.request_columns()[name], column, rtol=1e-9, err_msg=name)
    assert one.output_tokens == one.requests.output_tokens.sum()
    assert other.tbt_s.as_dict() == pytest.approx(one.tbt_s.as_dict(), rel=1e-9)


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.booleans(), st.floats(0.01, 3.0)), min_size=1, max_size=20))
@settings(deadline=None)
def test_caches_and_blocks_on_one_port_wait_for_each_other(jobs: list[tuple[float, bool, float]]) -> None:
    """No byte is lost or goes twice as fast: none is there before it would be on a port of its own, one has it at a time."""
    plain = [getattr(part, "py_func", part) for part in (cross, wait_for_tier, hold_tier, moved)]
    ends: dict[int, list[float]] = {}
    for tier in (0, -1):
        send, wait, hold, write = plain
        free, links, now = np.zeros((2, 1)), np.zeros((1, 1, 2)), 0.0
        b = SimpleNamespace(free_s=free, last_s=free.copy(), latency=0.1, layers=4, tier=tier)
        t = SimpleNamespace(pace=np.array([[1.0, 0.1]]), free_s=links, link_s=np.zeros((1, 2)))
        own = ends[tier] = []
        for gap, cache, wire in jobs:
            now += gap
            if cache:
                wait(b, 0, links)
                own.append(send(b, 0, 1, now, now, wire)[1])
                hold(b, 0, links)
            else:
                own.append(write(t, 0, 0, DOWN, now, wire))
            assert own[-1] >= now + wire + 0.1 - 1e-12
    assert all(shared >= alone - 1e-12 for shared, alone in zip(ends[0], ends[-1], strict=True))
    for before, after in pairwise(range(len(jobs))):  # in the order in which they were asked for
        assert ends[0][after] - ends[0][before] >= jobs[after][2] - 1e-9


@given(st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_steps_that_exchange_leave_caches_the_rest_of_a_port(exchanged: float, stepping: float) -> None:
    share = getattr(left_over, "py_func", left_over)(exchanged, stepping)
    assert 0.0 < share <= 1.0
    if 0.0 < exchanged < 0.99 * stepping:  # both together fill the port
        assert share * stepping + exchanged == pytest.approx(stepping)

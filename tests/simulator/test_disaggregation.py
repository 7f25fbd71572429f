"""Are two pools two queues in tandem, whatever they are made of, and is nothing lost between them?

Expected values: each pool alone; the slow scheduler of `reference.py` before and after a queue of
transfers in plain Python; closed forms of the link; conservation of tokens, blocks and bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
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
from opbyte.simulator.parts.kv_tiers.settings import KvTier, TierSettings
from opbyte.simulator.parts.kv_tiers.state import DOWN
from opbyte.simulator.parts.two_pools.kv_transfer import FLOW, LINK, change_rates, left_over
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import run_scenario
from opbyte.workloads.jit import compiled
from opbyte.workloads.records import Records, records
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


Sent = tuple[float, float, int, int, float]
"""A cache that is sent: start [s], seconds on one port, link out, link in, and most ports."""


def fluid(jobs: list[Sent], ports: list[float], latency: float) -> list[float]:
    """When each cache is there if all share links max-min fairly: one rate is settled after another, the least first."""
    left, ends, now = {i: job[1] for i, job in enumerate(jobs)}, [0.0] * len(jobs), 0.0
    while left:
        going, room = [i for i in left if jobs[i][0] <= now], list(ports)
        rest, soonest = list(going), min((jobs[i][0] for i in left if jobs[i][0] > now), default=math.inf)
        rates: dict[int, float] = {}
        while rest:
            users = Counter(k for i in rest for k in jobs[i][2:4])
            rate, i = min((min(jobs[i][4], *(room[k] / users[k] for k in jobs[i][2:4])), i) for i in rest)
            rest.remove(i)
            rates[i], ends[i] = rate, now + left[i] / rate + latency
            soonest = min(soonest, ends[i] - latency)
            for k in jobs[i][2:4]:
                room[k] -= rate
        for i in going:
            left[i] -= rates[i] * (soonest - now)
            if ends[i] - latency <= soonest + 1e-12:
                del left[i]
        now = soonest
    return ends


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
    """Memory for all: prompts on the one, then a link that caches share, then the other."""
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
    slowly(plain, entry, load["prefill"], requests, memory(entry))
    firsts = [r.first for r in requests]
    going = sorted((i for i in range(len(requests)) if block.output_tokens[i] > 1), key=lambda i: firsts[i])
    sides = [d.layout.tp * d.layout.pp for d in (entry, decode)]
    sent: list[Sent] = []
    for i in going:
        shard = decode.shard.kv_classes()
        kept = {w: min(int(block.input_tokens[i]), w) if w else int(block.input_tokens[i]) for w in shard}
        size = sum(b * 16 * math.ceil(kept[w] / 16) for w, b in shard.items()) * decode.layout.tp
        sent.append((firsts[i], size / rate, 0, 1, min(sides)))
    ends = fluid(sent, [d.ranks * side for d, side in zip((entry, decode), sides, strict=True)], latency)
    later = [Request(i, end, int(block.input_tokens[i]), int(block.output_tokens[i]), first=firsts[i])
             for i, end in zip(going, ends, strict=True)]  # fmt: skip
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


@compiled
def rates_from(links: Records, flows: Records, count: int, now: float, latency: float) -> None:
    change_rates(links, flows, count, now, latency)


def shared_links(jobs: list[Sent], ports: list[float], latency: float) -> list[float]:
    """When caches are there by `change_rates`; no link carries more than it can."""
    links, flows, ends, count = records(len(ports), LINK), records(len(jobs), FLOW), [math.nan] * len(jobs), 0
    links.ports, coming = ports, sorted(range(len(jobs)), key=lambda i: -jobs[i][0])
    while coming or count:
        going = flows[:count]
        now = min([*going.end_s - latency, *(jobs[i][0] for i in coming[-1:])])
        for flow in going[going.end_s - latency <= now + 1e-12]:
            ends[flow.row] = flow.end_s
        going = going[going.end_s - latency > now + 1e-12]
        count = len(going)
        flows[:count] = going
        while coming and jobs[coming[-1]][0] <= now:
            i = coming.pop()
            start, work, source, target, limit = jobs[i]
            flows[count] = (i, source, target, 0, limit, 0.0, limit, 0.0, start + (latency + work / limit))
            count += 1
        rates_from(links, flows, count, now, latency)
        assert (links.room >= -1e-9).all()
    return ends


@pytest.mark.parametrize(
    ("jobs", "ends"),
    [
        ([(0.0, 3.0, 0, 1, 1.0)], [3.5]),
        ([(0.0, 3.0, 0, 2, 1.0), (0.0, 3.0, 0, 3, 1.0)], [6.5, 6.5]),  # half of the sender each
        ([(0.0, 10.0, 0, 2, 1.0), (4.0, 1.0, 0, 3, 1.0)], [11.5, 6.5]),  # a short one beside a long one
        ([(0.0, 1.0, 0, 2, 0.25), (0.0, 3.0, 0, 3, 1.0)], [4.5, 4.5]),  # what a slow one leaves goes to the other
        ([(0.0, 1.0, 0, 2, 1.0), (0.0, 1.0, 1, 2, 1.0), (0.0, 2.0, 1, 3, 1.0)], [2.5, 2.5, 3.5]),
    ],
)
def test_flows_share_links(jobs: list[Sent], ends: list[float]) -> None:
    assert shared_links(jobs, [1.0] * 4, 0.5) == pytest.approx(ends, rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_flows_share_links_as_in_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    jobs = [(float(rng.uniform(0, 5)), float(rng.uniform(0.1, 3)), int(rng.integers(3)), 3 + int(rng.integers(3)),
             float(rng.choice([0.5, 1.0, 2.0]))) for _ in range(12)]  # fmt: skip
    ports = rng.choice([1.0, 2.0, 4.0], 6).tolist()
    np.testing.assert_allclose(shared_links(jobs, ports, 0.01), fluid(jobs, ports, 0.01), rtol=1e-9)


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


def test_a_cache_and_written_blocks_share_a_port() -> None:
    """A prompt's blocks, which the next step writes to a tier on the same network, and its cache have half of it each."""
    d = small("llama-3-8b", "h100-x1")
    link = d.system.device.node_link.model_copy(update={"bandwidth_bytes_per_s": 2e9})
    device = d.system.device.model_copy(update={"node_link": link})
    d = replace(d, system=d.system.model_copy(update={"device": device}))
    load: dict[str, Any] = {"inputs": [3008, 8], "outputs": [2, 1], "gaps": [0.0, 1.0], "prefill": make_policy("vllm"),
            "decode": make_policy("vllm")}  # fmt: skip
    tiers = TierSettings((KvTier("shared", 1e12, 2e9, 0.0),))
    stream = RequestStream("drawn", True, None, lambda: iter([block_of(load)]))
    alone = 3008 * 2 * 8 * 128 * 2 * 2 / 2e9
    for name, expected in ((link.name, 2 * alone), ("of its own", alone)):
        pools = Pools((d,), (d,), KvLink(name, 2e9, 0.0), load["decode"], CacheSettings(16))
        found = served_on(pools, load["prefill"], stream, cache=CacheSettings(16, tiers=tiers))
        first = stamps(found)[0, 1]
        assert found.parts["two-pools"].start_s[0] == first
        assert found.parts["two-pools"].end_s[0] - first == pytest.approx(expected)
        assert found.engines[0].parts["kv-tiers"].free_s[0, 0, DOWN] - first == pytest.approx(expected)


@given(st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_steps_that_exchange_leave_caches_the_rest_of_a_port(exchanged: float, stepping: float) -> None:
    share = getattr(left_over, "py_func", left_over)(exchanged, stepping)
    assert 0.0 < share <= 1.0
    if 0.0 < exchanged < 0.99 * stepping:  # both together fill the port
        assert share * stepping + exchanged == pytest.approx(stepping)

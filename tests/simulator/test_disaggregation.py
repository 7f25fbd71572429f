"""Are two pools two queues in tandem, whatever they are made of, and is nothing lost between them?

Expected values: each pool alone; the slow scheduler of `reference.py` before and after a queue of
transfers in plain Python; closed forms of the link; conservation of tokens, blocks and bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.batching.kv import CacheSettings, sequence_bytes
from opbyte.simulator.batching.policies import Policy
from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.serving.driver import Served, serve
from opbyte.simulator.serving.engine import Engine
from opbyte.simulator.serving.faults import Faults
from opbyte.simulator.serving.pools import KvLink, Pools
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.requests import RequestBlock, RequestStream

Small = Callable[..., Deployment]
FREE = KvLink("free", math.inf, 0.0)
LATE = Faults(at=((0, 1e9),))
"""A failure that never comes: the driver plays every event."""

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
) -> Served:  # fmt: skip
    cache = CacheSettings(16, blocks)
    pools = Pools(*sides, link, load["decode"], cache)
    block = block_of(load)
    stream = RequestStream("drawn", True, None, lambda: iter([block]))
    return serve(pools, load["prefill"], stream, faults=faults, cache=cache, router=router)


def stamps(found: Served) -> Any:
    table = found.table
    rows = slice(0, table.count)
    return np.array([table.arrival_s[rows], table.first_s[rows], table.last_s[rows]]).T


def decoding(reference: ModuleType, pipeline: bool) -> Any:
    """The slow scheduler of an engine whose requests come with their caches and first tokens."""
    base: Any = reference.Pipeline if pipeline else reference.Reference

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


def slowly(made: Any, d: Deployment, policy: Policy, requests: list[Any], kv: Any,
           number: int = 0) -> None:  # fmt: skip
    """Serve requests on one engine, of that number, step by step."""

    def cost(batches: Sequence[Any], step: int) -> Any:
        stage = explicit_stage(d, batches, step=step, replica=number, captured=policy.captured)
        return stage.seconds if d.layout.pp == 1 else stage.stages

    stages = {"stages": d.layout.pp} if d.layout.pp > 1 else {}
    requests = sorted(requests, key=lambda r: r.arrival)  # stable
    made(policy, [kv() for _ in range(d.ranks)], cost, **stages).serve(requests)


@pytest.mark.parametrize("pair", PAIRS)
@given(load=loads(), rate=st.sampled_from([math.inf, 1e7, 1e9]), latency=st.floats(0, 5e-3))
@settings(max_examples=8)
def test_two_pools_are_two_queues_in_tandem(
    pair: Any, small: Small, reference: ModuleType, load: dict[str, Any], rate: float,
    latency: float,
) -> None:  # fmt: skip
    """Memory for all: prompts on the one, then a link with a port a rank, then the other."""
    entry, decode = (small(model, system, **degrees) for model, system, degrees in pair)
    load["decode"] = replace(load["decode"], max_sequences=12)  # nobody waits for a place
    found = served(((entry,), (decode,)), load, KvLink("drawn", rate, latency))
    block = block_of(load)
    requests = [
        reference.Request(i, float(a), int(p), 1)
        for i, (a, p) in enumerate(zip(block.arrival_s, block.input_tokens, strict=True))
    ]

    def memory(d: Deployment) -> Callable[[], Any]:
        kv = Engine(d, load["prefill"]).kv
        return lambda: reference.Bytes(
            1e18, lambda tokens: float(sequence_bytes(kv, np.array([tokens]))[0])
        )

    plain = reference.Pipeline if entry.layout.pp > 1 else reference.Reference
    ended: list[int] = []
    slowly(plain, entry, load["prefill"], requests, memory(entry))
    ended = sorted(range(len(requests)), key=lambda i: requests[i].last)
    firsts = [r.first for r in requests]
    order = found.moves.start_s if found.moves else np.zeros(0)
    going = [i for i in ended if block.output_tokens[i] > 1]
    going.sort(key=lambda i: (firsts[i], order[i]))  # of one step: in the engine's order
    sides = [d.layout.tp * d.layout.pp for d in (entry, decode)]
    out, into = [0.0] * entry.ranks, [0.0] * decode.ranks
    later = []
    for i in going:
        layers = decode.model.layers
        shard = decode.shard.kv_classes()
        kept = {w: min(int(block.input_tokens[i]), w) if w else int(block.input_tokens[i])
                for w in shard}  # fmt: skip
        size = sum(b * 16 * math.ceil(kept[w] / 16) for w, b in shard.items()) * decode.layout.tp
        assert len(layers) == 2
        start = max(firsts[i], min(out), min(into))
        end = start + latency + size / rate / min(sides)
        out[out.index(min(out))] = into[into.index(min(into))] = end
        later.append(reference.Request(i, end, int(block.input_tokens[i]),
                                       int(block.output_tokens[i]), first=firsts[i]))  # fmt: skip
    made = decoding(reference, decode.layout.pp > 1)
    slowly(made, decode, load["decode"], later, memory(decode), 1)
    lasts = dict(enumerate(firsts)) | {r.index: r.last for r in later}
    expected = np.array(
        [[r.arrival, r.first, lasts[r.index]] for r in sorted(requests, key=lambda r: r.index)]
    )
    np.testing.assert_allclose(stamps(found), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pair", PAIRS)
@given(
    load=loads(), counts=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    rate=st.sampled_from([math.inf, 1e7, 1e9]), by_layer=st.booleans(),
    blocks=st.one_of(st.none(), st.integers(9, 30)),
)  # fmt: skip
@settings(max_examples=8)
def test_events_and_queues_in_tandem_agree(
    pair: Any, small: Small, load: dict[str, Any], counts: tuple[int, int], rate: float,
    by_layer: bool, blocks: int | None,
) -> None:  # fmt: skip
    """The driver's shortcut gives what playing every event gives, with little memory too."""
    entry, decode = (small(model, system, **degrees) for model, system, degrees in pair)
    sides = (entry,) * counts[0], (decode,) * counts[1]
    link = KvLink("drawn", rate, 1e-5, by_layer)
    short, long = (served(sides, load, link, faults, blocks) for faults in (None, LATE))
    np.testing.assert_allclose(stamps(short), stamps(long), rtol=1e-9, atol=1e-12)
    assert short.moves is not None
    assert long.moves is not None
    for name in ("start_s", "end_s", "total_bytes", "count"):
        np.testing.assert_allclose(
            getattr(short.moves, name), getattr(long.moves, name), rtol=1e-9, atol=1e-12
        )

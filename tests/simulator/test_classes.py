"""Do priorities, virtual token counters and bounds of classes order, share and refuse as their rules say?

Slow schedulers with the same rules (`reference.py`) must give the same stamps; where all requests are
alike, every order is first come, first served; a class of its own is served as if others were not
there, but for what is under way; counters stay as close as the paper proves; nothing is lost.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.policies import Policy
from opbyte.simulator.fleet.pools import Fleet
from opbyte.simulator.fleet.run import run
from opbyte.simulator.parts.classes.class_queues import LaneRules
from opbyte.simulator.parts.failures.failing import Faults
from opbyte.workloads.requests import RequestStream
from opbyte.workloads.requests.block import Labels
from opbyte.workloads.requests.classes import RequestClass, read_classes
from opbyte.workloads.requests.labelling import labelled

from .deployments import small
from .pieces import GAP_S, block_of, cache_of, check_served, slow_engine, slow_requests, stamps
from .reference import ByPriority, ByService

NAMES = ["a", "b", "c"]


@st.composite
def workloads(draw: st.DrawFn) -> dict[str, Any]:
    """Requests with priorities and tenants, a policy as vLLM's or plainer, and little memory."""
    n = draw(st.integers(4, 14))
    sizes = st.one_of(st.integers(1, 9), st.integers(1, 70))
    few, gap = st.integers(0, 2), draw(st.sampled_from([0.5, 3.0, 9.0]))
    return {
        "inputs": draw(st.lists(sizes, min_size=n, max_size=n)),
        "outputs": draw(st.lists(sizes, min_size=n, max_size=n)),
        "gaps": draw(st.lists(st.floats(0.0, gap), min_size=n, max_size=n)),
        "priority": draw(st.lists(few, min_size=n, max_size=n)),
        "clients": None,
        "hashes": None,
        "block": draw(st.sampled_from([4, 16])),
        "policy": Policy(
            "random",
            token_budget=draw(st.one_of(st.integers(1, 8), st.integers(1, 200))),
            max_sequences=draw(st.integers(2, 6)),
            chunked=True,
            reserve=draw(st.sampled_from([False, False, False, True])),
            lazy=draw(st.booleans()),
            ahead=draw(st.booleans()),
            caching=draw(st.booleans()),
            threshold=draw(st.sampled_from([0, 0, 5])),
        ),
        "room": draw(st.floats(1.0, 2.0)),
    }


def labels_of(load: dict[str, Any]) -> Labels:
    """Priority and tenant of every request; its class is its priority."""
    own = np.array(load["priority"], dtype=np.int64)
    return Labels(own, own, own, NAMES, NAMES)


def served(deployment: Deployment, load: dict[str, Any], order: str | None) -> Engine:
    """Run a workload on an engine with lanes of an order, or (None) with one queue."""
    policy = replace(load["policy"], order=order or "")
    given = {} if order is None else {"classes": LaneRules(order)}
    engine = Engine(deployment, policy, cache=cache_of(load), given=given)
    engine.submit(replace(block_of(load), labels=labels_of(load)))
    engine.advance(math.inf)
    return engine


def check_same(engine: Engine, kind: Any, load: dict[str, Any]) -> Any:
    """Compare an engine with a slow scheduler with the same rules, and return that."""
    slow = slow_engine(engine, None, kind)
    requests = slow_requests(load, more=[{"priority": c, "tenant": c} for c in load["priority"]])
    slow.serve(requests)
    check_served(engine, slow, requests)
    return slow


def rare(
    inputs: list[int], outputs: list[int], priority: list[int], gaps: list[float], budget: int,
    caching: bool, blocks: int,
) -> dict[str, Any]:  # fmt: skip
    """A workload in which one that the step in flight ends gives way, and the next is passed over."""
    longest = max(i + o - 1 for i, o in zip(inputs, outputs, strict=True))
    policy = Policy("rare", budget, 6, chunked=True, reserve=False, lazy=True, ahead=True, caching=caching)
    return {
        "inputs": inputs, "outputs": outputs, "priority": priority, "gaps": gaps, "clients": None,
        "hashes": None, "block": 4, "policy": policy, "room": (blocks + 0.01) / -(-longest // 4),
    }  # fmt: skip


@given(load=workloads())
@example(rare([2, 11, 11, 6, 2, 8], [7, 2, 11, 7, 8, 13], [2, 0, 1, 0, 0, 0], [0, 5, 3, 1, 0, 1], 59, True, 7))
@example(rare([3, 6, 3, 4, 5], [5, 7, 13, 12, 14], [2, 0, 1, 1, 1], [0, 3, 1, 5, 0], 58, True, 9))
@example(rare([8, 5, 4, 11], [7, 13, 6, 13], [2, 1, 1, 1], [0, 5, 5, 9], 48, False, 11))
@example(rare([4, 1, 3, 4, 3], [1, 8, 10, 12, 9], [2, 2, 0, 0, 0], [0, 1, 5, 9, 9], 49, False, 7))
@settings(max_examples=25)
def test_priorities_as_vllm(load: dict[str, Any]) -> None:
    """The running request of the largest (priority, arrival) gives way, its tokens taken back."""
    engine = served(small("llama-3-8b"), load, "priority")
    check_same(engine, ByPriority, load)


@given(load=workloads())
@settings(max_examples=6)
def test_priorities_on_two_ranks(load: dict[str, Any]) -> None:
    engine = served(small("mixtral-8x7b", "h100-2x2"), load, "priority")
    check_same(engine, ByPriority, load)


@given(load=workloads())
@settings(max_examples=20)
def test_counters_as_the_paper(load: dict[str, Any]) -> None:
    engine = served(small("llama-3-8b"), load, "vtc")
    slow = check_same(engine, ByService, load)
    assert engine.parts["classes"].marks[0].spread == slow.spread


@pytest.mark.parametrize("order", ["priority", "vtc", ""])
@given(load=workloads())
@settings(max_examples=5)
def test_requests_that_are_alike_come_in_order(order: str, load: dict[str, Any]) -> None:
    """One class, one tenant: first come, first served, stamp for stamp."""
    load = load | {"priority": [1] * len(load["inputs"])}
    d, n = small("llama-3-8b"), len(load["inputs"])
    one, other = served(d, load, order), served(d, load, None)
    assert np.array_equal(stamps(one, n), stamps(other, n))
    assert np.array_equal(one.state.hist, other.state.hist)
    assert one.state.requests.preempted[:n].tolist() == other.state.requests.preempted[:n].tolist()


@given(load=workloads(), urgent=st.lists(st.booleans(), min_size=14, max_size=14))
@settings(max_examples=8)
def test_the_urgent_wait_for_one_other_at_most(load: dict[str, Any], urgent: list[bool]) -> None:
    """One place: with the others about, a request of the first class starts no sooner than alone, and
    later by the longest service of the others at most (non-preemptive priorities)."""
    n = len(load["inputs"])
    policy = replace(load["policy"], max_sequences=1, ahead=False, reserve=True, lazy=False)
    load = load | {"priority": [int(not u) for u in urgent[:n]], "policy": policy}
    first = [i for i in range(n) if urgent[i]]
    if not first:
        return
    engine = served(small("llama-3-8b"), load, "priority")
    at = np.cumsum(load["gaps"])[first]
    names = ("inputs", "outputs", "priority")
    alone = load | {name: [load[name][i] for i in first] for name in names}
    alone["gaps"] = np.diff(at, prepend=0.0).tolist()
    alone["room"] = 100.0
    without = served(small("llama-3-8b"), alone, "priority")
    took = engine.state.requests.last[:n] - engine.state.requests.scheduled[:n]
    longest = max((took[i] for i in range(n) if not urgent[i]), default=0.0)
    later = engine.state.requests.scheduled[first] - without.state.requests.scheduled[: len(first)]
    assert (later >= -1e-12).all()
    assert (later <= longest + 1e-12).all()


@given(load=workloads(), weights=st.integers(1, 4))
@settings(max_examples=12)
def test_counters_stay_close(load: dict[str, Any], weights: int) -> None:
    """Lemma 4.3 of the paper: counters of tenants in the queue differ by the longest prompt or by the
    weight of a token times those that fit in memory, the larger of the two; without preemption."""
    load = load | {"gaps": [g / weights for g in load["gaps"]]}
    load["policy"] = replace(load["policy"], reserve=True, lazy=False, max_sequences=6)
    engine = served(small("llama-3-8b"), load, "vtc")
    fit = int(engine.kv.capacity / engine.kv.block_bytes.sum() * engine.kv.block + 0.5)
    assert engine.state.counters[0].preemptions == 0
    assert engine.parts["classes"].marks[0].spread <= max(max(load["inputs"]), 2 * fit)


BOUNDS = "a:share=0.5,max_waiting=1;b:share=0.3,priority=1,max_wait=0.001;c:share=0.2,priority=2"


def stream_of(load: dict[str, Any], classes: tuple[RequestClass, ...]) -> RequestStream:
    """A workload as a stream, its classes drawn."""
    block = block_of(load)
    return labelled(RequestStream("drawn", True, None, lambda: iter([block])), classes, 0)


@given(
    load=workloads(),
    order=st.sampled_from(["", "priority", "vtc"]),
    replicas=st.integers(1, 3),
    fail=st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 60 * GAP_S)), max_size=3),
    router=st.sampled_from(["round-robin", "least-loaded"]),
)
@settings(max_examples=10)
def test_what_was_sent_is_served_or_refused(
    load: dict[str, Any], order: str, replicas: int,
    fail: list[tuple[int, float]], router: str,
) -> None:  # fmt: skip
    """Admitted and refused requests of each class add up to those sent, failures included; what was
    admitted has all of its tokens."""
    at = tuple((node, t) for node, t in fail if node < replicas)
    fleet = Fleet(router, replicas, Faults(at, None, GAP_S) if at else None)
    classes = read_classes(BOUNDS)
    stream = stream_of(load, classes)
    policy = replace(load["policy"], order=order)
    r = run(small("llama-3-8b"), policy, stream, fleet=fleet)
    sent = stream.read()
    assert [c.sent for c in r.parts["classes"].kinds] == np.bincount(sent.labels.kind, minlength=3).tolist()
    assert all(c.sent == c.finished + c.refused for c in r.parts["classes"].kinds)
    assert r.parts["classes"].kinds[2].refused == 0
    assert sorted([*r.requests.request_id, *r.parts["classes"].refused_id]) == list(range(len(sent)))
    assert r.output_tokens == r.requests.output_tokens.sum()

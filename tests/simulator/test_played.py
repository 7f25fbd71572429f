"""Do events that are played in one compiled call do what they should, whoever runs the engines?

Engines found by compiled code and those that Python runs, the library's rules and the same ones asked of Python, must
agree to the last bit: stamps, counters, histograms, books. A driver in plain Python (`reference_driver`) says what
sessions, closed loops and failures should come to. Workloads are drawn so that events coincide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.engine.kv import CacheSettings
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.fleet import clock, driver
from opbyte.simulator.fleet.assigner import Assigner
from opbyte.simulator.fleet.heap import Heap, drop_first, new_heap, push
from opbyte.simulator.fleet.pools import KvLink, Pools
from opbyte.simulator.fleet.route_rules import APART, LOAD, choose
from opbyte.simulator.fleet.routers import ROUTERS, Load, compiled_rule
from opbyte.simulator.fleet.run_state import RunState
from opbyte.simulator.parts.autoscale.asked import parse_autoscale
from opbyte.simulator.parts.failures.failing import Faults
from opbyte.simulator.parts.kv_tiers.settings import KvTier, TierSettings
from opbyte.workloads.jit import compiled
from opbyte.workloads.requests import RequestBlock, RequestStream, Turns

from .deployments import small
from .pieces import served_on

BY_LIBRARY = sorted(name for name in ROUTERS if compiled_rule(ROUTERS[name]) is not None)


@compiled
def chosen(rule: int, dealt: int, loads: Any, home: int) -> int:
    return choose(rule, dealt, loads, home)


@given(
    st.sampled_from(BY_LIBRARY), st.integers(0, 9), st.integers(-1, 1), st.integers(0, 2 * APART),
    st.lists(st.tuples(*[st.integers(0, 12)] * len(LOAD.names or ())), min_size=2, max_size=5),
)  # fmt: skip
@settings(deadline=None)
def test_compiled_rules_choose_as_those_of_python(
    name: str, dealt: int, home: int, more: int, drawn: list[tuple[int, ...]]
) -> None:
    rows = [(waiting + more * (k == 0), *rest) for k, (waiting, *rest) in enumerate(drawn)]
    rule, loads = compiled_rule(ROUTERS[name]), [Load(*row) for row in rows]
    assert rule is not None
    found = chosen(rule, dealt, np.array(rows, dtype=LOAD).view(np.recarray), home)
    assert found == ROUTERS[name](dealt, loads, None if home < 0 else home)


@compiled
def put(heap: Heap, time: float, tie: int) -> None:
    push(heap, time, tie, 7 * tie)


@compiled
def let_go(heap: Heap) -> int:
    what = heap.tags[0, 1]
    drop_first(heap)
    return int(what)


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=40))
@settings(deadline=None)
def test_a_heap_gives_what_is_soonest(drawn: list[int | None]) -> None:
    heap, known = new_heap(3), list[tuple[int, int]]()
    for tie, time in enumerate(drawn):
        if time is not None:
            if int(heap.size[0]) == len(heap.time):
                heap = new_heap(2 * len(heap.time), heap)
            put(heap, float(time), tie)
            known.append((time, tie))
        elif known:
            known.sort()
            assert let_go(heap) == 7 * known.pop(0)[1]


Turn = tuple[int, int, int, int]
"""Of a request: whether it begins a session; time since the one before, or to think; tokens."""

STEP_S = 1e-3


def stream_of(drawn: list[Turn], hashed: bool, block: int, step: float = STEP_S) -> RequestStream:
    """Requests in blocks; a session's prompt starts with what was said before."""
    rows: list[tuple[float, int, int, int, int, float]] = []
    last = dict[int, int]()
    now = 0.0
    for i, (begins, gap, new, out) in enumerate(drawn):
        session = i if begins == 0 or i == 0 else rows[begins % i][4]
        before = last.get(session, -1)
        said = 0 if before < 0 else rows[before][1] + rows[before][2]
        now += gap * step if before < 0 else 0.0
        think = 0.0 if before < 0 else gap * step
        rows.append((now, said + new, out, before, session, think))
        last[session] = i
    arrival, inputs, outputs, follows, session, think = (np.array(column) for column in zip(*rows, strict=True))
    turns = Turns(follows, session, think.astype(np.float64))

    def blocks() -> Iterator[RequestBlock]:
        for first in range(0, len(rows), block):
            part = slice(first, first + block)
            names = None
            if hashed:  # of pieces of 16 tokens
                own = zip(session[part], inputs[part], strict=True)
                names = tuple(tuple(100 * int(s) + j for j in range(n // 16)) for s, n in own)
            yield RequestBlock(
                np.arange(len(rows))[part], arrival.astype(np.float64)[part], inputs[part],
                outputs[part], names, None if hashed else turns.take(part), 16,
            )  # fmt: skip

    return RequestStream("drawn", True, None, blocks)


drawn_requests = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(1, 60), st.integers(1, 12)), min_size=1, max_size=20
)


def outcome(served: RunState) -> list[Any]:
    """All that is known of a run."""
    table, out = served.table, [served.completed, served.warm_s, served.restarts]
    for name in ("arrival_s", "scheduled_s", "first_s", "last_s", "order", "preemptions"):
        out.append(getattr(table, name)[: table.count].tobytes())
    for engine in served.engines:
        state = engine.state
        out += [state.counters.tobytes(), state.hist.tobytes(), state.clocks.tobytes()]
        out += [engine.step_totals.tally.tobytes(), engine.work_log.joules]
        out += [np.concatenate([*engine.logs, np.zeros((0, state.log.shape[1]))]).tobytes()]
    return out


def both(make: Callable[[], RunState], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare a run with the same one whose requests and choices Python handles one by one."""
    quick, asked = make(), list[object]()
    with monkeypatch.context() as patch:
        gives = Assigner.give
        patch.setattr(clock, "given_by_hand", lambda engine: True)
        patch.setattr(driver, "compiled_rule", lambda route: None)
        patch.setattr(Assigner, "give", lambda self: (asked.append(self), gives(self)))
        slow = make()
    assert asked
    assert outcome(quick) == outcome(slow)


CACHE = CacheSettings(blocks=96, block_tokens=16)
"""Room for a few requests of the draws: they wait and are preempted."""


@pytest.mark.parametrize(("hashed", "caching", "examples"), [(False, True, 8), (True, True, 6), (False, False, 3)])
def test_what_is_compiled_is_what_python_does(
    monkeypatch: pytest.MonkeyPatch, hashed: bool, caching: bool, examples: int
) -> None:
    d, policy = small("llama-3-8b"), make_policy("vllm" if caching else "chunked")

    @given(
        drawn_requests, st.sampled_from(BY_LIBRARY), st.integers(2, 3), st.integers(1, 9),
        st.sampled_from([(0, None), (3, None), (2, 6), (0, 4)]),
    )  # fmt: skip
    @settings(deadline=None, max_examples=examples)
    def check(drawn: list[Turn], router: str, count: int, block: int, ends: tuple[int, int | None]) -> None:
        warmup, stop = ends
        if router == "round-robin" and (hashed or any(begins for begins, *_ in drawn[1:])):
            router = "kv-aware"  # hashed requests are dealt whole; what follows another: see below

        def make() -> RunState:
            return served_on(
                Pools((d,) * count), policy, stream_of(drawn, hashed, block), router=router,
                warmup=warmup, stop=stop, keep_log=True, cache=CACHE if caching else None,
            )  # fmt: skip

        both(make, monkeypatch)

    check()


@pytest.mark.xfail(
    strict=True, reason="two requests that are ready at almost the same time take turns in another order"
)
def test_turns_of_requests_that_follow_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round-robin with sessions whose requests come in blocks: the 13th and the 15th request change places."""
    d = small("llama-3-8b")
    drawn = [
        (0, 2, 7, 2), (0, 1, 59, 10), (4, 1, 30, 11), (5, 2, 7, 10), (0, 2, 45, 8), (0, 2, 5, 1), (0, 1, 58, 5), (3, 2, 51, 6),
        (2, 1, 37, 4), (0, 2, 56, 1), (2, 0, 36, 9), (6, 2, 5, 6), (1, 0, 25, 3), (6, 1, 60, 6), (5, 0, 46, 6),
    ]  # fmt: skip
    both(
        lambda: served_on(Pools((d,) * 2), make_policy("vllm"), stream_of(drawn, False, 9), keep_log=True, cache=CACHE),
        monkeypatch,
    )


@pytest.mark.parametrize("policy", ["vllm", "chunked"])
def test_engines_left_behind_are_seen_as_if_they_were_not(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    """Replicas run when others could see what they do; stamps are those of replicas that all run up to every event."""
    d, rules_of = small("llama-3-8b"), driver.FleetRules

    def _rules(always: bool, **rules: Any) -> driver.FleetRules:
        return rules_of(**rules | {"undisturbed": always})

    @given(drawn_requests, st.sampled_from(BY_LIBRARY), st.integers(2, 4), st.integers(1, 9))
    @settings(deadline=None, max_examples=10)
    def check(drawn: list[Turn], router: str, count: int, block: int) -> None:
        found = []
        for steady in (True, False):
            monkeypatch.setattr(driver, "FleetRules", partial(_rules, steady))
            served = served_on(
                Pools((d,) * count), make_policy(policy), stream_of(drawn, False, block), router=router,
                cache=CACHE if policy == "vllm" else None,
            )  # fmt: skip
            steps = sum(int(engine.state.counters[0].steps) for engine in served.engines)
            columns = ("arrival_s", "scheduled_s", "first_s", "last_s", "preemptions")
            table = [getattr(served.table, name)[: served.table.count].tobytes() for name in columns]
            found.append([*table, steps, served.engines[0].state.hist.tolist()])
        assert found[0] == found[1]

    check()


@pytest.mark.parametrize("how", ["tiers", "failures", "autoscaler", "own router", "pools", "tight pools"])
def test_engines_run_together_as_one_by_one(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    d = small("llama-3-8b")
    tiers = TierSettings((KvTier("host", 4e6, 2e9, 1e-5), KvTier("shared", 4e8, 1e9, 1e-5)))
    cache = replace(CACHE, tiers=tiers) if how == "tiers" else CACHE
    rng = np.random.default_rng(1)
    drawn = list(zip(*rng.integers([0, 0, 1, 1], [7, 3, 60, 12], (20, 4)).T.tolist(), strict=True))
    if how == "own router":
        monkeypatch.setitem(ROUTERS._items, "mine", lambda count, loads, home: loads[1].running % 2)
    router = "mine" if how == "own router" else "kv-aware"

    pools = Pools((d,) * 3)
    if "pools" in how:
        tight = CacheSettings(blocks=48, block_tokens=16) if how == "tight pools" else CACHE
        link = KvLink("drawn", 1e9, 1e-5, True)
        pools = Pools((d,) * 2, (d,) * 2, link, make_policy("chunked", max_sequences=6), tight)

    def make() -> RunState:
        return served_on(
            pools, make_policy("vllm"), stream_of(drawn, False, 9),
            router=router, cache=cache, keep_log=True,
            faults=Faults(((0, 0.004), (1, 0.006)), None, 0.005) if how == "failures" else None,
            autoscale=parse_autoscale("1:3,by=requests:2,every=0.1,hold=0.1,start=0.05")
            if how == "autoscaler" else None,
        )  # fmt: skip

    both(make, monkeypatch)

"""Do engines that are given requests one by one stamp as those that know them all beforehand?"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opbyte.analysis.live.live import Live
from opbyte.simulator.engine.kv import CacheSettings
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.fleet.pools import Pools
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import deployment_of
from opbyte.workloads.errors import CapacityError
from opbyte.workloads.requests import RequestBlock, RequestStream, Turns

from .pieces import served_on

DEPLOYMENT, _ = deployment_of(Scenario.of("llama-3-8b", "h100-x1"))
CACHE = CacheSettings(16, 40)


def just_after(live: Live) -> float:
    return float(np.nextafter(live.next_s, np.inf))


def played(live: Live, block: RequestBlock) -> list[list[float]]:
    """Times of every request's tokens; time goes in odd pieces, with requests at theirs."""
    times: list[list[float]] = [[] for _ in range(len(block))]

    def take(now: float) -> None:
        for tokens in live.due(now):
            for number, n in zip(tokens.requests, tokens.counts, strict=True):
                times[number] += [tokens.due_s] * n

    for row in range(len(block)):
        now = float(block.arrival_s[row])
        while live.next_s < now:
            until = min(now, just_after(live))
            live.advance(until)
            take(until)
        prompt = block.hash_ids[row] if block.hash_ids else ()
        live.submit(now, int(block.input_tokens[row]), int(block.output_tokens[row]), prompt)
    while live.next_s < np.inf:
        until = just_after(live)
        live.advance(until)
        take(until)
    return times


@settings(max_examples=25)
@given(
    policy=st.sampled_from(["chunked", "mixed", "vllm", "vllm+shortest-prompt"]),
    router=st.sampled_from(["round-robin", "least-loaded", "vllm"]),
    replicas=st.integers(1, 2),
    rows=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 300), st.integers(1, 20)), min_size=1, max_size=12),
)
def test_stamps_are_those_of_a_run(policy: str, router: str, replicas: int, rows: list[tuple[int, int, int]]) -> None:
    gaps, inputs, outputs = np.array(rows).T
    block = RequestBlock(np.arange(len(rows)), np.cumsum(gaps) * 1e-3, inputs, outputs)
    pools = Pools((DEPLOYMENT,) * replicas)
    rules = make_policy(policy, 256, 8)
    live = Live(pools, rules, CACHE, router)
    times = played(live, block)
    stream = RequestStream("drawn", True, None, lambda: iter([block]))
    table = served_on(pools, rules, stream, router=router, cache=CACHE).table
    assert [len(own) for own in times] == outputs.tolist()
    assert all(own == sorted(set(own)) for own in times)  # no two tokens of a request at once
    n = len(rows)
    seen = table.first_s[:n] + rules.host.request_s, table.last_s[:n] + rules.host.request_s
    np.testing.assert_allclose([own[0] for own in times], seen[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose([own[-1] for own in times], seen[1], rtol=1e-9, atol=1e-12)


def followed(live: Live, block: RequestBlock, clients: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """First and last tokens of requests that follow others, or each other in a closed loop: events in plain Python."""
    turns, n = block.turns, len(block)
    assert turns is not None
    stamps, left = np.full((n, 2), np.nan), block.output_tokens.copy()
    rows, numbers, come = iter(range(n)), dict[int, int](), list[tuple[float, int]]()

    def begin(now: float) -> None:
        row = next((r for r in rows if turns.follows[r] < 0), None)
        if row is not None:
            heapq.heappush(come, (max(now, float(block.arrival_s[row])), row))

    for _ in range(clients or n):
        begin(0.0)
    while come or live.next_s < np.inf:
        if come and come[0][0] <= live.next_s:
            now, row = heapq.heappop(come)
            numbers[live.submit(now, *(int(x[row]) for x in (block.input_tokens, block.output_tokens)))] = row
        elif not (found := live.due(live.next_s)):  # what completes now is seen before the next step begins
            live.advance(just_after(live))
        else:
            for tokens in found:
                for row, count in zip((numbers[i] for i in tokens.requests), tokens.counts, strict=True):
                    stamps[row] = (tokens.due_s if np.isnan(stamps[row, 0]) else stamps[row, 0], tokens.due_s)
                    left[row] -= count
                    if left[row]:
                        continue
                    after = np.flatnonzero(turns.follows == row)
                    for k in after.tolist():
                        heapq.heappush(come, (tokens.due_s + float(turns.think_s[k]), k))
                    if clients and not len(after):
                        begin(tokens.due_s)
    return stamps


@settings(max_examples=25)
@example(  # a client's next request takes part in the step that begins when the one before has completed
    router="least-loaded", replicas=2, clients=3, rows=[
        (2, 31, 147, 6), (2, 14, 2, 8), (0, 25, 4, 9), (2, 28, 8, 6), (1, 29, 200, 1), (3, 12, 16, 10),
        (3, 38, 90, 5), (0, 34, 185, 4), (2, 35, 43, 6), (0, 20, 83, 4), (0, 23, 10, 9), (1, 18, 183, 11),
    ],
)  # fmt: skip
@given(
    router=st.sampled_from(["round-robin", "least-loaded", "vllm"]), replicas=st.integers(2, 3),
    clients=st.sampled_from([0, 0, 1, 3]),
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 200), st.integers(1, 12)),
        min_size=1, max_size=12,
    ),
)  # fmt: skip
def test_sessions_and_clients_are_those_of_a_run(
    router: str, replicas: int, clients: int, rows: list[tuple[int, int, int, int]]
) -> None:
    """Turns stand behind their sessions' earlier ones; a client of a closed loop stays with its session."""
    back, gaps, inputs, outputs = np.array(rows).T
    n = np.arange(len(rows))
    follows = np.where((back > 0) & (n > 0), n - 1, -1)  # at most one comes after each
    session = np.cumsum(follows < 0) - 1
    arrival = np.where(follows < 0, 0.0 if clients else np.cumsum(gaps) * 1.37e-3, 0.0)
    arrival = np.maximum.accumulate(arrival)
    block = RequestBlock(n, arrival, inputs, outputs, None, Turns(follows, session, gaps * 0.71e-3))
    pools, rules = Pools((DEPLOYMENT,) * replicas), make_policy("chunked", 256, 8)
    expected = followed(Live(pools, rules, CACHE, router), block, clients)
    stream = RequestStream("drawn", not clients, clients or None, lambda: iter([block]))
    table = served_on(pools, rules, stream, router=router, cache=CACHE).table
    found = np.array([table.first_s[: len(n)], table.last_s[: len(n)]]).T
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_what_is_cut_ends_with_its_next_token_and_frees_its_place() -> None:
    live = Live(Pools((DEPLOYMENT,)), make_policy("vllm", 256, 8), CACHE)
    long, short = live.submit(0.0, 100, 400), live.submit(0.0, 100, 5)
    while not live.due(live.next_s):
        live.advance(just_after(live))
    live.cut(long)
    counts = {long: 0, short: 0}
    while live.next_s < np.inf:
        live.advance(just_after(live))
        for tokens in live.due(np.inf):
            for number, n in zip(tokens.requests, tokens.counts, strict=True):
                counts[number] += n
    assert counts[long] < 5
    assert counts[short] == 4  # one had come before
    found = live.gauges()[0]
    assert (found.running, found.waiting) == (0, 0)


def test_a_signal_ends_the_catching_up(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live(Pools((DEPLOYMENT,)), make_policy("vllm", 256, 8), CACHE)
    live.submit(0.0, 100, 400)
    monkeypatch.setattr(live, "_note", lambda found: setattr(live, "ended", True))
    live.advance(np.inf)
    assert live.nodes[0].node.engine.state.requests[0].generated == 1


def test_one_that_could_never_fit_is_refused_and_leaves_no_trace() -> None:
    live = Live(Pools((DEPLOYMENT,)), make_policy("vllm", 256, 8), CACHE)
    with pytest.raises(CapacityError):
        live.submit(0.0, 100_000, 5)
    assert live.next_s == np.inf
    assert live.submit(1.0, 10, 1) == 0


@pytest.mark.parametrize("policy", ["vllm", "sglang", "tensorrt-llm"])
def test_equal_beginnings_are_found_in_the_cache(policy: str) -> None:
    live = Live(Pools((DEPLOYMENT,)), make_policy(policy, 2048, 8), CacheSettings(16, 400))
    for now in (0.0, 10.0):
        number = live.submit(now, 600, 2, tuple(range(37)))
        live.advance(now + 9.0)
    assert live.gauges()[0].cached_tokens == live.cached_tokens(number) == 37 * 16


def test_a_router_hears_what_replicas_hold_and_were_sent() -> None:
    """Prompt tokens under way, none when all have ended; and where a prompt's start was sent before."""
    live = Live(Pools((DEPLOYMENT,) * 2), make_policy("vllm"), CacheSettings(16, 40), "kv-aware")
    live.submit(0.0, 64, 4, ("a", "b", "c"))
    live.submit(0.0, 64, 4, ("x",))
    load = [live._load(n, 0.0, 64, ("a", "b", "z")) for n in live.nodes]
    assert [(x.held, x.found, x.missing, x.kept) for x in load] == [(64, 32, 32, 48), (64, 0, 64, 16)]
    live.submit(0.0, 64, 4, ("a", "b", "z"))
    assert live.nodes[0].numbers == [0, 2]  # sent where its start was
    while live.next_s < np.inf:
        live.advance(just_after(live))
        live.due(live.next_s)
    assert [live._load(n, 1e9, 64, ()).held for n in live.nodes] == [0, 0]
    live.nodes[0].keep(tuple(range(100)), 16)
    assert list(live.nodes[0].sent) == list(range(60, 100))  # as many as 40 blocks hold


@settings(max_examples=20)
@given(
    router=st.sampled_from(["kv-aware", "cache-aware"]),
    rows=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 5), st.integers(1, 4), st.integers(1, 12)), min_size=1, max_size=16
    ),
)
def test_prompts_are_remembered_as_in_a_run(router: str, rows: list[tuple[int, int, int, int]]) -> None:
    """What `Live` remembers of prompts and what a run does lead to the same replicas: of caches of few blocks the stamps tell."""
    gaps, kinds, blocks, outputs = np.array(rows).T
    content = tuple(tuple(f"{kind}.{i}" for i in range(n)) for kind, n in zip(kinds, blocks, strict=True))
    block = RequestBlock(
        np.arange(len(rows)), np.cumsum(gaps) * 1e-3, blocks * 16 + 3, outputs, content, hash_tokens=16
    )
    pools, policy, cache = Pools((DEPLOYMENT,) * 3), make_policy("vllm", 256, 8), CacheSettings(16, 12)
    stamps = played(Live(pools, policy, cache, router), block)
    stream = RequestStream("drawn", True, None, lambda: iter([block]))
    table = served_on(pools, policy, stream, router=router, cache=cache).table
    outside = policy.host.request_s
    for times, first, last in zip(stamps, table.first_s, table.last_s, strict=False):
        assert (times[0], times[-1]) == pytest.approx((first + outside, last + outside), rel=1e-12)

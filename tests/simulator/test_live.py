"""Do engines that are given requests one by one stamp as those that know them all beforehand?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.batching.kv import CacheSettings
from opbyte.simulator.batching.policies import make_policy
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import deployment_of
from opbyte.simulator.serving.driver import serve
from opbyte.simulator.serving.live import Live
from opbyte.simulator.serving.pools import Pools
from opbyte.workloads.errors import CapacityError
from opbyte.workloads.requests import RequestBlock, RequestStream

DEPLOYMENT, _ = deployment_of(Scenario.of("llama-3-8b", "h100-x1"))
CACHE = CacheSettings(16, 40)


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
            until = min(now, float(np.nextafter(live.next_s, np.inf)))
            live.advance(until)
            take(until)
        live.submit(now, int(block.input_tokens[row]), int(block.output_tokens[row]))
    while live.next_s < np.inf:
        until = float(np.nextafter(live.next_s, np.inf))
        live.advance(until)
        take(until)
    return times


@settings(max_examples=25)
@given(
    policy=st.sampled_from(["chunked", "mixed", "vllm", "vllm+shortest-prompt"]),
    router=st.sampled_from(["round-robin", "least-loaded", "vllm"]),
    replicas=st.integers(1, 2),
    rows=st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 300), st.integers(1, 20)),
        min_size=1, max_size=12,
    ),
)  # fmt: skip
def test_stamps_are_those_of_a_run(
    policy: str, router: str, replicas: int, rows: list[tuple[int, int, int]]
) -> None:
    gaps, inputs, outputs = np.array(rows).T
    block = RequestBlock(np.arange(len(rows)), np.cumsum(gaps) * 1e-3, inputs, outputs)
    pools = Pools((DEPLOYMENT,) * replicas)
    rules = make_policy(policy, 256, 8)
    live = Live(pools, rules, CACHE, router)
    times = played(live, block)
    stream = RequestStream("drawn", True, None, lambda: iter([block]))
    table = serve(pools, rules, stream, router=router, cache=CACHE).table
    assert [len(own) for own in times] == outputs.tolist()
    assert all(own == sorted(own) for own in times)
    n = len(rows)
    seen = table.first_s[:n] + rules.host.request_s, table.last_s[:n] + rules.host.request_s
    np.testing.assert_allclose([own[0] for own in times], seen[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose([own[-1] for own in times], seen[1], rtol=1e-9, atol=1e-12)


def test_what_is_cut_ends_with_its_next_token_and_frees_its_place() -> None:
    live = Live(Pools((DEPLOYMENT,)), make_policy("vllm", 256, 8), CACHE)
    long, short = live.submit(0.0, 100, 400), live.submit(0.0, 100, 5)
    while not live.due(live.next_s):
        live.advance(float(np.nextafter(live.next_s, np.inf)))
    live.cut(long)
    counts = {long: 0, short: 0}
    while live.next_s < np.inf:
        live.advance(float(np.nextafter(live.next_s, np.inf)))
        for tokens in live.due(np.inf):
            for number, n in zip(tokens.requests, tokens.counts, strict=True):
                counts[number] += n
    assert counts[long] < 5
    assert counts[short] == 4  # one had come before
    found = live.gauges()[0]
    assert (found.running, found.waiting) == (0, 0)


def test_one_that_could_never_fit_is_refused_and_leaves_no_trace() -> None:
    live = Live(Pools((DEPLOYMENT,)), make_policy("vllm", 256, 8), CACHE)
    with pytest.raises(CapacityError):
        live.submit(0.0, 100_000, 5)
    assert live.next_s == np.inf
    assert live.submit(1.0, 10, 1) == 0


def test_equal_beginnings_are_found_in_the_cache() -> None:
    live = Live(Pools((DEPLOYMENT,)), make_policy("vllm", 2048, 8), CacheSettings(16, 400))
    for now in (0.0, 10.0):
        live.submit(now, 600, 2, tuple(range(37)))
        live.advance(now + 9.0)
    assert live.gauges()[0].cached_tokens == 37 * 16

"""Do the schedulers of SGLang and TensorRT-LLM run in two pools as themselves?

Expected values: one engine alone, which a request at a time over a free link must equal stamp for stamp; and what
every schedule owes: all tokens come, in order, and pages are given back, with little memory too.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.kv import CacheSettings
from opbyte.simulator.engine.policies import POLICIES
from opbyte.simulator.fleet.pools import KvLink, Pools
from opbyte.workloads.requests import RequestBlock, RequestStream

from .deployments import small
from .pieces import served_on, stamps

FREE = KvLink("free", math.inf, 0.0)


def requests(inputs: list[int], outputs: list[int], gap: float) -> RequestBlock:
    n = len(inputs)
    return RequestBlock(np.arange(n), np.arange(n) * gap, np.array(inputs), np.array(outputs))


@pytest.mark.parametrize("policy", ["sglang", "tensorrt-llm"])
@given(inputs=st.lists(st.integers(1, 3000), min_size=1, max_size=4), output=st.integers(1, 40))
@settings(max_examples=4)
def test_one_request_at_a_time_is_one_engine(policy: str, inputs: list[int], output: int) -> None:
    d, rules = small("llama-3-8b"), POLICIES[policy]
    block = requests(inputs, [output] * len(inputs), 100.0)
    stream = RequestStream("drawn", True, None, lambda: iter([block]))
    got = served_on(Pools((d,), (d,), FREE, rules), rules, stream)
    whole = Engine(d, rules)
    whole.submit(block)
    whole.advance(math.inf)
    table, n = got.table, len(block)
    assert got.nodes[1].engine.policy.rules is not None
    both = stamps(whole, n)[:, 1:]
    found = np.array([table.scheduled_s[:n], table.first_s[:n], table.last_s[:n]]).T
    np.testing.assert_allclose(found, both, rtol=1e-12)


@pytest.mark.parametrize("policy", ["sglang", "tensorrt-llm"])
@given(
    load=st.lists(st.tuples(st.integers(1, 300), st.integers(2, 60)), min_size=1, max_size=14),
    room=st.floats(1.0, 3.0), most=st.integers(1, 6), gap=st.sampled_from([0.0, 1e-4, 1e-3]),
)  # fmt: skip
@settings(max_examples=12)
def test_what_comes_with_its_cache_runs_to_its_end(
    policy: str, load: list[tuple[int, int]], room: float, most: int, gap: float
) -> None:
    """On the pool that decodes, with little memory: nothing is prefilled unless it was retracted."""
    d, rules = small("llama-3-8b"), POLICIES[policy].rules
    assert rules is not None
    own = replace(POLICIES[policy], rules=rules.decoding(), max_sequences=most, caching=False)
    inputs, outputs = [p for p, _ in load], [o for _, o in load]
    block = requests(inputs, outputs, gap)
    longest = max(p + o for p, o in load) + 40
    cache = CacheSettings(16, int(-(-longest // 16) * room) + 1)
    engine = Engine(d, own, cache=cache)
    engine.widen(longest)
    engine.resume(block, 1, block.input_tokens, block.arrival_s, block.arrival_s)
    engine.advance(math.inf)
    state, n = engine.state, len(load)
    assert state.counters[0].completed == n
    assert state.requests.generated[:n].tolist() == outputs
    assert (state.requests.last[:n] >= state.requests.scheduled[:n]).all()
    if not state.requests.preempted[:n].any():
        assert state.counters[0].prompt_tokens == 0
    assert state.free.tolist() == [engine.kv.capacity]

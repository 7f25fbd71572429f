"""Do the schedulers of SGLang and TensorRT-LLM run in two pools as themselves?

Expected values: one engine alone, which a request at a time over a free link must equal stamp for stamp. With little
memory they are in `test_parts_together`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.engine.engine import Engine
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

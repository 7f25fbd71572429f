"""Do requests of a session follow each other, and find what was said before in the cache?

The slow scheduler of `reference.py` lets a request arrive when the one before it has ended and its
client has thought; sessions of random lengths must give the same stamps and the same cache hits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.kv import CacheSettings
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.fleet.pools import Fleet
from opbyte.simulator.fleet.run import run
from opbyte.simulator.parts.failures.failing import Faults
from opbyte.workloads.requests import RequestBlock, RequestStream, Turns, open_requests

from .deployments import small
from .pieces import slow_engine
from .reference import Request

Turn = tuple[float, int, int, float]
"""Pause before it (before a first one: since the last session began), new prompt tokens, output
tokens, and earliest arrival."""

sessions = st.lists(
    st.lists(
        st.tuples(st.floats(0.0, 2e-3), st.integers(1, 60), st.integers(1, 30), st.just(0.0)), min_size=1, max_size=4
    ),
    min_size=1,
    max_size=5,
)


def stream_of(drawn: list[list[Turn]], clients: int | None = None) -> RequestStream:
    """Sessions one after another, as a stream of one block."""
    rows, now = [], 0.0
    for turns in drawn:
        first, said = len(rows), 0
        now += turns[0][0]
        for k, (pause, new, out, _) in enumerate(turns):
            follows = len(rows) - 1 if k else -1
            arrival = 0.0 if clients else now
            rows.append((arrival, said + new, out, follows, first, pause if k else 0.0))
            said += new + out
    columns = list(zip(*rows, strict=True))
    block = RequestBlock(
        np.arange(len(rows)), np.array(columns[0]), np.array(columns[1]), np.array(columns[2]),
        turns=Turns(np.array(columns[3]), np.array(columns[4]), np.array(columns[5])),
    )  # fmt: skip
    return RequestStream("sessions", True, clients, lambda: iter([block]))


@pytest.mark.parametrize(("policy", "degrees"), [("chunked", {}), ("vllm", {}), ("mixed", {}), ("vllm", {"pp": 2})])
@example(drawn=[[(5.3e-223, 1, 1, 0.0)]], blocks=30, budget=16)
@given(drawn=sessions, blocks=st.integers(30, 80), budget=st.integers(16, 300))
@settings(max_examples=15)
def test_same_schedule_as_the_reference(
    policy: str, degrees: dict[str, int], drawn: list[list[Turn]], blocks: int, budget: int,
) -> None:  # fmt: skip
    deployment = small("llama-3-8b", f"h100-x{degrees.get('pp', 1)}", **degrees)
    rules, stream = make_policy(policy, budget), stream_of(drawn)
    cache = CacheSettings(16, blocks)
    found = run(deployment, rules, stream, cache=cache)
    block, table = stream.read(), found.requests
    requests: list[Any] = []
    turns = block.turns
    assert turns is not None
    for i in range(len(block)):
        before = int(turns.follows[i])
        requests.append(Request(
            i, float(block.arrival_s[i]), int(block.input_tokens[i]), int(block.output_tokens[i]),
            session=int(turns.session[i]), think=float(turns.think_s[i]),
            follows=requests[before] if before >= 0 else None,
        ))  # fmt: skip
    slow = slow_engine(Engine(deployment, rules, cache=cache))
    slow.serve(requests)
    assert found.iterations == slow.steps
    assert found.cached_tokens == slow.hits
    expected = np.array([[r.arrival, r.scheduled, r.first, r.last] for r in requests]).T
    columns = (table.arrival_s, table.scheduled_s, table.first_token_s, table.last_token_s)
    for own, theirs in zip(columns, expected, strict=True):
        assert own == pytest.approx(theirs, rel=1e-9, abs=1e-15)


def test_a_turn_finds_prompt_and_output_of_the_one_before() -> None:
    """100 + 60 tokens, of which 159 were computed: 9 blocks of 16. Then 200 + 40: 239, 14 blocks."""
    drawn = [[(0.0, 100, 60, 0.0), (1.0, 40, 40, 0.0), (2.0, 10, 5, 0.0)]]
    found = run(small("llama-3-8b"), make_policy("vllm"), stream_of(drawn))
    assert found.cached_tokens == 9 * 16 + 14 * 16
    table = found.requests
    assert np.allclose(table.arrival_s[1:] - table.last_token_s[:-1], [1.0, 2.0], rtol=1e-12)
    assert run(small("llama-3-8b"), make_policy("chunked"), stream_of(drawn)).cached_tokens == 0


def test_an_earliest_arrival_holds() -> None:
    """A follower's own arrival time is the soonest it comes."""
    zero = np.zeros(2)
    block = RequestBlock(
        np.arange(2), np.array([0.0, 7.0]), np.array([10, 40]), np.array([5, 5]),
        turns=Turns(np.array([-1, 0]), np.array([0, 0]), zero),
    )  # fmt: skip
    stream = RequestStream("late", True, None, lambda: iter([block]))
    table = run(small("llama-3-8b"), make_policy("vllm"), stream).requests
    assert table.arrival_s.tolist() == [0.0, 7.0]


def test_clients_of_a_closed_loop_keep_to_their_sessions() -> None:
    """Two clients: never more than two sessions are under way, and all turns are served."""
    drawn = [[(0.0, 30, 20, 0.0), (1e-3, 10, 20, 0.0)] for _ in range(6)]
    table = run(small("llama-3-8b"), make_policy("vllm"), stream_of(drawn, clients=2)).requests
    assert len(table.request_id) == 12
    starts, ends = table.arrival_s[::2], table.last_token_s[1::2]
    for at in starts:
        assert ((starts <= at) & (ends > at)).sum() <= 2
    assert (table.arrival_s[1::2] >= table.last_token_s[::2] + 1e-3).all()


@pytest.mark.parametrize("load", [{"rate": 400.0}, {"closed_loop": 6}])
@pytest.mark.parametrize("policy", ["vllm", "chunked", "mixed"])
def test_an_engine_plays_sessions_as_the_driver_does(policy: str, load: dict[str, Any]) -> None:
    """One engine opens the next turns itself; beside a failure to come, the driver does."""
    stream = open_requests(
        **load, input_len=100, output_len=20, lengths="lognormal", turns=3.0, think=2e-3, limit=150, seed=2
    )
    rules, late = make_policy(policy), Fleet(faults=Faults(at=((0, 1e6),)))
    alone, driven = (run(small("llama-3-8b"), rules, stream, warmup=40, fleet=f) for f in (None, late))
    for name, column in alone.requests.columns().items():
        np.testing.assert_allclose(driven.requests.columns()[name], column, rtol=1e-9, atol=1e-12)
    assert driven.cached_tokens == alone.cached_tokens
    assert driven.interval_s == pytest.approx(alone.interval_s, rel=1e-9)
    assert driven.joules_per_token == pytest.approx(alone.joules_per_token, rel=1e-9)
    assert driven.tbt_s == alone.tbt_s


def test_a_session_goes_on_over_blocks_of_a_stream() -> None:
    """The same requests as one block and as blocks of seven, which cut sessions."""
    whole = open_requests(
        rate=300.0, input_len=60, output_len=15, lengths="lognormal", turns=4.0, think=3e-3, limit=100, seed=5
    )
    block = whole.read()
    turns = block.turns
    assert turns is not None

    def parts() -> Iterator[RequestBlock]:
        for at in range(0, len(block), 7):
            cut = slice(at, at + 7)
            yield RequestBlock(
                block.request_id[cut], block.arrival_s[cut], block.input_tokens[cut],
                block.output_tokens[cut], None, turns.take(cut),
            )  # fmt: skip

    cut = RequestStream("parts", True, None, parts)
    one, other = (run(small("llama-3-8b"), make_policy("vllm"), s) for s in (whole, cut))
    for name, column in one.requests.columns().items():
        np.testing.assert_allclose(other.requests.columns()[name], column, rtol=1e-12)


def test_a_sticky_router_finds_more() -> None:
    """On four replicas, what a session said before lies on one of them."""
    stream = open_requests(rate=2000.0, input_len=200, output_len=20, turns=4.0, think=1e-3, limit=200, seed=3)
    deployment = small("llama-3-8b")
    found = {
        router: run(deployment, make_policy("vllm"), stream, fleet=Fleet(router, 4))
        for router in ("sticky", "round-robin")
    }
    alone = run(deployment, make_policy("vllm"), stream)
    assert found["sticky"].cached_tokens == alone.cached_tokens
    assert found["round-robin"].cached_tokens < 0.7 * alone.cached_tokens
    assert all(r.output_tokens == 200 * 20 for r in (alone, *found.values()))

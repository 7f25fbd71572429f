"""Are long prompts served, in chunks or alone, and does no policy starve or livelock a request?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.policies import POLICIES, Policy, make_policy
from opbyte.simulator.engine.state import LogColumn
from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import RequestBlock

from .deployments import small
from .pieces import block_of, check_ended, log, served, small_engine


def engine(deployment: Deployment, policy: Policy, lengths: Sequence[tuple[int, int]]) -> Engine:
    """Run requests that all arrive at 0."""
    return served(deployment, policy, [(0.0, *pair) for pair in lengths])


@pytest.mark.parametrize("policy", ["chunked", "vllm"])
def test_chunked_cuts_a_long_prompt(policy: str) -> None:
    run = engine(small("llama-3-8b"), make_policy(policy, token_budget=100), [(250, 2)])
    assert log(run, LogColumn.DECODES, LogColumn.PREFILL) == [[0, 100], [0, 100], [0, 50], [1, 0]]


def test_chunks_ride_on_decodes() -> None:
    run = engine(small("llama-3-8b"), make_policy("chunked", token_budget=100), [(40, 4), (150, 1)])
    rows = log(run, LogColumn.DECODES, LogColumn.PREFILL, LogColumn.PROMPTS)
    assert rows[:2] == [[0, 100, 2], [1, 90, 1]]


def test_mixed_runs_a_long_prompt_whole_and_alone() -> None:
    policy = make_policy("mixed", token_budget=100)
    run = engine(small("llama-3-8b"), policy, [(30, 3), (250, 2), (40, 1)])
    rows = log(run, LogColumn.DECODES, LogColumn.PREFILL, LogColumn.PROMPTS)
    assert rows[:3] == [[0, 30, 1], [1, 250, 1], [2, 40, 1]]


def test_prompts_run_alone_and_before_decodes() -> None:
    policy = Policy("alone", 100, 9, chunked=True, reserve=False, prompts_alone=True)
    run = engine(small("llama-3-8b"), policy, [(40, 3), (90, 2)])
    assert log(run, LogColumn.DECODES, LogColumn.PREFILL) == [[0, 100], [0, 30], [2, 0], [1, 0]]
    with pytest.raises(ValueError, match="lazy"):
        Policy("alone", 100, 9, chunked=True, reserve=False, prompts_alone=True, lazy=True)


def test_prompts_gather_beside_decodes() -> None:
    """A prompt waits until the steps are over, or until with others and the decode it is enough."""
    policy = Policy("gather", 100, 9, chunked=False, reserve=True, gather_steps=4, gather_tokens=90)
    assert late(small("llama-3-8b"), policy, [40]) == [[0, 60], *[[1, 0]] * 4, [1, 40]]
    assert late(small("llama-3-8b"), policy, [40, 49]) == [[0, 60], [1, 89]]


@pytest.mark.parametrize("ahead", [False, True])
def test_an_ended_sequence_keeps_its_place_until_its_result_is_known(ahead: bool) -> None:
    """Two places: a third prompt gathers for four steps from when the second sequence is known to have ended, which
    is a step later where steps are planned ahead."""
    policy = Policy("gather", 100, 2, chunked=False, reserve=True, gather_steps=4, gather_tokens=200, ahead=ahead)
    run = engine(small("llama-3-8b"), policy, [(60, 20), (30, 2), (40, 5)])
    rows = log(run, LogColumn.DECODES, LogColumn.PREFILL)
    assert rows[:2] == [[0, 90], [2, 0]]
    assert rows[2 : rows.index([1, 40])] == [[1, 0]] * (4 + ahead)


def test_arrivals_are_looked_at_now_and_then() -> None:
    """At once after a step with a prompt, then every three decoding-only steps."""
    policy = Policy("poll", 100, 9, chunked=True, reserve=False, poll_steps=3)
    assert late(small("llama-3-8b"), policy, [40]) == [[0, 60], [1, 40]]
    run = Engine(small("llama-3-8b"), policy, keep_log=True)
    ones = np.ones(2, dtype=np.int64)
    run.submit(RequestBlock(np.arange(2), np.array([0.0, 0.0]), 60 * ones, 20 * ones))
    run.advance(math.inf)
    step = run.state.requests.first[0]
    run = Engine(small("llama-3-8b"), policy, keep_log=True)
    run.submit(RequestBlock(np.arange(2), np.array([0.0, 1.01 * step]), 60 * ones, 20 * ones))
    run.advance(math.inf)
    assert log(run, LogColumn.DECODES, LogColumn.PREFILL, LogColumn.STEPS)[:3] == [[0, 60, 1], [1, 0, 3], [1, 60, 1]]


def late(deployment: Deployment, policy: Policy, prompts: Sequence[int]) -> list[list[float]]:
    """Decodes and prompt tokens of the steps of a first prompt and others that come just after."""
    run = Engine(deployment, policy, keep_log=True)
    inputs = np.array([60, *prompts], dtype=np.int64)
    arrival = np.array([0.0, *[1e-9] * len(prompts)])
    run.submit(RequestBlock(np.arange(len(inputs)), arrival, inputs, np.full_like(inputs, 20)))
    run.advance(math.inf)
    rows = log(run, LogColumn.DECODES, LogColumn.PREFILL)
    return rows[: 1 + max(i for i, row in enumerate(rows) if row[1] > 0)]


@pytest.mark.parametrize("name", ["chunked", "mixed", "vllm"])
@given(
    lengths=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=2, max_size=10),
    budget=st.integers(1, 60), places=st.integers(1, 10),
)  # fmt: skip
@settings(max_examples=40)
def test_memory_for_one_is_enough_for_all(name: str, lengths: list[tuple[int, int]], budget: int, places: int) -> None:
    """With KV for the largest request alone, all finish and nobody livelocks: the oldest always goes on."""
    inputs, outputs = (list(x) for x in zip(*lengths, strict=True))
    load = {"inputs": inputs, "outputs": outputs, "gaps": [0.0] * len(inputs), "hashes": None,
            "block": 16, "room": 1.0, "policy": make_policy(name, budget, places if name == "vllm" else None)}  # fmt: skip
    found = small_engine(small("llama-3-8b"), load)
    found.submit(block_of(load))
    found.advance(math.inf)
    check_ended(found, load)
    if POLICIES[name].reserve:
        assert found.state.counters[0].preemptions == 0
    # No more steps than if every request ran alone and was recomputed for every token.
    alone = sum(sum(-(-(i + t) // budget) + 1 for t in range(o)) for i, o in lengths)
    assert found.state.counters[0].steps <= alone


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("fifo",), "unknown policy"),
        (("chunked", 0), "--token-budget"),
        (("chunked", 2**31), "--token-budget"),
        (("chunked", None, 0), "--max-seqs"),
        (("chunked", None, 65_537), "65,536"),
    ],
)
def test_bad_limits_are_refused(arguments: tuple[str, int], part: str) -> None:
    with pytest.raises(InputError, match=part):
        make_policy(*arguments)

"""Does policy ``vllm`` batch as vLLM's V1 engine does, and behave at and past saturation?

Expected schedules are worked out by hand from the rules in `docs/serving.md`; queueing figures
are closed forms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from opbyte.simulator.engine.kv import CacheSettings
from opbyte.simulator.engine.policies import Policy, make_policy
from opbyte.simulator.engine.state import LogColumn
from opbyte.simulator.fleet.run import run
from opbyte.simulator.results.record import Run
from opbyte.workloads.errors import CapacityError
from opbyte.workloads.requests import open_requests

from .deployments import small
from .pieces import log, served


def vllm(**changes: int | bool) -> Policy:
    return replace(make_policy("vllm"), **changes)


def test_an_arrival_waits_for_the_step_after_the_next() -> None:
    """It comes during step 1, when step 2 is already planned; it runs in step 3."""
    load = [(0.0, 10, 5), (1e-6, 7, 1)]
    rows = log(served(small("llama-3-8b"), vllm(), load), LogColumn.DECODES, LogColumn.PREFILL)
    assert rows[:3] == [[0, 10], [1, 0], [1, 7]]
    rows = log(served(small("llama-3-8b"), vllm(ahead=False), load), LogColumn.DECODES, LogColumn.PREFILL)
    assert rows[:2] == [[0, 10], [1, 7]]


def test_scheduled_when_planned() -> None:
    engine = served(small("llama-3-8b"), vllm(), [(0.0, 10, 5), (1e-6, 7, 1)])
    second_step, third_step = (row[0] for row in log(engine, LogColumn.START)[1:3])
    assert engine.state.requests.scheduled[1] == second_step
    assert engine.state.requests.first[1] > third_step


def test_a_place_is_free_one_plan_later() -> None:
    """Two places; the first finishes in step 2, the third request runs from step 4 on."""
    load = [(0.0, 10, 2), (0.0, 20, 9), (0.0, 30, 1)]
    rows = log(served(small("llama-3-8b"), vllm(max_sequences=2), load), LogColumn.DECODES, LogColumn.PREFILL)
    assert rows[:4] == [[0, 30], [2, 0], [1, 0], [1, 30]]
    sync = served(small("llama-3-8b"), vllm(max_sequences=2, ahead=False), load)
    assert log(sync, LogColumn.DECODES, LogColumn.PREFILL)[:3] == [[0, 30], [2, 0], [1, 30]]


def test_an_idle_engine_plans_at_once() -> None:
    """One place: nothing can be planned beside the last step, so its end is waited for."""
    load = [(0.0, 10, 3), (0.0, 20, 1)]
    ahead, sync = (served(small("llama-3-8b"), vllm(max_sequences=1, ahead=flag), load) for flag in (True, False))
    assert log(ahead, LogColumn.START, LogColumn.DECODES, LogColumn.PREFILL) == log(
        sync, LogColumn.START, LogColumn.DECODES, LogColumn.PREFILL
    )
    late = served(small("llama-3-8b"), vllm(), [(0.0, 10, 1), (9.0, 20, 1)])
    assert log(late, LogColumn.START)[1] == [9.0]


def test_blocks_are_taken_chunk_by_chunk() -> None:
    """The first of two chunks, 72 of 128 tokens, holds five blocks of 16, not the prompt's eight."""
    for lazy, blocks in ((True, 5), (False, 8)):
        policy = vllm(token_budget=72, lazy=lazy)
        engine = served(small("llama-3-8b"), policy, [(0.0, 128, 1)], CacheSettings(16, 10))
        block_bytes = float(engine.kv.block_bytes[0])
        assert log(engine, LogColumn.KV)[0][0] / block_bytes == blocks


def test_admitted_only_if_the_whole_prompt_fits() -> None:
    """Ten blocks, one in use: a prompt of ten waits, though its first chunk of two would fit."""
    for prompt, second in ((144, 31), (145, 0)):
        load = [(0.0, 1, 8), (0.0, prompt, 1)]
        engine = served(small("llama-3-8b"), vllm(token_budget=32), load, CacheSettings(16, 10))
        assert log(engine, LogColumn.PREFILL)[0] == [1 + second]


def test_what_can_never_fit_is_refused() -> None:
    """Ten blocks hold 160 tokens; the last token's keys and values are never needed."""
    cache = CacheSettings(16, 10)
    assert served(small("llama-3-8b"), vllm(), [(0.0, 100, 61)], cache).done
    with pytest.raises(CapacityError, match=r"request 0 \(100 tokens in, 62 out\).*available"):
        served(small("llama-3-8b"), vllm(), [(0.0, 100, 62)], cache)


def test_two_that_outgrow_memory_take_turns() -> None:
    """Neither fits beside the other at the end: only the later one is ever preempted."""
    load = [(0.0, 16, 145)] * 2
    engine = served(small("llama-3-8b"), vllm(), load, CacheSettings(16, 10))
    assert engine.state.requests.preempted[0] == 0
    assert engine.state.requests.preempted[1] >= 1
    assert engine.state.requests.generated[:2].tolist() == [145, 145]


LENGTHS = {"input_len": 128, "output_len": 32, "lengths": "fixed"}


@pytest.fixture(scope="module")
def at_rate() -> Callable[[float, int], Run]:
    """Poisson arrivals at a fraction of what the engine serves when all is there at once."""
    deployment, policy = small("llama-3-8b"), vllm(max_sequences=32)
    full = run(deployment, policy, open_requests(rate=1e9, limit=4000, **LENGTHS))
    most = len(full.requests.order) / full.makespan_s

    def serve(load: float, requests: int) -> Run:
        stream = open_requests(rate=load * most, limit=requests, **LENGTHS)
        found = run(deployment, policy, stream, warmup=requests // 10)
        assert found.output_tokens_per_s is not None
        # Equal requests that start together end together, which costs the full run some places, and
        # their prompts run in steps padded to captured graphs.
        assert found.output_tokens_per_s <= 1.08 * most * LENGTHS["output_len"]
        return found

    return serve


def waits(found: Run, half: int) -> float:
    """Mean wait of the first or second half of the requests [s]."""
    table = found.requests
    part = np.array_split(table.scheduled_s - table.arrival_s, 2)[half]
    return float(part.mean())


def test_past_saturation_the_queue_grows(at_rate: Callable[[float, int], Run]) -> None:
    """A fluid queue at twice its rate: request n waits n (1/rate - 1/offered)."""
    found = at_rate(2.0, 6000)
    table = found.requests
    served_per_s = len(table.order) / found.makespan_s
    n = np.arange(len(table.order))
    expected = n / served_per_s - table.arrival_s
    late = n > 3000
    wait = table.scheduled_s - table.arrival_s
    assert wait[late] == pytest.approx(expected[late], rel=0.05)
    # Twice the requests wait twice as long, and are served no slower.
    more = at_rate(2.0, 12_000)
    assert waits(more, 1) == pytest.approx(2 * waits(found, 1), rel=0.05)
    assert more.output_tokens_per_s == pytest.approx(found.output_tokens_per_s, rel=0.02)
    assert found.preemptions == more.preemptions == 0

"""What does the host add to a step, and when is it hidden behind the devices?"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.host import (
    HTTP_S,
    LAUNCH_S,
    OUTSIDE_S,
    SYNC_GAP_S,
    TOKEN_S,
    FrontEnd,
    Host,
    hand_over_all,
    idle_front,
)
from opbyte.simulator.engine.policies import POLICIES
from opbyte.simulator.frameworks.engine_file import read_engine
from opbyte.simulator.step.launches import CHUNKED, PYTHON, TRTLLM_CALLS, launches_of
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import SpecError
from opbyte.workloads.layers.linear_state import GatedDeltaNet
from opbyte.workloads.records import named, records
from opbyte.workloads.requests import RequestBlock

from .deployments import small

TOKENS = 40


def step_seconds(deployment: Deployment, sequences: int = 4, **changes: object) -> float:
    """Mean seconds of a decode step of so many equal sequences under vLLM's policy."""
    engine = Engine(deployment, replace(POLICIES["vllm"], **changes))
    counts = np.full(sequences, 16, dtype=np.int64)
    engine.submit(RequestBlock(np.arange(sequences), np.zeros(sequences), counts, np.full(sequences, TOKENS)))
    engine.advance(math.inf)
    stamps = engine.state.requests[:sequences]
    return float((stamps.last[0] - stamps.first[0]) / (TOKENS - 1))


@pytest.fixture
def deployment() -> Deployment:
    return small("llama-3-8b", "h100-x1")


def test_waited_for_or_hidden(deployment: Deployment) -> None:
    alone = step_seconds(deployment)
    host = Host(step_s=0.3 * alone, sequence_s=0.05 * alone)
    waited = step_seconds(deployment, ahead=False, host=host)
    assert waited == pytest.approx(alone + 0.5 * alone, rel=1e-3)
    assert step_seconds(deployment, ahead=True, host=host) == pytest.approx(alone, rel=1e-9)
    slow = Host(step_s=2 * alone, sequence_s=0.5 * alone)
    assert step_seconds(deployment, ahead=True, host=slow) == pytest.approx(4 * alone, rel=1e-3)


def test_kernels_are_launched_one_by_one_without_graphs(deployment: Deployment) -> None:
    alone, launches = step_seconds(deployment), launches_of(deployment)
    # Embedding, two layers of two norms, four products, rotation and cache write, attention and activation; norm, head.
    assert launches.decodes == launches.prompts == 1 + 2 * 10 + 2
    host = Host(launch_s=2 * alone / launches.decodes)
    assert step_seconds(deployment, host=host) == pytest.approx(alone, rel=1e-9)
    assert step_seconds(deployment, host=host, eager=True) == pytest.approx(2 * alone, rel=1e-9)
    slow = Host(launch_s=1e-3)
    assert step_seconds(deployment, 520, host=slow) == pytest.approx(
        1e-3 * launches.decodes
    )  # beyond the largest graph
    assert step_seconds(deployment, 500, host=slow) < 1e-2


def first_token(deployment: Deployment, name: str, tokens: int = 16, **changes: object) -> tuple[float, float]:
    """When the only request has its first token, and how long it then takes."""
    engine = Engine(deployment, replace(POLICIES[name], **changes))
    one = np.full(1, tokens, dtype=np.int64)
    engine.submit(RequestBlock(np.zeros(1, np.int64), np.zeros(1), one, np.full(1, TOKENS)))
    engine.advance(math.inf)
    request = engine.state.requests[0]
    return float(request.first), float(request.last - request.first)


@pytest.mark.parametrize("name", ["vllm", "sglang", "tensorrt-llm"])
def test_only_steps_with_prompts_are_launched_op_by_op(deployment: Deployment, name: str) -> None:
    launches, long = launches_of(deployment, POLICIES[name].calls), Host(launch_s=1e-3)
    prompt, decodes = first_token(deployment, name, host=Host())
    whole, kept = first_token(deployment, name, host=long, pieces=0)
    cut, _ = first_token(deployment, name, host=long, pieces=512)
    assert prompt < cut < whole
    assert whole == pytest.approx(1e-3 * launches.prompts)
    assert cut == pytest.approx(1e-3 * launches.pieces)
    assert kept == pytest.approx(decodes, rel=1e-9)


def test_states_of_decodes_go_through_chunks_beside_a_prompt() -> None:
    """A prompt's layer with a delta rule is 31 calls, also where its graph is cut; in one step with a prompt each of eight decodes takes longer."""
    deployment = deploy(load_model("qwen3.5-35b-a3b"), load_system("h200-x1"))
    launches, plain = launches_of(deployment), launches_of(deployment, PYTHON._replace(chunks=1, moves=0))
    assert launches.pieces - plain.pieces == launches.prompts - plain.prompts == 30 * (CHUNKED - 1)
    states = [x.mixer.state().fixed[0] for x in deployment.model.layers if isinstance(x.mixer, GatedDeltaNet)]
    moved_s = 4 * sum(state.bytes(deployment.run.numerics) for state in states) / 4.8e12
    assert moved_s < launches.mixed_s < 2.5 * moved_s
    assert (
        plain.mixed_s == launches.drafting(launches, 1).mixed_s == launches_of(deployment, TRTLLM_CALLS).mixed_s == 0.0
    )

    def last(mixed_s: float) -> float:
        engine = Engine(deployment, replace(POLICIES["vllm"], host=Host()))
        assert engine.limits.host_delay.mixed_s == launches.mixed_s
        engine.limits = engine.limits._replace(host_delay=engine.limits.host_delay._replace(mixed_s=mixed_s))
        arrivals = np.array([0.0] * 8 + [0.05])
        engine.submit(RequestBlock(np.arange(9), arrivals, np.full(9, 16), np.full(9, TOKENS)))
        engine.advance(math.inf)
        return float(engine.state.requests[0].last)

    assert last(launches.mixed_s) - last(0.0) == pytest.approx(8 * launches.mixed_s, rel=1e-6)


@pytest.mark.parametrize("name", ["vllm", "sglang", "tensorrt-llm"])
def test_more_prompt_tokens_are_never_faster_and_long_prompts_hide_the_launches(
    deployment: Deployment, name: str
) -> None:
    lengths = (1, 16, 256, 512, 513, 2048, 8192)
    seen = [first_token(deployment, name, tokens)[0] for tokens in lengths]
    assert seen == sorted(seen)
    assert seen[-1] == first_token(deployment, name, lengths[-1], host=Host())[0]


def test_one_thread_launches_kernels_and_works_on_sequences(deployment: Deployment) -> None:
    launches, host = launches_of(deployment, TRTLLM_CALLS), Host(launch_s=1e-3, sequence_s=0.75)
    whole, rest = first_token(deployment, "tensorrt-llm", host=host, eager=True)
    assert whole == pytest.approx(1e-3 * launches.prompts + 0.75)
    assert rest == pytest.approx((TOKENS - 1) * (1e-3 * launches.decodes + 0.75))


@pytest.mark.parametrize(
    ("asked", "sampling"),
    [({}, "greedy"), ({"temperature": 0}, "greedy"), ({"temperature": 0.6}, "random"),
     ({"temperature": 0.6, "top_p": 0.9}, "nucleus"), ({"top_k": 20}, "nucleus"),
     ({"top_k": -1, "top_p": 1.0}, "random")],
)  # fmt: skip
def test_sampling_as_the_file_asks(asked: dict[str, float], sampling: str, tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"override_generation_config": asked}))
    assert read_engine(file).sampling == sampling
    file.write_text(json.dumps({"override_generation_config": {"top_p": 2}}))
    with pytest.raises(SpecError, match=r"override_generation_config\.top_p: must be a number in"):
        read_engine(file)


def test_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"enforce_eager": True}))
    found = read_engine(file).policy
    assert found.eager
    front = FrontEnd(token_s=TOKEN_S, http_s=HTTP_S)
    assert found.host == Host(launch_s=LAUNCH_S, request_s=OUTSIDE_S - HTTP_S, sync_s=SYNC_GAP_S, front=front)
    host = {
        "step_ms": 2,
        "sequence_us": 15.5,
        "launch_us": 7,
        "request_ms": 3,
        "template_ms": 9,
        "token_us": 0.5,
        "http_ms": 1,
    }
    file.write_text(json.dumps({"host": host}))
    found = read_engine(file).policy.host
    assert (found.step_s, found.sequence_s, found.launch_s) == pytest.approx((2e-3, 15.5e-6, 7e-6))
    assert found.request_s == pytest.approx(3e-3)
    assert (*found.front[:2], found.front.round_s) == pytest.approx((9e-3, 0.5e-6, 1e-2))
    for wrong in (-1, "5", True, None, math.nan):
        file.write_text(json.dumps({"host": {"step_ms": wrong}}))
        if wrong is None:
            assert read_engine(file).policy.host.step_s == 0.0
            continue
        with pytest.raises(SpecError, match=r"host\.step_ms: must be a number in \[0, 1e\+09\]"):
            read_engine(file)


def test_requests_that_come_during_a_round_are_the_next_one() -> None:
    """The event loop serves rounds of what waits, then tokens are found for one request after another."""
    tokens, sent = np.full(6, 10), [0.0, 0.0, 0.5, 0.7, 5.0, 7.0]
    for front, expected in (
        (FrontEnd(1.0), [2.0, 2.0, 4.0, 4.0, 6.0, 8.0]),
        (FrontEnd(0.0, 0.1), [1.0, 2.0, 3.0, 4.0, 6.0, 8.0]),
        (FrontEnd(0.75, 0.1, http_s=0.25), [3.0, 4.0, 5.0, 6.0, 7.0, 9.0]),
        (FrontEnd(1.0, 0.2), [4.0, 6.0, 8.0, 10.0, 12.0, 14.0]),
    ):
        at_once, singly = records(6, named("", "arrival")), records(6, named("", "arrival"))
        at_once.arrival = singly.arrival = sent
        hand_over_all(idle_front(front), at_once, tokens)
        state = idle_front(front)
        for last in range(1, 7):
            hand_over_all(state, singly[:last], tokens[:1])
        assert at_once.arrival.tolist() == singly.arrival.tolist() == expected


def test_a_request_that_does_not_pass_the_front_end_keeps_its_time() -> None:
    rows, state = records(4, named("", "arrival")), idle_front(FrontEnd(1.0))
    rows.arrival = [0.0, 7.0, 0.0, 0.5]  # the second one is carried over
    for last in (1, 3, 4):
        hand_over_all(state, rows[:last], np.array([10]))
    assert rows.arrival.tolist() == [2.0, 7.0, 2.0, 3.0]

"""Is a benchmark client's command the same as its options spelled out, and is what cannot be kept refused?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from opbyte import InputError, Scenario
from opbyte.workloads.requests import open_requests

from .conftest import Ask

COMMANDS: list[tuple[str, dict[str, Any]]] = [
    (("vllm bench serve --dataset-name random --random-input-len 64 --random_output_len=16 --random-range-ratio 0.5 "
     "--random-prefix-len 32 --num-prompts 20 --max-concurrency 8 --request-rate 9.5 --burstiness 4 --seed 3 --port 80"),
     {"input_len": 64, "output_len": 16, "lengths": "vllm:0.5", "prefix_len": 32, "requests": 20, "closed_loop": 8,
      "rate": 9.5, "cv": 0.5, "seed": 3}),
    ("VLLM_LOG=1 vllm bench serve --dataset-name prefix_repetition --request-rate inf",
     {"input_len": 256, "output_len": 128, "prefix_len": 256, "prefixes": 10, "requests": 1000, "closed_loop": 1000}),
    ("python3 utils/benchmark_serving.py --dataset-name random --random-range-ratio 0.8 --max-concurrency 4 --ignore-eos",
     {"input_len": 1024, "output_len": 128, "lengths": "sglang:0.8", "requests": 1000, "closed_loop": 4}),
    ("python -m sglang.bench_serving --dataset-name random --random-input 64 --num-prompts 7",
     {"input_len": 64, "output_len": 1024, "lengths": "sglang:0.0", "requests": 7, "closed_loop": 7, "seed": 1}),
    ("python -m sglang.bench_serving --dataset-name generated-shared-prefix --gsp-num-groups 4 --request-rate 2",
     {"input_len": 128, "output_len": 256, "prefix_len": 2048, "prefixes": 4, "requests": 64, "rate": 2.0, "seed": 1}),
    ("""guidellm benchmark --target http://x --rate-type constant --rate 3 --max-seconds 9 --data '{"prompt_tokens": 64,
     "prompt_tokens_stdev": 5, "prompt_tokens_max": 80, "output_tokens": 8, "prefix_tokens": 40}'""",
     {"input_len": 64, "output_len": 8, "lengths": "guidellm:5::80/::", "rate": 3.0, "cv": 0.001, "duration": 9.0,
      "prefix_len": 40, "seed": 42}),
    (("guidellm run --backend kind=openai_http,target=x --profile kind=concurrent,streams=4 --constraint kind=max_requests,count=24 "
     "--constraint kind=max_duration,seconds=9 --data kind=synthetic_text,prompt_tokens=64,output_tokens=8 --seed kind=static,value=7"),
     {"input_len": 64, "output_len": 8, "lengths": "guidellm:::/::", "closed_loop": 4, "requests": 24, "seed": 7}),
    ("aiperf profile -m x --isl 64 --osl 8 --osl-stddev 2 --concurrency 8 --num-requests 30 --random-seed 5 --streaming",
     {"input_len": 64, "output_len": 8, "lengths": "aiperf:0/2", "closed_loop": 8, "requests": 30, "seed": 5}),
]  # fmt: skip


@pytest.mark.parametrize(("command", "options"), COMMANDS)
def test_a_command_is_its_options(command: str, options: dict[str, Any]) -> None:
    """Equal scenarios have equal results; what is given besides comes first, in Python and sweeps too."""
    scenario = Scenario.of("llama-3-8b", "h100-x1", client=command)
    assert scenario == Scenario.of("llama-3-8b", "h100-x1", **options)
    assert scenario.changed(client=command, requests=5).workload.requests == 5
    assert scenario.workload.changed(client=command) == scenario.workload
    assert len(scenario.changed(requests=5).workload.open(0).read()) == 5


def test_the_command_line_answers_byte_for_byte(ask: Ask) -> None:
    command, options = COMMANDS[0]
    run = ("simulate", "llama-3-8b", "--system", "h100-x1", "--json")
    spelled = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    answers = [ask(*run, "--client", command), ask(*run, *spelled)]
    assert "--seed 3" in answers[0].err
    assert "ignored: --port" in answers[0].err
    first, second = (answer.json() for answer in answers)
    assert first.pop("made_by") != second.pop("made_by")  # the command itself
    assert json.dumps(first) == json.dumps(second)
    load = ask("capacity", "llama-3-8b", "--systems", "h100-x1", "--slo", "tpot_p99=0.001", "--client", command)
    assert "not used, as capacity sets them: --rate, --closed-loop" in load.err


@pytest.mark.parametrize("form", ["vllm", "sglang"])
def test_seeds_give_the_lengths_of_the_client(form: str) -> None:
    """RandomDataset.get_sampling_params of vLLM 0.16 and compute_random_lens of SGLang 0.5: prompts, then outputs."""
    block = open_requests(rate=1.0, input_len=100, output_len=31, lengths=f"{form}:0.3", limit=50, seed=9).read()
    if form == "vllm":
        modern = np.random.default_rng(9)
        wanted = [modern.integers(low, high, 50) for low, high in ((70, 131), (21, 42))]
    else:
        old = np.random.RandomState(9)
        wanted = [old.randint(low, high, 50) for low, high in ((30, 101), (9, 32))]
    np.testing.assert_array_equal([block.input_tokens, block.output_tokens], wanted)


def test_lengths_of_guidellm_and_aiperf() -> None:
    """GuideLLM's Gaussians are cut to their bounds, AIPerf's are above 0 and rounded up (half a token more)."""
    draw: dict[str, Any] = {"rate": 1.0, "input_len": 100, "output_len": 31, "limit": 20_000}
    block = open_requests(**draw, lengths="guidellm:20:80:110/0:30:32").read()
    assert (block.input_tokens.min(), block.input_tokens.max()) == (80, 110)
    assert np.mean(block.input_tokens == 80) == pytest.approx(0.165, abs=0.02)  # P(x < 80.5), sigma 20
    assert set(block.output_tokens.tolist()) == {30, 31, 32}
    block = open_requests(**draw, lengths="aiperf:20/0").read()
    assert block.input_tokens.mean() == pytest.approx(100.5, abs=0.5)
    assert block.input_tokens.std() == pytest.approx(20, rel=0.03)
    with pytest.raises(InputError, match="smallest length of 40 above its largest of 31"):
        open_requests(**draw, lengths="guidellm:0:0:0/0:40:0")
    with pytest.raises(InputError, match="--data: must be KEY=VALUE"):
        Scenario.of("llama-3-8b", "h100-x1", client="guidellm benchmark --data '" + '{"a":' * 20_000 + "'")


def test_a_rate_with_a_limit_in_flight() -> None:
    """Below the limit it is an open loop; beyond it, requests wait at their clients and count from when they are sent."""
    base = Scenario.of("llama-3-8b", "h100-x1", input_len=256, output_len=32, requests=80, rate=8.0)
    from opbyte import simulate

    free, wide, narrow = (simulate(base.changed(closed_loop=n)).run.requests for n in (None, 64, 2))
    np.testing.assert_array_equal(free.last_token_s, wide.last_token_s)
    came = np.sort(narrow.arrival_s)
    running = np.arange(1, 81) - np.searchsorted(np.sort(narrow.last_token_s), came, side="right")
    assert running.max() == 2
    assert (came >= np.sort(free.arrival_s)).all()
    assert came[-1] > np.sort(free.arrival_s)[-1]

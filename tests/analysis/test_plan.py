"""Is the best plan found, are bounds sound, and does the plan say how sure it is and how to start it?

Expected values: every candidate simulated one by one; simulations that may not meet what bounds rule out;
the engines' files read back; single simulations with the written file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte import InputError, Scenario, load_model, load_system, plan, simulate
from opbyte.analysis.studies.loads import judged
from opbyte.analysis.studies.plan.bounds import bound_of, served
from opbyte.analysis.studies.plan.candidates import candidates, systems_of
from opbyte.analysis.studies.service_level import read_level
from opbyte.simulator.frameworks.engine_file import read_engine
from opbyte.simulator.frameworks.launch import Start, command_line, engine_values
from opbyte.simulator.scenario.build import deployment_of
from opbyte.simulator.scenario.play import run_scenario

WORK: dict[str, Any] = {"input_len": 512, "output_len": 64, "lengths": "lognormal", "requests": 120}
LEVEL = "ttft_p99=0.25,tpot_p99=0.02"
GRID = "h100-x1,h100-x2,a100-80gb-x2"
MOST = 4


def brute_force(goal: str, load: float, folder: Path) -> tuple[float, ...]:
    """Value of the best of all candidates of the grid, each with 1, 2, ... copies in turn."""
    base, level = Scenario.of("llama-3-8b", rate=load, **WORK), read_level(LEVEL)
    best: tuple[float, ...] = (float("inf"),)
    for name in GRID.split(","):
        system = load_system(name)
        devices, price = system.devices_per_node, system.device.price_USD_per_hour
        assert price is not None
        axes = {"tp": (1, 2), "token_budget": (512, 2048)}
        for each in candidates(name, system, load_model("llama-3-8b"), axes, lone=False):
            for copies in range(1, MOST // devices + 1):
                run = run_scenario(each.scenario(base, folder, copies))
                if not judged(run, load, level).missed:
                    n, joules = copies * devices, run.joules_per_token
                    assert joules is not None
                    values = {"devices": (n, n * price, joules), "cost": (n * price, n, joules),
                              "energy": (joules, n, n * price)}  # fmt: skip
                    best = min(best, values[goal])
                    break
    return best


@pytest.mark.parametrize(("goal", "load"), [("devices", 60.0), ("cost", 90.0), ("energy", 60.0)])
def test_the_winner_is_that_of_brute_force(goal: str, load: float, tmp_path: Path) -> None:
    found = plan(
        "llama-3-8b", GRID, LEVEL, load=load, goal=goal, most_devices=MOST, tp=(1, 2),
        token_budget="512,2048", workers=1, **WORK,
    )  # fmt: skip
    winner = found.winner
    assert winner is not None
    value = found.task.value(winner.devices, winner.usd_per_hour, winner.joules_per_token or 0.0)
    assert value == pytest.approx(brute_force(goal, load, tmp_path), rel=1e-12)
    second = found.runner_up
    assert second is not None
    assert (
        found.task.value(second.devices, second.usd_per_hour, second.joules_per_token or 0) > value
    )


@given(
    model=st.sampled_from(["llama-3-8b", "qwen3-30b-a3b", "deepseek-v2-lite"]),
    system=st.sampled_from(["h100-x1", "h100-x2", "l40s-x2", "duplex-x4"]),
    costs=st.sampled_from(["auto", "roofline"]),
    policy=st.sampled_from(["vllm", "chunked"]),
    spread=st.booleans(),
    stages=st.booleans(),
    lengths=st.tuples(st.integers(16, 3000), st.integers(1, 300)),
    rate=st.floats(0.5, 300.0),
    copies=st.integers(1, 2),
)
def test_no_bound_rules_out_what_a_simulation_serves(
    model: str, system: str, costs: str, policy: str, spread: bool, stages: bool,
    lengths: tuple[int, int], rate: float, copies: int,
) -> None:  # fmt: skip
    """Any level that a run meets leaves its number of copies possible: here those it just meets."""
    devices = load_system(system).devices_per_node
    pp = 2 if stages and devices % 2 == 0 else 1
    dp = 2 if spread and devices // pp % 2 == 0 else 1
    scenario = Scenario.of(
        model, system, costs=costs, policy=policy, dp=dp, pp=pp, rate=rate, requests=40,
        input_len=lengths[0], output_len=lengths[1], lengths="lognormal", replicas=copies,
    )  # fmt: skip
    run = run_scenario(scenario)
    deployment, settings = deployment_of(scenario)
    block = scenario.workload.open(0).read()
    for share in ("mean", "p50", "p90", "p99"):
        level = {
            f"{name}_{share}": figure
            for name in ("ttft", "tpot", "e2e")
            if (figure := getattr(getattr(run, f"{name}_s"), share))
        }
        found = bound_of(deployment, settings, block, level)
        assert found.copies is not None, found.why
        assert found.copies <= copies, found.why


def test_bounds_bind(tmp_path: Path) -> None:
    """A load beyond the nominal peaks, and steps shorter than reading the weights takes."""
    base = Scenario.of(
        "llama-3-8b", "h100-x1", rate=400.0, requests=4000, input_len=2000, output_len=2
    )
    deployment, settings = deployment_of(base)
    block = base.workload.open(0).read()
    # 4,000 prompts of 2,000 tokens, 14e9 FLOP a token and 989e12 FLOP/s: 113 s of 10 + 1 s.
    found = bound_of(deployment, settings, block, {"ttft_p99": 1.0})
    assert found.copies == pytest.approx(4000 * 0.99 * 2000 * 13.96e9 / 989.4e12 / 11.0, abs=1)
    # 14e9 bytes of weights a step at 3,352 GB/s: 4.2 ms.
    assert bound_of(deployment, settings, block, {"tpot_p50": 0.0045}).copies is not None
    short = bound_of(deployment, settings, block, {"tpot_p50": 0.0039})
    assert short.copies is None
    assert "at nominal rates, of one request at a time" in short.why
    large = Scenario.of(
        "llama-3-70b", "h100-x2", tp=1, dp=2, rate=1.0, requests=2, input_len=8, output_len=8
    )
    made, how = deployment_of(large)
    assert "memory" in bound_of(made, how, block, {"ttft_p99": 1.0}).why


def test_how_many_come_within_a_limit() -> None:
    import numpy as np

    for share, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        for n in (1, 2, 10, 100, 101, 400):
            values = np.sort(np.random.default_rng(n).random(n))
            count, _ = served(share, n)
            assert values[count - 1] <= np.quantile(values, quantile) + 1e-15


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
def test_files_read_back_as_they_were_meant(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    starts = [Start(8, ep=8, tokens=4096, kv_dtype="fp8"), Start(4, pp=2, dtype="fp8"), Start(1)]
    starts += [Start(1, dp=8, ep=8)] if engine == "tensorrt-llm" else [Start(2, dp=4, ep=8)]
    for start in starts:
        path.write_text(json.dumps(engine_values(engine, start)))
        read = read_engine(path)
        assert (read.tp, read.dp, read.pp) == (start.tp, start.dp, start.pp)
        assert read.ep == start.ep
        assert (read.dtype, read.kv_dtype) == (start.dtype, start.kv_dtype)
        assert start.tokens is None or read.policy.token_budget == start.tokens
        assert not read.doubts


def test_command_lines() -> None:
    def line(engine: str, start: Start) -> str:
        return command_line(engine, "org/m", engine_values(engine, start))

    start = Start(2, dp=4, ep=8, tokens=4096, dtype="fp8", kv_dtype="fp8")
    assert line("vllm", start) == (
        "vllm serve org/m --tensor-parallel-size 2 --data-parallel-size 4 --enable-expert-parallel "
        "--max-num-batched-tokens 4096 --kv-cache-dtype fp8 --quantization fp8"
    )
    assert line("sglang", start) == (
        "python -m sglang.launch_server --model-path org/m --tp-size 8 --dp-size 4 "
        "--enable-dp-attention --ep-size 8 --chunked-prefill-size 4096 --kv-cache-dtype fp8_e4m3 "
        "--quantization fp8"
    )
    apart = line("tensorrt-llm", Start(1, dp=8, ep=8, kv_dtype="fp8"))
    assert apart.startswith(
        "trtllm-serve org/m --tp_size 8 --ep_size 8 --extra_llm_api_options FILE"
    )
    assert "enable_attention_dp: true" in apart
    with pytest.raises(InputError, match="ranks have one device each"):
        engine_values("tensorrt-llm", start)
    with pytest.raises(InputError, match="all 8 devices or to none"):
        engine_values("vllm", Start(8, ep=4))


def test_the_engine_file_gives_the_plan_again(tmp_path: Path) -> None:
    found = plan("qwen3-30b-a3b", "h100-x2", "ttft_p99=2", load=10, tp=1, dp=2, ep=2, workers=1,
                 **WORK)  # fmt: skip
    winner = found.winner
    assert winner is not None
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(winner.candidate.engine))
    again = simulate("qwen3-30b-a3b", "h100-x2", engine=path, rate=10.0, **WORK).run
    assert again.joules_per_token == winner.joules_per_token
    assert again.ttft_s.p99 == winner.figures["ttft_p99"]
    assert (again.deployment.layout.dp, again.deployment.layout.ep) == (2, 2)


def test_systems_of_other_bases_are_not_ranked() -> None:
    found = plan("mixtral-8x7b", "h100-x4,duplex-x4", "ttft_p99=2", load=2, tp=4, workers=1,
                 **{**WORK, "requests": 40})  # fmt: skip
    assert found.winner is None
    assert len(found.groups) == 2
    text = "\n".join(block for block in found.blocks() if isinstance(block, str))
    assert "NOT LIKE FOR LIKE" in text
    assert text.count("Best among those on") == 2
    both = plan("mixtral-8x7b", "h100-x4,duplex-x4", "ttft_p99=2", load=2, tp=4, workers=1,
                costs="roofline", **{**WORK, "requests": 40})  # fmt: skip
    assert both.winner is not None


def test_what_nothing_serves() -> None:
    found = plan(
        "llama-3-8b", "h100-x1", "tpot_p99=0.0056", load=5, most_devices=2, workers=1, **WORK
    )
    assert found.winner is None
    text = "\n".join(block for block in found.blocks() if isinstance(block, str))
    assert "Nothing of this serves the load. Nearest:" in text
    assert "too long" in text
    data = found.to_dict()
    assert data["winner"] is None
    assert "too long" in data["nearest"]
    large = plan("llama-3-70b", "h100-x1", "tpot_p99=1", load=5, workers=1, **WORK)
    assert "GiB" in large.to_dict()["nearest"]


def test_a_device_is_copies_of_its_systems() -> None:
    assert [name for name, _ in systems_of("h100")] == [
        "h100-x1", "h100-x2", "h100-x4", "h100-x8", "h100-2x8"
    ]  # fmt: skip
    assert systems_of("duplex-hetero")[0][0] == "duplex-hetero-x2"
    assert [name for name, _ in systems_of("h100-x8")] == ["h100-x8"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "speed"}, "goal: must be one of devices, cost, energy, carbon"),
        ({"goal": "carbon"}, "needs grid_gCO2_per_kWh"),
        ({"load": None}, "load: is needed"),
        ({"budget": -1.0}, "budget: must be a number"),
        ({"tp": "two"}, "tp: must be a whole number"),
        ({"tp": 3}, "leave no layout"),
        ({"routing": "nearby"}, "routing"),
        ({"rate": 4.0}, "rate: is what the plan sets"),
        ({"speculative": "mtp:1"}, "speculative: is no part of a plan"),
        ({"systems": "h100-x1,"}, "systems: needs names by commas"),
        ({"systems": "h1000"}, "unknown"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"systems": "h100-x1", "load": 5.0, **WORK, **options}
    with pytest.raises(InputError) as caught:
        plan("llama-3-8b", slo="ttft_p99=1", workers=1, **given)
    assert message in str(caught.value)

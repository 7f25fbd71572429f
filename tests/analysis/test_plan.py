"""Is the best plan found, are bounds sound, and does the plan say how sure it is and how to start it?

Expected values: every candidate simulated one by one; simulations that may not meet what bounds rule out;
the engines' files read back; single simulations with the written file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from opbyte import InputError, Scenario, load_model, load_system, plan, simulate
from opbyte.analysis.answers.error_factors import OLD, engine_of_scenario
from opbyte.analysis.answers.price import check_prices, prices_text
from opbyte.analysis.answers.started import room_of
from opbyte.analysis.studies.plan.best import Searched
from opbyte.analysis.studies.plan.bounds import bound_of, served
from opbyte.analysis.studies.plan.candidates import WORDS, Candidate, candidates, check_blocks, choices_of, systems_of
from opbyte.analysis.studies.plan.points import PlanTask
from opbyte.analysis.studies.plan.trial import Trial
from opbyte.analysis.studies.plan.words import untried
from opbyte.simulator.frameworks.engine_file import read_engine
from opbyte.simulator.frameworks.launch import Room, Start, command_line, engine_values, hub_name, over_nodes
from opbyte.simulator.scenario.build import deployment_of, run_scenario

WORK: dict[str, Any] = {"input_len": 512, "output_len": 64, "lengths": "lognormal", "requests": 120}
LEVEL = "ttft_p99=0.25,tpot_p99=0.02"
GRID = "h100-x1,a100-80gb-x2"
MOST = 4


def brute_force(task: PlanTask, found: Searched, folder: Path) -> tuple[float, ...]:
    """Value of the best of all candidates on a system, each with 1, 2, ... copies in turn."""
    name = str(found.name)
    system, best = load_system(name), (float("inf"),)
    devices = system.devices_per_node
    fewest = {t.candidate: t.bound.copies or 1 for t in found.tried}
    for each in candidates(name, system, load_model("llama-3-8b"), task.axes, lone=False):
        trial = Trial(task, each, system, folder)
        slow = trial.slow(fewest[each])
        for copies in range(1, MOST // devices + 1):
            p = trial.point(copies, slow)
            if not p.missed:
                p = trial.predicted(copies)
                best = min(best, task.value(p.devices, p.usd_per_hour, p.joules_per_token or 0.0))
                break
    return best


@pytest.mark.parametrize(("goal", "systems"), [("cost", GRID), ("energy", "a100-80gb-x2")])
def test_each_systems_best_is_that_of_brute_force(goal: str, systems: str, tmp_path: Path) -> None:
    """Pruning and bounds leave out nothing that could be better, whoever stands beside it."""
    found = plan(
        "llama-3-8b", systems, LEVEL, load=90.0, goal=goal, most_devices=MOST, tp=(1, 2),
        token_budget="512,2048", workers=1, **WORK,
    )  # fmt: skip
    for s in found.searched:
        wanted = brute_force(found.task, s, tmp_path)
        assert s.bar == pytest.approx(wanted, rel=1e-9)


def test_every_row_is_what_simulate_says(tmp_path: Path) -> None:
    """Finding 1: of three systems, under the plan's load, with the plan's copies and the engine's file."""
    names = "h100-x1,b200-x1,a100-80gb-x2"
    level = "ttft_p99=1,tpot_p99=0.06"
    found = plan("llama-3-8b", names, level, load=40.0, most_devices=8, workers=1, **WORK)
    path = tmp_path / "engine.json"
    for s in found.searched:
        p = s.chosen
        assert p is not None, s.name
        path.write_text(json.dumps(p.candidate.engine))
        copies = {"replicas": p.copies} if p.copies > 1 else {}
        run = simulate("llama-3-8b", p.candidate.system, engine=path, rate=40.0, **copies,
                       **WORK | {"requests": p.requests}).run  # fmt: skip
        assert run.ttft_s.p99 == pytest.approx(p.figures["ttft_p99"], rel=0.01)
        assert run.tpot_s.p99 == pytest.approx(p.figures["tpot_p99"], rel=0.01)
        assert run.joules_per_token == pytest.approx(p.joules_per_token, rel=0.01)


def test_more_systems_and_workers_never_change_a_row() -> None:
    """Finding 1: the row of a system was another one with others beside it."""
    names = ("h100-x1", "a100-80gb-x2")
    given: dict[str, Any] = {"load": 60.0, "most_devices": MOST, **WORK}
    alone = [plan("llama-3-8b", name, LEVEL, workers=1, **given).rows()[0] for name in names]
    among = plan("llama-3-8b", ",".join(names), LEVEL, workers=2, **given).rows()
    assert sorted(map(str, among)) == sorted(map(str, alone))


def test_few_requests_make_no_plan_smaller() -> None:
    """Finding 6: of 200 requests a burst was judged, which three copies held that took four."""
    given: dict[str, Any] = {"load": 60.0, "most_devices": MOST, "workers": 1, "tp": 1}
    few, many = (
        plan("llama-3-8b", "a100-80gb-x1", LEVEL, **given, **WORK | {"requests": n}).rows()[0] for n in (60, 2000)
    )
    assert few == many


def test_money_changes_the_order_and_says_so() -> None:
    """Finding 4 of a trial: a price is shown, and can be another."""
    given = {"load": 20.0, "goal": "cost", "most_devices": 2, "workers": 1, **WORK}
    cheap = plan("llama-3-8b", "h100-x1,h200-x1", "ttft_p99=1", price="h200=0.5", **given)
    assert cheap.winner is not None
    assert cheap.winner.system == "h200-x1"
    assert cheap.winner.usd_per_hour == 0.5
    assert "h200 0.5000 USD/h (as given)" in str(cheap.blocks())
    assert "listings range" in str(cheap.blocks())
    owned = plan("llama-3-8b", "h200-x1", "ttft_p99=1", capex="h200=35064", years=4.0, pue=1.0,
                 usd_per_kWh=1.0, **given).winner  # fmt: skip
    assert owned is not None
    assert 1.0 < (owned.usd_per_hour or 0.0) < 1.0 + 0.7 + 1e-9  # a dollar, and at most 700 W
    with pytest.raises(InputError, match="did you mean 'h200'"):
        plan("llama-3-8b", "h200-x1", "ttft_p99=1", price="h2000=1", **given)
    with pytest.raises(InputError, match="load: is needed: requests per second in all"):
        plan("llama-3-8b", "h200-x1", "ttft_p99=1", **given | {"load": None})


def test_a_file_of_prices_says_where_they_come_from(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("h200: {value: 2.25, source: a quote of 2026-11-03}\n")
    scenario = Scenario.of("llama-3-8b", "h200-x1", price=str(path))
    (line,) = prices_text(scenario, [load_system("h200-x1"), load_system("h100-x1")])
    assert f"h200 2.250 USD/h (a quote of 2026-11-03, {path})" in line
    assert "listings range" in line
    for text, reason in (("h200: 2.5", "needs {value: USD, source: TEXT}"),
                         ("h2000: {value: 1, source: x}", "did you mean 'h200'"),
                         ("h200: {value: -1, source: x}", "needs comma-separated DEVICE=USD")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=reason):
            check_prices(scenario)


def test_what_nobody_has_measured_stands_apart() -> None:
    """Finding 3 of a trial: a device without a measurement wins over none that has."""
    found = plan("deepseek-v2-lite", "mi325x-x1,h100-x1", "ttft_p99=2", load=4.0, tp=1, dp=1, workers=1,
                 dtype="fp8", **WORK)  # fmt: skip
    assert found.winner is not None
    assert found.winner.system == "h100-x1"
    assert "OUTSIDE THE MEASURED RANGE" in str(found.blocks())
    assert "measurements, OUTSIDE" not in str(found.blocks())  # it contradicted itself
    assert {row["cost model"] for row in found.rows()} == {"not measured", "fitted kernels"}
    drawn = str([text.get_text() for text in found.drawings()[0].figure.findobj(Text)])
    assert "mi325x-x1 (not measured)" in drawn  # finding U22


def test_what_is_searched_beside_never_makes_a_plan_dearer() -> None:
    """Two pools, a power cap, and drafts up to as many as are given, each beside none."""
    given: dict[str, Any] = {"load": 30.0, "most_devices": 3, "workers": 1, "tp": 1, **WORK}
    plain = plan("llama-3-8b", "h100-x1", LEVEL, **given)
    wide = plan("llama-3-8b", "h100-x1", LEVEL, search="pools,caps,drafts", power_cap=450.0,
                speculative="ngram:2", acceptance="0.6,0.4", **given)  # fmt: skip
    tried = [t.candidate for s in wide.searched for t in s.tried]
    assert {c.pools for c in tried} == {None, (1, 1), (1, 2), (2, 1), (1, 3), (3, 1)}
    assert {dict(c.extra).get("speculative") for c in tried} == {None, "ngram:1", "ngram:2"}
    assert any("cap 450 W" in c.layout for c in tried)
    first, second = (p.searched[0].bar for p in (plain, wide))
    assert second <= first
    drafting = next(c for c in tried if c.extra == (("acceptance", "0.6"), ("speculative", "ngram:1")))
    line = drafting.command("llama-3-8b", Room())
    assert '--speculative-config \'{"method": "ngram", "num_speculative_tokens": 1}\'' in str(line)
    assert "1 to prefill, 2 to decode" in str(wide.to_dict()["rows"])


@pytest.mark.parametrize(
    ("model", "system", "search", "how"),
    [("llama-3-8b", "h100-x1", "tiers", {"kv_tiers": "host:16GiB", "tp": 1}),
     ("deepseek-v2-lite", "h100-x2", "copies", {"redundant_experts": 2, "tp": 1, "dp": 2, "ep": 2})],
)  # fmt: skip
def test_tiers_and_copies_are_tried_beside_none(model: str, system: str, search: str, how: dict[str, Any]) -> None:
    asked = {"load": 4.0, "most_devices": 2, "workers": 1, **WORK}
    plain = plan(model, system, "ttft_p99=2", **asked, **{n: x for n, x in how.items() if n in ("tp", "dp", "ep")})
    wide = plan(model, system, "ttft_p99=2", search=search, **asked, **how)
    first, second = (p.searched[0].bar for p in (plain, wide))
    assert second <= first
    (name,) = set(how) - {"tp", "dp", "ep"}
    tried = {dict(t.candidate.extra).get(name): t for t in wide.searched[0].tried}
    assert set(tried) == {None, how[name]}
    assert tried[how[name]].points
    assert WORDS[name].format(how[name]) in str(wide.to_dict()["rows"])
    line = str(tried[how[name]].candidate.command(model, Room()))
    assert line.endswith("# vllm has no key for --kv-tiers host:16GiB") == (search == "tiers")


def test_without_what_is_searched_a_scenario_never_had_it() -> None:
    bare = Scenario.of("mixtral-8x7b", "h100-x4")
    options: dict[str, Any] = {"kv_tiers": "host:1GiB", "kv_prefetch": True, "power_cap": 450.0}
    assert choices_of(bare.changed(**options), ("tiers", "caps"))[0] == bare


def test_a_manifest_starts_the_winner(tmp_path: Path) -> None:
    found = plan("llama-3-8b", "h100-x1", LEVEL, load=90.0, most_devices=8, workers=1, tp=1, **WORK)
    text = replace(found, emit="compose").manifest()
    assert found.winner is not None
    assert text.count("vllm/vllm-openai") == found.winner.copies
    assert text.splitlines()[0] in str(replace(found, emit="compose").blocks())
    assert f"replicas: {found.winner.copies}\n" in replace(found, emit="llm-d").manifest()
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(found.winner.candidate.engine))
    alone = simulate("llama-3-8b", "h100-x1", engine=path, rate=90.0, replicas=found.winner.copies,
                     **WORK | {"requests": found.winner.requests})  # fmt: skip
    assert replace(alone, emit="compose").manifest() == text


def test_to_be_sure_takes_no_fewer() -> None:
    """Finding 7 of a trial: a plan that holds at the slow end."""
    sizes = []
    for sure in (None, 0.8, 0.95):
        found = plan("llama-3-8b", "h100-x1", "ttft_p99=0.5,tpot_p99=0.015", load=40.0, sure=sure,
                     workers=1, most_devices=32, **WORK)  # fmt: skip
        assert found.winner is not None
        sizes.append(found.winner.devices)
    assert sizes == sorted(sizes)
    assert "at 95% confidence" in str(found.blocks())


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
    base = Scenario.of("llama-3-8b", "h100-x1", rate=400.0, requests=4000, input_len=2000, output_len=2)
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
    # And 20,000 keys and values of 131,072 bytes: 0.8 ms more.
    long = Scenario.of("llama-3-8b", "h100-x1", rate=1.0, requests=4, input_len=20_000, output_len=2).workload.open(0)
    found, first = (bound_of(deployment, settings, rows, {"tpot_p50": 0.0047}) for rows in (long.read(), block))
    assert (found.copies, first.copies is None) == (None, False)
    large = Scenario.of("llama-3-70b", "h100-x2", tp=1, dp=2, rate=1.0, requests=2, input_len=8, output_len=8)
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
        name, version = engine_of_scenario(Scenario(model="m", system="h100-x1").changed(engine=path))
        assert version >= OLD[name]  # else DeepSeek-V3's steps count as 2.2 times as long, as in early 2025


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
    assert apart.startswith("trtllm-serve org/m --tp_size 8 --ep_size 8 --extra_llm_api_options FILE")
    assert "enable_attention_dp: true" in apart
    with pytest.raises(InputError, match="ranks have one device each"):
        engine_values("tensorrt-llm", start)
    with pytest.raises(InputError, match="all 8 devices or to none"):
        engine_values("vllm", Start(8, ep=4))


@pytest.mark.parametrize("policy", ["vllm", "sglang", "tensorrt-llm"])
@pytest.mark.parametrize("dtype", [None, "fp8", "fp8_block", "nvfp4"])
def test_the_engine_file_gives_the_plan_again(policy: str, dtype: str | None, tmp_path: Path) -> None:
    """Finding 2: of every framework and format, kernels and weights among them."""
    axes = {"policy": (policy,), "dtype": (dtype or "own",), "tp": (2,), "pp": (1,)}
    system, work = load_system("b200-x2"), WORK | {"requests": 40}
    each = next(candidates("b200-x2", system, load_model("qwen3-30b-a3b"), axes, lone=False))
    planned = run_scenario(each.scenario(Scenario.of("qwen3-30b-a3b", rate=10.0, **work), tmp_path))
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(each.engine))
    again = simulate("qwen3-30b-a3b", "b200-x2", engine=path, rate=10.0, **work).run
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        assert getattr(again, name).p99 == pytest.approx(getattr(planned, name).p99, rel=1e-9)
    assert again.joules_per_token == pytest.approx(planned.joules_per_token, rel=1e-9)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
def test_start_lines_serve_what_was_asked_in_options_that_exist(engine: str) -> None:
    """Finding 2: every option is one of the engine's own parser, as `engine_flags.txt` lists them by version."""
    listed = (Path(__file__).parent / "engine_flags.txt").read_text()
    known = next(line for line in listed.splitlines() if line.startswith(engine)).split()
    room = Room("bf16", 8192, 256, 0.9)
    for dtype in (None, "fp8", "fp8_block"):
        start = Start(4, ep=4, tokens=4096, dtype=dtype, kv_dtype="fp8")
        line = command_line(engine, "Qwen/Qwen3-235B-A22B", engine_values(engine, start), room)
        options = [word for word in line.partition("  #")[0].split() if word.startswith("--")]
        assert set(options) <= set(known), line
        assert ("Qwen3-235B-A22B-FP8" in line) == (dtype == "fp8_block")
        assert "8192" in line
        assert "framework" not in line
    for dp in (1, 2):  # ranks of a replica on two nodes
        added = over_nodes(engine, engine_values(engine, Start(1, dp=dp)), 2)
        assert {word for word in added.split() if word.startswith("--")} <= set(known)
        assert ("K" in added) == (engine != "tensorrt-llm")
    llama, fp8 = "meta-llama/Llama-3.3-70B-Instruct", engine_values(engine, Start(2, dtype="fp8"))
    assert "nvidia/Llama-3.3-70B-Instruct-FP8" in command_line(engine, llama, fp8, room)
    other = command_line(engine, llama, fp8, replace(room, modelopt=False))  # U7: on ROCm
    assert llama in other
    assert "fp8" in other.lower()
    with pytest.raises(InputError, match="no checkpoint of org/m in this format is known"):
        command_line(engine, "org/m", engine_values(engine, Start(1, dtype="nvfp4")))
    assert hub_name("meta-llama/Llama-3.3-70B-Instruct") == "meta-llama/Llama-3.3-70B-Instruct"
    assert hub_name("llama-3.3-70b") == "meta-llama/Llama-3.3-70B-Instruct"
    assert "quantization" not in line


def test_which_start_lines_permit_code_of_the_checkpoint() -> None:
    """Engines refuse Kimi-K2's tokenizer without the option; DeepSeek-V3 needs none."""
    for engine in ("vllm", "sglang", "tensorrt-llm"):
        kimi, other = (
            command_line(engine, hub_name(n), engine_values(engine, Start(8))) for n in ("kimi-k2", "deepseek-v3")
        )
        assert kimi.replace("_", "-").partition(" --extra-llm")[0].endswith(" --trust-remote-code")
        assert "remote" not in other


def test_a_start_line_asks_for_no_more_positions_than_the_model_has() -> None:
    """vLLM and SGLang refuse to start with more; longer requests are simulated with a warning."""
    asked = Scenario.of("llama-3-8b", "h100-x1", rate=1, requests=1, input_len=8192, output_len=2)
    assert room_of(asked, run_scenario(asked)).longest == 8192
    found = plan(
        asked.model, "mi300x-x1", "ttft_p99=9", load=0.1, input_len=8192, output_len=2, dtype="nvfp4", quick=True
    )
    text = str(found.blocks())
    assert "Warning: 2,000 of 2,000 requests are longer than the 8,192 positions" in text
    assert "Warning: mi300x has no FP4 arithmetic: nvfp4" in text


def test_a_format_without_a_checkpoint_is_started_from_a_folder() -> None:
    """Finding U8: the layout is what one asked for; FOLDER stands for the checkpoint."""
    start = Start(1, dp=2, ep=2, dtype="nvfp4")
    lone = Candidate("b200-x2", 2, "vllm", start, None, dtype="nvfp4", framework="vllm")
    line = str(lone.command("Qwen/Qwen3-32B", Room("bf16", 8192, 256, 0.9)))
    assert line.startswith("vllm serve FOLDER --")
    assert "--data-parallel-size 2" in line
    assert "# FOLDER: no checkpoint of Qwen/Qwen3-32B in this format is known" in line
    assert " --trust-remote-code " in str(lone.command("moonshotai/Kimi-K2-Instruct", Room("fp8_block")))


def test_sglang_drafts_and_whole_blocks_in_start_lines(tmp_path: Path) -> None:
    """SGLang's file says how it drafts; vLLM and SGLang load no slices that cut a block of fp8_block."""
    extra = (("acceptance", "0.8,0.7"), ("speculative", "mtp:2"))
    lone = Candidate("h200-x8", 8, "sglang", Start(8), None, extra=extra)
    line = str(lone.command("deepseek-v3", Room("fp8_block")))
    assert "EAGLE --speculative-num-steps 2 --speculative-eagle-topk 1 --speculative-num-draft-tokens 3" in line
    assert "no key" not in line
    (tmp_path / "engine.json").write_text(json.dumps(lone.engine))
    drafts = read_engine(tmp_path / "engine.json").speculative
    assert drafts is not None
    assert (drafts.method, drafts.tokens) == ("mtp", 2)
    model = load_model("Qwen/Qwen3-235B-A22B")
    split = Candidate("h100-x8", 8, "vllm", Start(8), None, dtype="fp8_block")
    with pytest.raises(InputError, match="width 1536 in 8 parts"):
        check_blocks(split, model)
    check_blocks(replace(split, start=Start(8, ep=8)), model)
    check_blocks(replace(split, start=Start(4)), model)


def test_what_was_not_tried_is_named() -> None:
    """Finding U9: formats that a device computes in, and what --search would try."""
    found = plan("llama-3-8b", "b200-x1", "ttft_p99=2", load=2, workers=1, **{**WORK, "requests": 40})
    assert "Not tried: --dtype own,fp8,nvfp4; --search pools,drafts,tiers,caps,copies." in found.blocks()
    assert "fp8" not in untried(replace(found.task, axes={**found.task.axes, "dtype": ("own", "fp8")}), found.searched)


def test_systems_of_other_bases_are_not_ranked() -> None:
    found = plan("mixtral-8x7b", "h100-x4,duplex-x4", "ttft_p99=2", load=2, tp=4, workers=1, **{**WORK, "requests": 40})
    assert found.winner is None
    assert len(found.groups) == 2
    text = "\n".join(block for block in found.blocks() if isinstance(block, str))
    assert "NOT LIKE FOR LIKE" in text
    assert text.count("Best among those on") == 2
    both = plan("mixtral-8x7b", "h100-x4,duplex-x4", "ttft_p99=2", load=2, tp=4, workers=1,
                costs="roofline", **{**WORK, "requests": 40})  # fmt: skip
    assert both.winner is not None


def test_what_nothing_serves() -> None:
    found = plan("llama-3-8b", "h100-x1", "tpot_p99=0.0056", load=5, most_devices=2, workers=1, **WORK)
    assert found.winner is None
    text = "\n".join(block for block in found.blocks() if isinstance(block, str))
    assert "No candidate serves the load. Nearest:" in text
    assert "too long" in text
    data = found.to_dict()
    assert data["winner"] is None
    assert "too long" in data["nearest"]
    large = plan("llama-3-70b", "h100-x1", "tpot_p99=1", load=5, workers=1, **WORK)
    assert "GiB" in large.to_dict()["nearest"]


def test_a_device_is_copies_of_its_systems() -> None:
    assert [name for name, _ in systems_of("h100")] == ["h100-x1", "h100-x2", "h100-x4", "h100-x8", "h100-2x8"]
    assert systems_of("duplex-hetero")[0][0] == "duplex-hetero-x2"
    assert [name for name, _ in systems_of("h100-x8")] == ["h100-x8"]

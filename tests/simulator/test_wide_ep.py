"""Do an engine's keys of expert parallelism mean what its options mean, and does what they do keep sense?

A key and the option that it stands for give equal deployments and equal steps, to the last bit. Halves
follow the rules that the engines have in their code, written out again here. Steps of DeepSeek-V3 on four
nodes of H800 and of Qwen3-235B on H200 are cut to few layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opbyte.devices.calibrated.kernel_sets import everywhere
from opbyte.devices.catalog import load_system
from opbyte.devices.collectives import deepep
from opbyte.devices.collectives.plans import PlannedLink
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.frameworks.engine_file import read_engine
from opbyte.simulator.frameworks.launch import Start, command_line, engine_values
from opbyte.simulator.frameworks.settings import EngineSettings
from opbyte.simulator.frameworks.sharing import Sharing
from opbyte.simulator.parts.expert_map.placing import ExpertPlacing
from opbyte.simulator.parts.overlap.explicit import hidden_s
from opbyte.simulator.parts.overlap.gates import GateRule, gate_of, halved
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import deployment_of
from opbyte.simulator.scenario.options import DeployOptions
from opbyte.simulator.scenario.place import deployed
from opbyte.simulator.step.explicit import dealt, explicit_stage
from opbyte.simulator.step.launches import NO_LAUNCHES
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import MixtureOfExperts
from opbyte.workloads.model import ModelSpec

from ..tables import tables
from .two_paths import check_paths

Read = Callable[..., EngineSettings]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Settings of a file that says so much."""

    def settings_of(**said: Any) -> EngineSettings:
        return read_engine(written(tmp_path, said))

    return settings_of


def written(folder: Path, said: Mapping[str, Any]) -> Path:
    path = folder / "engine.json"
    path.write_text(json.dumps(said))
    return path


@cache
def few(name: str, layers: int = 5) -> ModelSpec:
    """A model of few layers."""
    model = load_model(name)
    return replace(model, layers=model.layers[:layers])


def grouped(name: str, layers: int, chosen: int = 0) -> ModelSpec:
    """The same with its experts in groups that two nodes divide, as DeepSeek-V3's are, some of which a token chooses."""
    model, how = few(name, layers), {"expert_groups": 8, "groups_chosen": chosen}
    made = [
        replace(layer, ffn=replace(layer.ffn, **how)) if isinstance(layer.ffn, MixtureOfExperts) else layer
        for layer in model.layers
    ]
    return replace(model, layers=tuple(made))


# --- which steps are halved ---------------------------------------------------------------------


def vllm_halves(ranks: list[tuple[int, int]], decodes: int, prompts: int) -> bool:
    """`check_ubatch_thresholds` of every rank and `is_last_ubatch_empty` of (decodes, prompt tokens)."""
    tokens = [d + p for d, p in ranks]
    if any(t < (prompts if p else decodes) for t, (_, p) in zip(tokens, ranks, strict=True)):
        return False
    return not (max(tokens) // 2 >= min(tokens))


def sglang_halves(ranks: list[tuple[int, int]], low_latency: bool) -> bool:
    """`local_can_run_tbo` and equal modes; a rank without anything agrees with all."""
    modes = {"extend" if p else "decode" for d, p in ranks if d or p}
    return not (low_latency and "extend" in modes) and len(modes) == 1


works = st.lists(
    st.one_of(st.tuples(st.integers(0, 40), st.just(0)), st.tuples(st.just(0), st.integers(0, 40))),
    min_size=1, max_size=4,
).filter(lambda ranks: any(d or p for d, p in ranks))  # fmt: skip


@given(ranks=works, decodes=st.integers(0, 30), prompts=st.integers(0, 30))
def test_halves_follow_the_engines_rules(ranks: list[tuple[int, int]], decodes: int, prompts: int) -> None:
    batches = [Batch.of([9] * d, [(p, 0)] if p else []) for d, p in ranks]
    moments = np.array([b.moments((0,)).values for b in batches])
    assert halved(GateRule.AT_LEAST, decodes, prompts, 1, moments) == vllm_halves(ranks, decodes, prompts)
    assert halved(GateRule.ALIKE, 0, 0, 1, moments) == sglang_halves(ranks, False)
    assert halved(GateRule.DECODING, 0, 0, 1, moments) == sglang_halves(ranks, True)


@pytest.mark.parametrize("wrong", ["two-batch:", "two-batch:3", "two-batch:3,x", "two-batch:alke",
                                   "two-batch:-1,2", "two-batch:1,9999999999999"])  # fmt: skip
def test_a_rule_that_is_none_is_refused(wrong: str) -> None:
    assert gate_of(wrong) is None
    with pytest.raises(InputError, match=r"--overlap .*: must be none, pipelined:N, two-batch"):
        deploy(few("deepseek-v2-lite"), load_system("h100-2x8"), tp=1, overlap=wrong)


def test_a_gated_step_is_one_of_the_two() -> None:
    made = {
        way: deploy(few("deepseek-v2-lite"), load_system("h100-2x8"), tp=1, overlap=way)
        for way in ("none", "two-batch", "two-batch:32,512")
    }
    for each, way in ((31, "none"), (32, "two-batch"), (200, "two-batch")):
        batches = [Batch.of([500] * each)] * 16
        found = {name: explicit_stage(d, batches, expected=True) for name, d in made.items()}
        assert found["two-batch:32,512"].seconds == found[way].seconds
        assert found["two-batch:32,512"].way == way


# --- keys and options -----------------------------------------------------------------------------

VLLM = {"engine": "vllm", "tensor_parallel_size": 1, "data_parallel_size": 16, "enable_expert_parallel": True}
SGLANG = {"engine": "sglang", "tp_size": 16, "dp_size": 16, "ep_size": 16, "enable_dp_attention": True}
BASES: dict[str | None, dict[str, Any]] = {"vllm": VLLM, "sglang": SGLANG, None: {}}
TABLES = tables(__file__)


@st.composite
def vllm_said(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of vLLM, and the options that mean the same."""
    keys, options = dict[str, Any](), dict[str, Any]()
    backend = draw(st.sampled_from((None, "deepep_high_throughput", "deepep_low_latency")))
    if backend:
        keys["all2all_backend"] = backend
        high = backend.endswith("throughput")
        options["all_to_all"] = "deepep-normal" if high else "deepep-low-latency"
        if draw(st.booleans()):
            keys["enable_dbo"] = True
            least = draw(st.tuples(st.sampled_from((0, 1, 8)), st.sampled_from((1, 64))))
            if draw(st.booleans()):
                least = (32, 512)
            else:
                keys["dbo_decode_token_threshold"], keys["dbo_prefill_token_threshold"] = least
            options["overlap"] = f"two-batch:{least[0]},{least[1]}"
    copies = draw(st.sampled_from((None, 0, 16)))
    if copies is not None:
        keys |= {"enable_eplb": True, "eplb_config": {"num_redundant_experts": copies}}
        options |= {"expert_placement": "eplb", "redundant_experts": copies}
    elif draw(st.booleans()):
        keys["expert_placement_strategy"] = "round_robin"
        options["expert_placement"] = "round-robin"
    return keys, options


EPLB = {"auto": "eplb", "deepseek": "balanced", "deepseek_hierarchical": "balanced-by-node"}


@st.composite
def sglang_said(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of SGLang, and the options that mean the same."""
    keys, options = {"moe_a2a_backend": "deepep"}, dict[str, Any]()
    mode = draw(st.sampled_from((None, "auto", "normal", "low_latency")))
    if mode:
        keys["deepep_mode"] = mode
    options["all_to_all"] = f"deepep-{(mode or 'auto').replace('_', '-')}"
    if draw(st.booleans()):
        keys["enable_two_batch_overlap"] = True  # type: ignore[assignment]
        options["overlap"] = f"two-batch:{'decodes' if mode == 'low_latency' else 'alike'}"
    how = draw(st.sampled_from((None, "eplb", "file", "trivial")))
    if how is None:
        return keys, options
    copies = draw(st.sampled_from((0, 16))) if how != "trivial" else 16
    rule = draw(st.sampled_from((None, "static", "dynamic")))
    if how == "trivial":
        rule = rule or "static"
    algorithm = draw(st.sampled_from(("auto", "deepseek", "deepseek_hierarchical")))
    keys |= {"ep_num_redundant_experts": copies, "ep_dispatch_algorithm": rule}  # type: ignore[dict-item]
    options |= {"redundant_experts": copies, "expert_placement": "wrapped",
                "expert_dispatch": "any" if rule == "dynamic" else "local"}  # fmt: skip
    if how != "trivial":
        keys["eplb_algorithm"] = algorithm
        options["expert_placement"] = EPLB[algorithm]
        keys |= {"enable_eplb": True} if how == "eplb" else {"init_expert_location": "loads.json"}  # type: ignore[dict-item]
    return keys, options


def same(folder: Path, base: Mapping[str, Any], keys: Any, options: Mapping[str, Any]) -> None:
    """Whether the file with keys and the bare file with options come to the same."""
    made = []
    model = grouped("deepseek-v2-lite", 3)
    for said, given_ in ((base | keys, {}), (base, options)):
        scenario = Scenario.of(model, "h100-2x8", engine=written(folder, said), routing="measured",
                               rate=1.0, requests=1, **given_)  # fmt: skip
        made.append(deployment_of(scenario)[0])
    steps = [dealt(made[0], 16 * n, 700, chunks) for n, chunks in ((40, ()), (2, [(99, 0)] * 16))]
    one, other = (
        (d.layout, d.parts.get("overlap", "none"), d.all_to_all, d.parts.get("expert-copies"), d.memory(),
         [explicit_stage(d, batches, step=3).seconds for batches in steps])
        for d in made
    )  # fmt: skip
    assert one == other


FOLDERS = [HealthCheck.function_scoped_fixture]


@given(
    said=st.one_of(
        vllm_said().map(lambda said: (VLLM, *said)), sglang_said().map(lambda said: (SGLANG, *said))
    )
)  # fmt: skip
@settings(max_examples=16, suppress_health_check=FOLDERS)
def test_keys_are_the_options(tmp_path: Path, said: tuple[Any, Any, Any]) -> None:
    same(tmp_path, *said)


def test_options_come_before_keys(tmp_path: Path) -> None:
    path = written(tmp_path, VLLM | {"all2all_backend": "deepep_low_latency", "enable_dbo": True})
    found, _ = deployment_of(
        Scenario.of(few("deepseek-v2-lite"), "h100-2x8", engine=path, overlap="none", all_to_all="flat")
    )
    assert (found.parts.get("overlap", "none"), found.all_to_all, found.layout.gather) == ("none", "flat", False)


# --- what is refused, and what is warned of ---------------------------------------------------------


@pytest.mark.parametrize(("base", "said", "part"), TABLES["refused"])
def test_what_cannot_be_used_is_one_line(read: Read, base: str | None, said: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part) as caught:
        read(**BASES[base] | said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("base", "said", "part"), TABLES["no effect"])
def test_what_has_no_effect_is_said(read: Read, base: str | None, said: dict[str, Any], part: str) -> None:
    import re

    (doubt,) = read(**BASES[base] | said).doubts
    assert re.search(part, doubt), doubt


def test_errors_of_a_deployment_name_the_key(tmp_path: Path) -> None:
    said = VLLM | {"enable_eplb": True, "eplb_config": {"num_redundant_experts": 3}}
    scenario = Scenario.of("deepseek-v2-lite", "h100-2x8", engine=written(tmp_path, said))
    with pytest.raises(InputError, match=r"engine.json: eplb_config.num_redundant_experts .*multiple"):
        deployment_of(scenario)


@pytest.mark.parametrize(("framework", "bits"), [
    ("trtllm", {"bf16": 16, "fp8": 8, "fp8_block": 16, "nvfp4": 4.5}), ("vllm", {"fp8": 16, "nvfp4": 16}),
])  # fmt: skip
def test_tensorrt_llm_gathers_tokens_as_it_quantised_them(framework: str, bits: dict[str, float]) -> None:
    """`run_post_quant_allgather`; outputs are scattered in 16 bits."""
    for dtype, wide in bits.items():
        model = replace(few("qwen3-235b-a22b"), numerics=few("qwen3-235b-a22b").numerics.with_formats(dtype, None))
        d = deployed(model, load_system("b200-x8"), DeployOptions(framework=framework, tp=1, ep=8))
        sent = {p.op.kind: p.op.act_bytes for p in explicit_stage(d, dealt(d, 64, 100)).ops if p.op.exchange}
        assert sent["all_gather"] == pytest.approx(sent["reduce_scatter"] * wide / 16)


def test_the_normal_kernels_run_without_graphs(read: Read) -> None:
    """`check_and_update_config` of vLLM, `_handle_a2a_moe` of SGLang."""
    for backend, graphs in (("deepep_high_throughput", False), ("deepep_low_latency", True)):
        assert read(**VLLM, all2all_backend=backend).policy.graphs is graphs
    captured = [
        read(**SGLANG, moe_a2a_backend="deepep", deepep_mode=mode).policy.host_delay(NO_LAUNCHES, 1).captured
        for mode in ("normal", "auto")
    ]
    assert captured[0] == 0 < captured[1]


# --- a start is read back ---------------------------------------------------------------------------


@given(said=st.one_of(vllm_said().map(lambda x: ("vllm", x[1])), sglang_said().map(lambda x: ("sglang", x[1]))))
@settings(max_examples=40, suppress_health_check=FOLDERS)
def test_a_start_is_read_back(tmp_path: Path, said: tuple[str, dict[str, Any]]) -> None:
    engine, options = said
    start = Start(1, dp=16, ep=16, sharing=Sharing(**options))
    values = engine_values(engine, start)
    found = read_engine(written(tmp_path, values))
    assert not found.doubts
    for name, value in options.items():
        assert getattr(found.sharing, name) == value
    assert start.unsaid(engine) == []
    assert engine in command_line(engine, "m", values)


def test_a_command_line_says_copies_and_halves() -> None:
    sharing = Sharing("deepep-low-latency", "two-batch:32,512", None, 32)
    start = Start(1, dp=32, ep=32, sharing=sharing)
    line = command_line("vllm", "m", engine_values("vllm", start))
    assert "--all2all-backend deepep_low_latency --enable-dbo" in line
    assert """--enable-eplb --eplb-config '{"num_redundant_experts": 32}'""" in line
    for placed, left in (("eplb", []), ("balanced", ["--expert-placement balanced"])):
        start = Start(1, dp=32, ep=32, sharing=Sharing(expert_placement=placed, redundant_experts=32))
        assert start.unsaid("vllm") == left  # vLLM chooses between the two by itself
        assert start.unsaid("sglang") == []
    other = Start(1, dp=32, ep=32, sharing=Sharing(overlap="auto", redundant_experts=32))
    assert other.unsaid("vllm") == ["--overlap auto"]


# --- sense ------------------------------------------------------------------------------------------

LARGE = (("deepseek-v3", "h800-4x8"), ("qwen3-235b-a22b", "h200-2x8"))


@cache
def large(case: int, **how: Any) -> Deployment:
    name, system = LARGE[case]
    return deploy(few(name), load_system(system), tp=1, routing="measured", **how)


@pytest.mark.parametrize("case", range(2))
@pytest.mark.parametrize("prompts", [False, True])
def test_auto_takes_the_mode_of_the_step(case: int, prompts: bool) -> None:
    batches = dealt(large(case), 32 * 8, 1000, [(500, 0)] if prompts else [])
    auto, normal, quick = (
        explicit_stage(large(case, all_to_all=f"deepep-{mode}"), batches, expected=True)
        for mode in ("auto", "normal", "low-latency")
    )
    assert auto.seconds == (normal if prompts else quick).seconds
    assert normal.seconds != quick.seconds


@pytest.mark.parametrize(
    "how", [{}, {"expert_copies": ExpertPlacing("eplb", 32)}, {"expert_copies": ExpertPlacing("round-robin")}]
)
def test_fewer_groups_of_experts_send_no_more(how: dict[str, Any]) -> None:
    """A node gets one copy of a token, so a router of few groups sends fewer; all groups are as none."""
    made = [
        deploy(grouped("deepseek-v3", 4, chosen), load_system("h800-4x8"), tp=1, all_to_all="deepep-normal", **how)
        for chosen in (1, 4, 8, 0)
    ]
    batches = [Batch.of([], [(512, 0)])] * 32
    found = [explicit_stage(d, batches) for d in made]
    sent = [d.link(next(p.op for p in s.ops if p.op.kind == "all_to_all")) for d, s in zip(made, found, strict=True)]
    crossed = [link.plans[0].hops[0].traffic for link in sent if isinstance(link, PlannedLink)]
    assert crossed == sorted(crossed)
    assert (crossed[0] < crossed[-1]) == (how.get("expert_copies") != ExpertPlacing("round-robin"))
    assert found[-1].seconds == found[-2].seconds
    for d, stage in zip(made, found, strict=True):
        assert agreed(d, batches).seconds == stage.seconds


def agreed(deployment: Deployment, batches: list[Batch]) -> Any:
    """A step on which both paths agree."""
    (stage,) = check_paths(deployment, [batches]).stages
    assert sum(p.cost.seconds * p.count * p.exposed for p in stage.ops if p.critical) == pytest.approx(stage.seconds)
    return stage


@pytest.mark.parametrize(("mode", "prompt"), [("normal", 8192), ("normal", 16), ("auto", 8192), ("low-latency", 8192)])
def test_kernels_that_keep_cores_slow_what_runs_beside_them(
    mode: str, prompt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By 20 of 132 cores for as long as an exchange runs, where computation hides it; at low latency by none."""
    batches, found = [Batch.of([], [(prompt, 0)])] * 16, []
    for cores in (0.0, deepep.SMS):
        monkeypatch.setattr(deepep, "SMS", cores)
        d = deploy(few("deepseek-v3", 5), load_system("h800-2x8"), tp=1, overlap="two-batch", all_to_all=f"deepep-{mode}",
                   frameworks=everywhere("sglang"))  # fmt: skip
        stage = agreed(d, batches)
        found.append(stage.seconds)
    kept = 20 / 132 * sum(p.cost.seconds * p.count for p in stage.ops if p.critical and p.op.kind == "all_to_all")
    if mode == "low-latency":
        assert found[0] == found[1]
    else:
        assert found[0] < found[1] <= found[0] + kept * (1 + 1e-9)
        assert prompt == 16 or found[1] > found[0] + 0.7 * kept
    hidden = sum(p.cost.seconds * p.count * (1.0 - p.exposed) for p in stage.ops if p.critical and p.op.exchange)
    assert sum(hidden_s(stage.timelines).values()) == pytest.approx(hidden)

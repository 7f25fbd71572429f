"""Is pipeline parallel what it should be: layers, memory and time cut into stages?

Against closed forms: a request alone takes the sum of its stages and transfers; many requests come
no faster than the slowest stage lets them. The schedule is compared with the slow one in
`test_scheduler.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte import simulate
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.deploy.layout import stage_models
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.kv import CacheSettings, kv_rules
from opbyte.simulator.engine.policies import Policy, make_policy
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import RequestBlock

from .two_paths import check_paths

SETUPS = (
    ("llama-3-8b", "h100-x4", {"pp": 4}),
    ("llama-3-8b", "h100-x4", {"pp": 2}),
    ("gemma-2-27b", "h100-2x4", {"pp": 2}),
    ("mixtral-8x7b", "duplex-2x8", {"pp": 4, "tp": 2, "dp": 2}),
    ("deepseek-v3", "h200-2x8", {"pp": 2}),
    ("jamba-mini", "h100-x8", {"pp": 2}),
)


def made(model: str, system: str, degrees: dict[str, int]) -> Deployment:
    return deploy(load_model(model), load_system(system), **degrees)


def alone(inputs: list[int], outputs: list[int]) -> RequestBlock:
    """Requests that all arrive at 0."""
    n = len(inputs)
    return RequestBlock(np.arange(n), np.zeros(n), np.array(inputs), np.array(outputs))


@pytest.mark.parametrize(("name", "pp", "sizes"), [
    ("llama-3-8b", 4, [8, 8, 8, 8]),
    ("deepseek-v3", 2, [31, 30]),
    ("deepseek-v3", 4, [15, 15, 16, 15]),
    ("deepseek-v3", 8, [7, 7, 8, 8, 8, 8, 8, 7]),
])  # fmt: skip
def test_layers_are_cut_as_vllm_cuts_them(name: str, pp: int, sizes: list[int]) -> None:
    """By hand after `get_pp_indices`: what is left over goes to stages before the last."""
    model = load_model(name)
    stages = stage_models(model, pp)
    assert [len(stage.layers) for stage in stages] == sizes
    assert tuple(layer for stage in stages for layer in stage.layers) == model.layers


@pytest.mark.parametrize("model", ["llama-3-8b", "gemma-2-27b"])
def test_stages_hold_all_weights(model: str) -> None:
    """Every weight once; a tied table lies on the first and on the last stage."""
    whole, cut = made(model, "h100-x1", {}), made(model, "h100-x4", {"pp": 4})
    spec = whole.model
    twice = spec.vocab * spec.hidden * spec.numerics.weight_bytes("embedding") if spec.tied else 0
    held = sum(memory.weights for memory in cut.memories())
    assert held == pytest.approx(whole.memory().weights + twice, rel=1e-12)
    assert cut.shard.kv_bytes_per_token == whole.shard.kv_bytes_per_token
    assert sum(s.kv_bytes_per_token for s in cut.stages) == whole.shard.kv_bytes_per_token


def test_the_fullest_stage_bounds_the_cache() -> None:
    """Blocks: the fewest that any stage's memory holds beside its weights."""
    d = made("llama-3-8b", "h100-x4", {"pp": 4})
    rules = kv_rules(d, caching=True)
    per_stage = [
        int(memory.kv / (stage.kv_bytes_per_token * rules.block))
        for memory, stage in zip(d.memories(), d.stages, strict=True)
    ]
    assert rules.blocks == min(per_stage) < max(per_stage)
    assert kv_rules(d, CacheSettings(16, 1000), caching=True).blocks == 1000


def test_no_stage_is_overdrawn() -> None:
    """Windowed and other layers in different shares: what counts covers every stage's use."""
    d = made("gpt-oss-20b", "h100-x4", {"pp": 4})
    rules = kv_rules(d)
    for stage, memory in zip(d.stages, d.memories(), strict=True):
        for window, size in stage.kv_classes().items():
            share = rules.block_bytes[rules.window.tolist().index(window)] / rules.capacity
            assert share * (1 + 1e-12) >= size * rules.block / memory.kv


@pytest.mark.parametrize(("model", "system", "degrees"), SETUPS)
@given(data=st.data())
@settings(max_examples=5)
def test_both_paths_agree_stage_by_stage(model: str, system: str, degrees: dict[str, int], data: st.DataObject) -> None:
    d = made(model, system, degrees)
    batches = [
        Batch.of(
            data.draw(st.lists(st.integers(0, 9000), max_size=5)),
            data.draw(st.lists(st.tuples(st.integers(1, 900), st.integers(0, 900)), max_size=2)),
        )
        for _ in range(d.ranks)
    ]
    batches[0] = Batch.of([7], [(5, 3)])
    check_paths(d, [batches], 3)


def test_stages_add_up_to_the_whole_model() -> None:
    """Without transfers a batch takes as long on the stages together as on one device."""
    whole, cut = made("llama-3-8b", "h100-x1", {}), made("llama-3-8b", "h100-x4", {"pp": 4})
    batch = Batch.of([600] * 32, [(512, 0)])
    stage = explicit_stage(cut, [batch])
    sent = [p.cost.seconds for p in stage.ops if "stage" in p.op.shape]
    link = cut.system.device.link
    values = 2 * batch.tokens * cut.model.hidden
    each = link.latency_s + values * 2 / link.bandwidth_bytes_per_s
    assert sent == pytest.approx([each] * 3, rel=1e-12)
    expected = explicit_stage(whole, [batch]).seconds + 3 * each
    assert stage.seconds == pytest.approx(expected, rel=1e-9)


def test_chunks_of_a_prompt_follow_each_other() -> None:
    """A prompt of k chunks ends after its first on all stages and the others on the slowest."""
    d = made("llama-3-8b", "h100-x4", {"pp": 4})
    engine = Engine(d, replace(make_policy("vllm", token_budget=256), ahead=False))
    engine.submit(alone([1024], [1]))
    engine.advance(math.inf)
    stages = [explicit_stage(d, [Batch.of([], [(256, 256 * k)])]).stages for k in range(4)]
    free = np.zeros(4)
    for seconds in stages:
        at = 0.0
        for s in range(4):
            at = free[s] = max(at, free[s]) + seconds[s]
    assert engine.state.requests.last[0] == pytest.approx(free[3], rel=1e-9)
    assert free[3] < 0.5 * sum(sum(s) for s in stages)


def test_throughput_is_bounded_by_the_slowest_stage() -> None:
    """Single-token requests, each a batch of its own: one comes out every slowest stage."""
    d = made("llama-3-8b", "h100-x4", {"pp": 4})
    engine = Engine(d, Policy("alone", 512, 1024, chunked=True, reserve=False))
    engine.submit(alone([512] * 100, [1] * 100))
    engine.advance(math.inf)
    seconds = explicit_stage(d, [Batch.of([], [(512, 0)])]).stages
    last = np.sort(engine.state.requests.last[:100])
    assert last[0] == pytest.approx(sum(seconds), rel=1e-9)
    assert np.diff(last) == pytest.approx(np.full(99, max(seconds)), rel=1e-9)


def test_small_chunks_leave_stages_full_whatever_the_lengths() -> None:
    """A chunk that takes much longer than decodes leaves a stage idle while the next one computes it; a spread of lengths has more such."""
    rates = {
        (spread, tokens): simulate(
            "llama-3.1-405b", "gb200-x4", framework="vllm@0.11", tp=2, pp=2, dtype="nvfp4", kv_dtype="fp8",
            lengths=spread, input_len=9400, output_len=684, closed_loop=128, requests=512, token_budget=tokens,
        ).run.output_tokens_per_s or 0.0
        for spread in ("fixed", "lognormal") for tokens in (8192, 2048)
    }  # fmt: skip
    assert rates["lognormal", 2048] > 1.1 * rates["lognormal", 8192]
    assert 0.75 < rates["lognormal", 2048] / rates["fixed", 2048] < 1.0


def test_links_between_nodes() -> None:
    inside = made("llama-3-8b", "h100-2x4", {"pp": 2, "tp": 2, "dp": 2})
    across = made("llama-3-8b", "h100-2x4", {"pp": 2, "tp": 4, "dp": 1})
    names = []
    for d in (inside, across):
        ops = explicit_stage(d, [Batch.of([9])] * d.ranks).ops
        names.append({p.processor for p in ops if "stage" in p.op.shape})
    device = inside.system.device
    assert names == [{device.link.name}, {device.node_link.name}]


@pytest.mark.parametrize("rule", [{"poll_steps": 4}, {"gather_steps": 2}, {"even_steps": 2}])
def test_policies_that_wait_are_refused(rule: dict[str, int]) -> None:
    """Rules of engines that run one batch at a time."""
    policy = Policy("waits", 512, 64, chunked=True, reserve=False, **rule)
    with pytest.raises(InputError, match="--pp: cannot be combined with policy waits"):
        Engine(made("llama-3-8b", "h100-x4", {"pp": 4}), policy)


@pytest.mark.parametrize(("system", "degrees", "part"), [
    ("h100-x4", {"pp": 3}, "--pp: 3 must divide the 4 devices"),
    ("h100-x4", {"pp": 2, "tp": 4}, "tp 4 x dp 0 must be the 2 of each stage"),
    ("duplex-hetero-x4", {"pp": 2}, "--pp: cannot be combined with a system whose processors are separate devices"),
    ("duplex-split-x4", {"pp": 2}, "--pp: cannot be combined with the two pools"),
    ("h100-8x8", {"pp": 64}, "--pp: 64 is more than the 32 layers"),
])  # fmt: skip
def test_bad_degrees(system: str, degrees: dict[str, int], part: str) -> None:
    with pytest.raises(InputError, match=part):
        made("llama-3-8b", system, degrees)

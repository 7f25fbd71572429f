"""Are models cut over devices as the degrees say, and does memory add up?

Weights of all devices hold the model at least once; what is left is for KV, in whole blocks per
attention window; what cannot fit is refused with the sizes.
"""

from __future__ import annotations

import numpy as np
import pytest

from opbyte.devices.catalog import load_system
from opbyte.devices.link import LinkModel
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.deploy.layout import exchange_link, make_layout, rank_link
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.kv import BLOCK_TOKENS, kv_rules, sequence_bytes
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import list_models, load_model
from opbyte.workloads.errors import CapacityError, InputError
from opbyte.workloads.requests import RequestBlock

GIB = 2**30


@pytest.mark.parametrize(
    ("model", "system", "degrees", "expected"),
    [
        # tp x dp = devices = ep x expert_tp
        ("llama-3-8b", "h100-x1", {}, (1, 1, 1, 1)),
        ("llama-3-8b", "h100-x4", {}, (4, 1, 1, 4)),
        ("llama-3-8b", "h100-2x4", {}, (4, 2, 1, 8)),
        ("llama-3-8b", "h100-x4", {"dp": 4}, (1, 4, 1, 4)),
        ("llama-3-8b", "h100-x8", {"tp": 2}, (2, 4, 1, 8)),
        ("mixtral-8x7b", "h100-x4", {}, (4, 1, 4, 1)),  # whole experts on each device
        ("mixtral-8x7b", "h100-x4", {"ep": 1}, (4, 1, 1, 4)),
        ("mixtral-8x7b", "h100-2x8", {}, (8, 2, 8, 2)),  # no more groups than experts
        ("mixtral-8x7b", "duplex-x4", {}, (4, 1, 1, 4)),  # experts split within a node
        ("glam-143b", "duplex-2x8", {}, (8, 2, 2, 8)),  # and dealt to nodes
        ("glam-143b", "duplex-pe-2x8", {}, (8, 2, 16, 1)),
    ],
)
def test_degrees(model: str, system: str, degrees: dict[str, int], expected: tuple[int, ...]) -> None:
    layout = make_layout(load_model(model), load_system(system), **degrees)
    assert (layout.tp, layout.dp, layout.ep, layout.expert_tp) == expected
    assert layout.tp * layout.dp == layout.ep * layout.expert_tp == layout.devices


@pytest.mark.parametrize(
    ("model", "degrees", "part"),
    [
        ("llama-3-8b", {"tp": 3}, "--tp/--dp"),
        ("llama-3-8b", {"tp": 4, "dp": 2}, "must be the 4 devices"),
        ("llama-3-8b", {"dp": 3}, "--dp: 3 must divide"),
        ("llama-3-8b", {"tp": 5}, r"--tp: must be in \[1, 4\]"),
        ("llama-3-8b", {"dp": 0}, r"--dp: must be in \[1, 4\]"),
        ("llama-3-8b", {"ep": 2}, "--ep: llama-3-8b has no experts"),
        ("mixtral-8x7b", {"ep": 3}, "--ep: 3 must divide"),
    ],
)
def test_degrees_that_do_not_fit(model: str, degrees: dict[str, int], part: str) -> None:
    with pytest.raises(InputError, match=part):
        make_layout(load_model(model), load_system("h100-x4"), **degrees)


@pytest.mark.parametrize("model", list_models())
@pytest.mark.parametrize("system", ["h200-2x8", "duplex-2x8", "b200-x8"])
def test_devices_hold_the_model(model: str, system: str) -> None:
    """At least once; at most so often that only what is not split is held by all."""
    spec = load_model(model)
    try:
        found = deploy(spec, load_system(system))
        memory = found.memory()
    except (InputError, CapacityError) as error:
        pytest.skip(str(error))
    held = memory.weights * found.layout.devices
    assert held >= spec.weight_bytes * (1 - 1e-9)
    assert held <= spec.weight_bytes * found.layout.devices
    assert memory.kv == memory.capacity - memory.weights > 0


def test_weights_that_do_not_fit_are_refused_with_sizes() -> None:
    found = deploy(load_model("llama-3-70b"), load_system("h100-x1"))
    weights = load_model("llama-3-70b").weight_bytes / GIB
    with pytest.raises(CapacityError, match=rf"needs {weights:.1f} GiB .* GiB available"):
        found.memory()


def test_a_request_that_does_not_fit_is_refused_with_sizes() -> None:
    engine = Engine(deploy(load_model("llama-2-7b"), load_system("h100-x1")), make_policy("chunked"))
    tokens = np.array([200_000])
    block = RequestBlock(np.array([17]), np.zeros(1), tokens, tokens)
    with pytest.raises(CapacityError, match=r"request 17 .* needs \d+\.\d+ GiB .* available"):
        engine.submit(block)


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 100, 4096, 4097, 10_000])
def test_kv_bytes_in_blocks_per_window(tokens: int) -> None:
    """Gemma 2: 23 layers see 4,096 tokens, 23 see all; 16 KV heads of 128, K and V, 2 bytes."""
    rules = kv_rules(deploy(load_model("gemma-2-27b"), load_system("h100-x1")))
    row = 2 * 16 * 128 * 2

    def up(n: int) -> int:
        return -(-n // BLOCK_TOKENS) * BLOCK_TOKENS

    expected = 23 * row * (up(tokens) + up(min(tokens, 4096)))
    assert sequence_bytes(rules, np.array([tokens]))[0] == expected


def test_state_is_constant() -> None:
    found = deploy(load_model("jamba-mini"), load_system("h100-x4"))
    rules = kv_rules(found)
    assert rules.constant == found.shard.state_bytes_per_sequence > 0
    one, many = sequence_bytes(rules, np.array([1, 16]))
    assert one == many  # a block at a time


def test_tensor_parallel_splits_kv_until_one_head_is_left() -> None:
    one, four, many = (
        deploy(load_model("llama-3-8b"), load_system("h100-x1" if tp == 1 else f"h100-x{tp}")).shard.kv_bytes_per_token
        for tp in (1, 4, 16)
    )
    assert four == one / 4
    assert many == one / 8  # 8 KV heads: from there on they are copied


def test_ranks_run_in_lock_step_only_for_experts() -> None:
    system = load_system("h100-2x4")
    dense, moe = (deploy(load_model(m), system) for m in ("llama-3-8b", "mixtral-8x7b"))
    assert (dense.ranks, dense.replicas) == (1, 2)
    assert (moe.ranks, moe.replicas) == (2, 1)


def test_collectives_between_parts() -> None:
    """Two all-reduces a layer within a rank of 4; two all-to-alls a MoE layer between 2 ranks."""
    found = deploy(load_model("mixtral-8x7b"), load_system("h100-2x4"))
    stage = explicit_stage(found, [Batch.of([100, 200]), Batch.of([50])])
    rows = {(p.op.name, p.critical): p.count for p in stage.ops if p.op.layer == "communication"}
    for name in ("mixer_all_reduce", "ffn_all_reduce", "dispatch_all_to_all", "collect_all_to_all"):
        assert rows[name, True] == 32
    reduce = next(p for p in stage.ops if p.op.name == "mixer_all_reduce")
    assert reduce.op.act_bytes == 2 * 4096 * 2  # two tokens of 4,096 values
    link = LinkModel(found.system.device.link, 4)
    assert reduce.cost.joules == link.cost(reduce.op).joules
    plain = deploy(load_model("mixtral-8x7b"), load_system("h100-2x4"), costs="roofline")
    stage = explicit_stage(plain, [Batch.of([100, 200]), Batch.of([50])])
    reduce = next(p for p in stage.ops if p.op.name == "mixer_all_reduce")
    assert reduce.cost.seconds == pytest.approx(link.cost(reduce.op).seconds)
    send = next(p for p in stage.ops if p.op.name == "dispatch_all_to_all")
    assert send.op.act_bytes == 2 * 4096 * 2 * 2 / 4  # to two experts a token, a quarter a device
    assert send.processor == found.system.device.node_link.name


def test_links_within_and_between_nodes() -> None:
    system = load_system("h100-2x4")
    layout = make_layout(load_model("mixtral-8x7b"), system)
    assert rank_link(layout, system) == system.device.link
    assert exchange_link(layout, system) == system.device.node_link
    wide = make_layout(load_model("mixtral-8x7b"), system, tp=8)
    assert rank_link(wide, system) == system.device.node_link
    one_node = system.model_copy(update={"nodes": 1})
    narrow = make_layout(load_model("mixtral-8x7b"), one_node, tp=2)
    assert exchange_link(narrow, one_node) == system.device.link


def test_parallel_layers_share_one_all_reduce() -> None:
    found = deploy(load_model("falcon-180b"), load_system("h200-x8"))
    stage = explicit_stage(found, [Batch.of([10])])
    reduces = [p for p in stage.ops if p.op.kind == "all_reduce"]
    assert sum(p.count for p in reduces) == len(found.model.layers)

"""Is EPLB the published one, does each engine's key choose what the engine chooses, and are groups read?

The slow reference restates the algorithm (`reference_eplb.py`). Expected maps of the published example are those
that the README of github.com/deepseek-ai/EPLB prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.deploy.expert_maps import Sites
from opbyte.simulator.parts.expert_map.placing import ExpertPlacing
from opbyte.simulator.parts.expert_map.policies import MAP_POLICIES
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.hf import model_from_keys

from .reference_eplb import rebalance


def made(policy: str, loads: Sequence[float], sites: Sites) -> list[list[int]]:
    found: list[list[int]] = MAP_POLICIES[policy].make(np.array(loads, float), sites).tolist()
    return found


def test_the_published_example() -> None:
    """Two layers of 12 experts in 4 groups on 2 nodes with 8 devices and 16 slots in all (README of EPLB)."""
    sites = Sites(12, 8, 2, node=4, expert_groups=4)
    first = [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86]
    other = [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]
    for loads, printed in ((first, "5 6 5 7 8 4 3 4 10 9 10 2 0 1 11 1"), (other, "7 10 6 8 6 11 8 9 2 4 5 1 5 0 3 1")):
        assert [e for own in made("eplb", loads, sites) for e in own] == [*map(int, printed.split())]
    assert made("eplb", first, sites) == made("balanced-by-node", first, sites)


@given(
    st.sampled_from((1, 2, 4)), st.sampled_from((1, 2, 4)), st.sampled_from((1, 2, 3, 8)),
    st.integers(1, 3), st.integers(0, 3), st.data(),
)  # fmt: skip
def test_maps_are_those_of_the_published_algorithm(
    nodes: int, node: int, parts: int, own: int, copies: int, data: st.DataObject
) -> None:
    devices = nodes * node
    experts = devices * own * parts
    slots = min(own * parts + copies, experts)
    sites = Sites(experts, devices, slots, node=node, expert_groups=parts)
    loads = data.draw(st.lists(st.integers(0, 50), min_size=experts, max_size=experts))
    for policy, groups, units in (("eplb", parts, nodes), ("balanced", 1, 1)):
        found = made(policy, loads, sites)
        # equal fractions may differ in their last bit as floats: what counts is then each device's load
        wanted = rebalance(loads, devices * slots, groups, units, devices)
        if found != wanted:
            assert device_loads(found, loads) == pytest.approx(device_loads(wanted, loads))
    assert sites.distributes_by_node == (parts % nodes == 0)


def device_loads(held: list[list[int]], loads: Sequence[int]) -> list[float]:
    copies = np.bincount(np.array(held).reshape(-1))
    return [sum(loads[e] / copies[e] for e in own) for own in held]


def test_groups_stay_on_a_node_and_balance_what_they_can() -> None:
    """DeepSeek-V3 on 4 nodes: two groups of 32 experts on each, on 8 one; globally they are strewn."""
    model = load_model("deepseek-v3")
    model = replace(model, layers=model.layers[:5])
    for system, each in (("h800-4x8", 2), ("h800-8x8", 1)):
        d = deploy(model, load_system(system), tp=1, routing="power_law:0.6", expert_copies=ExpertPlacing("eplb", 64))
        for part in d.experts:
            assert part.placed is not None
            node = part.placed.map.slots.reshape(d.layout.ep // 8, -1) // 32
            assert all(len(set(own.tolist())) == each for own in node)
    other = deploy(model, load_system("h800-4x8"), tp=1, routing="power_law:0.6",
                   expert_copies=ExpertPlacing("balanced", 64)).experts[0]  # fmt: skip
    assert other.placed is not None
    assert len(set((other.placed.map.slots[:8] // 32).reshape(-1).tolist())) > 2


def test_groups_are_read_and_refused() -> None:
    base = {
        "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16,
        "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 16,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "vocab_size": 100, "first_k_dense_replace": 0,
    }  # fmt: skip
    for said, groups in (
        ({}, (1, 1)), ({"n_group": None}, (1, 1)), ({"n_group": 8}, (8, 8)), ({"n_group": 8, "topk_group": 4}, (8, 4)),
        ({"n_group": 8, "topk_group": 4, "topk_method": "greedy"}, (8, 8)), ({"n_group": 1, "topk_group": 1}, (1, 1)),
    ):  # fmt: skip
        (part, *_) = model_from_keys({**base, **said}, name="m", where="f").layers[-1].expert_parts
        assert (part.routed.groups, part.routed.chosen) == groups
    for wrong in (9, {"num_experts_per_tok": 8, "topk_group": 3}):
        said = wrong if isinstance(wrong, dict) else {"topk_group": wrong}
        with pytest.raises(
            InputError, match=r"topk_group: must be a number of the 8 groups that have [28] experts together, not"
        ):
            model_from_keys({**base, "n_group": 8, **said}, name="m", where="f")
    with pytest.raises(InputError, match="n_group: must divide the 16 experts, not 3"):
        model_from_keys({**base, "n_group": 3}, name="m", where="f")


def test_a_model_without_groups_is_not_dealt_to_nodes() -> None:
    where = load_model("qwen3-235b-a22b"), load_system("h200-2x8")
    with pytest.raises(InputError, match=r"2 nodes divide; the model has 1: use eplb or balanced"):
        deploy(*where, tp=1, expert_copies=ExpertPlacing("balanced-by-node"))
    found = [
        deploy(*where, tp=1, routing="measured", expert_copies=ExpertPlacing(policy, 16)).experts[0].placed
        for policy in ("eplb", "balanced")
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert (found[0].map.slots == found[1].map.slots).all()

"""Are DeepSpeed-MoE's and Z-code's sizes, floors and orders those of their closed forms?

12 h^2 weights a layer and 8 h^2 an expert (arXiv 2201.05596, tables 4 to 6); 16 bytes a parameter with
Adam in mixed precision (arXiv 1910.02054).
"""

from __future__ import annotations

import pytest

from opbyte.analysis.papers.dsmoe import DEVICE, decode, fewest_devices, floor_s, gating_ops, parameters, system_name
from opbyte.analysis.papers.z_code import LAST, STRATEGIES, device_states, on_device, scaled_step, with_experts
from opbyte.devices.catalog import load_system
from opbyte.workloads.catalog import load_model


def test_deepspeed_moes_parameters_by_hand() -> None:
    """12 h^2 a layer, 8 h^2 an expert; a residual layer has its MLP beside the experts (to 1 %)."""
    for name, h, layers, experts, residual in (
        ("dsmoe-350m-moe128", 1024, 24, 12 * 128, 0), ("dsmoe-24b-moe128", 8192, 30, 15 * 128, 0),
        ("dsmoe-350m-pr", 1024, 24, 10 * 32 + 2 * 64, 12),
        ("dsmoe-1.3b-pr-mos", 2048, 21, 8 * 64 + 2 * 128, 10),
    ):  # fmt: skip
        sparse = load_model(name).moe_layers
        by_hand = h**2 * (4 * layers + 8 * (layers - sparse + residual + experts))
        assert parameters(name) == pytest.approx(by_hand, rel=0.01)


def test_deepspeed_moes_step_is_above_its_floor_at_any_batch_and_exchanges_rank() -> None:
    model = "dsmoe-24b-moe128"
    floor = floor_s(model, 256, 8)
    held = 30 * 4 / 8 + 15 * 8 / 8 + 15 * 128 * 8 / 256  # h^2 of a device
    assert floor == pytest.approx(held * 8192**2 * 2 / 1.555e12, rel=0.01)
    for batch in (1, 64):
        flat, hierarchical, coordinated = (
            decode(model, 256, 8, name, "uniform", (0,), batch).seconds
            for name in ("flat", "hierarchical", "coordinated")
        )
        assert floor < coordinated < hierarchical < flat


def test_gating_with_a_table_does_less_of_everything() -> None:
    model = load_model("dsmoe-24b-moe128")
    for tokens in (1, 8, 64, 4096):
        masks, table = (gating_ops(model, tokens, t) for t in (False, True))
        assert len(table) < len(masks)
        assert sum(op.bytes for op in table) < sum(op.bytes for op in masks)
        products = sum(op.flops for op in masks if op.kind == "gemm")
        capacity = max(4, -(-tokens // 128))
        assert products == 2 * 2.0 * tokens * 128 * capacity * 8192  # S E c M, twice


def test_fewest_devices_hold_the_model_and_half_of_them_do_not() -> None:
    for name in ("dsmoe-8b-moe128", "dsmoe-8b-pr-mos"):
        n = fewest_devices(name, 4)
        memory = load_system(system_name(n)).device.memory
        size = load_model(name).weight_bytes
        assert n * memory.capacity_bytes * 0.9 > size > n / 2 * memory.capacity_bytes * 0.9
    assert system_name(16) == f"{DEVICE}-2x8"


def test_z_codes_states_are_sixteen_bytes_a_parameter() -> None:
    """Experts have no copies; the dense part has 512 or, sliced eight ways, 64."""
    model = load_model("z-code-3.5t")
    experts = sum(w.total for la in model.layers for p in la.parts for w in p.weights() if w.group == "experts")
    assert model.total_params == pytest.approx(3.5e12, rel=0.01)
    for strategy in STRATEGIES:
        held = device_states(strategy)
        assert held.total > 16 * experts / 512
        assert held.total < 16 * (experts / 512 + model.total_params - experts)
    assert device_states(LAST).weights == pytest.approx(3.5e12 * 2 / 512, rel=0.05)
    assert on_device(LAST) == device_states(LAST).total - device_states(LAST).optimizer


def test_z_codes_throughput_a_device_falls_with_devices_but_little() -> None:
    """Equal experts and tokens on each: exchanges and routers grow."""
    model = load_model("z-code-3.5t")
    assert with_experts(model, 14848) == model
    small, large = (scaled_step(devices) for devices in (64, 512))
    assert small.seconds < large.seconds < 1.25 * small.seconds
    router = 7 * 2048 * (14848 - 1856) * 6 * 32 * 512 / 8 / 312e12  # FLOPs at the peak, forward x 3
    assert large.by_stream["compute"] > small.by_stream["compute"] + router
    assert large.by_stream["compute"] < 1.1 * small.by_stream["compute"]
    assert large.memory.optimizer == pytest.approx(small.memory.optimizer, rel=0.02)

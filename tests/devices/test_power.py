"""Does a board's power follow from its work, and never pass its limit?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from opbyte import simulate
from opbyte.devices.catalog import list_devices, load_device
from opbyte.devices.device import build_device
from opbyte.devices.power.board import Board
from opbyte.devices.power.fit import Before, StartPower, reading
from opbyte.devices.power.model import HELD, PowerModel
from opbyte.devices.power.store import stored, stored_fit
from opbyte.devices.power.transfer import can_model, power_model
from opbyte.devices.power.work import Work, active_experts

PRODUCTS = [name for name in list_devices() if can_model(load_device(name)[0])]
MODEL = PowerModel(
    limit_W=1000.0, idle_W=100.0, awake_W=50.0, cores_W=150.0, fill=0.01, J_per_flop_16=4e-13,
    J_per_flop_8=2e-13, J_per_flop_4=1e-13, rows=0.0, dram_J_per_byte=4e-11,
    cache_J_per_byte=1e-11, vector_J_per_byte=0.0, J_per_score=0.0, cores=100.0, kept_bytes=1e6,
)  # fmt: skip


def work(flops: float = 0.0, stream: float = 0.0, bits: float = 16.0, seconds: float = 1.0) -> Work:
    values = (seconds, flops, bits, 0.0, stream, 0.0, 0.0, 1e6)
    return Work(*(np.array([v]) for v in values))


def test_power_is_a_sum_below_the_limit() -> None:
    """By hand: 100 + 50 + 150 W beside, 5e14 FLOP at 0.4 pJ = 200 W, 4e12 B at 50 pJ = 200 W."""
    assert MODEL.demand_W(work(5e14, 4e12))[0] == pytest.approx(700.0)
    # 1,000 W is far enough for the smooth minimum to leave 700 W as they are.
    assert MODEL.power_W(work(5e14, 4e12))[0] == pytest.approx(700.0, rel=1e-4)


def test_half_the_width_takes_half_the_energy() -> None:
    joules = [MODEL.dynamic_joules(work(1e15, bits=b))[0] for b in (16.0, 8.0, 4.0)]
    assert joules == pytest.approx([400.0, 200.0, 100.0])


@pytest.mark.parametrize("flops", [1e14, 1e15, 2e15, 1e16, 1e18])
def test_power_stays_below_the_limit_and_the_clock_falls_instead(flops: float) -> None:
    calls = work(flops, 4e12)
    demand, power = MODEL.demand_W(calls), MODEL.power_W(calls)
    assert 0.0 < power[0] < MODEL.limit_W
    assert power[0] <= demand[0]


def test_what_repeats_comes_out_of_the_cache_only_where_it_fits() -> None:
    small, large = work(stream=1e5), work(stream=1e9)
    assert MODEL.dynamic_joules(small, again=True)[0] == pytest.approx(1e5 * 1e-11, rel=1e-3)
    assert MODEL.dynamic_joules(large, again=True)[0] == pytest.approx(1e9 * 5e-11, rel=1e-3)


def test_a_short_loop_is_read_before_it_and_a_long_one_in_the_mean() -> None:
    """3,000 replays of 10 us end before the second reading at 0.1 s; one second has eleven."""
    start = StartPower(still_W=300.0, setup_W=0.0, half=1.0)
    alone = Before(*(np.full(2, v) for v in (-1.0, 1.0, 0.0, 0.0)))
    seconds, power = np.array([1e-5, 1e-3]), np.array([800.0, 800.0])
    read = reading(start, 0.3, alone, seconds, power)
    assert read[0] == pytest.approx(300.0)
    by_hand = np.mean([800.0 - 500.0 * np.exp(-k * 0.1 / 0.3) for k in range(11)])
    assert read[1] == pytest.approx(by_hand)


def test_a_sweep_goes_from_the_setup_to_the_kernels_own_power() -> None:
    start = StartPower(still_W=300.0, setup_W=400.0, half=1.0, gap_s=0.05)
    steps = np.arange(20.0)
    ran = Before(steps, np.full(20, 1e9), np.zeros(20), np.zeros(20))
    read = reading(start, 0.3, ran, np.full(20, 2e-5), np.full(20, 350.0))
    assert read[0] == pytest.approx(700.0, rel=1e-6)
    assert (np.diff(read) < 0).all()
    assert 300.0 < read[-1] < 350.0


@pytest.mark.parametrize(
    ("experts", "tokens", "top_k", "skew", "mean"),
    # Means of active experts in the measured tables of kernel times (drawn there).
    [(256, 32, 8, 1.01, 128.92), (128, 48, 8, 1.2, 112.33), (512, 80, 10, 1.01, 346.83),
     (16, 128, 1, 1.01, 15.33), (256, 64, 8, 1.2, 186.75), (8, 16384, 2, 1.2, 8.0),
     (256, 1, 8, 1.01, 8.0)],
)  # fmt: skip
def test_active_experts_of_a_power_law(experts: int, tokens: int, top_k: int, skew: float, mean: float) -> None:
    assert active_experts(experts, tokens, top_k, skew) == pytest.approx(mean, rel=0.03)


def test_equal_loads_reach_every_expert_there_are_slots_for() -> None:
    assert active_experts(64, 4, 2, 0.0) == 8
    assert active_experts(64, 400, 2, 0.0) == 64


def test_the_committed_fit_says_what_it_rests_on() -> None:
    spec, fit = stored(), stored_fit()
    assert spec.device == "b200"
    assert spec.rows == 18000
    assert spec.limit_W == 1000
    assert set(spec.errors) == set(fit.starts) == {"moe", "attention_prefill", "attention_decode"}
    known = power_model(load_device("b200")[0])
    assert known.basis == "fitted"
    assert known.model == fit.model


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_idles_at_its_idle_power_and_can_reach_its_limit(name: str) -> None:
    spec = load_device(name)[0]
    known = power_model(spec)
    m = known.model
    assert (m.idle_W, m.limit_W) == (spec.static_W, spec.limit_W)
    assert known.basis == ("fitted" if name in ("b200", "h100") else "transferred")
    assert (known.median_ape is None) == (known.basis == "transferred")
    # At its peaks of 16-bit FLOP/s and bytes/s a product wants more than nine tenths of its limit.
    xpu = next(iter(spec.processors.values()))
    assert xpu.peak_flops_per_s is not None
    full = work(xpu.peak_flops_per_s["fp16"], spec.memory.bandwidth_bytes_per_s)
    assert 0.9 * m.limit_W < m.demand_W(full)[0] < 4.0 * m.limit_W
    assert m.power_W(full)[0] <= HELD * m.limit_W


def test_a_board_holds_its_limit_over_a_time() -> None:
    board = Board(100.0, MODEL)
    assert board.idle_joules(10.0) == 1000.0
    assert board.busy_joules(5.0) == 250.0
    assert board.work_joules(100.0, 1.0) == pytest.approx(100.0, rel=1e-3)
    for joules in (1e3, 1e4, 1e6):
        assert board.work_joules(joules, 1.0) + 150.0 <= HELD * MODEL.limit_W + 1e-9
    plain = Board(100.0, None)
    assert plain.work_joules(1e6, 1.0) == 1e6
    assert plain.busy_joules(5.0) == 0.0


def test_only_calibrated_products_take_their_energies_from_the_power_model() -> None:
    h100 = load_device("h100")[0]
    product, peaks = build_device(h100, calibrated=True), build_device(h100)
    assert product.board.model is not None
    assert peaks.board.model is None
    paper = build_device(load_device("duplex")[0], calibrated=True)
    assert paper.board == Board(0.0, None)
    assert build_device(load_device("h100")[0].model_copy(update={"limit_W": None}),
                        calibrated=True).board.model is None  # fmt: skip


def test_more_room_and_an_older_process_carry_over_by_the_rules() -> None:
    """GB200: 1,200 W of limit beside B200's 1,000. A100: N7-class logic takes 1 / 0.7 of the 4N's."""
    b200, gb200, h100, a100 = (power_model(load_device(n)[0]).model for n in ("b200", "gb200", "h100", "a100-80gb"))
    assert gb200.busy_W == pytest.approx(b200.busy_W * (gb200.limit_W - gb200.idle_W) / (b200.limit_W - b200.idle_W))
    assert a100.busy_W == pytest.approx(h100.busy_W * (400 - 60) / (700 - 70))
    assert a100.J_per_flop_8 == pytest.approx(h100.J_per_flop_8 / 0.7)
    assert a100.kv_J_per_byte == pytest.approx(h100.kv_J_per_byte / 0.7)
    assert a100.dram_J_per_byte == pytest.approx(h100.dram_J_per_byte * 4.3 / 3.92)
    assert replace(h100, limit_W=350.0).power_W(work(1e15, 3e12))[0] < 350.0


@pytest.mark.parametrize(
    ("clients", "prompt", "output", "watts"),
    [(1, 2048, 2048, 429), (4, 128, 1024, 425), (16, 2048, 2048, 504), (64, 128, 1024, 614),
     (256, 128, 1024, 690), (10, 8192, 512, 557)],
)  # fmt: skip
def test_a_serving_h100_draws_what_was_measured(clients: int, prompt: int, output: int, watts: float) -> None:
    """Qwen3-8B in 16 bit under vLLM 0.30 (silybench); among the runs of the fit."""
    found = simulate(
        "qwen3-8b", "h100-x1", framework="vllm", policy="vllm", closed_loop=clients,
        requests=max(2 * clients, 8), input_len=prompt, output_len=output, lengths="fixed",
    )  # fmt: skip
    assert found.run.watts_per_device == pytest.approx(watts, rel=0.06)

"""Does a power cap slow a board down, and does it keep it?

Expected values: the rule's closed form, and order: a lower cap is never faster and never draws more.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte import InputError, compare, roofline, simulate
from opbyte.devices.catalog import load_device
from opbyte.devices.power.cap import capped, held_processor, memory_rate
from opbyte.devices.power.clock import FLOOR, SUSTAINED, capped_clock, capped_energy, draw
from opbyte.devices.power.model import HELD
from opbyte.devices.power.transfer import power_model


@pytest.mark.parametrize("watts", [1e-300, 1.0, 70.0])
def test_a_limit_below_what_a_board_draws_idle_is_refused(watts: float) -> None:
    spec = load_device("h100")[0]
    with pytest.raises(ValueError, match=f"limit_W: {watts:g} W must exceed the 70 W idle power of the device"):
        type(spec)(**{**dict(spec), "limit_W": watts})


def test_the_clock_draws_its_share_of_the_room_above_idle() -> None:
    spec = load_device("h100")[0]  # 70 W idle, 700 W limit
    found = capped(spec, 385.0)
    clock = capped_clock(0.5)
    assert draw(clock * SUSTAINED) == pytest.approx(0.5 * draw(SUSTAINED))
    assert found.processors["xpu"].clock_Hz == pytest.approx(spec.processors["xpu"].clock_Hz * clock)  # type: ignore[operator]
    peaks, nominal = (s.processors["xpu"].peak_flops_per_s for s in (found, spec))
    assert peaks == pytest.approx({name: x * clock for name, x in nominal.items()})  # type: ignore[union-attr]
    assert found.limit_W == 385.0
    assert f"{clock:.2f} of its clock at the limit" in found.title
    model, known = power_model(found).model, power_model(spec).model
    assert model.busy_W == pytest.approx(known.busy_W / 2)
    assert model.J_per_flop_16 == pytest.approx(known.J_per_flop_16 * capped_energy(clock))


@given(watts=st.floats(300.0, 900.0))
def test_a_board_of_the_same_silicon_with_less_power_is_that_silicon_under_a_cap(watts: float) -> None:
    """An H100 that no kernel was timed on, by its limit; an H100 PCIe runs below its data sheet's clock."""
    spec = load_device("h100")[0]
    assert held_processor(spec, spec.processors["xpu"]) is spec.processors["xpu"]
    other = spec.model_copy(update={"limit_W": watts, "calibration": {}})
    found, same = held_processor(other, other.processors["xpu"]), capped(spec, watts).processors["xpu"]
    assert found.clock_Hz == pytest.approx(same.clock_Hz)
    card = load_device("h100-pcie")[0]
    slow, sheet = held_processor(card, card.processors["xpu"]), card.processors["xpu"]
    left = capped_clock((350 - 50) / (700 - 70) * 132 / 114) * 1830 / 1620
    assert slow.clock_Hz == pytest.approx((sheet.clock_Hz or 0.0) * left, rel=1e-3)


def test_power_follows_the_clock_as_it_was_measured() -> None:
    """An A100 under GROMACS: 118.7 W at 810 MHz and 259.5 W at 1,410, 59.6 W of them at no clock."""
    assert (259.5 - 59.6) * draw(810 / 1410) == pytest.approx(118.7 - 59.6, rel=0.01)
    # Below the transition linear in the clock: 59.6 + 0.0730 f.
    assert (259.5 - 59.6) * draw(500 / 1410) == pytest.approx(0.0730 * 500, rel=0.02)


@pytest.mark.parametrize(("cap", "low", "high"), [(500.0, 0.79, 0.85), (350.0, 0.58, 0.7)])
def test_a_capped_h200_keeps_what_was_measured(cap: float, low: float, high: float) -> None:
    """MLPerf v4.1, eight H200: Llama-2-70B keeps 0.79 to 0.81 at 500 W, GPT-J 0.61 to 0.65 at 350 W.

    What their stock runs drew was not logged, so that the shares are lower bounds.
    """
    whole, less = (
        roofline("llama-2-70b", "h200-x1", batch=0, prefill=4096, dtype="fp8", framework="typical", power_cap=watts)
        for watts in (None, cap)
    )
    assert low < whole.step_seconds / less.step_seconds < high


def test_steps_that_wait_for_memory_hardly_notice_a_cap_or_a_clock() -> None:
    plain, capped_, slow = (
        roofline("llama-3-8b", "h100-x1", batch=1, context=500, framework="vllm", **how)
        for how in ({}, {"power_cap": 400.0}, {"clock": 1200.0})
    )
    assert capped_.step_seconds < 1.03 * plain.step_seconds
    assert slow.step_seconds < 1.1 * plain.step_seconds
    assert slow.watts_per_device < 0.8 * plain.watts_per_device


@given(device=st.sampled_from(["h100", "b200", "a100-80gb"]), share=st.floats(0.3, 1.0))
def test_a_lower_clock_is_never_faster_and_never_draws_more(device: str, share: float) -> None:
    clock_Hz = load_device(device)[0].processors["xpu"].clock_Hz
    assert clock_Hz is not None
    plain, slow = (
        roofline("llama-3-8b", f"{device}-x1", batch=64, context=1000, prefill=512, **how)
        for how in ({}, {"clock": share * clock_Hz / 1e6})
    )
    assert slow.step_seconds >= plain.step_seconds * (1 - 1e-9)
    assert slow.watts_per_device <= plain.watts_per_device * (1 + 1e-9)


def test_memory_keeps_its_rate_while_it_fits() -> None:
    spec = load_device("h100")[0]
    known = power_model(spec).model
    beside = known.idle_W + known.busy_W * draw(FLOOR)
    stream = (known.dram_J_per_byte + known.cache_J_per_byte) * 3352e9 * spec.memory.data_fraction
    least = (beside + stream) / HELD
    assert memory_rate(spec, known, least + 1.0) == 1.0
    assert capped(spec, least + 1.0).memory == spec.memory
    half = (beside + stream / 2) / HELD
    assert memory_rate(spec, known, half) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("device", ["h100", "b200", "b300"])
def test_a_cap_of_what_a_locked_clock_draws_is_as_fast(device: str) -> None:
    """Whoever keeps a cap may lock that clock, so that both agree; and newer boards stay ahead at equal watts."""
    locked = roofline("llama-3-8b", f"{device}-x1", batch=64, clock=1200.0)
    capped_ = roofline("llama-3-8b", f"{device}-x1", batch=64, power_cap=locked.watts_per_device / HELD)
    assert capped_.step_seconds == pytest.approx(locked.step_seconds, rel=0.03)
    same, older = (roofline("llama-3-8b", f"{d}-x1", batch=64, power_cap=500.0) for d in (device, "h100"))
    assert same.step_seconds <= older.step_seconds


def test_a_cap_at_the_limit_changes_nothing() -> None:
    for name in ("h100", "b200", "mi300x"):
        spec = load_device(name)[0]
        assert spec.limit_W is not None
        assert capped(spec, spec.limit_W) is spec
        assert capped(spec, spec.limit_W + 500.0) is spec
        # Just below it nothing jumps.
        near = roofline("llama-3-8b", f"{name}-x1", power_cap=spec.limit_W * (1 - 1e-6))
        plain = roofline("llama-3-8b", f"{name}-x1")
        assert near.step_seconds == pytest.approx(plain.step_seconds, rel=1e-4)
        assert near.watts_per_device == pytest.approx(plain.watts_per_device, rel=1e-4)


@given(
    device=st.sampled_from(["h100", "b200", "a100-80gb", "l40s", "mi300x", "rtx-4090", "h100-logic-pim"]),
    model=st.sampled_from(["llama-3-8b", "qwen3-30b-a3b"]),
    caps=st.tuples(st.floats(0.45, 1.0), st.floats(0.45, 1.0)),
    batch=st.integers(0, 256),
    prefill=st.integers(1, 8192),
    costs=st.sampled_from(["auto", "roofline"]),
)
def test_a_lower_cap_is_never_faster_and_never_draws_more(
    device: str, model: str, caps: tuple[float, float], batch: int, prefill: int, costs: str
) -> None:
    spec = load_device(device)[0]
    assert spec.limit_W is not None
    low, high = (
        roofline(model, f"{device}-x1", batch=batch, context=1000, prefill=prefill, costs=costs,
                 power_cap=spec.limit_W * share)
        for share in sorted(caps)
    )  # fmt: skip
    assert low.step_seconds >= high.step_seconds * (1 - 1e-9)
    if costs == "auto":  # rooflines alone count the work's energy, not a board's
        assert low.watts_per_device <= high.watts_per_device * (1 + 1e-9)
        assert low.watts_per_device <= spec.limit_W * min(caps) * (1 + 1e-9)


def test_a_run_is_slower_and_draws_less() -> None:
    work = {"closed_loop": 64, "requests": 128, "input_len": 512, "output_len": 64}
    plain, less = (simulate("llama-3-8b", "h100-x1", power_cap=cap, keep_stages=True, **work) for cap in (None, 400.0))
    assert plain.run.output_tokens_per_s > less.run.output_tokens_per_s  # type: ignore[operator]
    assert less.run.watts_per_device < plain.run.watts_per_device  # type: ignore[operator]
    assert less.run.stages["watts"].max() <= 400.0 * (1 + 1e-9)
    assert any("capped at 400 W" in text for text in less.warnings)


def test_what_a_power_model_lacks_is_named(tmp_path: Path) -> None:
    """Finding U14 of users: a memory processor with a limit and a process was told to have a limit and a process."""
    path = tmp_path / "acc.yaml"
    path.write_text(
        "name: acc-x1\ntitle: A memory processor with a limit\nsources: {mine: 'assumed: a test'}\n"
        "device: {extends: duplex, name: acc, title: Acc, process: N3P, limit_W: {value: 700, source: mine}}\n"
        "devices_per_node: {value: 1, source: mine}\nmapping: {placement: co-process}\n"
    )
    with pytest.raises(InputError, match="its first processor must be an xpu with cores"):
        compare("mixtral-8x7b", [path], power_cap=300.0)


@pytest.mark.parametrize(
    ("system", "cap", "message"),
    [
        ("h100-x1", 60.0, "h100 draws 162 W before it computes anything"),
        ("duplex-x4", 300.0, "duplex has no power model"),
        ("zcu102-x1", 5.0, "has no power model"),
        ("h100-x1", -1.0, "power_cap: must be a number"),
    ],
)
def test_what_cannot_be_capped(system: str, cap: float, message: str) -> None:
    with pytest.raises(InputError) as caught:
        compare("m3vit-nyud" if "zcu" in system else "mixtral-8x7b", [system], power_cap=cap)
    assert message in str(caught.value)

"""Do the mechanisms of published systems give what their closed forms say, and are bad ones refused?

Expected values are closed forms of ../shared/facts/devices_more.md and dram_pim.md, worked out here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.agreement import check_rows
from opbyte.devices.catalog import load_device
from opbyte.devices.device import build_device
from opbyte.devices.dram.catalog import load_memory
from opbyte.devices.published.gemv import BankGemv, GemvModel
from opbyte.devices.published.heads import LEVELS, HeadAttention
from opbyte.devices.published.tiled import TiledGpu, matmul_occupancy, occupancy
from opbyte.workloads.errors import InputError, SpecError

LIMITED, FREE = load_memory("hbm3pim-5.2gbps"), load_memory("hbm3pim-5.2gbps_npc")


def changed(tmp_path: Path, base: str, text: str) -> Path:
    """A device of the user's that extends one of the catalog."""
    path = tmp_path / "own.yaml"
    path.write_text(f"extends: {base}\nname: own\nsources: {{here: assumed for a test}}\n{text}")
    return path


def test_one_round_of_heads_by_hand() -> None:
    """1,536 tokens of 256 B over 64 banks: 6 rows of 32 commands, each 31 x 6 + 8 + 19 + 19 clocks."""
    near = HeadAttention(LIMITED, "bank", 1)
    one = near.stream(1536, 128, 2)
    assert (one.commands, one.columns) == (192, 32)
    row = 31 * 6 + LIMITED.timings.RTP + LIMITED.timings.RP + LIMITED.timings.RCD_RD
    clocks = near.seconds(16, 1536, 128, 2) / LIMITED.tCK_s
    assert 12 * row - 40 <= clocks <= 12 * row + 1  # below one tREFI: no refresh
    assert near.seconds(17, 1536, 128, 2) > 1.9 * near.seconds(16, 1536, 128, 2)


@pytest.mark.parametrize(("level", "memory", "over_pins"), [
    ("bank", LIMITED, 8.07), ("bank", FREE, 11.02), ("bank-group", LIMITED, 2.42),
    ("bank-group", FREE, 3.63), ("buffer", LIMITED, 0.907),
])  # fmt: skip
def test_rates_are_those_of_attaccs_simulator(level: str, memory: object, over_pins: float) -> None:
    """Effective bandwidth over the pins', one channel with refresh: runs in dram_reference.csv."""
    near = HeadAttention(memory, level, 1)  # type: ignore[arg-type]
    assert near.bytes_per_s() / LIMITED.stack_bytes_per_s == pytest.approx(over_pins, rel=0.02)


def test_rows_take_whole_columns_in_every_bank_group() -> None:
    near = HeadAttention(LIMITED, "bank", 5)
    assert near.row_columns(128, 2) == 8
    assert near.row_columns(128, 1) == 4
    assert near.row_columns(160, 1) == 8  # 40 B in each of four groups: two columns of 32 B


@given(
    heads=st.integers(1, 600), tokens=st.integers(1, 5000), level=st.sampled_from(sorted(LEVELS))
)
def test_attention_never_beats_the_units_and_grows(heads: int, tokens: int, level: str) -> None:
    near = HeadAttention(FREE, level, 5)
    took = near.seconds(heads, tokens, 128, 2)
    org, name = FREE.organisation, LEVELS[level]
    banks = {"pim_mac_ab": org.banks_per_channel, "pim_mac_sb_rot": 16, "pim_mac_pb_bgint": 2}[name]
    clocks = 2 if level == "buffer" else 4
    peak = banks * org.atom_bytes / (clocks * FREE.tCK_s) * org.channels * 5
    assert took >= heads * 2 * tokens * 256 / peak * 0.999
    assert near.seconds(heads + 80, tokens, 128, 2) > took
    assert near.seconds(heads, tokens + 32, 128, 2) >= took * 0.999


def test_the_catalogs_efficiencies_are_the_command_models() -> None:
    for name, level in (
        ("attacc", "bank"),
        ("attacc-bg", "bank-group"),
        ("attacc-buffer", "buffer"),
    ):
        device = load_device(name)[0]
        told = device.processors["attacc"]
        near = HeadAttention(LIMITED, level, device.memory.stacks)
        said = (
            device.memory.bandwidth_bytes_per_s * told.bandwidth_multiple * told.memory_efficiency
        )
        assert said == pytest.approx(near.bytes_per_s(), rel=1e-3)


def test_a_level_without_commands_is_refused() -> None:
    with pytest.raises(InputError, match=r"level 'banks': is unknown; did you mean 'bank'"):
        HeadAttention(LIMITED, "banks", 1)
    with pytest.raises(InputError, match="has no such commands"):
        HeadAttention(load_memory("hbm3-6400-8hi"), "bank", 1)


def test_occupancy_by_hand() -> None:
    """108 cores: 109 blocks take two waves; 72 blocks fill two thirds of one."""
    assert float(occupancy(108, 108)) == 1
    assert float(occupancy(109, 108)) == 109 / 216
    # 54 x 4,608 in tiles of 64 x 64: 72 blocks, and no tile has less traffic over occupancy squared.
    assert float(matmul_occupancy(54, 4608, 108)) == pytest.approx(72 / 108)
    assert float(matmul_occupancy(1, 12288, 108)) == pytest.approx(1536 / 1620)


@given(m=st.integers(1, 4000), n=st.integers(1, 20000))
def test_occupancy_is_a_share_and_one_number_for_arrays_too(m: int, n: int) -> None:
    share = matmul_occupancy(np.array([m, m + 1.0]), n, 108)
    assert 0 < share[0] <= 1
    assert share[0] == matmul_occupancy(float(m), n, 108)


def units() -> BankGemv:
    model = build_device(load_device("cent")[0], calibrated=True).processors["banks"].model
    assert isinstance(model, GemvModel)
    return model.units


def test_a_product_in_the_banks_by_hand() -> None:
    """4096 x 4096 in 8 channels: 32 outputs a bank, 4 rows each of 64 columns, 4 chunks."""
    u = units()
    assert u.gemv_s(4096, 4096, 8) == pytest.approx(
        128 * (u.row_cycle_s + u.row_extra_s + 64e-9) + 4 * u.load_s
    )
    ideal = 2 * 4096**2 / (8 * 512e9)
    assert u.gemv_s(4096, 4096, 8) > ideal
    assert u.gemv_J(4096, 4096, 8) > 4096**2 * (2 * 8 * 0.55e-12 + 0.32e-12)


def test_attention_in_the_banks_by_hand() -> None:
    """One head a channel, 1,024 tokens: 2 passes of 32 steps, 128 steps of values, one chunk."""
    u = units()
    step = 44.5e-9 + 8e-9 + u.step_extra_s
    one = 192 * step + u.load_s + 8 * 44.5e-9
    assert u.attention_s(32, 32, 1024, 128, 32) == pytest.approx(one)
    assert u.attention_s(32, 32, 1024, 128, 8) == pytest.approx(4 * one)
    assert u.attention_s(64, 8, 1024, 128, 10) == pytest.approx(8 * (one - 0 * step))  # groups of 8
    half = 160 * step + u.load_s + 8 * 44.5e-9  # twice the channels: half the passes of keys
    assert u.attention_s(32, 32, 1024, 128, 64) == pytest.approx(half)


@given(tokens=st.integers(1, 8192), channels=st.sampled_from([4, 8, 16, 32, 64, 128]))
def test_rounding_up_never_helps_and_channels_never_hurt(tokens: int, channels: int) -> None:
    u = units()
    shape = (32, 32, tokens, 128)
    whole, mean = (u.attention_s(*shape, channels, whole=w) for w in (True, False))
    assert whole >= mean
    assert u.attention_s(*shape, 2 * channels) <= whole
    assert u.gemv_s(tokens, 4096, 2 * channels) <= u.gemv_s(tokens, 4096, channels)


def test_prices_of_rows_and_of_ops_agree() -> None:
    for name in ("cent", "attacc", "attacc-gpu"):
        for processor in build_device(load_device(name)[0], calibrated=True).processors.values():
            if processor.runs is None:
                check_rows(processor.model)


def test_more_bandwidth_never_hurts_a_tiled_gpu() -> None:
    model = build_device(load_device("attacc-gpu")[0], calibrated=True).processors["xpu"].model
    assert isinstance(model, TiledGpu)
    faster = replace(model, base=replace(model.base, bandwidth=2 * model.base.bandwidth))
    for m in (1, 54, 117, 500):
        assert faster.matmul_seconds(m, 4608, 12288, 2, "fp16") <= model.matmul_seconds(
            m, 4608, 12288, 2, "fp16"
        )


@pytest.mark.parametrize(("base", "text", "says"), [
    ("cent", "processors: {banks: {parameters: {row_cycle_ns: null}}}",
     "parameters of kind gddr6-pim are"),
    ("cent", "processors: {banks: {parameters: {banks: {value: 0, source: here}}}}",
     "banks must be positive"),
    ("attacc-gpu", "processors: {xpu: {cores: null}}", "needs cores"),
])  # fmt: skip
def test_bad_descriptions_are_one_line(tmp_path: Path, base: str, text: str, says: str) -> None:
    with pytest.raises((SpecError, InputError)) as error:
        build_device(load_device(changed(tmp_path, base, text))[0], calibrated=True)
    assert says in str(error.value)
    assert "\n" not in str(error.value)

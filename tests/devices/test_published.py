"""Do the mechanisms of published systems give what their closed forms say, and are bad ones refused?

Expected values are closed forms, worked out here from the constants that the device files quote.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.papers.attacc import LEVELS, HeadAttention
from opbyte.analysis.papers.kinds.gemv import BankGemv, GemvModel
from opbyte.analysis.papers.kinds.tiers import Tiers, tiers_of
from opbyte.analysis.papers.kinds.tiled import TiledGpu, matmul_occupancy, occupancy
from opbyte.devices.catalog import load_device
from opbyte.devices.checks import doubts
from opbyte.devices.device import build_device
from opbyte.devices.dram.spec import load_memory
from opbyte.devices.kinds import check_rows
from opbyte.devices.published import PipelineEngine, StreamEngine, stream_s
from opbyte.workloads.batch import Batch
from opbyte.workloads.errors import InputError, SpecError
from opbyte.workloads.layers import Attention, FeedForward, Run
from opbyte.workloads.numerics import Numerics

ONE, RUN = Batch.of([1024]).moments((0,)), Run(Numerics("fp16"))
"""One decode that reads 1,025 tokens, its own among them."""
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


@given(heads=st.integers(1, 600), tokens=st.integers(1, 5000), level=st.sampled_from(sorted(LEVELS)))
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
    for name, level in (("attacc", "bank"), ("attacc-bg", "bank-group"), ("attacc-buffer", "buffer")):
        device = load_device(name)[0]
        told = device.processors["attacc"]
        near = HeadAttention(LIMITED, level, device.memory.stacks)
        said = device.memory.bandwidth_bytes_per_s * told.bandwidth_multiple * told.memory_efficiency
        assert said == pytest.approx(near.bytes_per_s(), rel=1e-3)


def test_a_level_without_commands_is_refused() -> None:
    with pytest.raises(InputError, match=r"level 'banks': is unknown; did you mean 'bank'"):
        HeadAttention(LIMITED, "banks", 1)
    with pytest.raises(InputError, match="has no timing of these commands"):
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
    assert u.gemv_s(4096, 4096, 8) == pytest.approx(128 * (u.row_cycle_s + u.row_extra_s + 64e-9) + 4 * u.load_s)
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
    for name in ("cent", "attacc", "attacc-gpu", "stratum", "flightllm", "hg-pipe"):
        for processor in build_device(load_device(name)[0], calibrated=True).processors.values():
            if processor.runs is None:
                check_rows(processor.model)


def test_more_bandwidth_never_hurts_a_tiled_gpu() -> None:
    model = build_device(load_device("attacc-gpu")[0], calibrated=True).processors["xpu"].model
    assert isinstance(model, TiledGpu)
    faster = replace(model, base=replace(model.base, bandwidth=2 * model.base.bandwidth))
    for m in (1, 54, 117, 500):
        assert faster.matmul_seconds(m, 4608, 12288, 2, "fp16") <= model.matmul_seconds(m, 4608, 12288, 2, "fp16")


def tiers() -> Tiers:
    return tiers_of(load_device("stratum")[0].processors["stratum"].parameters)


def test_tiers_by_hand() -> None:
    """Half of the memory, read alike: the mean of the first four tiers."""
    t = tiers()
    took = np.array(t.rcd_s) + t.common_s
    assert t.common_s == pytest.approx(23.24e-9, rel=1e-3)
    assert t.placed([0.5], [1.0]) == pytest.approx(took[:4].mean() / took[0])
    assert t.placed([0.25, 0.25], [1.0, 0.0]) == pytest.approx(took[:2].mean() / took[0])
    assert t.gain([0.125], [3.0]) == pytest.approx(took[-1] / took[0])
    with pytest.raises(ValueError, match="data must fit the memory"):
        t.placed([0.9, 0.2], [1.0, 1.0])


@given(
    shares=st.lists(st.integers(1, 100), min_size=1, max_size=12),
    heats=st.lists(st.floats(0.01, 10), min_size=12, max_size=12),
    seed=st.integers(0, 99),
)
def test_no_order_beats_the_one_by_heat(shares: list[int], heats: list[float], seed: int) -> None:
    t, heat = tiers(), np.array(heats[: len(shares)])
    size = np.array(shares) / max(sum(shares), 120)
    best = t.placed(size, heat)
    order = np.random.default_rng(seed).permutation(len(size))
    # The same data in any other order: heats that fall along it place it so.
    ranks = np.empty(len(size))
    ranks[order] = np.arange(len(size), 0, -1.0)
    starts = np.array([size[ranks > ranks[i]].sum() for i in range(len(size))])
    edges = np.arange(9) / 8
    inside = np.minimum((starts + size)[:, None], edges[1:]) - np.maximum(starts[:, None], edges[:-1])
    took = np.maximum(inside, 0) @ t.slowness
    assert best <= (took * heat).sum() / (size * heat).sum() * (1 + 1e-9)
    assert 1 - 1e-9 <= best <= t.slowness[-1] + 1e-9


def test_a_stream_engine_by_hand() -> None:
    """An op waits for its first tile, then takes the longer of streams and products."""
    model = build_device(load_device("flightllm")[0], calibrated=True).processors["fabric"].model
    assert isinstance(model, StreamEngine)
    op = FeedForward(4096, 11008).ops(Batch.of([5]).moments((0,)), Run(Numerics("fp16")), None)[-1]
    fixed = model.op_cycles / 3 / 225e6 + 196608 / (0.659 * 460e9)
    assert model.cost(op).seconds == pytest.approx(op.bytes / (0.659 * 460e9) + fixed)
    narrow = replace(model, macs=64.0)
    assert narrow.cost(op).seconds == pytest.approx(op.flops / (2 * 64 * 225e6) + fixed)
    assert replace(model, slices=6.0).cost(op).seconds < model.cost(op).seconds


def test_a_pipeline_by_hand() -> None:
    """The slowest operator sets the pace; an attention block holds an image up by one interval."""
    model = build_device(load_device("hg-pipe")[0], calibrated=True).processors["pipeline"].model
    assert isinstance(model, PipelineEngine)
    assert model.product_cycles(196, 768, 192) == 98 * 512 == model.product_cycles(196, 192, 768)
    assert model.softmax_cycles(196, 196) == 57_624
    assert stream_s(2.0, 12, 1) == 26
    assert stream_s(2.0, 12, 5) - stream_s(2.0, 12, 4) == 2


@pytest.mark.parametrize(("base", "text", "says"), [
    ("cent", "processors: {banks: {parameters: {row_cycle_ns: null}}}",
     "all parameters of kind gddr6-pim and no others"),
    ("cent", "processors: {banks: {parameters: {banks: {value: 0, source: here}}}}",
     "banks must be positive"),
    ("attacc-gpu", "processors: {xpu: {cores: null}}", "needs cores"),
    ("stratum", "processors: {stratum: {parameters: {used: {value: 1.5, source: here}}}}",
     "used must be above 0 and at most 1"),
    ("stratum", "processors: {stratum: {parameters: {rcd_2_ns: {value: 1, source: here}}}}",
     "row activations of tiers must be positive and grow"),
    ("stratum", "processors: {stratum: {parameters: {slowest_share: {value: 0.05, source: here}}}}",
     "slowest_share must be between"),
    ("flightllm", "processors: {fabric: {parameters: {slices: {value: 0, source: here}}}}",
     "slices must be positive"),
    ("flightllm", "processors: {fabric: {parameters: {macs: {value: 50000, source: here}}}}",
     "the design needs 25,000 DSP slices, 9,024 available"),
    ("flightllm", "processors: {fabric: {clock_MHz: null}}", "needs clock_MHz"),
    ("hg-pipe", "processors: {pipeline: {parameters: {softmax_rows: {value: 0, source: here}}}}",
     "softmax_rows must be positive"),
])  # fmt: skip
def test_bad_descriptions_are_one_line(tmp_path: Path, base: str, text: str, says: str) -> None:
    with pytest.raises((SpecError, InputError)) as error:
        build_device(load_device(changed(tmp_path, base, text))[0], calibrated=True)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_catalogs_published_systems_raise_no_doubts() -> None:
    for name in ("attacc", "attacc-bg", "attacc-buffer", "attacc-gpu", "cent", "stratum", "hg-pipe",
                 "flightllm", "flightllm-vhk158", "v80", "vhk158"):  # fmt: skip
        assert doubts(load_device(name)[0]) == ()


def test_a_stream_engine_against_closed_forms_of_others() -> None:
    """EdgeLLM's 4096 x 4096 in 29.25 us at its HBM's peak; decode of the spatial framework.

    32 ports of 256 bits at 280 MHz carry 4-bit weights. Where multipliers decide, a step takes its
    multiply-accumulates over those of a cycle (arXiv 2312.15159: N / C (l d^2 / M + ...), C = 1).
    """
    model = build_device(load_device("flightllm")[0], calibrated=True).processors["fabric"].model
    assert isinstance(model, StreamEngine)
    base = replace(model.base, bandwidth=32 * 32 * 280e6, memory_efficiency=1.0)
    peak = replace(model, base=base, op_cycles=0.0, tile_bytes=0.0)
    (op,) = (o for o in Attention(4096, 32, 32, 128).ops(ONE, RUN, None) if o.name == "out")
    half = replace(op, weight_bytes=4096 * 4096 / 2, act_bytes=0.0)
    assert peak.cost(half).seconds == pytest.approx(29.25e-6, rel=1e-3)
    narrow = replace(peak, macs=64.0)
    layer = [*Attention(4096, 32, 32, 128).ops(ONE, RUN, None), *FeedForward(4096, 11008).ops(ONE, RUN, None)]
    macs = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 1025 * 4096
    busy = sum(narrow.cost(o).compute_s for o in layer if o.kind != "elementwise")
    assert busy == pytest.approx(macs / 64 / 225e6)

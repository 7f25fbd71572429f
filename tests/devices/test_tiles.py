"""Does the tile model keep its rules on every device, and is what it says of a configuration right?

Expected values are closed forms (how many buffers and bytes a configuration needs, how Triton deals
warps), counts of the published search spaces, and rules that hold for any device: more of anything
never makes the best configuration slower.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from opbyte.devices.calibrated.hardware import FORMATS, WEIGHT_BYTES
from opbyte.devices.catalog import list_devices, load_device
from opbyte.devices.tiles.config import KernelConfig
from opbyte.devices.tiles.form import FORMS, TiledKernel
from opbyte.devices.tiles.machine import BETTER_LESS, SETTINGS, Machine, machine_of
from opbyte.devices.tiles.product import synchronous_rate, warp_grid
from opbyte.devices.tiles.rank import TERMS, price_one, rank, reason_of
from opbyte.devices.tiles.store import UNFITTED, constants
from opbyte.workloads.errors import InputError, SpecError

from ..tables import tables

pytestmark = pytest.mark.filterwarnings("error")


def machines(form: TiledKernel | None = None) -> dict[str, Machine]:
    """Every device of the catalog that has cores, or the units that a form runs on."""
    out = {}
    for name in list_devices():
        try:
            out[name] = (machine_of if form is None else form.machine)(load_device(name)[0])
        except SpecError:
            continue
    return out


MACHINES = machines()
RUN_ON = {name: machines(FORMS[name]) for name in FORMS}
"""Machines of each form."""
SHAPES: dict[str, dict[str, Any]] = tables(__file__)["shapes"]
"""Ranges from which shapes of each form are drawn."""


def shape_of(form: TiledKernel, draw: Any) -> dict[str, Any]:
    """A shape of a form, round numbers as layers have them half of the time."""
    out = {}
    for key, (low, high) in SHAPES[form.name].items():
        value = draw(st.integers(low, high))
        round_ = max(low, 2 ** int(np.log2(max(value, 1))))
        out[key] = round_ if draw(st.booleans()) else value
    if "topk" in out:
        out["topk"] = min(out["topk"], out["experts"])
    if "heads_kv" in out:
        out["heads_kv"] = min(out["heads_kv"], out["heads_q"])
    return form.shape(out)


def test_every_form_has_shapes_here() -> None:
    assert set(SHAPES) == set(FORMS)


def test_gpus_of_the_catalog_have_a_machine() -> None:
    xpus = {"a100-80gb", "a40", "b200", "h100", "h20", "h200", "l40", "l40s", "mi210", "mi300x",
            "mi355x", "rtx-4090", "rtx-pro-6000"}  # fmt: skip
    assert xpus <= set(MACHINES)
    for name in xpus:
        assert "registers" not in MACHINES[name].derived


@pytest.mark.parametrize("name", ["a100-80gb", "a40", "l40", "l40s", "h20", "h100", "b200", "mi300x"])
def test_matrix_units_do_powers_of_two_in_a_clock(name: str) -> None:
    rate = MACHINES[name].vector.rate[0]
    assert rate == 2 ** round(np.log2(rate))


@given(st.floats(64.0, 16384.0), st.floats(1.0, 2.0), st.sampled_from((1.0, 2.0)))
def test_synchronous_products_lose_the_same_clocks_on_slower_units(rate: float, more: float, width: float) -> None:
    """0.63 of an H100's rate by the source; never above the units' rate, nor less for more of it."""
    plain = getattr(synchronous_rate, "py_func", synchronous_rate)
    hopper, ampere = MACHINES["h100"].h, MACHINES["a100-80gb"].h
    assert plain(ampere, rate, width) == rate
    assert plain(hopper, 8192.0 / width, width) == pytest.approx(0.63 * 8192.0 / width)
    assert plain(hopper, rate, width) <= min(rate, plain(hopper, rate * more, width) * (1 + 1e-12))
    assert plain(hopper, 1024.0, 2.0) > 0.85 * 1024.0


@pytest.mark.parametrize(("tile", "warps", "expected"), tables(__file__)["warps are dealt as triton does"])
def test_warps_are_dealt_as_triton_does(tile: list[int], warps: int, expected: list[int]) -> None:
    """By hand from `warpsPerTileV2`: the longer side in instructions of 16 x 8 is halved."""
    plain = getattr(warp_grid, "py_func", warp_grid)
    assert plain(*map(float, tile), float(warps), False) == tuple(expected)


def test_warpgroups_need_a_buffer_more() -> None:
    """Shared bytes are (stages - 1) buffers with `mma.sync`, `stages` with warpgroups; both have stages - 1 on the way."""
    form, config = FORMS["fused_moe"], KernelConfig(64, 128, 64, 1, 4, 4)
    shape = form.shape({"tokens": 512, "experts": 8, "topk": 2, "hidden": 4096, "inter": 1024})
    held = (64 + 128) * 64 * 2
    for name, buffers in (("a100-80gb", 3), ("h100", 4)):
        price = price_one(form, MACHINES[name], shape, UNFITTED.p, config)
        assert price.shared_bytes == buffers * held
        blocks = min(price.blocks_per_core, np.ceil(2 * 8 * 16 / MACHINES[name].vector.cores))
        assert price.in_flight_bytes == blocks * 3 * held  # 64 tokens an expert: whole tiles


@pytest.mark.parametrize(("name", "expected"), [("a100-80gb", 1068), ("a40", 734), ("l40", 734), ("h20", 1078)])
def test_the_space_is_the_published_one(name: str, expected: int) -> None:
    form = FORMS["fused_moe"]
    shape = form.shape({"tokens": 64, "experts": 8, "topk": 2, "hidden": 4096, "inter": 1024})
    ranking = rank(form, MACHINES[name], shape, UNFITTED.p)
    assert len(ranking) == expected
    assert ranking.searched == expected + sum(ranking.invalid.values())


@given(st.data())
@pytest.mark.parametrize("kernel", sorted(SHAPES))
def test_ranked_seconds_rise_and_equal_ones_keep_the_order_of_groups(kernel: str, data: st.DataObject) -> None:
    form = FORMS[kernel]
    machine = RUN_ON[kernel][data.draw(st.sampled_from(sorted(RUN_ON[kernel])))]
    shape = shape_of(form, data.draw)
    ranking = rank(form, machine, shape, constants(form.constants(machine, shape)).p)
    seconds = ranking.prices["seconds"]
    assert np.isfinite(seconds).all()
    assert (seconds > 0).all()
    top = ranking.top(20)
    assert all(a.seconds <= b.seconds * (1 + 1e-9) for a, b in pairwise(top))
    for of in top:
        assert list(of.also) == sorted(of.also)
        assert all(group > of.config.group_m for group in of.also)
        assert set(of.terms) == set(TERMS)
        assert of.bound in TERMS
        assert all(0 <= value <= of.seconds * (1 + 1e-9) for value in of.terms.values())
    assert len({(*of.config.row.tolist(),) for of in top}) == len(top)


@given(st.data())
@pytest.mark.parametrize("kernel", sorted(SHAPES))
def test_more_of_anything_never_makes_the_best_slower(kernel: str, data: st.DataObject) -> None:
    form = FORMS[kernel]
    machine = RUN_ON[kernel][data.draw(st.sampled_from(sorted(RUN_ON[kernel])))]
    shape = shape_of(form, data.draw)
    p = constants(form.constants(machine, shape)).p
    setting = data.draw(st.sampled_from(sorted(SETTINGS)))
    factor = data.draw(st.sampled_from((1.01, 1.3, 2.0, 4.0)))
    assume(machine.value(setting) > 0 and machine.value(setting) >= SETTINGS[setting].low)  # else the unit has none
    more = machine.scaled(setting, 1 / factor if setting in BETTER_LESS else factor)
    before = rank(form, machine, shape, p).prices[0].seconds
    after = rank(form, more, shape, p).prices[0].seconds
    assert after <= before * (1 + 1e-9), (machine.name, shape, setting, factor)


@given(st.data())
def test_a_deeper_pipeline_costs_shared_memory_alone(data: st.DataObject) -> None:
    """Where memory for buffers does not count, one stage more is never slower."""
    form = FORMS["fused_moe"]
    machine = MACHINES[data.draw(st.sampled_from(sorted(MACHINES)))].changed({"shared_memory_KiB": 1e6})
    shape = shape_of(form, data.draw)
    sides = [data.draw(st.sampled_from((16, 32, 64, 128, 256))) for _ in range(3)]
    groups, warps, stages = data.draw(st.tuples(st.sampled_from((1, 16)), st.sampled_from((4, 8)), st.integers(1, 6)))
    p = constants(form.constants(machine, shape)).p
    shallow, deep = (
        price_one(form, machine, shape, p, KernelConfig(*sides, groups, warps, s)) for s in (stages, stages + 1)
    )
    assert deep.seconds <= shallow.seconds * (1 + 1e-9)


@given(st.data())
def test_no_configuration_beats_memory_or_arithmetic(data: st.DataObject) -> None:
    """With cold caches: bytes once over the bandwidth, FLOP over the rate of all cores."""
    form = FORMS["gemm"]
    machine = RUN_ON["gemm"][data.draw(st.sampled_from(sorted(RUN_ON["gemm"])))]
    shape = form.shape({**shape_of(form, data.draw), "cold": 1})
    ranking = rank(form, machine, shape, constants(form.constants(machine, shape)).p)
    m, n, k = (int(shape[key]) for key in ("m", "n", "k"))
    moved, flop = 2.0 * (m * k + k * n + m * n), 2.0 * m * n * k
    h = machine.vector
    least = max(moved / h.bandwidth, flop / (h.rate[0] * h.cores * h.clock))
    assert ranking.prices[0].seconds >= least


@pytest.mark.parametrize("kernel", ["gemm", "fused_moe"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_products_of_every_format_stay_below_the_peak_of_new_cards(kernel: str, dtype: str) -> None:
    """Cold: weights once over the bandwidth, FLOP over the peak of the format or of the next wider one."""
    sizes = {"gemm": {"m": 4096, "n": 4096, "k": 4096},
             "fused_moe": {"tokens": 4096, "experts": 32, "topk": 4, "hidden": 2048, "inter": 1024}}[kernel]  # fmt: skip
    code, rows = FORMATS.index(dtype), 4096 if kernel == "gemm" else 4096 * 4
    weights = 4096.0 * 4096.0 if kernel == "gemm" else 32 * 2048.0 * 2048.0
    flop = 2.0 * weights * (rows if kernel == "gemm" else rows / 32)
    form = FORMS[kernel]
    shape = form.shape({**sizes, "dtype": dtype, "cold": 1})
    for name in ("b200", "b300", "gb200", "gb300", "rtx-pro-6000", "rtx-5090", "l4", "l40s", "h200", "a30", "mi355x"):
        h = MACHINES[name].vector
        best = rank(form, MACHINES[name], shape, constants(form.constants(MACHINES[name], shape)).p).prices[0].seconds
        assert best > flop / (h.rate[code] * h.cores * h.clock), name
        assert best > weights * WEIGHT_BYTES[code] / h.bandwidth, name


def test_units_in_the_memory_stream_weights_once_for_eight_rows() -> None:
    """Duplex is balanced at 8 Op/B of its bandwidth: 8 rows of 16 bits cost what one costs."""
    form = FORMS["pim_gemm"]
    machine = RUN_ON["pim_gemm"]["duplex"]
    seconds = [
        rank(form, machine, form.shape({"m": m, "n": 14336, "k": 4096}), UNFITTED.p).prices[0].seconds
        for m in (1, 8, 32)
    ]
    assert seconds[1] == pytest.approx(seconds[0], rel=0.2)
    assert seconds[2] == pytest.approx(4 * seconds[1], rel=0.25)
    least = 14336 * 4096 * 2 / machine.vector.bandwidth
    assert least < seconds[0] < 1.4 * least


def test_what_cannot_run_says_why() -> None:
    form, machine = FORMS["fused_moe"], MACHINES["a40"]
    shape = form.shape({"tokens": 64, "experts": 8, "topk": 2, "hidden": 4096, "inter": 1024})
    for config, reason in (
        (KernelConfig(128, 256, 128, 1, 8, 4), "shared memory"),
        (KernelConfig(64, 64, 64, 1, 64, 2), "1,024 threads"),
        (KernelConfig(64, 96, 64, 1, 4, 2), "powers of two"),
        (KernelConfig(8, 64, 64, 1, 4, 2), "fewer than 16"),
        (KernelConfig(256, 128, 32, 1, 1, 2), "spill"),
    ):
        assert reason in reason_of(form, machine, shape, config)
    assert reason_of(form, machine, shape, KernelConfig(64, 64, 64)) == ""


@pytest.mark.parametrize(("values", "part"), tables(__file__)["bad configurations are refused"])
def test_bad_configurations_are_refused(values: dict[str, int], part: str) -> None:
    with pytest.raises(InputError, match=part):
        KernelConfig.of(values)


def test_machines_refuse_what_they_do_not_have() -> None:
    machine = MACHINES["h100"]
    with pytest.raises(InputError, match="shared_memory_KiB"):
        machine.changed({"shared_memory": 100.0})
    with pytest.raises(InputError, match="whole number"):
        machine.changed({"cores": 1.5})
    assert machine.changed({"cores": 264.0}).value("cores") == 264
    larger = machine.changed({"shared_memory_KiB": 456.0})
    assert larger.vector.shared_block == 455 * 1024  # a block's share keeps its distance


@pytest.mark.benchmark
def test_ranking_is_fast() -> None:
    form, machine = FORMS["fused_moe"], MACHINES["h20"]
    shapes = [
        form.shape({"tokens": t, "experts": 128, "topk": 8, "hidden": h, "inter": 1536})
        for t in (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096)
        for h in range(1024, 5120, 256)
    ]
    rank(form, machine, shapes[0], UNFITTED.p)
    start = time.perf_counter()
    rank(form, machine, shapes[1], UNFITTED.p).top(20)
    assert time.perf_counter() - start < 0.05
    start = time.perf_counter()
    for shape in shapes:
        rank(form, machine, shape, UNFITTED.p).top(20)
    assert len(shapes) == 288
    assert time.perf_counter() - start < 5.0

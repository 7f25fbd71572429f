"""Do devices of one silicon share their kernels, and does every framework have some?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from opbyte.devices.calibrated.behind import FAR_SET, NEAR_SET, behind, transferred
from opbyte.devices.calibrated.family import families
from opbyte.devices.calibrated.fit import Fit
from opbyte.devices.calibrated.hardware import hardware
from opbyte.devices.calibrated.kernel_sets import (
    FRAMEWORKS,
    LABELS,
    MEASURED,
    TYPICAL,
    borrowed,
    everywhere,
    layer_parameters,
    list_sets,
    load_set,
    shared_parameters,
)
from opbyte.devices.calibrated.layer_kernels import LAYER_FAMILIES
from opbyte.devices.calibrated.model import CalibratedModel
from opbyte.devices.calibrated.rules import Donor, at_clock, parameters, transfer
from opbyte.devices.calibrated.terms import COLD
from opbyte.devices.catalog import list_devices, load_device
from opbyte.devices.device import build_device, can_calibrate
from opbyte.workloads.errors import InputError

PRODUCTS = [name for name in list_devices() if any(can_calibrate(p) for p in load_device(name)[0].processors.values())]
FAMILIES = [f for f in families().values() if f.kinds]


@pytest.mark.parametrize("device", PRODUCTS)
def test_every_product_has_kernels_of_every_framework(device: str) -> None:
    spec, _ = load_device(device)
    assert spec.kernels in list_sets()
    held = load_set(str(spec.kernels))
    for family in FAMILIES:
        for framework in FRAMEWORKS:
            if framework == MEASURED:
                continue
            entry = held.find(family.name, framework)
            assert entry is not None
            assert set(entry.parameters) == {p.name for p in family.parameters}
            for p in family.parameters:
                assert p.low * 0.999 <= entry.parameters[p.name] <= p.high * 1.001
            assert (entry.errors is None) == (entry.rows == 0)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_devices_of_one_silicon_share_parameters(framework: str) -> None:
    for family in FAMILIES:
        one, *others = (
            shared_parameters(load_device(n)[0], family, framework).fit.values for n in ("h100", "h200", "h800")
        )
        same = all(other.tolist() == one.tolist() for other in others)
        assert same == (framework != MEASURED)


def test_what_was_measured_on_a_device_alone_can_be_asked_for() -> None:
    spec, _ = load_device("h200")
    for family in FAMILIES:
        alone = parameters(spec, family)
        found = shared_parameters(spec, family, MEASURED)
        assert found.fit.values.tolist() == alone.fit.values.tolist()
        assert found.errors == alone.errors


def test_one_framework_for_all_kinds_of_ops() -> None:
    spec, _ = load_device("h100")
    for framework in FRAMEWORKS:
        device = build_device(spec, calibrated=True, frameworks=everywhere(framework))
        model = device.processors["xpu"].model
        assert isinstance(model, CalibratedModel)
        for used in model.models.values():
            if used.family.name not in families():  # layers' kernels have sets of their own
                continue
            expected = shared_parameters(spec, used.family, framework)
            assert used.known.fit.values.tolist() == expected.fit.values.tolist()
            assert (used.known.rows, used.known.errors) == (expected.rows, expected.errors)


def test_a_table_s_label_means_the_framework() -> None:
    spec, _ = load_device("h100")
    for framework, label in LABELS.items():
        for family in FAMILIES:
            under = shared_parameters(spec, family).under
            assert under[label] is under[framework]


def test_an_unknown_framework_is_refused() -> None:
    spec, _ = load_device("h100")
    with pytest.raises(InputError, match=r"vlm.*did you mean 'vllm'"):
        shared_parameters(spec, families()["gemm"], "vlm")
    with pytest.raises(InputError, match=r"vlm.*did you mean 'vllm'"):
        everywhere("vlm")


def test_a_device_of_no_set_has_the_mean_of_all() -> None:
    """Of those with rows, by how like they are; what leaving its set out scores is what it then gets."""
    h200 = load_device("h200")[0]
    other = h200.model_copy(update={"kernels": None})  # with h200's fits, which are no tables of its own
    for family in FAMILIES:
        known = shared_parameters(other, family, TYPICAL)
        assert known.basis == "transferred"
        assert known.fit.values.tolist() == borrowed(other, family, TYPICAL).fit.values.tolist()
        assert known.near[0][0] != borrowed(other, family, TYPICAL, known.near[0][0]).near[0][0]
    assert known.fit.values.tolist() == borrowed(h200, family, TYPICAL).fit.values.tolist()


def test_layers_of_a_device_of_no_set_have_the_mean_of_all() -> None:
    family = LAYER_FAMILIES["conv_decode"]
    spec = load_device("l40s")[0].model_copy(update={"kernels": None})
    known = layer_parameters(spec, family, "vllm")
    assert (known.basis, known.near[0][0]) == ("transferred", "rtx-pro-6000")
    found = behind(spec, family, known.framework, family.defaults)
    assert (found.rows, found.ratios) == (0, transferred("conv_decode", FAR_SET))
    near = load_device("b300")[0].model_copy(update={"kernels": None})  # GB200's set is of its silicon
    assert behind(near, family, known.framework, family.defaults).ratios == transferred("conv_decode", NEAR_SET)
    assert transferred("conv_decode", NEAR_SET).high < transferred("conv_decode", FAR_SET).high


def test_kernels_start_in_clocks_and_a_set_speaks_for_what_it_has_rows_of() -> None:
    """An A100's start later than those of cards of 2.5 GHz; a B200 alone has tensor cores for NVFP4 here."""
    family, h = families()["gemm"], hardware(load_device("a100-80gb")[0])
    card = Donor(100, Fit(1.5 * family.defaults, {}), hardware(load_device("l40s")[0]), told=("bf16",))
    other = Donor(1, Fit(2.0 * family.defaults, {}), hardware(load_device("b200")[0]), told=("nvfp4",))
    assert at_clock(h, family, card).fit.values[0] / card.fit.values[0] == pytest.approx(2520 / 1410, rel=0.01)
    assert at_clock(card.h, family, card) is card
    rule = LAYER_FAMILIES["kda_prefill"]
    # As many FLOP of a core and clock: 8,192 dense ones of a B200's, 2,048 of an A100's.
    chunked = at_clock(h, rule, replace(other, fit=Fit(rule.defaults / 8, {}))).fit.values
    assert chunked[3] / rule.defaults[3] == pytest.approx(0.5, rel=0.05)
    per_branch = [replace(d, fit=Fit(family.per_branch(d.fit.values), {})) for d in (card, other)]
    found = transfer(card.h, family, {"card": per_branch[0], "other": per_branch[1]}).fit.values
    launch = {name: found[family.branches.index(name)][0] for name in ("nvfp4", "fp8")}
    assert launch["nvfp4"] == pytest.approx(2.0 * family.defaults[0])
    assert launch["fp8"] == pytest.approx(1.5 * family.defaults[0])


@pytest.mark.parametrize("device", ["h20", "h800", "h100"])
def test_latent_attention_is_taken_from_devices_with_the_same_kernels(device: str) -> None:
    """A sequence of 131,072 keys on a device without rows: Hopper's kernels split the keys, Ampere's do not."""
    family, (spec, _) = families()["mla"], load_device(device)
    x = np.array([[0.0, 1.0, 1.0, 131_072.0, 131_072.0, 128.0, 2.0, COLD]])
    fitted, borrowed_s = (
        family.seconds(parameters(d, family).fit.values, hardware(spec), x)[0]
        for d in (spec, spec.model_copy(update={"calibration": {}}))
    )
    assert 1 / 3 < borrowed_s / fitted < 3


def test_latent_attention_of_a_set_without_rows_is_that_of_the_rule() -> None:
    """An earlier rule's parameters were up to a hundred times as large; the order of devices moves none by 20 %."""
    family, spec = families()["mla"], load_device("mi300x")[0]
    catalog, rule = (of(spec, family, "trtllm").fit.values for of in (shared_parameters, borrowed))
    assert catalog == pytest.approx(rule, rel=0.2)


def test_a_users_own_tables_come_first() -> None:
    spec, _ = load_device("h100")
    family = families()["gemm"]
    fit = spec.calibration["gemm"]
    other = fit.model_copy(update={"rows": fit.rows + 1})
    own = spec.model_copy(update={"calibration": {**spec.calibration, "gemm": other}})
    found = shared_parameters(own, family, TYPICAL)
    assert found.fit.values.tolist() == parameters(own, family).fit.values.tolist()


READ_AGAIN = {
    "gemm": [64, 4096, 4096, 1, 0, 2, 2, 0, 2, 0, 0],
    "attention_decode": [16, 2048, 32, 8, 128, 2, 0, 2, 1, 0, -1, 1],
    "mla": [0, 16, 1, 2048, 2048, 128, 2, 2],
}
"""Calls whose data is read again."""


@pytest.mark.parametrize("name", READ_AGAIN)
def test_a_larger_cache_is_faster_where_data_is_read_again(name: str) -> None:
    """A cache was a measure of likeness: a larger one took the parameters of other devices, and up to four times as long."""
    family, x, spec = families()[name], np.array([READ_AGAIN[name]]), load_device("mi300x")[0]
    seconds = []
    for size in (1e7, 2e7, 1e8, 3e8):
        memory = spec.memory.model_copy(update={"cache_bytes": size})
        sized = spec.model_copy(update={"memory": memory})
        known = borrowed(sized, family, TYPICAL, "mi300x").fit.values
        seconds.append(family.seconds(known, hardware(sized), x)[0])
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[-1] < seconds[0]
    slow = family.seconds(family.slowed(known, 1.1), hardware(sized), x)
    assert slow == pytest.approx(1.1 * seconds[-1], rel=0.005)


@pytest.mark.parametrize("name", ["mi300x", "mi355x"])
def test_products_of_amd_s_devices_are_aiter_s_as_measured(name: str) -> None:
    """Under an order against other makers' devices, large products took half as long as their rows."""
    entry = load_set(name).families["gemm"]["sglang"]
    assert (entry.basis, entry.sources) == ("library", ("aiter",))
    assert np.abs(entry.errors)[[0, 2]] == pytest.approx(0.0, abs=0.12)

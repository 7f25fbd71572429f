"""Do products with a scale a block run in whole tiles, and does more work never take less time?

The measured rows are of CUTLASS's kernel of one tile on H20; the device's parameters are fitted to
DeepGEMM's rows, so that the table tells of the tiles alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.validate.kernels import validate_kernels
from opbyte.devices.calibrated.family import families
from opbyte.devices.calibrated.hardware import C_FP8_BLOCK, C_NVFP4, INPUT_BYTES, WEIGHT_BYTES, hardware
from opbyte.devices.calibrated.model import Model
from opbyte.devices.calibrated.rules import parameters
from opbyte.devices.calibrated.terms import COLD
from opbyte.devices.catalog import load_device

F8 = npt.NDArray[np.float64]
DEVICES = ("h20", "h100", "h200", "h800", "b200")


def model(device: str) -> Model:
    spec, family = load_device(device)[0], families()["gemm"]
    return Model(family, parameters(spec, family), hardware(spec))


def row(m: float, n: float, k: float, tile: float, quantised: float = 0.0, code: int = C_FP8_BLOCK) -> F8:
    return np.array([m, n, k, 1, code, WEIGHT_BYTES[code], INPUT_BYTES[code], quantised, COLD, 0, tile])


@pytest.mark.parametrize("device", DEVICES)
@given(
    m=st.integers(1, 5000), n=st.integers(16, 30000), k=st.integers(64, 30000),
    more=st.integers(1, 3000), which=st.sampled_from([0, 1, 2]), tile=st.sampled_from([0.0, 128.0]),
    quantised=st.sampled_from([0.0, 1.0]), code=st.sampled_from([C_FP8_BLOCK, C_NVFP4]),
)  # fmt: skip
def test_more_work_is_never_faster(
    device: str, m: int, n: int, k: int, more: int, which: int, tile: float, quantised: float, code: int
) -> None:
    shape = [m, n, k]
    larger = [size + more * (i == which) for i, size in enumerate(shape)]
    found = model(device)
    x = np.array([row(*s, tile, quantised, code) for s in (shape, larger)])
    less, greater = found.seconds(x)
    assert greater >= less * (1 - 1e-9)
    assert (found.seconds(x) >= found.family.roofline(found.h, x)).all()


@pytest.mark.parametrize("device", DEVICES)
def test_a_choice_of_tiles_is_never_slower_than_one(device: str) -> None:
    rng = np.random.default_rng(0)
    sizes = np.floor(2.0 ** rng.uniform([0, 6, 7], [14, 14, 14], (300, 3)))
    found = model(device)
    one, several = (found.seconds(np.array([row(*s, tile) for s in sizes])) for tile in (128.0, 0.0))
    assert (several <= one * (1 + 1e-9)).all()


def test_one_tile_knows_steps_and_waves_only() -> None:
    """H20 has 78 cores: 128 rows cost what one does, and 79 tiles twice what 78 do."""
    h20 = model("h20")
    few, full, over = h20.seconds(np.array([row(m, 78 * 128, 8192, 128.0) for m in (1, 128, 129)]))
    assert few == pytest.approx(full, rel=0.02)
    assert over == pytest.approx(2 * full, rel=0.05)


@pytest.mark.parametrize("device", ["b200", "gb200", "rtx-pro-6000"])
def test_a_tile_of_four_bits_walks_along_k(device: str) -> None:
    """Of few rows a product takes what its longest tile does: in proportion to k, whatever the rows, never split."""
    one, twice, more = model(device).seconds(np.array([row(m, 256, k, 0.0, 0.0, C_NVFP4)
                                                       for m, k in ((1, 2**16), (1, 2**17), (64, 2**16))]))  # fmt: skip
    assert twice == pytest.approx(2 * one, rel=0.15)
    assert more == pytest.approx(one, rel=0.15)


def test_measured_tiles(data_set: Callable[[str], Path]) -> None:
    """10,459 products, none of them fitted to: 0.7 % median."""
    (check,) = validate_kernels([data_set("measured_more") / "gemm.csv"]).checks
    assert (check.device, check.errors.rows) == ("h20", 10459)
    assert check.errors.median_ape < 0.015
    assert check.errors.p90_ape < 0.07

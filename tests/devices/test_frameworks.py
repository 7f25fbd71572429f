"""Whose kernels does a framework call, and which parameters are theirs?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from opbyte.devices.calibrated import gemm
from opbyte.devices.calibrated.family import Family, families
from opbyte.devices.calibrated.fit import Fit, predict
from opbyte.devices.calibrated.hardware import CODES, hardware
from opbyte.devices.calibrated.kernel_sets import shared_parameters
from opbyte.devices.calibrated.libraries import LIBRARIES, library
from opbyte.devices.calibrated.model import CalibratedModel
from opbyte.devices.calibrated.terms import COLD
from opbyte.devices.catalog import load_device
from opbyte.devices.device import build_device
from opbyte.workloads.kernel_tables import framework
from opbyte.workloads.ops import Op
from opbyte.workloads.records import Records

QUANTISED = gemm.QUANTITIES.index("quantised")
SGLANG, VLLM, TRTLLM = (f"aiconfigurator/{name}" for name in ("sglang", "vllm", "trtllm"))


def constants(device: str) -> Records:
    return hardware(load_device(device)[0])


def vector(family: Family, **factors: float) -> np.ndarray:
    values = family.defaults.copy()
    for name, factor in factors.items():
        values[family.index(name)] *= factor
    return values


@pytest.mark.parametrize(
    ("device", "of_vllm", "of_sglang"),
    [("a100-80gb", "FlashAttention-2", "FlashInfer"), ("l40s", "FlashAttention-2", "FlashInfer"),
     ("h200", "FlashAttention-3", "FlashAttention-3"), ("h20", "FlashAttention-3", "FlashAttention-3"),
     ("b200", "trtllm-gen", "trtllm-gen"), ("rtx-pro-6000", "FlashAttention-2", "FlashInfer"),
     ("mi300x", VLLM, SGLANG)],
)  # fmt: skip
def test_the_library_follows_the_generation(device: str, of_vllm: str, of_sglang: str) -> None:
    capability = constants(device).capability
    assert library("attention_decode", VLLM, capability) == of_vllm
    assert library("attention_decode", SGLANG, capability) == of_sglang


def test_what_is_not_known_stands_for_itself() -> None:
    assert library("gemm", VLLM, 9.0) == VLLM
    assert library("moe", "a lab", 9.0) == "a lab"
    known = {label for table in LIBRARIES.values() for label in table}
    assert all(framework(label) == label for label in known)  # as the tables' labels are


def test_one_set_of_parameters_for_a_framework() -> None:
    family, h = families()["moe"], constants("h100")
    own = Fit(vector(family), {VLLM: {"time": 1.1, "launch_s": 2.0}})
    assert own.single(family, SGLANG) == pytest.approx(own.values)  # not known: the base
    x = np.array(
        [[8.0 * n, 4.0 * n, 4096, 1536, 3, 64, min(4.0 * n, 64), 0, code, 1, 1, COLD, 8, 0]
         for n in (1, 100, 8192) for code in (CODES["bf16"], CODES["fp8"], CODES["w4a16_mxfp4"])]
    )  # fmt: skip
    values, time = own.of(family, VLLM)
    expected = family.seconds(values, h, x) * time
    assert family.seconds(own.single(family, VLLM), h, x) == pytest.approx(expected)
    labelled = np.array([VLLM, "a lab"] * len(x), dtype=object)[: len(x)]
    known = replace(own, own={"a lab": vector(family, launch_s=8.0)})
    alone = family.seconds(vector(family, launch_s=8.0), h, x)
    assert predict(family, known, h, x, labelled) == pytest.approx(np.where(labelled == VLLM, expected, alone))


def test_one_kind_of_op_by_one_frameworks_kernels() -> None:
    spec, _ = load_device("b200")
    device = build_device(spec, calibrated=True)
    frameworks = {"experts": VLLM}
    only = build_device(spec, calibrated=True, frameworks=frameworks).processors["xpu"].model
    base = device.processors["xpu"].model
    assert isinstance(base, CalibratedModel)
    assert isinstance(only, CalibratedModel)
    known = shared_parameters(spec, families()["moe"])
    values = only.models["experts"].known.fit.values
    assert values == pytest.approx(known.under[VLLM].fit.values)
    assert values != pytest.approx(known.fit.values)
    for kind in set(base.models) - {"experts"}:
        fits = [model.models[kind].known.fit.values.tolist() for model in (base, only)]
        assert fits[0] == fits[1]
    duplex = load_device("duplex")[0]
    rooflines = build_device(duplex, calibrated=True, frameworks=frameworks)
    assert rooflines == build_device(duplex)


@pytest.mark.parametrize(("engine", "started"), [("sglang", {"qkv", "out"}), ("vllm", {"out"}), ("trtllm", {"qkv"})])
def test_inputs_are_made_fp8_by_a_kernel_where_the_engine_starts_one(engine: str, started: set[str]) -> None:
    device = build_device(load_device("h100")[0], calibrated=True, frameworks={"gemm": engine})
    model = next(p.model for p in device.processors.values())
    assert isinstance(model, CalibratedModel)
    shape = {"m": 16.0, "n": 4096.0, "k": 4096.0}
    for name in ("qkv", "out"):
        for dtype in ("fp8", "bf16"):
            size = 4096.0**2 * (1.0 if dtype == "fp8" else 2.0)
            op = Op(name, "attention", "gemm", "both", shape, dtype, 2.0 * 16 * 4096.0**2, size, whole=True)
            x = model.quantities(op)
            assert x is not None
            assert x[QUANTISED] == float(dtype == "fp8" and name in started)
            x[QUANTISED] = 0.0
            more = model.cost(op).seconds - float(model.models["gemm"].seconds(x[None])[0])
            assert (1e-6 < more < 1e-5) if dtype == "fp8" and name in started else more == 0.0
            behind = model.quantities(
                replace(op, whole=False)
            )  # an all-reduce, whose kernel TensorRT-LLM lets write fp8
            assert behind is not None
            assert behind[QUANTISED] == float(dtype == "fp8" and name in started and engine != "trtllm")

"""Are the kernel models physical, and does a fit find what made the rows?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from opbyte.devices.calibrated import attention_decode
from opbyte.devices.calibrated import gemm as gemm_module
from opbyte.devices.calibrated.calibrate import implausible
from opbyte.devices.calibrated.errors import errors
from opbyte.devices.calibrated.family import Family, families
from opbyte.devices.calibrated.fit import fit, predict
from opbyte.devices.calibrated.hardware import CODES, WEIGHT_BYTES, hardware
from opbyte.devices.calibrated.kernel_sets import shared_parameters
from opbyte.devices.calibrated.model import CalibratedModel
from opbyte.devices.calibrated.rules import features, parameters
from opbyte.devices.calibrated.terms import COLD
from opbyte.devices.catalog import list_devices, load_device
from opbyte.devices.cost import Roofline
from opbyte.devices.device import build_device
from opbyte.devices.prices import ALONE, Probe
from opbyte.workloads.kernel_tables import KernelTable
from opbyte.workloads.ops import Op

from .pieces import gemm_on_h100

FITTED = [name for name in list_devices() if load_device(name)[0].calibration]
LINKS = ("allreduce", "collectives")
QUANTISED, COPIES = map(gemm_module.QUANTITIES.index, ("quantised", "copies"))


def fitted(device: str, family: str) -> tuple[Family, np.ndarray, np.ndarray]:
    spec, _ = load_device(device)
    model = families()[family]
    return model, parameters(spec, model).fit.values, hardware(spec)


def gemms(*shapes: tuple[float, float, float]) -> np.ndarray:
    """Rows of a cold bf16 GEMM."""
    return np.array([[m, n, k, 1, 0, 2, 2, 0, COLD, 0, 0] for m, n, k in shapes], dtype=float)


@pytest.mark.parametrize("family", families().values(), ids=lambda f: f.name)
def test_parameters_are_named(family: Family) -> None:
    assert len({p.name for p in family.parameters}) == len(family.parameters)
    for p in family.parameters:
        assert p.meaning
        assert p.unit
        assert (p.unit == "s") == p.name.endswith("_s")


def test_waves_make_steps() -> None:
    # 132 cores: one more row of 128x128 tiles than a full wave costs more than the row is worth.
    family, values, h = fitted("h100", "gemm")
    full, over = family.seconds(values, h, gemms((12 * 128, 11 * 128, 8192), (13 * 128, 11 * 128, 8192)))
    assert over > full


def test_a_resident_weight_is_faster_than_a_cold_one() -> None:
    family, values, h = fitted("l40s", "gemm")
    cold = gemms((8, 1024, 2048))
    warm = cold.copy()
    warm[:, COPIES] = 6.0
    assert family.seconds(values, h, warm)[0] < family.seconds(values, h, cold)[0]


def table_of(source: str, dtype: str, kernel: str = "linear_actquant") -> KernelTable:
    text = {"source": source, "device": "H100-SXM-80GB", "kernel": kernel, "dtype": dtype, "timing": "graph"}
    columns = {name: np.array([value], dtype=object) for name, value in text.items()}
    columns |= {name: np.array([16.0]) for name in ("m", "n", "k", "batch", "measured_s")}
    return KernelTable("gemm", columns, np.array(["t.csv"], dtype=object), np.array([2]))


@pytest.mark.parametrize(
    ("source", "dtype", "kernels"),
    [("aiconfigurator/trtllm-1.0.0", "fp8", 6.0), ("aiconfigurator/trtllm-1.0.0", "nvfp4", 3.0),
     ("aiconfigurator/trtllm-1.0.0", "fp8_block", 1.0), ("aiconfigurator/sglang-0.5.14", "fp8", 1.0),
     ("aiconfigurator/vllm-0.24.0", "fp8", gemm_module.BY_ROW_KERNELS), ("aiconfigurator/vllm-0.24.0", "nvfp4", 1.0)],
)  # fmt: skip
def test_who_quantises_with_how_many_kernels(source: str, dtype: str, kernels: float) -> None:
    family = families()["gemm"]
    assert family.from_table(table_of(source, dtype))[0, QUANTISED] == kernels
    assert family.from_table(table_of(source, dtype, "gemm"))[0, QUANTISED] == 0.0


@pytest.mark.parametrize(
    ("name", "dtype", "apart"),
    [
        ("qkv", "nvfp4", True), ("out", "mxfp4", True), ("gate_up", "nvfp4", True),
        ("down", "nvfp4", False), ("shared_down", "nvfp4", False), ("qkv", "fp8", False),
        ("down", "int8", True),
    ],
)  # fmt: skip
def test_whose_inputs_a_kernel_of_its_own_quantises(name: str, dtype: str, apart: bool) -> None:
    op = Op(
        name=name, layer="ffn", kind="gemm", phase="both", dtype=dtype,
        shape={"m": 8.0, "n": 4096.0, "k": 4096.0}, flops=2.0 * 8 * 4096**2,
        weight_bytes=0.5 * 4096**2, act_bytes=3.0 * 8 * 4096,
    )  # fmt: skip
    quantities = gemm_module.from_op(op)
    assert quantities is not None
    assert quantities[QUANTISED] == apart


def test_power_holds_back_only_units_that_reach_its_limit() -> None:
    """Half of the rate with 32-bit accumulation draws less than the 0.65 that power allows."""
    long, slow_down = gemms((16384, 16384, 16384)), {}
    for device in ("rtx-4090", "l40s"):
        family, values, h = fitted(device, "gemm")
        times = []
        for sustained in (0.65, 1.0):
            values = values.copy()
            values[family.index("sustained")] = sustained
            times.append(family.seconds(values, h, long)[0])
        slow_down[device] = times[0] / times[1]
    assert slow_down["rtx-4090"] == 1.0
    assert slow_down["l40s"] > 1.3


def test_error_correction_takes_its_share_of_the_bandwidth() -> None:
    spec, _ = load_device("l40s")
    assert hardware(spec).bandwidth == pytest.approx(864e9 * 15 / 16)
    spec, _ = load_device("h100")
    assert hardware(spec).bandwidth == spec.memory.bandwidth_bytes_per_s


@pytest.mark.parametrize("family", families().values(), ids=lambda f: f.name)
def test_a_fit_recovers_what_made_the_rows(family: Family) -> None:
    if family.name not in ("gemm", "norm", "allreduce"):
        pytest.skip("one family of each shape of formula is enough")
    h = hardware(load_device("h100")[0])
    rng = np.random.default_rng(1)
    x = {
        "gemm": lambda: np.vstack([gemms(*(2.0 ** rng.integers(4, 14, (200, 3))))]),
        "norm": lambda: np.column_stack(
            [2.0 ** rng.integers(0, 14, 200), 2.0 ** rng.integers(8, 14, 200), np.full(200, 3),
             np.full(200, 2), rng.integers(0, 4, 200), np.ones(200), np.zeros(200), np.zeros(200)]
        ),
        "allreduce": lambda: np.column_stack(
            [2.0 ** rng.integers(8, 30, 200), 2.0 ** rng.integers(1, 4, 200), rng.integers(0, 2, 200)]
        ),
    }[family.name]().astype(float)  # fmt: skip
    truth = np.array([min(p.high, p.default * 1.2) for p in family.parameters])
    measured = family.seconds(truth, h, x)
    labels = np.array(["one"] * 200, dtype=object)
    done = fit(family, h, x, measured, labels)
    assert errors(predict(family, done, h, x, labels), measured).p90_ape < 0.02


def test_frameworks_scale_around_the_base() -> None:
    family, h = gemm_on_h100()
    rng = np.random.default_rng(2)
    x = np.vstack([gemms(*(2.0 ** rng.integers(4, 14, (100, 3))))] * 2)
    labels = np.array(["slow"] * 100 + ["fast"] * 100, dtype=object)
    measured = family.seconds(family.defaults, h, x) * np.where(labels == "slow", 1.2, 1 / 1.2)
    done = fit(family, h, x, measured, labels)
    scales = [done.scales[name]["time"] for name in ("slow", "fast")]
    assert np.prod(scales) == pytest.approx(1.0)
    assert scales[0] == pytest.approx(1.2, rel=0.03)


def test_a_thousand_times_too_fast_is_implausible_and_a_cached_read_is_not() -> None:
    family, h = gemm_on_h100()
    x = gemms((16, 4096, 4096), (8192, 8192, 8192))
    honest = family.seconds(family.defaults, h, x)
    assert (implausible(family, h, x, honest) == "").all()
    assert (implausible(family, h, x, honest / 1000) != "").all()
    assert (implausible(family, h, x, honest * 1000) != "").tolist() == [True, True]
    assert implausible(family, h, x[:1], honest[:1] / 2)[0] == ""


@pytest.mark.parametrize("device", FITTED)
def test_stored_fits_are_whole_and_within_their_bounds(device: str) -> None:
    spec, sources = load_device(device)
    for name, stored in spec.calibration.items():
        family = families()[name]
        assert set(stored.parameters) == {p.name for p in family.parameters}
        for p in family.parameters:
            assert p.low * 0.999 <= stored.parameters[p.name] <= p.high * 1.001
        assert stored.errors["fit"].rows == stored.rows
        assert stored.errors["by_shape"].median_ape <= stored.bounds.median_ape
        assert any(key.startswith(f"calibration.{name}.") for key in sources)


def test_a_device_without_a_fit_takes_after_the_most_similar() -> None:
    spec, _ = load_device("h200")
    known = parameters(spec.model_copy(update={"calibration": {}}), families()["gemm"])
    assert known.basis == "transferred"
    assert known.near[0][0] in ("h100", "h800")
    alike = features(hardware(load_device("h100")[0])) - features(hardware(spec))
    other = features(hardware(load_device("mi300x")[0])) - features(hardware(spec))
    assert np.linalg.norm(alike) < np.linalg.norm(other)


def test_one_odd_framework_does_not_move_the_base() -> None:
    # Three frameworks differ in the kernel that quantises: 1, 1 and 4 times the default.
    family, h = gemm_on_h100()
    rng = np.random.default_rng(3)
    one = np.vstack([gemms(*(2.0 ** rng.integers(4, 12, (80, 3))))])
    one[:, QUANTISED] = 1.0
    parts, x = [], np.vstack([one] * 3)
    for factor in (1.0, 1.0, 4.0):
        values = family.defaults
        values[family.index("quantise_s")] *= factor
        parts.append(family.seconds(values, h, one))
    labels = np.repeat(np.array(["a", "b", "odd"], dtype=object), 80)
    done = fit(family, h, x, np.concatenate(parts), labels)
    assert done.scales["odd"]["quantise_s"] > 2
    base = done.values[family.index("quantise_s")]
    assert base == pytest.approx(family.defaults[family.index("quantise_s")], rel=0.2)


def test_kernels_that_do_not_pack_a_group_give_every_query_head_a_block() -> None:
    family = families()["attention_decode"]
    rows = {"xqa": [512, 64, 64, 1, 128, 2, 1, COLD, attention_decode.XQA_HEADS, 0, -1, 1],
            "fa2": [512, 64, 64, 1, 128, 2, 1, COLD, attention_decode.NO_LIMIT, 1, 0, 1],
            "packed": [512, 64, 64, 1, 128, 2, 1, COLD, attention_decode.NO_LIMIT, 0, 0, 1]}  # fmt: skip
    x = np.array(list(rows.values()), dtype=float)
    old, new = (hardware(load_device(name)[0]) for name in ("a100-80gb", "h100"))
    xqa, fa2, packed = family.seconds(family.defaults, old, x)
    assert xqa == fa2 > 3 * packed
    xqa, fa2, packed = family.seconds(family.defaults, new, x)
    assert xqa > 3 * packed
    assert fa2 == packed  # Hopper runs FlashAttention 3


def test_decodes_beside_prompts_read_their_keys_once_a_head() -> None:
    """FlashAttention 2 packs no group then: 8 heads read what the cache does not keep 8 times."""
    family = families()["attention_decode"]
    row = [256, 8192, 64, 8, 128, 2, 1, COLD, attention_decode.NO_LIMIT, 0]
    x = np.array([[*row, 3, 1], [*row, 0, 1]], dtype=float)
    for device, least, most in (("rtx-pro-6000", 4.0, 9.0), ("h100", 1.0, 1.0)):
        beside, alone = family.seconds(family.defaults, hardware(load_device(device)[0]), x)
        assert least <= beside / alone <= most


def test_a_window_saves_no_time_where_it_is_a_mask() -> None:
    family = families()["attention_prefill"]
    full = [4, 8192, 4096.5, 8192, 32, 8, 128, 0, 0, 0, 2, 1, 0, 0, -1]
    skips = [4, 8192, 128, 8192, 32, 8, 128, 1, 0, 0, 2, 1, 0, 0, -1]
    hidden = [*skips[:-2], 8192, -1]
    x = np.array([full, skips, hidden], dtype=float)
    for device in ("l40s", "rtx-pro-6000", "h100", "mi300x"):
        every, skipped, masked = family.seconds(family.defaults, hardware(load_device(device)[0]), x)
        assert skipped < 0.2 * every
        masks = device in ("l40s", "rtx-pro-6000")
        assert masked == pytest.approx(every if masks else skipped)


def test_a_calibrated_device_costs_its_ops_by_the_fit() -> None:
    spec, _ = load_device("h100")
    model = build_device(spec, calibrated=True).processors["xpu"].model
    assert isinstance(model, CalibratedModel)
    op = Op(
        name="up", layer="ffn", kind="gemm", phase="both", dtype="bf16",
        shape={"m": 64.0, "n": 14336.0, "k": 4096.0, "batch": 1.0}, flops=2.0 * 64 * 14336 * 4096,
        weight_bytes=2.0 * 14336 * 4096, act_bytes=2.0 * 64 * (14336 + 4096),
    )  # fmt: skip
    cost, spec_cost = model.cost(op), model.base.cost(op)
    family, h = families()["gemm"], hardware(spec)
    values = shared_parameters(spec, family).fit.values
    assert cost.seconds == family.seconds(values, h, gemms((64, 14336, 4096)))[0]
    assert cost.seconds >= max(cost.compute_s, cost.memory_s)
    assert cost.joules == spec_cost.joules
    assert model.formula(op, ALONE) is None  # it depends on one count, which is tabulated
    x = model.quantities(op)
    assert x is not None
    assert model.prices(op, np.stack([x, x]))["seconds"].tolist() == [cost.seconds] * 2
    other = build_device(load_device("h200")[0], calibrated=True).processors["xpu"].model
    larger = [replace(op, shape=op.shape | {"m": op.shape["m"] + n}) for n in range(4)]
    for n, known in ((n, m) for _ in range(2) for n in (0, 1) for m in (model, other)):
        row = known.row(larger[n], Probe((larger[n + 1],), 3))
        assert row.curve is not None  # kept from the first time: no other op's or device's
        assert row.curve.seconds[1:3].tolist() == [known.cost(o).seconds for o in larger[n : n + 2]]


@pytest.mark.parametrize("device", [d for d in list_devices() if d.startswith(("duplex", "logic"))])
def test_the_papers_systems_are_never_calibrated(device: str) -> None:
    spec, _ = load_device(device)
    assert not spec.calibration
    for processor in build_device(spec, calibrated=True).processors.values():
        assert isinstance(processor.model, Roofline)


def test_peaks_follow_the_format() -> None:
    h = hardware(load_device("h100")[0])
    assert h.peak[0] == pytest.approx(989.4e12)
    assert h.peak[2] == pytest.approx(1978.9e12)


def test_four_bit_experts_use_the_four_bit_unit_where_there_is_one() -> None:
    family, h = families()["moe"], hardware(load_device("b200")[0])
    experts, hidden, inter = 64.0, 7168.0, 2048.0  # DeepSeek-V3's

    def busy(tokens: float, dtype: str) -> float:
        """Seconds of the two grouped GEMMs alone, `tokens` to each expert."""
        code, n = CODES[dtype], tokens * experts
        one = [hidden, inter, 3, experts]
        x = [[n, n, *one, experts, 0, code, WEIGHT_BYTES[code], 0, COLD, 8, 0],
             [n, n, *one, 0, 0, code, WEIGHT_BYTES[code], 0, COLD, 8, 0]]  # fmt: skip
        whole, rest = family.seconds(family.defaults, h, np.array(x))
        return float(whole - rest)

    computed = busy(1e5, "fp8_block") / busy(1e5, "nvfp4")
    peaks = load_device("b200")[0].processors["xpu"].peak_flops_per_s
    assert peaks is not None
    assert computed == pytest.approx(peaks["fp4"] / peaks["fp8"], rel=0.01)
    streamed = busy(1.0, "nvfp4") / busy(1.0, "fp8_block")
    assert streamed == pytest.approx(0.5625, rel=0.02)
    widened = busy(1.0, "w4a16_mxfp4") / busy(1.0, "nvfp4")
    multiple = family.defaults[family.index("low_bit")]
    assert widened == pytest.approx(multiple * 0.53125 / 0.5625, rel=0.02)

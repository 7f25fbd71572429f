"""Do kernel tables give back what was measured, interpolate between and say what is wrong?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.calibrated.formulas import Formula
from opbyte.devices.calibrated.hardware import hardware
from opbyte.devices.calibrated.model import CalibratedModel, calibrated_model
from opbyte.devices.catalog import load_device
from opbyte.devices.device import build_device
from opbyte.devices.spec import DeviceSpec
from opbyte.devices.tables.grid import filled_grid, grid_rows
from opbyte.devices.tables.model import Curve, TableModel, table_model, whole_tiles
from opbyte.workloads.errors import InputError
from opbyte.workloads.kernel_tables import read_tables
from opbyte.workloads.layers import MixtureOfExperts, Run
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads, Op


def test_curve_between_and_beyond() -> None:
    curve = Curve(np.array([1.0, 3.0, 7.0]), np.array([2.0, 4.0, 12.0]))
    assert curve.at(np.array([1.0, 2.0, 5.0, 7.0])).tolist() == [2.0, 3.0, 8.0, 12.0]
    assert curve.at(np.array([0.0, 9.0])).tolist() == [2.0, 12.0]


def test_matrix_products_compute_whole_tiles() -> None:
    rows = np.array([1.0, 15.0, 16.0, 17.0, 32.0, 33.0, 120.0, 125.0, 300.0])
    assert whole_tiles(rows, 120.0).tolist() == [1, 15, 16, 32, 32, 48, 120, 125, 300]


@given(
    slopes=st.lists(st.floats(0.0, 5.0), min_size=3, max_size=3),
    at=st.tuples(st.floats(1.0, 16.0), st.floats(1.0, 64.0)),
    hole=st.booleans(),
)
def test_a_bilinear_function_is_met_exactly(slopes: list[float], at: tuple[float, float], hole: bool) -> None:
    """Multilinear interpolation has no error on a + b x + c y + d x y, a hole in the grid or not."""
    b, c, d = slopes

    def truth(x: float, y: float) -> float:
        return 1.0 + b * x + c * y + d * x * y

    points = [(x, y) for x in (1.0, 4.0, 16.0) for y in (1.0, 8.0, 64.0)]
    if hole:
        points.remove((4.0, 8.0))
    grid = filled_grid(np.array(points), np.array([truth(x, y) for x, y in points]))
    found = grid_rows(Formula.MOE_GRID, grid, np.array([at]))[0]
    assert found == pytest.approx(truth(*at), rel=1e-12)


def test_a_grid_is_constant_below_and_above() -> None:
    points = np.array([(x, y) for x in (1.0, 2.0) for y in (1.0, 2.0)])
    grid = filled_grid(points, points.sum(axis=1))
    rows = grid_rows(Formula.MOE_GRID, grid, np.array([[0.5, 0.5], [9.0, 9.0]]))
    assert rows.tolist() == [2.0, 4.0]


def own_model(spec: DeviceSpec) -> CalibratedModel:
    (processor,) = build_device(spec).processors.values()
    return calibrated_model(spec, spec.processors[processor.name], processor.base)


@pytest.fixture
def measured(data_set: Callable[[str], Path]) -> tuple[TableModel, Path]:
    folder = data_set("serving_runs") / "rtx4090--llama-3.1-8b" / "kernels"
    spec, _ = load_device("rtx-4090")
    base = own_model(spec)
    return table_model(spec, [folder], base), folder


def test_measured_rows_come_back(measured: tuple[TableModel, Path]) -> None:
    """Every row of a curve is its own value (or the median of rows with the same shape)."""
    model, folder = measured
    gemm = read_tables([folder], every_op=True)[0]["gemm"]
    for i in range(0, len(gemm), 37):
        shape = ("gemm", str(int(gemm["n"][i])), str(int(gemm["k"][i])))
        same = (gemm["n"] == gemm["n"][i]) & (gemm["k"] == gemm["k"][i])
        same &= gemm["m"] == gemm["m"][i]
        found = model.curves[shape].at(np.array([gemm["m"][i]]))[0]
        assert found == pytest.approx(np.median(gemm["measured_s"][same]), rel=1e-12)
    assert model.count == sum(len(t) for t in read_tables([folder], every_op=True)[0].values())


@pytest.mark.parametrize("basis", ["transferred", "fitted"])
def test_a_shape_off_the_table_is_scaled_from_the_nearest(basis: str) -> None:
    """Finding U20: a device whose assumed memory is 1.6 times too fast, with one measured shape."""
    spec, _ = load_device("h100")
    memory = spec.memory.model_copy(update={"bandwidth_bytes_per_s": 1.6 * spec.memory.bandwidth_bytes_per_s})
    truth, wrong = own_model(spec), own_model(spec.model_copy(update={"memory": memory}))
    gemm = wrong.models["gemm"]
    base = replace(wrong, models={**wrong.models, "gemm": replace(gemm, known=replace(gemm.known, basis=basis))})

    near, other = (Op("up", "ffn", "gemm", "both", {"m": 16.0, "n": n, "k": 4096.0}, "bf16", flops=0.0, weight_bytes=8192 * n)
                   for n in (14_336, 28_672))  # fmt: skip
    curve = Curve(np.array([4.0, 16.0, 64.0]), np.full(3, truth.cost(near).seconds))
    model = TableModel(base, {("gemm", "14336", "4096"): curve}, {}, {}, 3, hardware(spec), {})
    assumed, scaled, measured = (m.cost(other).seconds for m in (base, model, truth))
    assert assumed < 0.8 * measured
    assert scaled == (pytest.approx(measured, rel=0.1) if basis == "transferred" else assumed)
    assert not model.covers(other)


HEAD = "source,device,op,dtype,m,n,k,measured_s\n"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (HEAD + "x,rtx-4090,down_proj,bf16,1,8,8,abc\n", r"gemm\.csv:2: measured_s is 'abc'"),
        (HEAD + "x,rtx-4090,down_proj,bf16,1,8,8,1e-6\nx,rtx-4090,down_proj,bf16,-1,8,8,1e-6\n",
         r"gemm\.csv:3: m is '-1'"),
        (HEAD + "x,h100,down_proj,bf16,1,8,8,1e-6\n", "holds tables of h100, none of rtx-4090"),
        (HEAD, "has no rows"),
        ("source,device,op\n", r"gemm\.csv: lacks the columns"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(tmp_path: Path, content: str, part: str) -> None:
    path = tmp_path / "gemm.csv"
    path.write_text(content)
    spec, _ = load_device("rtx-4090")
    base = own_model(spec)
    with pytest.raises(InputError, match=part) as caught:
        table_model(spec, [path], base)
    assert "\n" not in str(caught.value)


def decode_op(model: TableModel, n: int, keys: int) -> tuple[float, float]:
    """Seconds of a decode attention op by the tables, and by the device's own model."""
    shape = {"heads_q": 32, "heads_kv": 8, "head_dim": 128, "window": 0, "kv_bytes": 2.0,
             "batch": n, "tokens": n, "pairs": n * keys, "kv": n * keys, "decodes": n,
             "decode_kv": n * keys}  # fmt: skip
    op = Op("attention_decode", "attention", "attention_decode", "decode", shape, "bf16", 1.0,
            kv_read_bytes=2.0 * 8 * 128 * n * keys * 2.0)  # fmt: skip
    return model.cost(op).seconds, model.base.cost(op).seconds


def test_attention_goes_on_beyond_its_grid(measured: tuple[TableModel, Path]) -> None:
    """The edge's measured time times the model's ratio; nothing jumps at the edge."""
    model, _ = measured
    edge, own = decode_op(model, 256, 16_384)
    assert decode_op(model, 255, 16_300)[0] < edge
    for n, keys in ((257, 16_384), (256, 16_385), (512, 16_384), (256, 65_536), (900, 40_000)):
        found, beyond = decode_op(model, n, keys)
        assert found == pytest.approx(edge * beyond / own, rel=1e-12)
        assert found > edge
    assert decode_op(model, 256, 16_385)[0] == pytest.approx(edge, rel=1e-3)
    wide, own = decode_op(model, 300, 1000)  # one axis beyond, the other inside
    short, inside = decode_op(model, 256, 1000)
    assert wide == pytest.approx(short * own / inside, rel=1e-12)


def test_experts_go_on_beyond_their_grid() -> None:
    """Tokens beyond the last row: the model's ratio, from the edge's time; inside: no change."""
    spec, _ = load_device("rtx-4090")
    base = own_model(spec)
    points = [(t, a) for t in (1.0, 64.0, 1024.0) for a in (1.0, 4.0, 8.0)]
    grid = filled_grid(np.array(points), np.array([1e-5 * (t + 50 * a) for t, a in points]))
    model = TableModel(base, {}, {}, {(4096, 14_336, 8, 2): grid}, 9, hardware(spec), {})
    layer = MixtureOfExperts(hidden=4096, experts=8, top_k=2, width=14_336)

    def seconds(m: TableModel | CalibratedModel, tokens: int) -> float:
        loads = Loads(np.full(8, tokens * 2 / 8), np.ones(8))
        op = layer.expert_op(loads, Run(Numerics("bf16"), "flash"))
        return m.cost(op).seconds

    edge = seconds(model, 1024)
    assert edge == pytest.approx(1e-5 * (1024 + 400), rel=1e-12)
    for tokens in (1028, 4096, 65_536):
        ratio = seconds(base, tokens) / seconds(base, 1024)
        assert seconds(model, tokens) == pytest.approx(edge * ratio, rel=1e-12)
    assert seconds(model, 512) == pytest.approx(1e-5 * (512 + 400), rel=1e-12)

"""Do kernel tables give back what was measured, interpolate between and say what is wrong?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.calibrated.scalar import MOE_GRID
from opbyte.devices.catalog import load_device
from opbyte.devices.device import build_device
from opbyte.devices.grid import filled_grid, grid_rows
from opbyte.devices.tables import Curve, TableModel, table_model, whole_tiles
from opbyte.workloads.errors import InputError
from opbyte.workloads.kernel_tables import read_tables


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
def test_a_bilinear_function_is_met_exactly(
    slopes: list[float], at: tuple[float, float], hole: bool
) -> None:
    """Multilinear interpolation has no error on a + b x + c y + d x y, a hole in the grid or not."""
    b, c, d = slopes

    def truth(x: float, y: float) -> float:
        return 1.0 + b * x + c * y + d * x * y

    points = [(x, y) for x in (1.0, 4.0, 16.0) for y in (1.0, 8.0, 64.0)]
    if hole:
        points.remove((4.0, 8.0))
    grid = filled_grid(np.array(points), np.array([truth(x, y) for x, y in points]))
    found = grid_rows(MOE_GRID, grid, np.array([at]))[0]
    assert found == pytest.approx(truth(*at), rel=1e-12)


def test_a_grid_is_constant_below_and_above() -> None:
    points = np.array([(x, y) for x in (1.0, 2.0) for y in (1.0, 2.0)])
    grid = filled_grid(points, points.sum(axis=1))
    rows = grid_rows(MOE_GRID, grid, np.array([[0.5, 0.5], [9.0, 9.0]]))
    assert rows.tolist() == [2.0, 4.0]


@pytest.fixture
def measured(data_set: Callable[[str], Path]) -> tuple[TableModel, Path]:
    folder = data_set("serving_runs") / "rtx4090--llama-3.1-8b" / "kernels"
    spec, _ = load_device("rtx-4090")
    base = next(iter(build_device(spec, calibrated=True).processors.values())).model
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


HEAD = "source,device,op,dtype,m,n,k,measured_s\n"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (HEAD + "x,rtx-4090,down_proj,bf16,1,8,8,abc\n", r"gemm\.csv:2: measured_s is 'abc'"),
        (HEAD + "x,rtx-4090,down_proj,bf16,1,8,8,1e-6\nx,rtx-4090,down_proj,bf16,-1,8,8,1e-6\n",
         r"gemm\.csv:3: m is '-1'"),
        (HEAD + "x,h100,down_proj,bf16,1,8,8,1e-6\n", "holds tables of h100, none of rtx-4090"),
        (HEAD, "holds tables of nothing, none of rtx-4090"),
        ("source,device,op\n", r"gemm\.csv: lacks the columns"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(tmp_path: Path, content: str, part: str) -> None:
    path = tmp_path / "gemm.csv"
    path.write_text(content)
    spec, _ = load_device("rtx-4090")
    base = next(iter(build_device(spec, calibrated=True).processors.values())).model
    with pytest.raises(InputError, match=part) as caught:
        table_model(spec, [path], base)
    assert "\n" not in str(caught.value)

"""Is making activations fp8 an op of its own, priced by its own rows, and do products and it add up?

Expected values: the rows of `quantize.csv` (measured_2026 of the data folder), and orders that any kernel obeys.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.calibrated import gemm
from opbyte.devices.calibrated.calibrate import by_device
from opbyte.devices.calibrated.family import families
from opbyte.devices.calibrated.hardware import C_FP8, INPUT_BYTES, WEIGHT_BYTES, hardware
from opbyte.devices.calibrated.kernel_sets import LABELS, load_set
from opbyte.devices.catalog import load_device
from opbyte.workloads.kernel_tables import Skipped, read_tables

FOUND = (gemm.BY_ROW_KERNELS, gemm.TENSOR_SCALE_KERNELS["fp8"])
"""Kernels that find a tensor's scale, vLLM's rows' and TensorRT-LLM's."""
M, N, K, QUANTISED = map(gemm.QUANTITIES.index, ("m", "n", "k", "quantised"))
sizes = st.integers(1, 40_000)


def seconds(device: str, engine: str, m: float, n: float, k: float, kernels: float) -> float:
    """A product, or without columns the kernel that makes its inputs fp8."""
    spec = load_device(device)[0]
    entry = load_set(str(spec.kernels)).find("gemm", engine)
    assert entry is not None
    x = np.array([[m, n, k, 1, C_FP8, WEIGHT_BYTES[C_FP8], INPUT_BYTES[C_FP8], kernels, gemm.COLD, 0, 0]])
    return float(families()["gemm"].seconds(entry.values(families()["gemm"]), hardware(spec), x)[0])


@given(
    device=st.sampled_from(["h100", "h200", "b200", "gb200", "l40s"]), engine=st.sampled_from(list(LABELS)),
    m=sizes, n=sizes, k=sizes, kernels=st.sampled_from([1.0, *FOUND]),
)  # fmt: skip
def test_a_product_and_its_inputs_kernel_add_up(
    device: str, engine: str, m: int, n: int, k: int, kernels: float
) -> None:
    both, alone = (seconds(device, engine, m, n, k, q) for q in (kernels, 0.0))
    assert both == pytest.approx(alone + seconds(device, engine, m, 0, k, kernels), rel=1e-9)


@given(
    device=st.sampled_from(["h100", "b200", "rtx-pro-6000"]), engine=st.sampled_from(list(LABELS)),
    rows=sizes, cols=sizes, more=st.integers(1, 3),
)  # fmt: skip
def test_more_values_never_take_less_nor_does_a_scale_to_be_found(
    device: str, engine: str, rows: int, cols: int, more: int
) -> None:
    one = seconds(device, engine, rows, 0, cols, 1.0)
    assert 5e-7 < one <= min(seconds(device, engine, rows * a, 0, cols * b, 1.0) for a, b in ((more, 1), (1, more)))
    assert all(seconds(device, engine, rows, 0, cols, q) >= one for q in FOUND)


def test_a_table_of_differences_becomes_whole_kernels(tmp_path: Path) -> None:
    head = "source,device,kernel,dtype,rows,cols,impl,timing,measured_s\n"
    rows = [f"aiconfigurator/{engine}-1,H100-SXM-80GB,{kernel},fp8,{m},4096,x,graph,{s}"
            for engine in ("vllm", "sglang", "trtllm") for m, kernel, s in (
                (8, "scale_matrix", 2e-6), (8, "compute_scale", 5e-6), (9, "compute_scale", 5e-6))]  # fmt: skip
    path = tmp_path / "quantize.csv"
    path.write_text(head + "\n".join(rows) + "\n")
    read, skipped = read_tables([path])
    found = families()["gemm"].from_table(read["gemm"])
    assert read["gemm"]["measured_s"].tolist() == pytest.approx([7e-6, 2e-6, 7e-6])
    assert found[:, QUANTISED].tolist() == [1.0, 1.0, gemm.TENSOR_SCALE_KERNELS["fp8"]]
    assert found[:, [M, N, K]].tolist() == [[8, 0, 4096]] * 3
    assert len(skipped) == 6
    assert {s.line for s in skipped if "serves another kernel" in s.reason} == {2, 5, 6}
    (tmp_path / "gemm.csv").write_text(
        "source,device,kernel,dtype,m,n,k,batch,timing,measured_s\na,H100,gemm,fp8,8,0,8,1,graph,1e-6\n"
    )
    assert "n is '0'" in read_tables([tmp_path / "gemm.csv"])[1][0].reason


@pytest.mark.skipif("OPBYTE_DATA" not in os.environ, reason="OPBYTE_DATA names no data folder")
def test_its_own_rows_price_it() -> None:
    """Shapes behind the sets' fits: within 12 %, 8 in the median, where the framework's products were timed too."""
    folder = Path(os.environ["OPBYTE_DATA"]) / "measured_2026"
    skipped: list[Skipped] = []
    read, _ = read_tables([folder / "quantize.csv", folder / "gemm.csv"])
    off: list[float] = []
    for spec, held in by_device(read, skipped).values():
        rows = held["gemm"]
        for engine in ("vllm", "trtllm"):
            own = (rows.labels == LABELS[engine]) & (rows.x[:, N] == 0.0)
            for kernels in np.unique(rows.x[own, QUANTISED]):
                at = own & (rows.x[:, QUANTISED] == kernels)
                entry = load_set(str(spec.kernels)).find("gemm", engine)
                assert entry is not None
                ratio = rows.family.seconds(entry.values(rows.family), rows.h, rows.x[at]) / rows.measured[at]
                off.append(float(np.median(np.abs(ratio - 1.0))))
    assert len(off) == 16
    assert max(off) < 0.12
    assert np.median(off) < 0.08
    assert {s.reason for s in skipped} == {
        "no matmul of the same framework was measured"
    }  # RTX PRO 6000, H100 under vLLM

"""Do ``opbyte calibrate`` and ``opbyte validate kernels`` keep their contracts?"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opbyte.analysis.cli import main
from opbyte.analysis.validate.calibrate import calibrate
from opbyte.analysis.validate.kernels import validate_kernels
from opbyte.devices.calibrated.terms import COLD
from opbyte.devices.catalog import load_device
from opbyte.workloads.errors import InputError

from ..devices.pieces import gemm_on_h100

HEAD = "source,device,kernel,dtype,m,n,k,batch,timing,measured_s"

# Bars of the median absolute error on unseen shapes; of the others, what one efficiency and one
# constant reach has to be beaten.
DEVICES = ("a100-80gb", "h100", "h200", "l40s")
BARS = {
    ("gemm", "mi300x"): 0.05,
    **{
        (family, device): bar
        for family, bars in {
            "gemm": (0.08, 0.09, 0.11, 0.19),
            "attention_prefill": (0.10, 0.16, 0.18, 0.23),
            "attention_decode": (0.16, 0.20, 0.23, 0.21),
            "moe": (0.13, 0.16, 0.20, 0.16),
        }.items()
        for device, bar in zip(DEVICES, bars, strict=True)
    },
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Rows that the GEMM model itself made for an H100 with other parameters."""
    family, h = gemm_on_h100()
    rng = np.random.default_rng(0)
    shapes = 2.0 ** (4 + np.array(np.unravel_index(rng.permutation(1000)[:120], (10, 10, 10))).T)
    x = np.array([[m, n, k, 1, 0, 2, 2, 0, COLD, 0, 0] for m, n, k in shapes])
    seconds = family.seconds(family.defaults, h, x)
    lines = [HEAD] + [
        f"lab/one,H100-SXM-80GB,gemm,bf16,{m:g},{n:g},{k:g},1,kernel,{t:.6g}"
        for (m, n, k), t in zip(shapes, seconds, strict=True)
    ]
    path = tmp_path / "gemm.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def test_what_calibrate_writes_is_a_device(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("calibrate", str(table), "--device", "h100", "--date", "2026-01-31", "--json", "--out", str(out)) == 0
    printed = json.loads(capsys.readouterr().out)
    fit = printed["devices"]["h100"]["gemm"]
    assert fit["rows"] == 120
    assert fit["errors"]["by_shape"]["median_ape"] < 0.02
    spec, sources = load_device(out / "h100.yaml")
    assert spec.name == "h100-calibrated"
    stored = spec.calibration["gemm"]
    assert stored.date == "2026-01-31"
    assert stored.parameters["launch_s"] == pytest.approx(fit["parameters"]["launch_s"], rel=1e-4)
    assert "120 rows" in sources["calibration.gemm.parameters.launch_us"]


def test_a_table_becomes_a_device_of_ones_own(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Finding U21: the printed device can be calibrated, and checked with what calibrate writes."""
    assert run("init", "device") == 0
    (own := tmp_path / "own.yaml").write_text(capsys.readouterr().out)
    table.write_text(table.read_text().replace("H100-SXM-80GB", "my-device"))
    assert run("calibrate", str(table), "--device", str(own), "--out", str(tmp_path / "fit")) == 0
    before, after = (
        validate_kernels([table], device=str(file)).checks[0].errors.median_ape
        for file in (own, tmp_path / "fit/my-device.yaml")
    )
    assert after < 0.05 < before


def test_calibrating_twice_writes_the_same(table: Path) -> None:
    first, second = (calibrate([table], "h100", date="2026-01-31").yaml("h100") for _ in range(2))
    assert first == second


def test_a_device_without_rows_is_refused(table: Path) -> None:
    with pytest.raises(InputError, match="l40s"):
        calibrate([table], "l40s")


def test_validate_reports_errors_and_writes_predictions(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "rows.csv"
    run("validate", "kernels", str(table), "--predictions", str(target), "--json")
    printed = json.loads(capsys.readouterr().out)
    (row,) = printed["rows"]
    assert {"family", "device", "n", "median_ape", "p90_ape", "median_bias"} <= set(row)
    assert (row["family"], row["device"], row["n"]) == ("gemm", "h100", 120)
    with target.open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 120
    assert float(rows[0]["error"]) == pytest.approx(
        float(rows[0]["predicted_s"]) / float(rows[0]["measured_s"]) - 1, abs=1e-4
    )


def test_times_past_the_bounds_fail(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = table.read_text().splitlines()
    slow = [f"{row.rpartition(',')[0]},{3 * float(row.rpartition(',')[2]):.6g}" for row in lines[1:]]
    table.write_text("\n".join([lines[0], *slow]) + "\n")
    assert run("validate", "kernels", str(table), "--json") == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_wrong_tables_are_named_and_never_used(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = table.read_text().splitlines()
    head, seconds = lines[1].rpartition(",")[0], float(lines[1].rpartition(",")[2])
    lines.append(f"{head},{seconds / 1000:.6g}")
    lines.append(f"{head},0")
    lines.append(f"{head.replace('H100-SXM-80GB', 'H101')},{seconds}")
    lines += [f"{head},{seconds * 1e6:.6g}", lines[1]]
    table.write_text("\n".join(lines) + "\n")
    run("validate", "kernels", str(table), "--json")
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert printed["rows"][0]["n"] == 120
    by_line = {row["line"]: row["reason"] for row in printed["skipped"]}
    assert set(by_line) == {122, 123, 124, 125, 126}
    assert "beats the device's roofline" in by_line[122]
    assert "not a positive number" in by_line[123]
    assert "unknown device" in by_line[124]
    assert "far above the device's roofline" in by_line[125]
    assert by_line[126] == "repeats line 2"
    assert f"{table}:122" in err


def test_a_missing_table_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate", "kernels", "nowhere/gemm.csv") == 2
    assert "nowhere/gemm.csv" in capsys.readouterr().err


def test_the_catalog_meets_its_bounds(data_set: Callable[[str], Path]) -> None:
    result = validate_kernels([data_set("measured")])
    failed = [(c.rows.family.name, c.device) for c in result.checks if c.passed is False]
    assert not failed
    assert all("means of two kernels" in s.reason for s in result.skipped if s.line)


@pytest.mark.parametrize(("family", "device"), BARS)
def test_errors_on_unseen_shapes(family: str, device: str) -> None:
    found = load_device(device)[0].calibration[family].errors["by_shape"]
    bar = BARS[family, device]
    assert found.median_ape <= bar
    assert found.p90_ape <= 2.5 * bar + 0.15
    assert abs(found.median_bias) <= 0.05


def test_figures_are_written(table: Path, tmp_path: Path) -> None:
    run("validate", "kernels", str(table), "--out", str(tmp_path / "out"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"gemm.png", "kernels.json", "predictions.csv"} <= names

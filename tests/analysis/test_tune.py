"""Do `opbyte tune` and sweeps of kernels keep their contract: JSON, files, agreement, bad input?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opbyte.analysis.answers.tune import tune
from opbyte.analysis.answers.tune_host import tune_rows
from opbyte.analysis.plots import save
from opbyte.analysis.studies.sweep import sweep
from opbyte.devices.catalog import load_device
from opbyte.devices.tiles.machine import SETTINGS, changed_spec, machine_of
from opbyte.devices.tiles.rank import TERMS
from opbyte.workloads.errors import InputError

from .conftest import Ask

SHAPE = {"tokens": 64, "experts": 128, "topk": 8, "hidden": 4096, "inter": 1536}
TEXT = ",".join(f"{k}={v}" for k, v in SHAPE.items())
HEAD = "device,tokens,experts,topk,hidden,inter"


def test_the_answer_has_what_it_should() -> None:
    data = tune("fused_moe", SHAPE, "h100", top=5, sensitivity=True).to_dict()
    assert {"kernel", "device", "shape", "searched", "invalid", "default", "ranked",
            "calibrated_seconds", "evidence", "sensitivity"} <= set(data)  # fmt: skip
    assert [row["rank"] for row in data["ranked"]] == [1, 2, 3, 4, 5]
    for row in data["ranked"]:
        assert set(row["terms"]) == set(TERMS)
        assert set(row["config"]) == {"block_m", "block_n", "block_k", "group_m", "warps", "stages"}
        assert row["why"].startswith(("memory-bound", "bound by"))
    assert data["default"]["config"]["block_m"] == 16
    assert {s["parameter"] for s in data["sensitivity"]} == set(SETTINGS)
    best = data["ranked"][0]["seconds"]
    for s in data["sensitivity"]:
        better = s["factor"] > 1 and not s["parameter"].endswith("latency_ns")
        better |= s["factor"] < 1 and s["parameter"].endswith("latency_ns")
        assert s["seconds"] <= best * (1 + 1e-9) if better else s["seconds"] >= best * (1 - 1e-9)
        assert s["kept_seconds"] is None or s["kept_seconds"] >= s["seconds"] * (1 - 1e-9)
    assert json.dumps(data)


def test_it_agrees_with_the_calibrated_family_at_the_default() -> None:
    """Both know the grouped product of an H100: within the errors that they state, 20 %."""
    answer = tune("fused_moe", SHAPE, "h100")
    assert answer.calibrated_s == pytest.approx(answer.tuned.default.seconds, rel=0.2)


@pytest.mark.parametrize(
    ("device", "dtype", "told"),
    [("h100", "nvfp4", True), ("a100-80gb", "fp8", True), ("a100-80gb", "w4a16_mxfp4", False), ("l4", "fp8", False),
     ("l40s", "mxfp4", True), ("b300", "nvfp4", False), ("rtx-pro-6000", "mxfp4", False), ("a40", "bf16", False)],
)  # fmt: skip
def test_a_format_without_units_is_told(device: str, dtype: str, told: bool) -> None:
    answer = tune("gemm", {"m": 64, "n": 4096, "k": 4096, "dtype": dtype}, device, top=1)
    line = f"{answer.tuned.machine.name} has no units for {dtype}: at the rate of the next wider format"
    assert (line in answer.evidence) is told


def test_many_shapes_are_as_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "shapes.csv"
    path.write_text(
        f"{HEAD},block_m,block_n,block_k,group_m,warps,stages\n"
        "h100,64,128,8,4096,1536,16,128,128,1,4,3\nA40-48GB,64,128,8,4096,1536,16,32,64,1,4,3\n"
    )
    many = tune_rows("fused_moe", path, top=3)
    first = tune("fused_moe", SHAPE, "h100", top=3)
    row = many.to_dict()["rows"][0]
    assert row["ranked"][0]["seconds"] == first.tuned.ranked[0].seconds
    assert row["given"]["config"]["block_n"] == 128
    assert row["given"]["seconds"] >= row["ranked"][0]["seconds"]
    assert many.to_dict()["rows"][1]["device"] == "a40"
    assert len(row["ranked"]) == 3


def test_a_grid_is_searched_instead(tmp_path: Path) -> None:
    grid = tmp_path / "grid.csv"
    grid.write_text("block_m,block_n,block_k,group_m\n64,64,64,1\n64,64,64,16\n")
    data = tune("fused_moe", SHAPE, "h100", grid=grid).to_dict()
    assert data["searched"] == 2 * 2 * 4
    assert {row["config"]["block_m"] for row in data["ranked"]} == {64}
    assert all(row["also"] in ([], [16]) for row in data["ranked"])


def test_figures_are_drawn(tmp_path: Path, ask: Ask) -> None:
    out = tmp_path / "one"
    asked = f"tune fused_moe --shape {TEXT} --device a40 --sensitivity --out {out}"
    assert ask(*asked.split()).code == 0
    names = {p.name for p in out.iterdir()}
    assert names == {"report.html", "terms.png", "shared_memory.png", "tune.csv", "tune.json"}
    path = tmp_path / "shapes.csv"
    path.write_text(f"{HEAD}\nh100,16,8,2,4096,14336\nh100,2048,8,2,4096,14336\n")
    figure = tune_rows("fused_moe", path).drawings()[0].figure
    save(figure, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_a_default_that_cannot_run_is_not_said_to_be_faster(ask: Ask) -> None:
    told = ask(*f"tune fused_moe --shape {TEXT} --device h100 --set shared_memory_KiB=8".split()).out
    assert "cannot run: " in told
    assert "times as long" not in told


def test_a_grid_of_which_nothing_fits_is_an_error(tmp_path: Path, ask: Ask) -> None:
    grid = tmp_path / "grid.csv"
    grid.write_text("block_m,block_n,block_k,group_m\n256,256,256,1\n")
    line = f"tune fused_moe --shape {TEXT} --device h100 --set shared_memory_KiB=8 --grid {grid}"
    answer = ask(*line.split())
    assert answer.code == 2
    assert "no configuration" in answer.err


BAD = {
    f"tune fused_mo --shape {TEXT} --device h100": ("fused_mo", "did you mean 'fused_moe'?"),
    "tune fused_moe --device h100": ("--shape", "--shapes"),
    f"tune fused_moe --shape {TEXT}": ("--device",),
    f"tune fused_moe --shape {TEXT} --device h10": ("h10",),
    f"tune fused_moe --shape {TEXT} --device duplex": ("duplex", "cores and clock_MHz"),
    "tune fused_moe --shape tokens=64 --device h100": ("experts", "is missing"),
    f"tune fused_moe --shape {TEXT},x=1 --device h100": ("x", "is not a key"),
    f"tune fused_moe --shape {TEXT},dtype=fp7 --device h100": ("dtype", "format"),
    "tune gemm --shape m=0,n=1,k=1 --device h100": ("m", "whole number from 1"),
    "tune gemm --shape m=1.5,n=1,k=1 --device h100": ("m", "whole number"),
    "tune gemm --shape m --device h100": ("--shape", "KEY=VALUE"),
    f"tune fused_moe --shape {TEXT} --device h100 --set shared=3": ("shared", "did you mean 'shared_memory_KiB'?"),
    f"tune fused_moe --shape {TEXT} --device h100 --set cores=x": ("cores", "number"),
    f"tune fused_moe --shape {TEXT} --device h100 --config block_m=0,block_n=64,block_k=64": ("block_m",),
    f"tune fused_moe --shape {TEXT} --device h100 --grid absent.csv": ("absent.csv",),
    f"tune fused_moe --shape {TEXT} --device h100 --top 0": ("--top",),
    "tune fused_moe --shapes absent.csv": ("absent.csv",),
    "validate configs absent": ("absent", "no such file"),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_told_in_one_line(line: str, ask: Ask) -> None:
    answer = ask(*line.split())
    assert answer.code == 2
    assert len(answer.err.strip().splitlines()) == 1
    for part in BAD[line]:
        assert part in answer.err


def test_bad_lines_of_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "shapes.csv"
    path.write_text(f"{HEAD}\nh100,16,8,2,4096,14336\nh100,0,8,2,4096,14336\n")
    with pytest.raises(InputError, match=r"shapes.csv:3: .*tokens"):
        tune_rows("fused_moe", path)
    path.write_text(f"{HEAD}\nh10,16,8,2,4096,14336\n")
    with pytest.raises(InputError, match=r"shapes.csv:2: .*h10"):
        tune_rows("fused_moe", path)
    grid = tmp_path / "grid.csv"
    grid.write_text("block_m,block_n,block_k,group_m\n64,64,zero,1\n")
    with pytest.raises(InputError, match=r"grid.csv:2: block_k"):
        tune("fused_moe", SHAPE, "h100", grid=grid)


@pytest.mark.parametrize("setting", sorted(SETTINGS))
def test_a_changed_description_is_the_changed_machine(setting: str) -> None:
    spec, _ = load_device("h100")
    value = machine_of(spec).value(setting) * 2
    changed = machine_of(changed_spec(spec, {setting: value}))
    other = machine_of(spec).changed({setting: value}).vector
    assert (*changed.vector[:-1], *changed.vector.rate) == pytest.approx((*other[:-1], *other.rate))


def study(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def test_kernels_are_chosen_for_every_variant(tmp_path: Path) -> None:
    path = study(
        tmp_path,
        "base: {kernel: best, model: mixtral-8x7b, system: h100-x2, batch: 32, context: 1024}\n"
        "axes: {device.shared_memory_KiB: [114, 228, 456]}\nobjectives: {step_s: min}\n",
    )
    result = sweep(path, tmp_path / "out", workers=1)
    rows = result.table
    assert [row["device.shared_memory_KiB"] for row in rows] == [114, 228, 456]
    steps = [row["step_s"] for row in rows]
    assert steps == sorted(steps, reverse=True)
    for row in rows:
        assert row["step_s"] <= row["default_step_s"]
        assert row["kept_step_s"] is None or row["step_s"] <= row["kept_step_s"] * (1 + 1e-9)
        kernels = [k["kernel"] for k in result.kernels if k["point"] == row["point"]]
        assert set(kernels) == {"gemm", "fused_moe", "attention_decode"}
    assert rows[1]["step_s"] == pytest.approx(rows[1]["kept_step_s"])
    assert rows[1]["kernels_changed"] == 0 < rows[0]["kernels_changed"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("base: {kernel: bes, model: m, system: s}\naxes: {batch: [1]}\n", "base.kernel"),
        ("base: {kernel: best, model: m, system: s}\n", "axes"),
        ("base: {kernel: best, model: m, system: s}\naxes: {device.core: [1]}\n", "device.core"),
        ("base: {kernel: best, model: m}\naxes: {batch: [1]}\n", "base.system"),
        ("base: {kernel: best, model: m, system: s}\naxes: {batch: [1]}\nsamples: 3\n", "samples"),
    ],
)
def test_bad_studies_of_kernels_are_told(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        sweep(study(tmp_path, text), tmp_path / "out")


def test_a_variant_that_fails_says_why(tmp_path: Path) -> None:
    path = study(
        tmp_path, "base: {kernel: best, model: mixtral-8x7b, system: h100-x2}\naxes: {device.cores: [0.5, 132]}\n"
    )
    first, second = sweep(path, tmp_path / "out", workers=1).table
    assert "whole number" in first["error"]
    assert second["error"] is None

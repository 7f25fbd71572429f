"""Does a sweep know what its points depend on: files, code, spellings of one parameter?"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from opbyte.analysis.answers.identity import UNREADABLE, identity
from opbyte.analysis.show.record import code_version
from opbyte.analysis.studies.sweep import sweep
from opbyte.analysis.studies.sweep.expression import parse
from opbyte.analysis.studies.sweep.file import read_sweep
from opbyte.analysis.studies.sweep.outcomes import key_of
from opbyte.analysis.studies.sweep.point import scenario_of
from opbyte.devices.catalog import load_system
from opbyte.simulator.scenario.load import changed_system
from opbyte.workloads.errors import InputError

BASE = "base: {model: llama-3-8b, system: h100-x1, requests: 20, input_len: 64, output_len: 8}\n"


def test_a_prefix_of_clients_is_known_by_its_files(tmp_path: Path, root: Path) -> None:
    """A ServeGen trace given by what its files' names start with is no file of that name."""
    for name in ("a", "b"):
        (tmp_path / f"pre-{name}-trace.csv").write_text(f"{name}\n")
        (tmp_path / f"pre-{name}-dataset.json").write_text("{}")
    point = {"trace": str(tmp_path / "pre")}
    first = identity(point)
    assert not first["trace"].startswith(UNREADABLE)
    (tmp_path / "pre-b-trace.csv").write_text("c\n")
    second = identity(point)
    assert second != first
    for path in tmp_path.glob("pre-b-*"):
        path.unlink()
    assert identity(point) not in (first, second)


def test_points_of_files_that_cannot_be_read_are_never_taken_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(BASE.replace("input_len: 64, output_len: 8", "trace: gone.csv") + "axes: {rate: [1]}\n")
    for _ in range(2):
        result = sweep(file, tmp_path / "out", workers=1)
        assert (result.ran, result.failed) == (1, 1)
        assert "gone.csv" in str(result.table[0]["error"])
    assert identity({"trace": "gone.csv"})["trace"].startswith(UNREADABLE)


def test_a_model_folder_is_known_by_its_configuration_alone(tmp_path: Path, root: Path) -> None:
    """Weights beside it (20 GB of them, once) are not read."""
    (tmp_path / "config.json").write_text("{}")
    point = {"model": str(tmp_path)}
    first = identity(point)
    (tmp_path / "model.safetensors").write_bytes(b"1")
    assert identity(point) == first
    (tmp_path / "config.json").write_text("{ }")
    assert identity(point) != first


def test_changed_code_computes_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key holds the code's version, and that is a digest of files, not of nothing."""
    root = Path(str(files("opbyte")))
    assert code_version.__wrapped__() == code_version()
    source = (root / "simulator" / "engine" / "loop.py").resolve()
    text = Path.read_bytes
    with monkeypatch.context() as changed:
        changed.setattr(Path, "read_bytes", lambda p: text(p) + b"#" * (p.resolve() == source))
        other = code_version.__wrapped__()
    assert other != code_version()
    study = read_sweep(_small_file(tmp_path))
    (point,) = study.points()
    assert key_of(point.settings, other, {}) != key_of(point.settings, code_version(), {})


def _small_file(tmp_path: Path) -> Path:
    file = tmp_path / "s.yaml"
    file.write_text(BASE + "axes: {rate: [1]}\n")
    return file


def test_an_edited_dram_is_another_point(tmp_path: Path) -> None:
    device, dram = tmp_path / "own.yaml", tmp_path / "slow.yaml"
    device.write_text("extends: duplex-gpu\nname: own\nmemory: {dram: {standard: ./slow.yaml}}\n")
    found = set()
    for clocks in (900, 901):
        dram.write_text(
            "extends: hbm3-5200-8hi\nname: slow\ntitle: slow\n"
            f'timings: {{RFC: {{value: {clocks}, source: "assumed: a test"}}}}\n'
        )
        found.add(identity({"system": str(device)})["system"])
    assert len(found) == 2


def test_paths_start_at_the_sweep_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "studies"
    below.mkdir()
    (tmp_path / "mine.yaml").write_text(
        "extends: h100\nname: mine\nmemory:\n  bandwidth_GBps: {value: 4000, source: assumed: no}\n"
        .replace("assumed: no", '"assumed: a test"')
    )  # fmt: skip
    file = below / "s.yaml"
    file.write_text(BASE.replace("h100-x1", "../mine.yaml") + "axes: {rate: [1]}\n")
    monkeypatch.chdir(tmp_path)
    (point,) = read_sweep("studies/s.yaml").points()
    assert Path(str(point.settings["system"])) == below / ".." / "mine.yaml"
    assert scenario_of(point.settings).system == str(point.settings["system"])
    assert point.settings["model"] == "llama-3-8b"
    key = key_of(point.settings, "1", {})
    monkeypatch.chdir(below)
    (again,) = read_sweep("s.yaml").points()
    assert key_of(again.settings, "1", {}) == key  # wherever it is started from


def test_peaks_are_set_together() -> None:
    """Two values below one key with a unit: the second meets the first's spelling."""
    peak = "device.processors.xpu.peak_TFLOPS"
    system = changed_system("h100-x1", ((f"{peak}.bf16", 1500), (f"{peak}.fp16", 1400)))
    peaks = system.device.processors["xpu"].peak_flops_per_s
    assert peaks is not None
    assert (peaks["bf16"], peaks["fp16"]) == (1500e12, 1400e12)
    assert peaks["fp8"] == load_system("h100-x1").device.processors["xpu"].peak_flops_per_s["fp8"]


def test_text_is_never_repeated_or_formatted() -> None:
    with pytest.raises(InputError, match="is not a condition"):
        parse("'a'*9999999*9999999 == 'b'", "c", {"model"})
    assert not parse("model * 9999999999 == 1", "c", {"model"}).holds({"model": "a"})


def test_a_study_without_model_or_system_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("base: {model: llama-3-8b}\naxes: {rate: [1]}\n")
    with pytest.raises(InputError, match=r"base.system: is needed, here or as an axis"):
        read_sweep(file)


def test_objectives_that_no_point_has(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gco2_per_token: has no value: give grid_gCO2_per_kWh"):
        sweep(_small_file(tmp_path), tmp_path / "out", objectives={"gco2_per_token": "min"}, workers=1)

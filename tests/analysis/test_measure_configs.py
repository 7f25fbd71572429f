"""Does `opbyte measure configs` time every configuration, and judge the model on shapes it never saw?

No time is asserted: a test machine is never quiet.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from opbyte.analysis.validate import cpu_configs, measure_configs
from opbyte.devices.tiles.cpu import FORMS, Core
from opbyte.kernels import configs
from opbyte.kernels.blocked import GemmConfig
from opbyte.kernels.configs import SPACES
from opbyte.kernels.gpu_measure import GpuSearched
from opbyte.kernels.host import this_host
from opbyte.kernels.timing import CallSeconds

from .conftest import Ask

CORE = Core(16, 32, 48 << 10, 1 << 20, 32 << 20, 250e9, 28e9, 225e9, 100e9)


def made_up(noise: float, wrong: float = 1.0) -> list[dict[str, Any]]:
    """Rows of a machine that follows the model with other constants."""
    space, form, rng = SPACES[0], FORMS["gemm"], np.random.default_rng(3)
    truth = {**form.start, "tile": 60.0, "drawn": 0.7}
    return [
        {"kernel": "gemm", **shape, **asdict(c), "steady": 1, **asdict(CORE),
         "seconds": form.seconds(truth, CORE, shape, asdict(c)) * np.exp(noise * rng.normal())
         * (wrong if c.register_m == 6 else 1.0)}
        for shape in space.shapes(True) for c in space.configs()
    ]  # fmt: skip


def test_constants_are_found_again_and_the_best_is_chosen() -> None:
    found = cpu_configs.choice("gemm", made_up(0.0), asdict(SPACES[0].default))
    assert found is not None
    assert found.fitted.geomean == pytest.approx(1.0, abs=0.01)
    assert found.median_ape < 0.02
    assert found.parameters["drawn"] == pytest.approx(0.7, rel=0.03)
    assert found.random.geomean > found.default.geomean >= 1.0


def test_a_machine_unlike_the_model_shows_as_regret() -> None:
    """Where the model's favourite register tile is twice as slow, the regret says so."""
    found = cpu_configs.choice("gemm", made_up(0.01, wrong=2.0), asdict(SPACES[0].default))
    assert found is not None
    assert found.unfitted.geomean > 1.3


def test_shapes_that_the_machine_disturbed_are_left_out() -> None:
    rows = made_up(0.0)
    first = (rows[0]["m"], rows[0]["n"])
    for row in rows:
        row["steady"] = int((row["m"], row["n"]) != first)
    found = cpu_configs.choice("gemm", rows, asdict(SPACES[0].default))
    assert found is not None
    assert (found.shapes, found.left_out) == (len(SPACES[0].shapes(True)) - 1, 1)
    assert cpu_configs.choice("gemm", rows[:30], asdict(SPACES[0].default)) is None


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One register tile, four small shapes; a machine at work still counts."""
    few = replace(
        SPACES[0], shapes=lambda quick: [{"m": m, "n": 64, "k": 64} for m in (4, 8, 12, 20)],
        configs=lambda: [GemmConfig(6, 4, b, n) for b in (0, 12) for n in (4, 16, 64)],
        default=GemmConfig(6, 4, 0, 64),
    )  # fmt: skip
    for module in (configs, measure_configs):
        monkeypatch.setattr(module, "SPACES", (few,))
    monkeypatch.setattr(configs, "STEADY", 1e9)
    monkeypatch.setattr(configs, "DRIFT", 1e9)


@pytest.mark.usefixtures("small")
def test_every_configuration_is_timed_and_written(ask: Ask, tmp_path: Path) -> None:
    data = ask("measure", "configs", "--quick", "--json", "--out", tmp_path / "out").json()
    assert [row["kernel"] for row in data["rows"]] == ["gemm"]
    assert data["rows"][0]["configs"] == 24
    assert all(data["rows"][0][way]["geomean"] >= 1.0 for way in ("fitted", "default", "random"))
    table = (tmp_path / "out/tables/configs_gemm.csv").read_text().splitlines()
    assert table[0].startswith("# host: ")
    assert len(table) == 3 + 24
    assert json.loads((tmp_path / "out/configs.json").read_text())["rows"] == data["rows"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("measure", "configs", "--threads", "2"), "--threads"),
        (("measure", "configs", "--loop"), "--loop"),
        (("measure", "configs", "--only", "gem"), "did you mean 'gemm'"),
        (("measure", "tiles"), "use configs"),
    ],
)
def test_what_has_no_part_in_it_is_refused(ask: Ask, args: tuple[str, ...], says: str) -> None:
    found = ask(*args)
    assert found.code == 2
    assert says in found.err
    assert found.err.count("\n") == 1


def test_this_machine_has_a_choice_too(ask: Ask, tmp_path: Path) -> None:
    data = ask("tune", "gemm", "--device", "host", "--shape", "m=64,n=1024,k=1024", "--json",
               "--out", tmp_path / "out").json()  # fmt: skip
    seconds = [row["seconds"] for row in data["ranked"]]
    assert seconds == sorted(seconds)
    assert data["searched"] == len(SPACES[0].configs())
    assert seconds[0] <= data["default"]["seconds"]
    best = data["ranked"][0]
    assert sum(best["terms"].values()) == pytest.approx(best["seconds"])
    assert GemmConfig(**best["config"]).invalid() == ""
    assert (tmp_path / "out" / "tune.csv").is_file()


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ("m=64,n=1024", "--shape k: must be a whole number"),
        ("m=64,n=1024,k=-1", "--shape k: must be a whole number"),
        ("m=64,n=1024,k=16,depth=3", "--shape depth: is not a key of gemm"),
    ],
)
def test_a_shape_that_is_none_is_one_line(ask: Ask, shape: str, says: str) -> None:
    found = ask("tune", "gemm", "--device", "host", "--shape", shape)
    assert found.code == 2
    assert says in found.err
    assert "no configurations here" in ask("tune", "norm", "--device", "host", "--shape", "m=1").err


def test_a_gpus_search_is_written_by_kernel(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shapes of two kernels, as `search_gpu` gives them; tests/kernels/test_gpu.py makes such."""

    def searched(kernel: str, name: str, times: list[float], drift: float) -> GpuSearched:
        columns = {"kernel": kernel, "dtype": "fp16", "m": 16}
        samples = [CallSeconds(t, t, t, 10, 10) for t in times]
        configs = [{name: i} for i in range(len(times))]
        return GpuSearched(kernel, columns, configs, samples, 0, 3e12, drift)

    found = [searched("gemm", "stages", [2e-5, 1e-5, 3e-5], 0.01), searched("experts", "tiles", [1e-5, 4e-5], 0.2)]
    monkeypatch.setattr(measure_configs, "open_device", lambda: SimpleNamespace(cupy=None))
    monkeypatch.setattr(measure_configs, "search_gpu", lambda *a, **k: found)
    monkeypatch.setattr(measure_configs, "Timer", lambda cupy: None)
    monkeypatch.setattr(measure_configs, "gpu_host", lambda device: replace(this_host(1), cpu="A GPU"))
    data = ask("measure", "configs", "--backend", "cupy", "--out", tmp_path, "--json").json()
    assert [(r["default"], r["best"], r["default over best"], r["steady"]) for r in data["rows"]] == [
        ("stages=0", "stages=1", 2.0, True), ("tiles=0", "tiles=0", 1.0, False)
    ]  # fmt: skip
    lines = (tmp_path / "tables" / "configs_gpu_gemm.csv").read_text().splitlines()
    assert lines[0] == "# GPU: A GPU"
    head = lines[2].split(",")
    assert head[1:] == ["kernel", "dtype", "m", "stages", "seconds", "p10_s", "p90_s", "default", "copy_Bps", "steady"]
    assert [line.split(",")[head.index("seconds")] for line in lines[3:]] == ["2e-05", "1e-05", "3e-05"]
    assert (tmp_path / "tables" / "configs_gpu_experts.csv").is_file()


def test_a_gpus_search_refuses_what_it_cannot(ask: Ask) -> None:
    if find_spec("cupy") is None:
        assert "CuPy is not installed" in ask("measure", "configs", "--backend", "cupy").refused()

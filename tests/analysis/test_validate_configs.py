"""Are rankings of configurations as good as they should be, and is what is said of them counted right?

Bounds on the given data are those of the constants' file; the published search spaces and shares of
random picks and defaults are known exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from opbyte.analysis.validate.configs import ConfigCheck, validate_configs
from opbyte.devices.tiles import fit as score
from opbyte.devices.tiles.cpu import FORMS as CPU_FORMS
from opbyte.devices.tiles.cpu import Core
from opbyte.devices.tiles.fit import evolve
from opbyte.devices.tiles.store import bounds
from opbyte.devices.tiles.tables import read_configs
from opbyte.kernels.configs import SPACES
from opbyte.workloads.errors import InputError

from .test_fuzz import GRID, NEAR, SHAPES

FLOOR = {"A100-SXM-80GB": (0.50, 0.60), "A40-48GB": (0.40, 0.70), "H20-96GB": (0.58, 0.75), "L40-48GB": (0.40, 0.65)}
"""Least hits at 5 and 10 of a model worth having: above chance, the default and a look-up."""
SEARCHED = {"A100-SXM-80GB": 1068, "A40-48GB": 734, "H20-96GB": 1078, "L40-48GB": 734}
DEFAULT_HITS = {"A100-SXM-80GB": 0.01, "A40-48GB": 0.00, "H20-96GB": 0.28, "L40-48GB": 0.02}
RANDOM_HITS = {"A100-SXM-80GB": 0.06, "A40-48GB": 0.13, "H20-96GB": 0.08, "L40-48GB": 0.10}


@pytest.mark.parametrize("constants", ["stored", "none"])
def test_near_best_configurations_are_found(data_set: Callable[[str], Path], constants: str) -> None:
    result = validate_configs([data_set("kernel_configs")], constants)
    assert result.passed
    rows = {row["device"]: row for row in result.to_dict()["rows"]}
    assert set(rows) == set(FLOOR)
    for device, row in rows.items():
        assert row["searched"] == SEARCHED[device]
        assert row["default1"] == pytest.approx(DEFAULT_HITS[device], abs=0.006)
        assert row["random"]["5"] == pytest.approx(RANDOM_HITS[device], abs=0.006)
        assert row["hit"]["5"] >= max(FLOOR[device][0], row["look_up"]["5"])
        assert row["hit"]["10"] >= FLOOR[device][1]
        assert row["tile1"] >= 0.5
        assert max(row["best_median_ape"], row["default_median_ape"]) <= 0.12
        assert row["hit"]["1"] <= row["hit"]["5"] <= row["hit"]["10"] <= row["hit"]["20"]
        assert 0 <= row["gain"]["1"] <= row["gain"]["5"] <= row["gain"]["10"] <= 1


def test_a_known_tile_is_timed_from_half_of_its_shapes(data_set: Callable[[str], Path]) -> None:
    result = validate_configs([data_set("measured_more") / "gemm.csv"])
    (row,) = result.to_dict()["rows"]
    assert result.passed
    assert row["n"] == 5231
    assert row["best_median_ape"] <= 0.02
    assert row["best_p90_ape"] <= 0.05


def test_every_bound_belongs_to_a_check(data_set: Callable[[str], Path]) -> None:
    paths = [data_set("kernel_configs"), data_set("measured_more") / "gemm.csv"]
    measured, fixed, _ = read_configs(paths)
    assert {f"{m.form.name}/{m.machine.name}" for m in (*measured, *fixed)} == set(bounds())


def test_a_perfect_ranking_hits_always(data_set: Callable[[str], Path]) -> None:
    """The measured times themselves, what is not listed last: every figure is 1."""
    measured, _, _ = read_configs([data_set("kernel_configs")])
    some = measured[1].those(slice(None, None, 24))
    seconds = np.where(np.isnan(some.times), 1.0, some.times)
    chosen = score.picks(seconds, some.configs, 20)
    assert score.hits(some, chosen, 1) == 1.0
    assert score.tile_hits(some, chosen) == 1.0
    assert score.gain(some, chosen, 1) == pytest.approx(1.0, abs=1e-3)
    worst = score.picks(-seconds, some.configs, 20)
    assert score.hits(some, worst, 1) == 0.0


def test_every_near_best_row_is_in_its_space(data_set: Callable[[str], Path]) -> None:
    measured, _, _ = read_configs([data_set("kernel_configs")])
    rows = sum(int((~np.isnan(m.times)).sum()) for m in measured)
    assert rows == 20122


def test_predictions_are_ranked(data_set: Callable[[str], Path]) -> None:
    result = validate_configs([data_set("kernel_configs")])
    check = result.checks[0]
    assert isinstance(check, ConfigCheck)
    frame = result.predictions()
    first = frame[frame["rank"] == 1]
    assert len(first) == 4 * 288
    assert (frame["predicted_s"] > 0).all()


def test_evolution_finds_a_minimum() -> None:
    """A tilted bowl with its least at 1, -2, 0.5."""
    least = np.array([1.0, -2.0, 0.5])
    found = evolve(lambda z: float((np.array([1, 5, 2]) * (z - least) ** 2).sum()), 3, 60)
    assert found == pytest.approx(least, abs=1e-3)


@pytest.mark.parametrize(
    ("lines", "part"),
    [("device,tokens\n", "needs the file fused_moe_shapes.csv"), ("", "needs the file fused_moe_shapes.csv")],
)
def test_missing_tables_are_named(tmp_path: Path, lines: str, part: str) -> None:
    (tmp_path / "fused_moe_near_best.csv").write_text(lines)
    with pytest.raises(InputError, match=part):
        validate_configs([tmp_path])


@pytest.mark.parametrize("seconds", ["-0.0", "1e-320", "inf"])
def test_times_without_a_logarithm_are_refused(tmp_path: Path, seconds: str) -> None:
    shapes = SHAPES.replace("8.01e-06", seconds)
    for name, text in (("near_best", NEAR), ("shapes", shapes), ("grid", GRID)):
        (tmp_path / f"fused_moe_{name}.csv").write_text(text)
    with pytest.raises(InputError, match=r"default_s .* must be a number from 1e-09 to 1000000"):
        validate_configs([tmp_path])


def test_defaults_that_nobody_measured_have_no_error(tmp_path: Path) -> None:
    for name, text in (("near_best", NEAR), ("shapes", SHAPES.replace("8.01e-06", "")), ("grid", GRID)):
        (tmp_path / f"fused_moe_{name}.csv").write_text(text)
    (row,) = validate_configs([tmp_path]).to_dict()["rows"]
    assert row["default_median_ape"] is row["speedup_median_ape"] is None


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no table of configurations"):
        validate_configs([tmp_path])
    with pytest.raises(InputError, match="no such file"):
        validate_configs([tmp_path / "absent"])


def test_tables_of_measure_configs_tell_regrets(tmp_path: Path) -> None:
    """Four shapes whose times are the model's own: it chooses the best, its error is none."""
    (space,) = (s for s in SPACES if s.name == "attention_decode")
    core = Core(16, 32, 48e3, 1e6, 32e6, 1e11, 1e10, 5e10, 3e10)
    form, lines = CPU_FORMS["attention_decode"], []
    for keys in (512, 1024, 2048, 4096):
        shape = {"batch": 1, "kv_len": keys, "heads_q": 8, "heads_kv": 2, "head_dim": 128, "window": 0}
        for config in map(asdict, space.configs()):
            row = {"device": "host", "kernel": "attention_decode", **shape, **config,
                   "seconds": form.seconds(form.start, core, shape, config), "steady": 1,
                   **asdict(core)}  # fmt: skip
            lines.append(",".join(map(str, row.values())))
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables" / "configs_attention_decode.csv"
    path.write_text("\n".join([",".join(row), *lines]) + "\n")
    result = validate_configs([tmp_path])
    (found,) = result.to_dict()["rows"]
    assert result.passed
    assert found["n"] == 4
    assert found["regret"]["model"]["geomean"] == pytest.approx(1.0, abs=1e-3)
    assert found["regret"]["default"]["geomean"] >= 1.0
    assert found["best_median_ape"] == pytest.approx(0.0, abs=0.02)

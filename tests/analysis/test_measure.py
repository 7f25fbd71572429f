"""Does `opbyte measure` write what others read, close its loop, and refuse what it cannot do?

No time is asserted: a test machine is never quiet.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from opbyte.analysis.cli import main
from opbyte.analysis.show.output import OutputFolder
from opbyte.analysis.validate.calibrate import calibrate
from opbyte.analysis.validate.host_loop import halve
from opbyte.analysis.validate.measure import Measured, measure_machine
from opbyte.devices.catalog import load_device
from opbyte.kernels import measure as measure_module
from opbyte.kernels.check import WrongResult
from opbyte.kernels.lab import NAMES, Bench, Kernel, Shape
from opbyte.kernels.timing import CallSeconds, sample
from opbyte.workloads.errors import InputError
from opbyte.workloads.kernel_tables import KernelTable, read_tables

FITTED = ("gemm", "rmsnorm", "delta_rule")
"""Kernels with enough shapes here to fit on one half and predict the other."""


@pytest.fixture(scope="module")
def measured() -> Measured:
    """Shapes of three kernels and the smallest of all others, and the loop over them."""
    every = measure_module.kernels

    def some(kernel: Kernel, quick: bool) -> list[Shape]:
        shapes = list(kernel.shapes(quick))
        if kernel.name in FITTED:  # the delta rule's are two families
            return shapes if kernel.name == "delta_rule" else shapes[::2]
        return [min(shapes, key=lambda s: math.prod(v for v in s.values() if type(v) is int and v))]

    def few(backend: str) -> list[Kernel]:
        return [replace(k, shapes=partial(some, k)) for k in every(backend)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_module, "kernels", few)
        short = replace(measure_module.QUICK, rounds=2, most_rounds=2, visit_s=0.004)
        patch.setattr(measure_module, "QUICK", short)
        patch.setattr(measure_module, "TRIES", 1)
        # No time is asserted, so the block need not be larger than a cache.
        patch.setattr(measure_module, "Bench", lambda _, threads, seed: Bench(256 << 20, threads, seed))
        return measure_machine(quick=True, lenient=True, loop=True)


@pytest.fixture(scope="module")
def folder(measured: Measured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("measured")
    with OutputFolder(path) as files:
        measured.write(files)
    return path


def test_tables_are_read_back_whole(measured: Measured, folder: Path) -> None:
    tables, skipped = read_tables([folder / "tables"])
    assert not skipped
    assert {row.name for row in measured.run.rows} == set(NAMES)
    rows = [row for row in measured.run.rows if row.family]
    assert set(tables) == {row.family for row in rows}
    assert sum(map(len, tables.values())) == len(rows)
    for name, table in tables.items():
        assert set(table["device"]) == {measured.run.host.device}
        first = (folder / "tables" / f"{name}.csv").read_text().splitlines()
        assert first[0].startswith("# host: ")
        assert "ceilings: read " in first[2]
        assert first[table.line[0] - 1].startswith("opbyte/")  # the line a message would name


def test_the_machine_is_a_device(measured: Measured, folder: Path) -> None:
    spec, sources = load_device(folder / f"{measured.run.host.device}.yaml")
    drawn = measured.run.ceilings.memory_Bps
    assert spec.memory.bandwidth_bytes_per_s == pytest.approx(drawn, rel=1e-3)
    assert spec.processors["cpu"].matrix_rows == 1
    assert all(sources.values())


def test_its_tables_can_be_fitted(measured: Measured, folder: Path) -> None:
    device = folder / f"{measured.run.host.device}.yaml"
    done = calibrate([folder / "tables" / f"{name}.csv" for name in ("gemm", "norm")], str(device))
    assert set(done.fits[measured.run.host.device]) == {"gemm", "norm"}
    fitted = folder / "fitted.yaml"
    fitted.write_text(done.yaml(measured.run.host.device))
    assert set(load_device(fitted)[0].calibration) == {"gemm", "norm"}


def test_the_loop_predicts_shapes_it_never_saw(measured: Measured, folder: Path) -> None:
    loop = measured.loop
    assert loop is not None
    assert {u.family for u in loop.unseen} == {"gemm", "norm", "delta_prefill", "delta_decode"}
    assert len(loop.steps) == 6
    assert all(step.simulated_s > 0 and step.measured_s > 0 for step in loop.steps)
    assert loop.serving.run.output_tokens == 32 * 32
    names = {path.name for path in folder.iterdir()}
    assert {"steps.csv", "steps.png", "measure.json", "toy"} <= names
    answer = json.loads((folder / "measure.json").read_text())
    assert answer["loop"]["step_median_ape"] == pytest.approx(loop.step_ape)


def test_halves_share_no_shape(folder: Path) -> None:
    table = read_tables([folder / "tables"])[0]["gemm"]
    seen, rest = halve(table)
    shapes = [set(zip(t["m"], t["n"], t["k"], strict=True)) for t in (seen, rest)]
    assert not shapes[0] & shapes[1]
    assert len(seen) + len(rest) == len(table)


def test_no_half_holds_all_of_one_kind() -> None:
    """Prompts with and without earlier keys take turns in the list of shapes."""
    shapes = [s for k in measure_module.kernels("numba") if k.name == "attention_prefill" for s in k.shapes(True)]
    columns = {name: np.array([shape[name] for shape in shapes]) for name in shapes[0]}
    columns["kv_dtype"] = np.full(len(shapes), "fp32", dtype=object)
    lines = np.arange(len(shapes))
    table = KernelTable("attention_prefill", columns, lines.astype(object), lines)
    for half in halve(table):
        assert set(half["kv_prefix"]) == {0, 128, 512}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backend", "cuda"], "must be numba or cupy"),
        (["--only", "rmsnrm"], "did you mean 'rmsnorm'"),
        (["--threads", "0"], "must be between 1 and"),
        (["--backend", "cupy", "--loop"], "use --backend numba"),
    ],
)
def test_bad_options(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["measure", *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from opbyte.kernels import gemm

    def wrong(x: np.ndarray, w: np.ndarray, out: np.ndarray, threads: int = 1) -> None:
        np.matmul(x, w.T, out=out)
        out[-1, -1] += 1.0 + abs(out).max()

    monkeypatch.setattr(gemm, "gemm", wrong)
    with pytest.raises(WrongResult, match="gemm"):
        measure_machine(quick=True, lenient=True, only=("gemm",))


def test_samples_without_an_undisturbed_repetition_say_so() -> None:
    """Then the fastest quarter stands for the rest; else only those that count do."""
    times = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    lost = CallSeconds.of(times, [False] * 8)
    assert (lost.median_s, lost.accepted, lost.taken) == (1.5, 0, 8)
    assert CallSeconds.of(times, [t > 6 for t in times]).median_s == 7.5


def test_sampling_ends() -> None:
    calls: list[int] = []
    sample(calls.append, threads=1, least=3, most=5, budget_s=10.0, warm_up=2)
    assert calls[:2] == [0, 1]
    assert len(calls) >= 7
    with pytest.raises(InputError, match="unknown kernel"):
        measure_machine(only=("none",))

"""Do sweeps compute what simulate does, survive kills, and refuse bad files in one line?

Expected rows are those of single `opbyte simulate` calls and of an undisturbed sweep.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from opbyte.analysis.parallel.local import Crew
from opbyte.analysis.show.record import code_version
from opbyte.analysis.studies.front import front
from opbyte.analysis.studies.sweep import sweep
from opbyte.analysis.studies.sweep.expression import parse
from opbyte.analysis.studies.sweep.file import SweepFile, read_sweep
from opbyte.analysis.studies.sweep.outcomes import FILE, OutcomeFile
from opbyte.analysis.studies.sweep.point import BASES, METRICS, Outcome, evaluate, scenario_of
from opbyte.analysis.studies.sweep.run import TABLE, read_measured
from opbyte.devices.spec import SystemSpec
from opbyte.workloads.errors import InputError
from opbyte.workloads.model import ModelSpec

from ..processes import Start, descendants, ends
from ..tables import tables
from .conftest import Ask, Write

BASE = "base: {model: llama-3-8b, system: h100-x1, requests: 20, input_len: 64, output_len: 8}\n"


def study(write: Write, text: str, base: str = BASE) -> SweepFile:
    return read_sweep(write("study.yaml", base + text))


def lines(folder: Path) -> list[str]:
    return sorted((folder / FILE).read_text().splitlines())


def test_axes_span_their_product_in_order(write: Write) -> None:
    found = study(
        write,
        "axes:\n"
        "  rate: [1, 2]\n"
        "  scale: {set: rate_scale, grid: {low: 1, high: 16, points: 3, scale: log}}\n"
        "  shape: {set: {into: input_len, out: output_len}, values: [[8, 2], [16, 4]]}\n",
    )
    points = list(found.points())
    assert found.columns == ("rate", "scale", "into", "out")
    assert len(points) == found.size == 12
    assert points[0].columns == {"rate": 1, "scale": 1.0, "into": 8, "out": 2}
    assert points[-1].columns == {"rate": 2, "scale": 16.0, "into": 16, "out": 4}
    assert [p.columns["scale"] for p in points[:6:2]] == [1.0, 4.0, 16.0]
    assert points[-1].settings["output_len"] == 4
    assert points[-1].settings["model"] == "llama-3-8b"


def test_random_axes_draw_the_same_each_time_and_together(write: Write) -> None:
    text = (
        "axes:\n"
        "  rate: {random: {low: 1, high: 100, scale: log}}\n"
        "  tokens: {set: token_budget, random: {low: 10, high: 20, integer: true}}\n"
        "samples: 200\nseed: 7\n"
    )
    first, again = (list(study(write, text).points()) for _ in range(2))
    assert first == again
    assert len(first) == 200
    tokens = {p.columns["tokens"] for p in first}
    assert tokens == set(range(10, 21))
    rates = [float(str(p.columns["rate"])) for p in first]
    assert 1 <= min(rates) < 2
    assert np.median(rates) == pytest.approx(10.0, rel=0.5)  # log-uniform: sqrt(1 x 100)
    assert list(study(write, text.replace("7", "8")).points()) != first


def test_constraints_on_parameters_leave_points_out(write: Write) -> None:
    found = study(write, 'axes: {rate: [1, 2, 4], tp: [1, 2]}\nconstraints: ["rate * tp <= 4"]\n')
    assert [(p.columns["rate"], p.columns["tp"]) for p in found.points()] == [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)]


def test_equal_points_run_once(write: Write) -> None:
    text = "axes: {rate: {random: {low: 1, high: 2, integer: true}}}\nsamples: 50\n"
    assert len(list(study(write, text).points())) == 2


@pytest.mark.parametrize(("text", "message"), tables(__file__)["bad"])
def test_bad_files_are_refused_in_one_line(write: Write, tmp_path: Path, text: str, message: str) -> None:
    path = write("study.yaml", BASE + text)
    with pytest.raises(InputError, match=r"study\.yaml: ") as caught:
        sweep(path, tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_conditions_are_arithmetic_only() -> None:
    assert parse("1 < a < 3 and not b == 2", "c", {"a", "b"}).holds({"a": 2, "b": 3})
    assert not parse("a / b > 1", "c", {"a", "b"}).holds({"a": 2, "b": 0})
    assert not parse("a < 3", "c", {"a"}).holds({"a": None})
    for text in ("__import__('os')", "a.real < 1", "[a][0] < 1", "(lambda: 1)() < 2", "a if a else"):
        with pytest.raises(InputError, match="is not a condition"):
            parse(text, "c", {"a"})


def test_paths_reach_into_specs() -> None:
    point = {
        "model": "mixtral-8x7b", "model.num_experts_per_tok": 1, "system": "duplex-x4",
        "system.device.processors.logic-pim.bandwidth_multiple": 8,
        "system.device.memory.capacity_GiB": 96,
    }  # fmt: skip
    found = scenario_of(point)
    assert isinstance(found.system, SystemSpec)
    assert isinstance(found.model, ModelSpec)
    device = found.system.device
    assert device.memory.capacity_bytes == 96 * 2**30
    assert device.processors["logic-pim"].bandwidth_multiple == 8
    assert found.system.name.startswith("duplex-x4-")
    assert "num_experts_per_tok 1" in found.model.name


def test_replicas_multiply_devices_and_price() -> None:
    point = {"model": "llama-3-8b", "system": "h100-x1", "requests": 20, "rate": 4,
             "input_len": 64, "output_len": 8, "router": "least-loaded", "replicas": 3}  # fmt: skip
    metrics = evaluate(point, code_version()).metrics
    assert metrics is not None
    assert metrics["devices"] == 3
    rate = metrics["output_tokens_per_s"]
    assert isinstance(rate, float)
    assert metrics["tokens_per_s_per_device"] == pytest.approx(rate / 3)
    assert metrics["tokens_per_s_per_user"] == pytest.approx(1 / float(metrics["tpot_s_mean"] or 0))
    assert metrics["usd_per_million_tokens"] == pytest.approx(3 * 2.99 / 3600 / metrics["output_tokens_per_s"] * 1e6)


@pytest.mark.parametrize(("change", "message"), tables(__file__)["a point that fails says why in one line"])
def test_a_point_that_fails_says_why_in_one_line(change: dict[str, object], message: str) -> None:

    point = {"model": "llama-3-8b", "system": "h100-x1", "requests": 2, "rate": 1, **change}
    outcome = evaluate(point, code_version())
    assert outcome.metrics is None
    assert outcome.error is not None
    assert message in outcome.error
    assert "\n" not in outcome.error
    assert "internal error" not in outcome.error


def test_a_worker_of_another_version_refuses() -> None:
    outcome = evaluate({"model": "llama-3-8b", "system": "h100-x1"}, "0.0.0+other")
    assert outcome.error is not None
    assert "0.0.0+other" in outcome.error


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study of 12 points, one of which fails, and the folder of its undisturbed sweep."""
    folder = tmp_path_factory.mktemp("small")
    file = folder / "study.yaml"
    file.write_text(
        BASE + "axes:\n  rate: [1, 2, 4]\n  tp: [1, 3]\n  seed: [0, 1]\n"
        "objectives: {output_tokens_per_s: max, e2e_s_p99: min}\n"
    )
    result = sweep(file, folder / "plain", workers=2)
    assert result.ran == 12
    assert result.failed == 6
    return file, folder / "plain"


def test_rows_are_those_of_simulate(small: tuple[Path, Path]) -> None:
    from opbyte.analysis.answers.simulate import simulate

    table = pd.read_csv(small[1] / TABLE)
    assert list(table.columns) == ["point", "rate", "tp", "seed", *METRICS, *BASES, "feasible", "error"]
    row = table[(table.rate == 2) & (table.tp == 1) & (table.seed == 1)].iloc[0]
    alone = simulate("llama-3-8b", "h100-x1", rate=2, requests=20, input_len=64, output_len=8, tp=1, seed=1)
    data = alone.to_dict()
    assert row.output_tokens_per_s == data["output_tokens_per_s"]
    assert row.ttft_s_p99 == data["ttft_s"]["p99"]
    assert row.joules_per_token == data["joules_per_token"]
    assert row.usd_per_million_tokens == pytest.approx(
        1e6 * row.device_usd_per_hour / 3600 / row.output_tokens_per_s, rel=1e-12
    )
    failed = table[table.tp == 3]
    assert failed.error.str.contains("--tp").all()
    assert failed.ttft_s_p99.isna().all()
    assert not failed.feasible.any()


def test_one_worker_says_what_two_say(small: tuple[Path, Path], tmp_path: Path) -> None:
    assert sweep(small[0], tmp_path / "one", workers=1).ran == 12
    assert (tmp_path / "one" / TABLE).read_bytes() == (small[1] / TABLE).read_bytes()
    assert lines(tmp_path / "one") == lines(small[1])


def test_a_second_call_computes_nothing(small: tuple[Path, Path], tmp_path: Path) -> None:
    file, plain = small[0], tmp_path / "copy"
    shutil.copytree(small[1], plain)
    before = {name: (plain / name).read_bytes() for name in (FILE, TABLE)}
    result = sweep(file, plain, workers=1)
    assert result.ran == 0
    assert {name: (plain / name).read_bytes() for name in before} == before
    wider = tmp_path / "wider.yaml"
    wider.write_text(file.read_text().replace("[1, 2, 4]", "[2, 4, 8]"))
    assert sweep(wider, plain, workers=1).ran == 4


def test_an_edited_file_is_another_point(tmp_path: Path) -> None:
    trace = tmp_path / "requests.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,8,2\n1,8,2\n")
    file = tmp_path / "study.yaml"
    base = f"base: {{model: llama-3-8b, system: h100-x1, trace: {trace}}}\n"
    file.write_text(base + "axes: {seed: [0]}\n")
    assert sweep(file, tmp_path / "out", workers=1).ran == 1
    assert sweep(file, tmp_path / "out", workers=1).ran == 0
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,8,2\n1,9,2\n")
    assert sweep(file, tmp_path / "out", workers=1).ran == 1


def test_a_torn_line_is_cut_off_and_a_wrong_one_named(tmp_path: Path) -> None:
    with OutcomeFile(tmp_path) as data:
        data.keep("a", {"x": 1}, Outcome({"y": 2}, None))
        with pytest.raises(InputError, match="in use by another command"):
            OutcomeFile(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + whole[:20])
    with OutcomeFile(tmp_path) as data:
        assert data.stored == {"a": Outcome({"y": 2}, None)}
    assert (tmp_path / FILE).read_bytes() == whole
    (tmp_path / FILE).write_bytes(whole + b"nonsense\n")
    with pytest.raises(InputError, match=r"points\.jsonl:2: is not a result"):
        OutcomeFile(tmp_path)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_no_longer_at_its_path_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """A sweep that ends without a point removes its file, which this one has opened and waits to lock."""

    def late(descriptor: int, path: Path) -> None:
        monkeypatch.undo()
        path.rename(tmp_path / "old")
        if replaced:
            path.touch()

    monkeypatch.setattr("opbyte.analysis.studies.sweep.outcomes.lock", late)
    with OutcomeFile(tmp_path) as data:
        data.keep("a", {}, Outcome({}, None))
    with OutcomeFile(tmp_path) as data:
        assert list(data.stored) == ["a"]


def test_killed_at_random_moments_the_table_is_the_same(small: tuple[Path, Path], tmp_path: Path, start: Start) -> None:
    """`kill -9` of the sweep alone: its workers end with it, what is stored stays whole."""
    file, plain = small
    out = tmp_path / "killed"
    rng = np.random.default_rng(11)
    command = [sys.executable, "-m", "opbyte", "sweep", str(file), "--out", str(out)]
    for _ in range(3):
        run = start([*command, "--workers", "2"], stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.5, 3.0))
        workers = descendants(run.pid)
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert all(ends(pid) for pid in workers)
    result = sweep(file, out, workers=2)
    assert lines(out) == lines(plain)
    assert (out / TABLE).read_bytes() == (plain / TABLE).read_bytes()
    assert len(result.table) == 12


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    """A point is tried again on another worker; the others never notice."""

    point = {"model": "llama-3-8b", "system": "h100-x1", "requests": 2, "rate": 1}
    with Crew(2, isolated=True) as crew:
        tasks = [{**point, "seed": i} for i in range(6)]
        finished = crew.run(partial(evaluate, version=code_version()), tasks)
        done = dict([next(finished)])
        killed = descendants(os.getpid())
        os.kill(killed[-1], signal.SIGKILL)
        done |= dict(finished)
    assert sorted(done) == list(range(6))
    assert all(outcome.error is None for outcome in done.values())


@pytest.mark.filterwarnings("ignore")  # Dask's own
def test_a_cluster_gives_the_same_table(small: tuple[Path, Path], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra [cluster] is not installed")
    file, plain = small
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        sweep(file, tmp_path / "out", dask=address)
    assert lines(tmp_path / "out") == lines(plain)
    assert (tmp_path / "out" / TABLE).read_bytes() == (plain / TABLE).read_bytes()
    with pytest.raises(InputError, match="cannot be combined with --dask"):
        sweep(file, tmp_path / "out", dask=address, workers=2)


def test_fronts_hold_what_none_beats() -> None:
    """Against the definition, row by row."""
    rng = np.random.default_rng(3)
    rows = [{"a": float(a), "b": float(b), "c": float(c)} for a, b, c in rng.integers(0, 8, (200, 3))]
    found = front(rows, {"a": "max", "b": "min", "c": "max"})

    def beats(x: dict[str, float], y: dict[str, float]) -> bool:
        good = x["a"] >= y["a"] and x["b"] <= y["b"] and x["c"] >= y["c"]
        return good and x != y

    expected = [row for row in rows if not any(beats(other, row) for other in rows)]
    assert sorted(map(str, found)) == sorted(map(str, expected))
    assert [row["a"] for row in found] == sorted((row["a"] for row in found), reverse=True)
    assert front([{"a": None, "b": 1.0}], {"a": "max", "b": "min"}) == []


def test_other_objectives_of_a_finished_sweep_simulate_nothing(small: tuple[Path, Path], tmp_path: Path) -> None:
    own = sweep(*small, workers=1)
    assert own.study.objectives == {"output_tokens_per_s": "max", "e2e_s_p99": "min"}
    other = sweep(*small, objectives={"joules_per_token": "min"}, workers=1)
    assert (own.ran, other.ran) == (0, 0)
    assert 1 <= len(own.best) <= own.feasible == 6
    assert [row["joules_per_token"] for row in other.best] == [
        min(row["joules_per_token"] for row in own.table if row["feasible"])
    ]
    with pytest.raises(InputError, match="unknown metric"):
        sweep(*small, objectives={"nonsense": "min"}, workers=1)
    assert sweep(*small, workers=1).best == own.best


def test_every_number_of_a_run_can_be_limited_and_one_that_is_not_there_is_an_error(
    write: Write, tmp_path: Path
) -> None:
    """Findings 10 and 11: power is a limit, and a metric without a value is no empty front."""
    axes = "axes:\n  rate: [1, 4]\n"
    limits = 'constraints: ["watts_per_device >= 60", "run.dynamic_joules < 1e9", "run.tp == 1"]\n'
    found = sweep(write("a.yaml", BASE + axes + limits), tmp_path / "a", workers=1)
    assert [row["feasible"] for row in found.table] == [True, True]
    assert all(row["watts_per_device"] > 60 and row["run.dynamic_joules"] > 0 for row in found.table)
    for limit, line in (
        ("processor_area_mm2 <= 800", "has no value: no processor of h100 gives area_mm2"),
        ("run.dynamic_watts <= 1", "has no value: simulate does not output it"),
        ("attainment >= 0.9", "needs --classes with a latency limit for each class"),
    ):
        file = write("b.yaml", BASE + axes + f'constraints: ["{limit}"]\n')
        with pytest.raises(InputError) as caught:
            sweep(file, tmp_path / "b", workers=1)
        assert f"{limit.split()[0]}: {line}" in str(caught.value)


def test_commands(ask: Ask, small: tuple[Path, Path], tmp_path: Path) -> None:
    file, plain = small
    answer = ask("sweep", file, "--out", plain, "--json").json()
    assert (answer["points"], answer["done"], answer["failed"]) == (12, 6, 6)
    assert json.loads((plain / "sweep.json").read_text())["points"] == 12
    best = ask("sweep", file, "--out", plain, "--objectives", "e2e_s_p99:min", "--json")
    assert len(best.json()["pareto"]) == 1
    wrong = ask("sweep", file, "--out", plain, "--objectives", "e2e_s_p99")
    assert "must be a comma-separated list of NAME:max or NAME:min" in wrong.refused()
    assert "0" in ask("sweep", file, "--workers", 0).refused()


def test_a_model_on_systems_at_several_loads(ask: Ask, write: Write, tmp_path: Path) -> None:
    """The points are those of the study file; a measured point has the error of its metric, and its mark in the figures."""
    measured = write("points.csv", "# ours\nsystem,concurrency,tpot_s_mean,note\nh100-x1,2,0.01,a\nh200-x1,3,0.01,b\n")
    options = ("--input-len", 64, "--output-len", 16, "--requests", 12)
    one = ask("sweep", "llama-3-8b", "--systems", "h100-x1,h200-x1", "--concurrency", "1,2", *options,
              "--measured", measured, "--out", tmp_path / "one", "--workers", 1)  # fmt: skip
    assert all(name in one.out for name in ("ttft_s_mean", "tokens_per_s_per_device", "low 80%"))
    study = {"base": {"model": "llama-3-8b", "input_len": 64, "output_len": 16, "requests": 12},
             "axes": {"system": ["h100-x1", "h200-x1"], "closed_loop": [1, 2]}}  # fmt: skip
    result = sweep(study, tmp_path / "two", measured=measured, workers=1)
    assert (tmp_path / "one/points.csv").read_bytes() == (tmp_path / "two/points.csv").read_bytes()
    first, absent = result.errors_of_measured()
    row = result.table[1]
    assert first["error"] == row["tpot_s_mean"] / 0.01 - 1
    assert first["low 80%"] < row["tpot_s_mean"] < first["high 80%"]
    assert (absent["closed_loop"], absent["simulated"], absent["error"]) == (3, None, None)
    marks = [line for axes in result.drawings()[1].figure.axes for line in axes.lines if line.get_gid() == "measured"]
    assert sorted(len(line.get_xdata()) for line in marks) == [1, 1]


def test_measured_points_may_lack_a_metric(write: Write) -> None:
    """An empty cell was not measured; another text is refused with its line."""
    path = write("points.csv", "system,concurrency,ttft_s_mean,tpot_s_mean\nh100-x1,1,,0.01\n")
    axes = ("system", "closed_loop")
    assert read_measured(path, axes, METRICS) == [{"system": "h100-x1", "closed_loop": 1, "tpot_s_mean": 0.01}]
    path.write_text(path.read_text() + "h100-x1,2,,fast\n")
    with pytest.raises(InputError, match=r"points\.csv:3: tpot_s_mean 'fast' is not a number of"):
        read_measured(path, axes, METRICS)


def test_the_documented_file_is_one(write: Write, root: Path) -> None:
    text = (root / "docs/guide-sweeps.md").read_text()
    whole = r"^<!-- file: \S+ -->\n```yaml\n.*?^```"  # a file of its own, which its commands run
    text = re.sub(whole, "", text, flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    found = study(write, "".join(blocks), BASE.replace("input_len: 64, output_len: 8", "tp: 1, dp: 1"))
    assert found.size == 3 * 2 * 5 * 2 * 20
    assert all(metric in METRICS for metric in found.objectives)

"""Do the DRAM commands keep their contract, and does the model meet other simulators' runs?

Measured fractions are those of the reference runs below OPBYTE_DATA (see docs/data.md).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from opbyte.analysis.answers.dram import DramAnswer, dram
from opbyte.analysis.answers.memory_rows import two_masters
from opbyte.analysis.answers.roofline import roofline
from opbyte.analysis.plots import memory as figures
from opbyte.analysis.studies.sweep import sweep
from opbyte.analysis.validate.dram import RAMULATOR, validate_dram
from opbyte.devices.catalog import load_system
from opbyte.workloads.errors import InputError

from .conftest import Ask

FILES = ["dram_reference.csv", "dram_reference_more.csv"]
HEADER = "simulator,config,pattern,params,peak_GBps,achieved_GBps,fraction,requests,wall_s"


@pytest.mark.parametrize("name", FILES)
def test_reference_runs_are_met(data_set: Callable[[str], Path], name: str) -> None:
    result = validate_dram(data_set(name))
    assert result.passed
    for c in result.compared:
        measured = c.row.measured
        if c.row.simulator != RAMULATOR or measured is None:
            continue
        # To the last of five digits. Rates below saturation were accumulated as binary
        # fractions, which moves single ticks.
        digits = 6e-6 if c.row.params["rate"] == "sat" else 2e-5
        assert c.simulated == pytest.approx(measured, abs=digits), c.row.id
    with data_set(name).open(encoding="utf-8") as file:
        assert len(result.compared) == sum(1 for _ in csv.DictReader(file))


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "runs.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


ROW = "ramulator2.1,hbm2-2000,seq_read,nch=1;map=bgi;requests=6000;out_row_hit=0.9,32,28,{f},6000,1"


def test_rows_without_results_are_simulated(ask: Ask, tmp_path: Path) -> None:
    header = "simulator,config,pattern,params"
    row = "ramulator2.1,hbm2-2000,seq_read,nch=1;out_cpu_s=3;map=bgi;requests=6000"
    answer = ask("validate", "dram", table(tmp_path, row, header=header), "--json")
    found = answer.json()
    assert [r["id"] for r in found["rows"]] == ["ramulator2.1/hbm2-2000/seq_read/nch=1;map=bgi;requests=6000"]
    assert found["rows"][0]["measured"] is None
    assert 0.8 < found["rows"][0]["simulated"] < 1
    assert found["requests"] >= 6000
    assert found["cpu_s"] > 0


def test_a_wrong_measurement_fails(ask: Ask, tmp_path: Path) -> None:
    right = ask("validate", "dram", table(tmp_path, ROW.format(f="")), "--json").json()
    fraction = right["rows"][0]["simulated"]
    good = ask("validate", "dram", table(tmp_path, ROW.format(f=f"{fraction:.5f}")))
    assert good.code == 0
    assert "PASS: 1 of 1" in good.out
    bad = ask("validate", "dram", table(tmp_path, ROW.format(f=f"{1.04 * fraction:.5f}")))
    assert bad.code == 1
    assert "FAIL: 0 of 1" in bad.out


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("ramulator3,hbm2-2000,seq_read,nch=1,,,,,", "unknown simulator 'ramulator3'"),
        ("ramulator2.1,hbm9,seq_read,nch=1,,,,,", "unknown memory"),
        ("ramulator2.1,hbm2-2000,crawl_read,nch=1,,,,,", "unknown pattern 'crawl_read'"),
        ("ramulator2.1,hbm2-2000,seq_read,nch,,,,,", "'nch' is not KEY=VALUE"),
        ("ramulator2.1,hbm2-2000,seq_read,nch=1;depth=3,,,,,", "unknown key 'depth'"),
        ("ramulator2.1,hbm2-2000,seq_read,nch=1,,,much,,", "fraction must be"),
        ("ramulator2.1,hbm2-2000,seq_read,nch=1", "has 4 cells"),
        ("attacc-ramulator2,hbm3pim-5.2Gbps,pim_mac_ab,nch=1,,,,,", "cmds_per_ch"),
        ("attacc-ramulator2,hbm2-2000,pim_mac_ab,cmds_per_ch=64,,,,,", "has no timing of these commands"),
    ],
)
def test_bad_rows_are_named(ask: Ask, tmp_path: Path, row: str, says: str) -> None:
    path = table(tmp_path, ROW.format(f=""), row)
    assert says in ask("validate", "dram", path).refused()


def test_bad_files_are_named(ask: Ask, tmp_path: Path) -> None:
    assert "no such file" in ask("validate", "dram", tmp_path / "none.csv").refused()
    path = table(tmp_path, header="simulator,config,pattern")
    assert "missing column 'params'" in ask("validate", "dram", path).refused()
    assert "no rows" in ask("validate", "dram", table(tmp_path)).refused()


def test_dram_answers(ask: Ask, tmp_path: Path) -> None:
    pattern = "rand_read:S=1024,requests=8000"
    found = ask("dram", pattern, "--memory", "hbm3-5200-8hi", "--json", "--out", tmp_path).json()
    assert 0 < found["fraction"] < 1
    assert found["bytes_per_s"] == pytest.approx(found["fraction"] * found["peak_bytes_per_s"])
    assert found["limited_by"] in found["without"]
    assert found["without"][found["limited_by"]] == max(found["without"].values())
    assert 0 < found["row_hits"] < 1
    assert found["read_latency_s"] > 27e-9  # tCL + BL: 21 clocks of 0.769 ns, and tRCD
    assert {p.name for p in tmp_path.iterdir()} == {
        "bandwidth.png", "dram.json", "report.html", "sweep.csv", "timeline.json",
    }  # fmt: skip
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert {e["name"] for e in events} >= {"ACT", "RD", "PRE", "process_name", "thread_name"}


def test_dram_reads_many_banks(ask: Ask) -> None:
    found = ask("dram", "pim_mac_bundle_rot", "--memory", "hbm3-5200-8hi", "--json").json()
    # Four times the pins (8 banks each tCCD_L against one atom each BL), less refresh.
    assert 3.5 < found["over_pins"] < 4
    answer = ask("dram", "pim_mac_sb_rot", "--memory", "hbm3pim-5.2gbps")
    assert answer.code == 0
    assert "times its pins" in answer.out


def test_what_limits_a_pattern() -> None:
    # One bank, a new row each time: nothing but the bank's cycle matters. Sequential reads with
    # deep queues lose only to refresh.
    for pattern, limit in (("stride_read:S=65536", "bank"), ("seq_read:rdq=64", "refresh")):
        answer = dram(f"{pattern},requests=20000", "hbm3-6400-8hi")
        assert isinstance(answer, DramAnswer)
        assert answer.limited_by == limit


def test_a_sweep_says_which_layout_is_best(tmp_path: Path) -> None:
    """Of each layout it says what a roofline of a device so laid out says, with half of a last block read for nothing."""
    study = tmp_path / "layouts.yaml"
    study.write_text(
        "base: {kernel: fixed, model: llama-3-8b, system: h100-x1, batch: 32, memory: derived, costs: roofline}\n"
        "axes:\n  mapping: {set: system.device.memory.dram.mapping, values: [col64, banklin]}\n"
        "  interleave: {set: system.device.memory.dram.interleave_bytes, values: [256, 16384]}\n"
        "  block: {set: {block: system.device.memory.dram.kv_block_tokens, context: context}, values: [[64, 4128]]}\n"
        "objectives: {tokens_per_s: max}\n"
    )
    found = sweep(study, tmp_path / "out", workers=1)
    (best,) = found.best
    assert (found.done, best["mapping"], best["interleave"]) == (4, "col64", 16_384)
    system = load_system("h100-x1")
    assert system.device.memory.dram is not None
    for row in found.table:
        changed = {"mapping": row["mapping"], "interleave_bytes": row["interleave"], "kv_block_tokens": 64}
        memory = system.device.memory.model_copy(update={"dram": system.device.memory.dram.model_copy(update=changed)})
        device = system.device.model_copy(update={"memory": memory})
        step = roofline(
            "llama-3-8b", system.model_copy(update={"device": device}), batch=32, context=4096 + 32,
            memory="derived", costs="roofline",
        )  # fmt: skip
        assert row["tokens_per_s"] == pytest.approx(32 / step.step_seconds)


@pytest.mark.parametrize("command", ["roofline", "simulate"])
def test_an_answer_names_what_its_dram_gives(ask: Ask, command: str) -> None:
    few = ["--requests", "20"] if command == "simulate" else []
    arguments = [command, "mixtral-8x7b", "--system", "duplex-x4", *few, "--json"]
    told = ask(*arguments, "--memory", "derived").json()
    flat = ask(*arguments).json()
    if command == "roofline":
        gets = {row["pattern"]: row["efficiency"] for row in told["memory"]}
        assert gets["in sequence"] == pytest.approx(0.87533, abs=1e-5)
        assert "memory" not in flat
        assert told["step_seconds"] != flat["step_seconds"]
        return
    models = [e["cost_model"] for e in told["evidence"] if e["basis"] == "derived"]
    assert any("in sequence, 87.5% of the bandwidth" in model for model in models)
    assumed = [key for e in told["evidence"] for key in e["assumptions"]]
    assert not any(key.endswith("memory_efficiency") for key in assumed)
    assert any("memory.dram.interleave_bytes" in key for key in assumed)
    assert all(e["basis"] != "derived" for e in flat["evidence"])
    assert not any("dram" in key for e in flat["evidence"] for key in e["assumptions"])


def test_compare_takes_the_dram_of_each(ask: Ask) -> None:
    arguments = ["compare", "llama-3-8b", "--systems", "h100-x1,duplex-x1,duplex-gpu-x1"]
    told, flat = (ask(*arguments, "--memory", kind, "--json").json() for kind in ("derived", "flat"))
    rows = {row["system"]: row for row in told["rows"]}
    before = {row["system"]: row for row in flat["rows"]}
    assert rows["h100-x1"] == before["h100-x1"]  # fitted: its efficiency was measured
    assert rows["duplex-x1"]["latency_s"] != before["duplex-x1"]["latency_s"]
    assert "simulated DRAM" in rows["duplex-x1"]["basis"]


def test_two_masters_share_a_stack() -> None:
    table = two_masters("hbm3-5200-8hi")
    alone, whole = table.iloc[0], table.iloc[-1]
    # On bundles of their own both take what the longer takes; else at most the sum and a row opened
    # anew for each change of side (tRTP + tRP + tRCD of 0.769 ns clocks).
    assert alone["together_s"] == alone["longer_s"]
    assert alone["switches"] == 0
    switch = (8 + 19 + 19) * 0.769e-9
    assert (table["together_s"] >= table["longer_s"]).all()
    assert (table["together_s"] <= table["sum_s"] + table["switches"] * switch + 1e-15).all()
    assert whole["together_s"] == pytest.approx(whole["sum_s"] + whole["switches"] * switch)
    assert table["together_s"].is_monotonic_increasing
    with pytest.raises(InputError, match="from 0 to 1"):
        two_masters(shares=(1.5,))


def test_figures_of_memory_hold_what_they_are_given() -> None:
    table = two_masters("hbm3-5200-8hi", shares=(0.0, 1.0))
    (axes,) = figures.two_masters(table, "Two masters").axes
    lines = {line.get_gid(): line.get_ydata() for line in axes.get_lines()}
    assert lines["together_s"] == pytest.approx(1e6 * table["together_s"])
    bars = pd.DataFrame({"label": ["a", "b"], "fraction": [0.5, 0.9]})
    (axes,) = figures.shares(bars, "Shares", flat=0.85).axes
    assert [patch.get_width() for patch in axes.patches] == [50.0, 90.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    (axes,) = figures.shares(bars.head(0), "None").axes
    assert "no patterns" in [text.get_text() for text in axes.texts]
    with pytest.raises(ValueError, match="fraction"):
        figures.shares(table, "Shares")

"""Do the DRAM commands keep their contract, and does the model meet other simulators' runs?

Measured fractions are those of the reference runs below OPBYTE_DATA (see docs/data.md).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from opbyte.analysis.answers.dram import DramAnswer, dram
from opbyte.analysis.answers.layouts import layouts
from opbyte.analysis.validate.dram import RAMULATOR, validate_dram
from opbyte.devices.catalog import load_system

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
    assert [r["id"] for r in found["rows"]] == [
        "ramulator2.1/hbm2-2000/seq_read/nch=1;map=bgi;requests=6000"
    ]
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
        ("attacc-ramulator2,hbm2-2000,pim_mac_ab,cmds_per_ch=64,,,,,", "no such commands"),
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
        "bandwidth.png", "dram.json", "sweep.csv", "timeline.json",
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["seq_read", "--memory", "hbm7"], "unknown memory"),
        (["seq_reed"], "did you mean 'seq_read'"),
        (["pim_mac_all"], "is none of pim_mac_ab"),
        (["pim_mac_ab:depth=3"], "give commands=N"),
        (["pim_mac_ab"], "no such commands"),
        (["seq_read:map=co,pc,bg,ba,sid,xy"], "unknown field 'xy'"),
    ],
)
def test_bad_questions_get_one_line(ask: Ask, arguments: list[str], says: str) -> None:
    assert says in ask("dram", *arguments).refused()


def test_what_limits_a_pattern() -> None:
    # One bank, a new row each time: nothing but the bank's cycle matters. Sequential reads with
    # deep queues lose only to refresh.
    for pattern, limit in (("stride_read:S=65536", "bank"), ("seq_read:rdq=64", "refresh")):
        answer = dram(f"{pattern},requests=20000", "hbm3-6400-8hi")
        assert isinstance(answer, DramAnswer)
        assert answer.limited_by == limit


def test_a_layout_is_worth_what_its_bytes_take() -> None:
    found = layouts(
        "llama-3-8b", "h100-x1", batch=32, context=4096, mappings=("col64", "banklin"),
        block_tokens=(16, 64),
    )  # fmt: skip
    rates = [each.tokens_per_s for each in found.ranked]
    assert rates == sorted(rates, reverse=True)
    assert len(rates) == 2 * 2 * 2
    assert found.gain >= 0
    best = found.ranked[0]
    assert best.mapping == "col64"
    rate = load_system("h100-x1").device.memory.bandwidth_bytes_per_s
    read = found.kv_bytes * (1 + best.block_tokens / 2 / 4096)
    seconds = found.weights_bytes / best.weights_fraction + read / best.kv_fraction
    assert best.tokens_per_s == pytest.approx(32 * rate / seconds)
    # 32 sequences of 4,096 tokens, 131,072 B each (8 KV heads of 128 in 32 layers, 16 bit).
    assert found.kv_bytes == pytest.approx(32 * 4096 * 131_072, rel=0.01)
    assert "tokens/s" in found.rows()[0]

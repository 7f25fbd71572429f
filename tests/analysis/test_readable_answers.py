"""Do answers say what a reader needs: overload, hits, doubts, roofs, names that are whole?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer.main

from opbyte import capacity, load_model, load_system, roofline, simulate
from opbyte.analysis.answers.simulate import Simulation
from opbyte.analysis.answers.summary import heading
from opbyte.analysis.cli import app
from opbyte.analysis.commands.usage import translated
from opbyte.analysis.manual.page import _leaves
from opbyte.analysis.plots.tradeoffs import _cell, _telling
from opbyte.analysis.show.console import table_lines
from opbyte.devices.catalog import list_devices, load_device
from opbyte.devices.checks import doubts
from opbyte.simulator.option import ALIASES, MEANT
from opbyte.workloads.catalog import catalog_entry
from opbyte.workloads.errors import InputError

from .conftest import Ask

S = "simulate llama-3-8b --system h100-x1"


@pytest.fixture(scope="module")
def overloaded() -> Simulation:
    """100 requests a second at a device that serves some 20 of this size."""
    found = simulate("llama-3-8b", "h100-x1", rate=100.0, requests=400, input_len=2000, output_len=200, max_seqs=16)
    assert isinstance(found, Simulation)
    return found


def test_overload_is_said_in_words(overloaded: Simulation) -> None:
    (text,) = overloaded.warnings
    assert "requests come faster than they are served" in text
    light = simulate("llama-3-8b", "h100-x1", rate=1.0, requests=20, input_len=64, output_len=8)
    closed = simulate("llama-3-8b", "h100-x1", closed_loop=40, requests=40, input_len=64, output_len=8, max_seqs=2)
    assert light.warnings == closed.warnings == ()


def test_hits_of_the_prefix_cache_are_shown(ask: Ask) -> None:
    line = f"{S} --rate 4 --requests 40 --input-len 256 --output-len 32 --policy vllm --turns 4"
    found = ask(*line.split())
    row = next(text for text in found.out.splitlines() if "found in the cache" in text)
    data = ask(*line.split(), "--json").json()
    share = data["cached_tokens"] / (data["cached_tokens"] + data["prompt_tokens"])
    assert share > 0.1
    assert row.split()[-1] == f"{share:.1%}"
    assert "found in the cache" not in ask(*f"{S} --requests 4".split()).out


def test_vllm_s_default_layout_of_experts_is_named(ask: Ask) -> None:
    line = "simulate mixtral-8x7b --system h100-x4 --closed-loop 2 --requests 2 --policy vllm"
    line += " --input-len 8 --output-len 2"
    assert "its default is --ep 1" in ask(*line.split()).err
    assert ask(*line.split(), "--ep", "1").err == ""


def test_capacity_of_a_trace_whose_stamps_are_spread(tmp_path: Path) -> None:
    rows = "".join(f"{3 * (i // 3)},64,8\n" for i in range(60))
    trace = tmp_path / "requests.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    found = capacity("llama-3-8b", ["h100-x1"], "ttft_p99=1", trace=trace, spread=3.0, requests=60, tolerance=0.5)
    assert found.found[0].tried


def test_no_device_of_the_catalog_is_doubted() -> None:
    assert [text for name in list_devices() for text in doubts(load_device(name)[0])] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memory:\n  bandwidth_GBps: {value: 5000000, source: a test}\n", "far above 80,000"),
        ("memory:\n  capacity_GiB: {value: 0.001, source: a test}\n", "far below 0.1"),
        ("processors:\n  logic-pim:\n    bandwidth_multiple: {value: 32, source: a test}\n",
         "107 TB/s inside the memory"),
    ],
)  # fmt: skip
def test_absurd_magnitudes_are_warned_of(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: duplex\nname: mine\n{text}")
    found = roofline("llama-3-8b", str(path)).warnings
    assert any(said in warning for warning in found), found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("processors:\n  logic-pim:\n    runs: [atention_decode]\n", "did you mean 'attention_decode'"),
        ("processors:\n  xpu:\n    excludes: [qkv]\n", "tables show names, which are finer"),
        ("memory:\n  bandwidth_GBps: {value: -5, source: a test}\n", "got -5"),
        ("memory:\n  bandwidth_GBps: {value: 5, source: assumed}\n", 'or write "assumed: why"'),
        ("memory:\n  bandwidth_GBps: {value: 5, source: mine}\n", 'or write "assumed: why"'),
    ],
)
def test_wrong_descriptions_say_what_would_be_right(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: duplex\nname: mine\n{text}")
    with pytest.raises(InputError) as caught:
        load_system(str(path))
    assert said in str(caught.value)


def test_ops_lie_under_the_roof_of_their_own_format() -> None:
    """FP8 products on an H100: above bf16's 989 TFLOP/s, below fp8's 1,979 (datasheet, dense)."""
    found = roofline("llama-3.1-70b", "h100-x4", dtype="fp8", prefill=8192)
    roofs, ops = found.processors().set_index("name"), found.figure_ops()
    assert roofs.peak_flops.to_dict() == {"xpu, bf16": 989.4e12, "xpu, fp8": 1978.9e12}
    assert ((roofs[["compute_efficiency", "memory_efficiency"]] < 1.0).all()).all()
    peak = ops.processor.map(roofs.peak_flops)
    bandwidth = ops.processor.map(roofs.bandwidth)
    assert (ops.achieved_flops <= 1.001 * peak).all()
    assert (ops.achieved_flops <= 1.001 * ops.op_per_byte.astype(float) * bandwidth).all()
    up = ops.set_index("name").loc["gate_up"]
    assert up.processor == "xpu, fp8"
    assert up.achieved_flops > 989.4e12


def test_one_format_keeps_the_processor_s_name() -> None:
    found = roofline("llama-3-8b", "duplex-x4")
    assert set(found.processors().name) == {"xpu", "logic-pim"}


@pytest.mark.parametrize(
    "thing",
    [
        lambda: load_model("deepseek-v3"), lambda: load_system("h100-x4"),
        lambda: load_device("h100"), lambda: load_device("duplex"),
    ],
)  # fmt: skip
def test_reprs_are_short(thing: Callable[[], object]) -> None:
    made = thing()
    assert len(repr(made)) < 2000
    assert len(str(made)) < 2000


def test_specs_show_as_tables_in_notebooks() -> None:
    page = load_system("h100-x4")._repr_html_()
    assert "<td>device.memory.stacks</td>" in page
    assert "calibration" not in page


def test_runs_and_parts_of_them_have_short_reprs(overloaded: Simulation) -> None:
    run = overloaded.run
    for made in (run, run.requests, run.deployment, run.deployment.model):
        assert len(repr(made)) < 2000


ROWS = [
    {"system": "a100-80gb-x1", "requests/s": "12.3", "output tokens/s": 1234.0, "ttft p99": "1.2 s",
     "tbt p99": "3 ms", "J/token": 0.123, "USD/M tokens": 1.23, "limited by": "arithmetic of xpu"},
    {"system": "rtx-pro-6000-x16", "requests/s": "none", "output tokens/s": None, "ttft p99": "-",
     "tbt p99": "-", "J/token": None, "USD/M tokens": None, "limited by": "memory capacity"},
]  # fmt: skip


@pytest.mark.parametrize("width", [100, 80, 60, 40])
def test_names_are_whole_in_narrow_tables(width: int) -> None:
    lines = table_lines(ROWS, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for row in ROWS:
        assert str(row["system"]) in text
        for word in str(row["limited by"]).split():
            assert word in text
    assert all(value in text for value in ("1,234", "1.2 s", "3 ms"))


def test_whole_settings_are_labelled_exactly() -> None:
    assert [_cell(x) for x in (1024, 2048.0, 12345.678, "co-process")] == ["1,024", "2,048", "12,345.678", "co-process"]


def test_labels_leave_out_what_follows_from_others() -> None:
    table = pd.DataFrame({"macs": [1, 1, 2, 2], "area": [10, 10, 20, 20], "batch": [8, 64, 8, 64], "same": [1] * 4})
    assert _telling(table, ["macs", "area", "batch", "same"]) == ["macs", "batch"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("--tensor-parallel-size 1 --max-num-seqs 4 --request-rate 9 --num-prompts 8 --isl 64 "
         "--osl 4"), "--tp 1 --max-seqs 4 --rate 9 --requests 8 --input-len 64 --output-len 4"),
        ("--concurrency=2 --num-prompts=4 --max-num-batched-tokens=64",
         "--closed-loop 2 --requests 4 --token-budget 64"),
    ],
)  # fmt: skip
def test_engines_names_of_options(ask: Ask, theirs: str, ours: str) -> None:
    first, second = (ask(*f"{S} {x} --json".split()).json() for x in (theirs, ours))
    del first["made_by"], second["made_by"]
    assert first == second


def test_other_names_lead_to_options_and_hide_none() -> None:
    top: Any = typer.main.get_command(app)
    own = {name: {o for p in command.params for o in p.opts} for name, command in _leaves(top)}
    options = set().union(*own.values())
    assert not set(ALIASES) & options  # an alias would hide an option
    assert set(ALIASES.values()) <= own["simulate"]
    assert set(MEANT) <= options
    for theirs, ours in ALIASES.items():
        line = translated(["simulate", f"{theirs}=3"])
        assert line == ["simulate", f"{ours}=3"]


def test_help_and_suggestions(ask: Ask) -> None:
    assert ask("help", "simulate").out == ask("simulate", "--help").out
    assert ask("help").code == 0
    refused = ask(*f"{S} --burstiness 1".split()).refused()
    assert refused == "--burstiness: no such option of opbyte simulate; did you mean '--cv'?"
    refused = ask(*f"{S} --colour red".split()).refused()
    assert refused == "--colour: no such option of opbyte simulate; see opbyte simulate --help"
    assert "did you mean '--requests'" in ask(*f"{S} --request 1".split()).refused()


@pytest.mark.parametrize(
    ("hub", "name"),
    [
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.1-70b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("Qwen/Qwen3-8B", "qwen3-8b"),
        ("google/gemma-3-27b-it", "gemma-3-27b"),
    ],
)
def test_hub_identifiers(hub: str, name: str) -> None:
    entry = catalog_entry(hub)
    assert entry is not None
    assert entry.name == name
    assert catalog_entry(f"somebody/{name}-pruned") is None


def test_a_sweep_resumed_has_the_same_summary(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "base: {model: llama-3-8b, system: h100-x1, requests: 4, input_len: 8, output_len: 2}\naxes: {rate: [1]}\n"
    )
    found = []
    for _ in range(2):
        assert ask("sweep", file, "--workers", 1, "--out", tmp_path / "o").code == 0
        found.append({n: (tmp_path / "o" / n).read_bytes()
                      for n in ("sweep.json", "report.html", "points.csv", "points.jsonl")})  # fmt: skip
    assert found[0] == found[1]
    assert json.loads((tmp_path / "o" / "timing.json").read_text()) == {"ran": 0, "stored": 1}


def test_what_evicts_the_sessions_and_what_would_hold_them_is_said() -> None:
    """Finding of users: a line for cache thrash. Tiers of the size that it names hold the sessions."""
    work: dict[str, Any] = {
        "rate": 10.0,
        "requests": 2000,
        "input_len": 1000,
        "output_len": 100,
        "turns": 4,
        "think": 60.0,
    }
    (line,) = (w for w in simulate("llama-3-8b", "l40s-x1", policy="vllm", **work).warnings if "thrash" in w)
    size = re.search(r"--kv-tiers of (\d+) GiB a replica", line)
    assert size is not None
    tiers = simulate("llama-3-8b", "l40s-x1", policy="vllm", kv_tiers=f"host:{size[1]}GiB:50:10", **work)
    assert not any("thrash" in w for w in tiers.warnings)


def test_sessions_that_are_sent_to_other_replicas_are_said() -> None:
    work: dict[str, Any] = {"rate": 20.0, "requests": 300, "input_len": 500, "output_len": 50, "turns": 4, "think": 2.0}
    answers = [
        simulate("llama-3-8b", "h100-x1", policy="vllm", replicas=8, router=router, **work)
        for router in (None, "sticky")
    ]
    assert all(heading(answer.run).startswith("llama-3-8b on 8 x h100-x1: ") for answer in answers)
    usual, sticky = (answer.warnings for answer in answers)
    assert any("round-robin sends turns of a session to different replicas" in w for w in usual)
    assert not any("turns" in w for w in sticky)


def test_a_figure_of_the_run_is_named_where_the_answer_has_none(overloaded: Simulation) -> None:
    """Findings U17 and U8 of users: `.output_tokens_per_s` is one of the run; overload names the replicas that would serve."""
    with pytest.raises(AttributeError, match=r"its run has it: \.run\.output_tokens_per_s"):
        overloaded.output_tokens_per_s  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        overloaded.nothing  # noqa: B018
    more = re.search(r"([\d.]+) times the replicas would serve them", overloaded.warnings[0])
    assert more is not None
    assert 2.0 < float(more[1]) < 50.0
    assert ".; see" not in repr(overloaded)

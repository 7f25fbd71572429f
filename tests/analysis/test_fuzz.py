"""Is whatever is wrong with a file or an option told in one line, quickly, and never a traceback?

A thousand cases: of every command that reads a file, and options with values that are none. Of every target the file
as it stands is answered first: a target that is refused before anything is spoilt would test nothing.
The seed is fixed: a failure names its case, which then fails everywhere. ``make fuzz`` draws twenty thousand.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opbyte.analysis import cli
from opbyte.analysis.reference.kinds import template
from opbyte.workloads.errors import visible

from .conftest import Ask
from .fuzzing import LONG, SCALARS, spoilt
from .test_client_runs import COLUMNS as CLIENT_COLUMNS
from .test_client_runs import OWN as CLIENT_ROW
from .test_train import MEGATRON, TITAN
from .test_validate_points import ROW
from .test_validate_power import HEAD as POWER_HEAD
from .test_validate_power import ROW as POWER_ROW
from .test_validate_runs import CONFIG, RUN, STATIC
from .test_validate_schedules import ONE, STAGES

LIMIT_S = 20
"""CPU seconds of one case; all of them take some ten milliseconds."""
MOST_BYTES = 8 << 30
TINY = ("--requests", "3", "--rate", "5", "--input-len", "20", "--output-len", "3")
TRACE = "arrival_s,input_tokens,output_tokens\n0.0,20,3\n0.5,30,2\n0.6,10,2\n"
NEAR = (
    "device,tokens,experts,topk,hidden,inter,block_m,block_n,block_k,group_m,warps,stages,measured_s\n"
    "H100-SXM-80GB,1,8,2,1024,512,16,64,64,1,4,3,7.33e-06\n"
    "H100-SXM-80GB,1,8,2,1024,512,16,64,64,1,4,4,7.36e-06\n"
)
SHAPES = (
    "device,tokens,experts,topk,hidden,inter,best_s,near_best,default_block_m,default_block_n,"
    "default_block_k,default_group_m,default_warps,default_stages,default_s,grid_median_s,grid_mean_s\n"
    "H100-SXM-80GB,1,8,2,1024,512,7.33e-06,5,16,32,64,1,4,3,8.01e-06,1.29e-05,4.37e-05\n"
)
GRID = "block_m,block_n,block_k,group_m\n16,64,64,1\n16,128,64,1\n"
LAYERS = (
    "architectures: [LayerList]\nhidden_size: 2048\nvocab_size: 50304\nlayers:\n  - times: 2\n"
    "    mixer: {kind: attention_heads, base: {kind: attention, heads: 16, kv_heads: 16, head_dim: 128}, top_k: 8}\n"
    "    ffn: {kind: ffn, width: 8192}\n"
)
LIMITED = "name: limited\nextends: h100\nlimit_W: {value: 500, source: 'assumed: a limit'}\n"
SPACE = """
name: small-space
sources: {own: "assumed: for a test"}
device: {extends: duplex, name: small, processors: {logic-pim: {bandwidth_multiple: {value: "= times", source: own}}},
         parameters: {times: {value: 4, source: own}}}
devices_per_node: {value: 4, source: own}
mapping: {placement: co-process, experts: expert-parallel}
design:
  title: A Logic-PIM of two rates
  search: {times: [2, 4]}
  models: [mixtral-8x7b]
  workloads:
    - {closed_loop: 2, requests: 4, input_len: 16, output_len: 4, dtype: fp8, routing: uniform}
  goals: {output_tokens_per_s: max}
  reference: {times: 4}
"""
CLIENT = io.StringIO()
csv.DictWriter(CLIENT, CLIENT_COLUMNS, lineterminator="\n").writerows(
    [dict(zip(CLIENT_COLUMNS, CLIENT_COLUMNS, strict=True)), CLIENT_ROW]
)
KERNELS = (
    "base: {kernel: best, model: llama-3.2-1b, system: h100-x1, batch: 2, context: 64}\n"
    "axes: {device.shared_memory_KiB: [228]}\nobjectives: {step_s: min}\n"
)
SWEEP = (
    "base: {model: llama-3.2-1b, system: h100-x1, requests: 2, input_len: 8, output_len: 2}\n"
    "axes: {rate: [2]}\nconstraints: ['ttft_s_p99 <= 1']\nobjectives: {output_tokens_per_s: max}\n"
)
CLASSES = "chat: {share: 0.7, ttft_p99: 0.5, priority: 1}\nbatch: {share: 0.3}\n"
MODEL = json.dumps(CONFIG)
STEP = ("roofline", "llama-3.2-1b", "--batch", "2", "--context", "64", "--system")
RUNS = ("simulate", "llama-3.2-1b", "--system", "h100-x1")
ROUTING = "layer,e0,e1,e2,e3,e4,e5,e6,e7\n" + "".join(f"{i},1,2,3,4,5,6,7,8\n" for i in range(32))

MAPS = "layer,expert,device\n" + "".join(f"{i},{e},{e % 2}\n" for i in range(32) for e in range(8))

Files = dict[str, str]
TARGETS: dict[str, tuple[tuple[str, ...], Files]] = {
    "system": ((*STEP, "{my.yaml}"), {"my.yaml": template("system")}),
    "device": (("show", "{d.yaml}"), {"d.yaml": template("device")}),
    "host": ((*STEP, "rtx-4090-x2", "--host", "{h.yaml}"), {"h.yaml": template("host")}),
    "memory": (("dram", "seq_read", "--memory", "{m.yaml}"), {"m.yaml": template("memory")}),
    "limits": (("compare", "llama-3.2-1b", "--systems", "{d.yaml}", "--batch", "2"), {"d.yaml": LIMITED}),
    "layer list": (("roofline", "{heads.yaml}", "--system", "h100-x1", "--batch", "2"), {"heads.yaml": LAYERS}),
    "design space": (("design", "{s.yaml}", "--workers", "1"), {"s.yaml": SPACE}),
    "client output": (("validate", "runs", "{client_2026.csv}"), {"client_2026.csv": CLIENT.getvalue()}),
    "config": (("inspect", "{config.json}"), {"config.json": MODEL}),
    "config of a step": (("roofline", "{config.json}", "--system", "h100-x1"), {"config.json": MODEL}),
    "trace": ((*RUNS, "--trace", "{t.csv}"), {"t.csv": TRACE}),
    "trace of lines": (
        (*RUNS, "--trace", "{t.jsonl}"),
        {"t.jsonl": '{"timestamp": 0, "input_length": 20, "output_length": 2, "hash_ids": [1]}\n'
                    '{"timestamp": 5, "input_length": 30, "output_length": 2, "hash_ids": [1]}\n'},
    ),
    "profile": ((*RUNS, *TINY, "--rate-profile", "{p.csv}"), {"p.csv": "start_s,rate\n0,5\n1,6\n"}),
    "engine": ((*RUNS, *TINY, "--engine", "{engine.json}"), {"engine.json": template("engine")}),
    "classes": ((*RUNS, *TINY, "--classes", "{c.yaml}"), {"c.yaml": CLASSES}),
    "kernels": ((*RUNS, *TINY, "--kernels", "{gemm.csv}"), {"gemm.csv": template("kernels")}),
    "routing": (
        ("roofline", "mixtral-8x7b", "--system", "h100-x2", "--routing", "trace:{r.csv}"), {"r.csv": ROUTING},
    ),
    "experts": (
        ("roofline", "mixtral-8x7b", "--system", "h100-x2", "--tp", "1", "--dp", "2", "--ep", "2",
         "--expert-placement", "file:{e.csv}"), {"e.csv": MAPS},
    ),
    "sweep": (("sweep", "{s.yaml}", "--workers", "1", "--out", "{}"), {"s.yaml": SWEEP}),
    "sweep of kernels": (("sweep", "{s.yaml}", "--out", "{}"), {"s.yaml": KERNELS}),
    "tuned shapes": (
        ("tune", "fused_moe", "--device", "h100", "--shapes", "{s.csv}"),
        {"s.csv": "tokens,experts,topk,hidden,inter\n1,8,2,1024,512\n2,8,2,1024,512\n"},
    ),
    "tuned grid": (
        ("tune", "fused_moe", "--device", "h100", "--shape", "tokens=1,experts=8,topk=2,hidden=512,inter=512",
         "--grid", "{g.csv}"), {"g.csv": GRID},
    ),
    "configs": (
        ("validate", "configs", "{}"),
        {"fused_moe_near_best.csv": NEAR, "fused_moe_shapes.csv": SHAPES, "fused_moe_grid.csv": GRID},
    ),
    "tables": (("validate", "kernels", "{gemm.csv}"), {"gemm.csv": template("kernels")}),
    "power": (
        ("validate", "power", "{attention_decode.csv}"),
        {"attention_decode.csv": POWER_HEAD + POWER_ROW.format(device="B200-SXM-180GB", power=700)},
    ),
    "schedules": (
        ("validate", "schedules", "{c.jsonl}"),
        {"c.jsonl": "".join(json.dumps(case) + "\n" for case in (ONE, STAGES))},
    ),
    "run": (("validate", "runs", "{}"), {"run.json": json.dumps(RUN), "config.json": MODEL}),
    "static run": (
        ("validate", "runs", "{static.csv}"),
        {"static.csv": f"{STATIC}made,h100,1,llama-3.2-1b,bf16,4,0.01,0.02,0.03,20 30\n"},
    ),
    "recipe": (
        ("train", "deepseek-v3", "--system", "gb200-4x64", "--recipe", "{r.yaml}"), {"r.yaml": MEGATRON},
    ),
    "recipe of a job": (
        ("train", "llama-3-8b", "--system", "h100-x8", "--recipe", "{r.toml}"), {"r.toml": TITAN},
    ),
    "points": (
        ("validate", "runs", "{points.csv}"),
        {"points.csv": f"{','.join(ROW)}\n{','.join(map(str, (ROW | {'osl': 2, 'isl': 16}).values()))}\n"},
    ),
}  # fmt: skip
CASES = int(os.environ.get("OPBYTE_FUZZ", "16"))
"""Of each target; options are drawn fifteen times as often."""
SLOW = {"sweep": 4, "design space": 4}
"""Targets that draw figures or simulate: one case for so many of others."""


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    """No case may ask for more than some gibibytes."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


class TooLong(BaseException):
    """Of a case that computes on and on."""


@contextmanager
def limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


NO_NUMBER = re.compile(r"(?<![\w.-])-?(nan|inf(inity)?)(?![\w.-])", re.IGNORECASE)


def check(ask: Ask, line: list[str], names: tuple[str, ...], given: str) -> None:
    """One line that names a file or an option, with no more of what was typed than helps; else finite numbers."""
    with limited():
        answer = ask(*line)
    assert "too little memory" not in answer.err
    if answer.code == 2:
        told = answer.refused()
        assert any(name in told for name in ("--", "mapping.placement of ", *names)), told
        assert LONG[:201] not in told
    else:
        assert answer.code in (0, 1), answer
        assert "Traceback" not in answer.err
        assert NO_NUMBER.search(given) or not NO_NUMBER.search(answer.out), answer.out
    assert "\x1b" not in answer.err


def written(folder: Path, command: tuple[str, ...], files: Files) -> list[str]:
    """A target's files in a folder, and the command on them."""
    folder.mkdir()
    for name, whole in files.items():
        (folder / name).write_text(whole, encoding="utf-8")
    return [re.sub(r"\{(.*)\}", rf"{folder}/\1", word) for word in command]


@pytest.mark.parametrize("target", TARGETS)
def test_spoilt_files(ask: Ask, tmp_path: Path, target: str) -> None:
    command, files = TARGETS[target]
    assert ask(*written(tmp_path / "whole", command, files)).code == 0
    for case in range(-(-CASES // SLOW.get(target, 1))):
        rng = random.Random(f"{target} {case}")
        name = rng.choice(list(files))
        bad = spoilt(rng, name, files[name])
        line = written(tmp_path / str(case), command, files | {name: bad})
        try:
            check(ask, line, (str(case), *files), bad)
        except BaseException as error:
            error.add_note(f"case {case}: opbyte {' '.join(line)}")
            raise


@pytest.mark.parametrize("target", TARGETS)
def test_files_nested_too_deep(ask: Ask, tmp_path: Path, target: str) -> None:
    command, files = TARGETS[target]
    for name in files:
        line = written(tmp_path / f"{name} deep", command, files | {name: '{"a":' * 20_000})
        check(ask, line, (f"{name} deep",), "")


def commands() -> list[tuple[str, Any]]:
    """Commands with their options, as the option parser knows them."""
    found: list[tuple[str, Any]] = []

    def visit(command: Any, path: tuple[str, ...]) -> None:
        for name, below in getattr(command, "commands", {}).items():
            visit(below, (*path, name))
        if not hasattr(command, "commands"):
            found.append((" ".join(path), command))

    visit(cli._command(), ())
    return found


LOAD = ("--requests", "2", "--input-len", "8", "--output-len", "2")
SLO = ("--systems", "h100-x1", "--slo", "ttft_p99=1")
COMPLETE: dict[str, tuple[str, ...]] = {
    "capacity": ("llama-3.2-1b", *SLO, *LOAD),
    "compare": ("llama-3.2-1b", "--systems", "h100-x1"),
    "dram": ("seq_read",),
    "frames": ("edge-moe-cityscapes", "--system", "zcu102-x1"),
    "kernels shapes": ("llama-3.2-1b", "--system", "h100-x1"),
    "measure": (),
    "placement": ("llama-3.2-1b", "--system", "h100-logic-pim-x1"),
    "plan": ("llama-3.2-1b", *SLO, *LOAD, "--load", "1"),
    "reproduce": ("dsmoe",),
    "roofline": ("llama-3.2-1b", "--system", "h100-x1"),
    "search": ("edge-moe-cityscapes", "--board", "zcu102"),
    "simulate": ("llama-3.2-1b", "--system", "h100-x1", "--rate", "5", *LOAD),
    "train": ("llama-3.2-1b", "--system", "h100-x1", "--batch", "1"),
    "tune": ("fused_moe", "--device", "h100", "--shape", "tokens=1,experts=8,topk=2,hidden=512,inter=512"),
}
"""Commands that are answered as they stand."""
FREE = {"--out": "any folder", "--dask": "an address", "--served-model-name": "any name"}
"""Options that take any text, and why."""


@pytest.mark.parametrize("command", COMPLETE)
def test_no_option_takes_nonsense(ask: Ask, tmp_home: Path, command: str) -> None:
    """Whether or not it has a part in the question; an empty list once of options that commands share."""
    known = dict(commands())
    earlier = list(COMPLETE)[: list(COMPLETE).index(command)]
    shared = {(option.opts[0], option.help) for other in earlier for option in known[other].params[1:]}
    for option in known[command].params:
        if option.param_type_name == "argument" or option.is_flag or option.opts[0] in FREE:
            continue
        for nonsense in ("zzz", ",,") if (option.opts[0], option.help) not in shared else ("zzz",):
            line = [*command.split(), *COMPLETE[command], option.opts[0], nonsense]
            with limited():
                ask(*line).refused()


@pytest.mark.parametrize("case", range(5))
def test_spoilt_options(ask: Ask, tmp_home: Path, case: int) -> None:
    """Any option of any command with any odd value: answered or refused, quickly either way."""
    rng = random.Random(f"options {case}")
    known = dict(commands())
    for _ in range(3 * CASES):
        command = rng.choice([c for c in COMPLETE if c not in ("measure", "plan", "capacity")])
        options = [o for o in known[command].params if o.param_type_name != "argument" and not o.is_flag]
        option = rng.choice([o.opts[0] for o in options if o.opts[0] not in FREE])
        value = str(rng.choice(SCALARS))
        line = [*command.split(), *COMPLETE[command], option, value]
        try:
            said = (
                visible(part[:20].strip("/ ")) for part in (value, value.partition(",")[0] or value)
            )  # of a list the first
            check(ask, line, (option, command, *COMPLETE[command][:1], *said), value)
        except BaseException as error:
            error.add_note(f"opbyte {line}")
            raise

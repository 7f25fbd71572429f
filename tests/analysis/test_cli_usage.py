"""Does every wrong command line get one line that says what would be right?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Ask

R = "roofline mixtral-8x7b --system h100-x4"
S = "simulate llama-3-8b --system h100-x1 --requests 4 --rate 5 --input-len 100 --output-len 5"
T = "simulate llama-3-8b --system h100-x1 --requests 4"

BAD = {
    # command line: parts of the message
    "": ("needs a command", "simulate"),
    "simulat": ("'simulat'", "did you mean 'simulate'?"),
    "frobnicate": ("'frobnicate'", "inspect, kernels, layout, list", "capacity"),
    "kernel": ("'kernel'", "did you mean 'kernels'?"),
    "validate": ("opbyte validate", "validate kernels TABLES"),
    "validate kernel x": ("'kernel'", "validate kernels"),
    "validate kernels absent": ("absent", "no such file"),
    "calibrate absent --device h100": ("absent", "no such file"),
    "--json": ("--json", "no such option"),
    "--versoin": ("--versoin", "did you mean '--version'?"),
    "list": ("KIND", "models, devices, systems"),
    "list model": ("KIND 'model'", "did you mean 'models'?"),
    "list models devices": ("devices",),
    "inspect": ("MODEL", "Catalog name"),
    "inspect mixtral-8x7b grok-1": ("grok-1",),
    "inspect mixtrl-8x7b": ("'mixtrl-8x7b'", "did you mean 'mixtral-8x7b'?"),
    "inspect mixtral-8x7b --jsn": ("--jsn", "did you mean '--json'?"),
    "inspect mixtral-8x7b --json=yes": ("--json",),
    "inspect mixtral-8x7b --out": ("--out",),
    "inspect mixtral-8x7b --out --json": ("--out '--json'", "./NAME"),
    "inspect mixtral-8x7b --out=": ("--out ''",),
    "inspect --system h100-x1 mixtral-8x7b": ("--system", "no such option"),
    "roofline mixtral-8x7b": ("--system", "DEVICE-xN"),
    "roofline mixtral-8x7b --sytem h100-x4": ("--sytem", "did you mean '--system'?"),
    "roofline mixtral-8x7b --system h100": ("'h100'", "h100-x1"),
    "roofline mixtral-8x7b --system h100-x0": ("h100-x0", "1 to 4096"),
    "roofline mixtral-8x7b --system h100-x5000": ("1 to 4096",),
    "roofline mixtral-8x7b --system h100x4": ("'h100x4'", "h100-x"),
    "roofline mixtral-8x7b --system duplx-x4": ("duplx-x4", "did you mean 'duplex'?"),
    "roofline mixtral-8x7b --system nope.yaml": ("nope.yaml",),
    f"{R} --batch -1": ("--batch", "-1", "from 0 to"),
    f"{R} --batch 2147483648": ("--batch", "2147483648"),
    f"{R} --batch 1048577": ("--batch", "1048576"),
    f"{R} --batch 0": ("--batch 0", "--prefill"),
    f"{R} --batch 1.5": ("--batch", "whole number", "'1.5'"),
    f"{R} --batch 1e3": ("--batch", "whole number", "'1e3'"),
    f"{R} --batch nan": ("--batch", "whole number", "'nan'"),
    f"{R} --batch true": ("--batch", "whole number", "'true'"),
    f"{R} --batch 1_000": ("--batch", "whole number"),
    f"{R} --batch {'9' * 5000}": ("--batch", "whole number"),
    f"{R} --batch": ("--batch",),
    f"{R} --bach 3": ("--bach", "did you mean '--batch'?"),
    f"{R} --context -1": ("--context", "from 0 to 2147483647"),
    f"{R} --context 2147483648": ("--context",),
    f"{R} --prefill -5": ("--prefill", "-5"),
    f"{R} --tp 3": ("--tp", "4 devices"),
    f"{R} --tp 0": ("--tp", "[1, 4]"),
    f"{R} --tp two": ("--tp", "'two'"),
    f"{R} --tp 2 --dp 4": ("--tp/--dp", "4 devices"),
    f"{R} --dp 3": ("--dp", "divide"),
    f"{R} --ep 3": ("--ep", "divide"),
    f"{R} --pp 3": ("--pp", "4 devices"),
    f"{R} --pp 9": ("--pp", "[1, 4]"),
    f"{R} --pp 2 --tp 4": ("--tp/--dp", "2 of each stage"),
    f"{R} --ep 16": ("--ep", "[1, 4]"),
    "roofline mixtral-8x7b --system h100-x64 --tp 64": ("does not divide",),
    "roofline llama-3-8b --system h100-x4 --ep 2": ("--ep", "no experts"),
    f"{R} --dtype nonsense": ("--dtype", "'nonsense'", "known: bf16"),
    f"{R} --dtype fp9": ("--dtype", "'fp9'", "did you mean"),
    f"{R} --kv-dtype int3": ("--kv-dtype", "did you mean 'int8'?"),
    "roofline mixtral-8x7b --system duplex-x4 --dtype fp32": ("--dtype", "fp32", "it has bf16"),
    f"{R} --placement xpuonly": ("--placement", "did you mean 'xpu-only'?"),
    f"{R} --placement=": ("--placement", "known: co-process"),
    f"{R} --attention flsh": ("--attention", "did you mean 'flash'?"),
    f"{R} --routing unform": ("--routing", "did you mean 'uniform'?"),
    f"{R} --routing power_law": ("--routing", "power_law:EXPONENT"),
    f"{R} --routing power_law:steep": ("power_law:steep", "0 to 10"),
    f"{R} --routing power_law:nan": ("power_law:nan", "0 to 10"),
    f"{R} --routing power_law:-1": ("power_law:-1", "0 to 10"),
    f"{R} --routing trace:": ("--routing", "trace:FILE"),
    f"{R} --routing trace:/nowhere.csv": ("/nowhere.csv", "no such file"),
    f"{R} --routing uniform:5": ("--routing", "takes nothing"),
    "roofline llama-3-8b --system h100-x1 --routing nonsense": ("--routing", "known: measured"),
    "simulate llama-3-8b": ("--system",),
    "simulate --system h100-x1": ("MODEL",),
    f"{T} --rate -1": ("--rate", "-1.0"),
    f"{T} --rate 0": ("--rate",),
    f"{T} --rate nan": ("--rate", "finite", "'nan'"),
    f"{T} --rate inf": ("--rate", "finite", "'inf'"),
    f"{T} --rate 1e999": ("--rate", "finite"),
    f"{T} --rate fast": ("--rate", "'fast'"),
    f"{T} --closed-loop 0": ("--closed-loop", "from 1 to"),
    f"{T} --closed-loop -3": ("--closed-loop",),
    f"{T} --closed-loop 2147483648": ("--closed-loop",),
    f"{T} --closed-loop 4 --rate 1": ("--rate", "--closed-loop"),
    f"{T} --closed-loop 4 --duration 1": ("--duration", "--closed-loop"),
    f"{T} --rate 1 --rate-scale 2": ("--rate-scale", "trace"),
    f"{T} --cv 2": ("--cv", "--rate"),
    f"{T} --rate 1 --cv 0": ("--cv", "0.001"),
    f"{T} --spread 3": ("--spread", "trace"),
    f"{T} --duration 0": ("--duration",),
    f"{T} --lengths fixed": ("--lengths", "--input-len"),
    f"{T} --input-len 5": ("--output-len", "--input-len"),
    f"{T} --input-len 5 --output-len 5": ("--rate", "--closed-loop"),
    f"{S} --lengths lognorml": ("--lengths", "did you mean 'lognormal'?"),
    f"{S} --input-len 0": ("--input-len", "from 1"),
    f"{S} --output-len 2147483648": ("--output-len", "2147483647"),
    f"{S} --requests 0": ("--requests", "from 1"),
    f"{S} --policy chunkd": ("--policy", "did you mean 'chunked'?"),
    f"{S} --token-budget 0": ("--token-budget",),
    f"{S} --max-seqs 65537": ("--max-seqs", "65536"),
    f"{S} --max-model-len 0": ("--max-model-len",),
    f"{S} --max-model-len 50": ("--max-model-len", "request 0", "105 tokens"),
    f"{S} --seeds 0": ("--seeds", "from 1 to 1000"),
    f"{S} --seeds 1001": ("--seeds",),
    f"{S} --seed -1": ("--seed", "from 0 to"),
    f"{S} --seed 9223372036854775808": ("--seed",),
    f"{S} --warmup -1": ("--warmup", "from 0"),
    f"{S} --warmup 4": ("--warmup", "4 requests"),
    f"{S} --trace /nowhere.csv": ("--input-len", "trace"),
    f"{T} --trace /nowhere.csv": ("/nowhere.csv", "no such file"),
    f"{T} --trace=": ("--trace", "empty"),
    "simulate --seeds 3": ("--seeds", "MODEL"),
    "simulate --max-model-len 3": ("--max-model-len",),
    "simulate --rate 1 --requests 8 --warmup 600": ("--warmup", "8 requests"),
    "simulate mixtral-8x7b --system h100-x1 --rate 1": ("h100-x1", "87.0 GiB", "GiB available"),
    "simulate llama-3-8b --system rtx-4090-x1 --rate 1 --requests 1 --input-len 100000 --output-len 1": (
        "rtx-4090-x1",
        "12.21 GiB",
        "GiB available",
    ),
    "simulate llama-3-8b --system h100-x2 --dp 2 --closed-loop 1": ("--closed-loop", "2 clients"),
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: line[:90] or "nothing")
@pytest.mark.parametrize("json", [False, True], ids=["", "json"])
def test_a_wrong_command_line_is_one_clear_line(ask: Ask, line: str, json: bool) -> None:
    arguments = line.split()
    if json and "--json" not in line and len(arguments) > 1 and line[-5:] not in ("--out", "batch"):
        arguments.append("--json")
    message = ask(*arguments).refused()
    for part in BAD[line]:
        assert part in message
    assert len(message) < 400


@pytest.mark.parametrize("line", ["--help", "-h", "list --help", "inspect -h", "roofline --help",
                                  "simulate --help", "--version"])  # fmt: skip
def test_help_needs_nothing_else(ask: Ask, line: str) -> None:
    answer = ask(*line.split())
    assert answer.code == 0
    assert answer.err == ""
    assert "opbyte" in answer.out

"""Does every option of a scenario change some key of ``--json``, or is it refused?

Each command gets each of its options, with a value that differs from what holds without it, on scenarios small
enough to take milliseconds: a plain one, where most have no part in the question and must say so, and others
that some options need. Equal seeds, equal answers: a key that differs does so by the option.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from opbyte.simulator.option import PlacedOption, placed
from opbyte.simulator.scenario.scenario import Scenario

from ..tables import tables
from .conftest import Answer, Ask
from .test_fuzz import commands

KNOWN: Mapping[str, PlacedOption] = placed(Scenario)
TRACE = "arrival_s,input_tokens,output_tokens\n0.0,20,3\n0.5,30,2\n0.5,10,2\n"
PROFILE = "start_s,rate\n0,5\n1,6\n"
ENGINE = json.dumps({"engine": "vllm", "max_num_batched_tokens": 32})
GEMM = (
    "source,device,kernel,dtype,m,n,k,batch,timing,measured_s\n"
    "made,H100-SXM-80GB,gemm,bf16,2,2048,8192,1,graph,1e-3\n"
    "made,H100-SXM-80GB,gemm,bf16,64,2048,8192,1,graph,1e-3\n"
)
MODEL = json.dumps({
    "architectures": ["MixtralForCausalLM"], "hidden_size": 1024, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 4096, "num_local_experts": 8,
    "num_experts_per_tok": 2, "torch_dtype": "bfloat16",
})  # fmt: skip
FILES = {"t.csv": TRACE, "p.csv": PROFILE, "engine.json": ENGINE, "gemm.csv": GEMM, "moe.json": MODEL}
VALUES: dict[str, str | None] = tables(__file__)["values"]

LIMIT = "a limit: it refuses what breaks it, and leaves the rest as it is"
ALIKE = "a rule that leaves no choice where there is one, asked of all systems of a comparison alike"
FINE: dict[str, str] = {
    "strict": LIMIT, "max_model_len": LIMIT, "placement": ALIKE, "router": ALIKE,
    "memory": "of ops without a fitted kernel, of which an H100 has none",
    "kernels": "a measured row holds for its shape alone, and these steps have others",
}  # fmt: skip
"""Options that are taken and may change nothing, and why."""

SMALL = ("--requests", "6", "--rate", "20", "--input-len", "40", "--output-len", "5")
BUSY = ("--requests", "6", "--rate", "5000", "--input-len", "40", "--output-len", "5")
DENSE = ("llama-3.2-1b", "--system", "h100-x1")
EVEN = ("--tp", "1", "--dp", "4", "--ep", "4")
RANKS = (*EVEN, "--routing", "power_law:1")
MOE = ("moe.json", "--system", "h100-2x2", *RANKS)
ADAPTED = (*DENSE, "--adapters", "4")
FETCHED = ("mixtral-8x7b", "--system", "h100-x1", "--experts-resident", "4")
EXPERTS = "ep=2 routing=power_law:2 all_to_all overlap expert_placement redundant_experts"
POOLS = ("llama-3.2-1b", "--prefill", "h100-x1", "--decode", "h100-x1", *BUSY)
PAIRS = ("llama-3.2-1b", "--prefill", "h100-x2", "--decode", "h100-x2", *BUSY)
APART = ("--experts-on", "h100-x4", "--batch", "64")
NEEDED: dict[str, list[tuple[tuple[str, ...], str]]] = {
    "simulate": [
        ((*DENSE, "--trace", "t.csv"), "rate_scale spread mean_rate"),
        ((*DENSE, *SMALL, "--turns", "2"), "think"),
        ((*DENSE, *SMALL, "--fail", "0@0.1"), "repair"),
        ((*DENSE, *SMALL, "--capex", "h100=30000"), "years usd_per_kWh pue"),
        (POOLS, "kv_link kv_overlap=layers "
                + " ".join(f"{side}_{name}" for side in ("prefill", "decode")
                           for name in ("policy", "engine", "token_budget", "max_seqs=1"))),
        (PAIRS, "prefill_tp=1 prefill_pp decode_tp=1 decode_pp"),
    ],
    "roofline": [
        (MOE, EXPERTS),
        ((*MOE, "--redundant-experts", "4"), "expert_dispatch"),
        (ADAPTED, "adapter_rank adapters_resident"),
        (FETCHED, "expert_predictor"),
        (("llama-3.2-1b", "--system", "rtx-4090-x2"), "host dp pp"),
        (("moe.json", "--system", "h100-logic-pim-x1"), "placement"),
        (("llama-3.2-1b", "--system", "duplex-x4", "--prefill", "512"), "attention=flash memory"),
        ((*DENSE, "--speculative", "ngram:3", "--acceptance", "0.9,0.8,0.7"), "acceptance"),
    ],
    "compare": [
        (("moe.json", "--systems", "h100-2x2", *RANKS), EXPERTS),
        (("moe.json", "--systems", "h100-x4", *APART), "routing redundant_experts experts_link=free"),
    ],
    "kernels shapes": [(MOE, "ep=2 routing=power_law:2 redundant_experts")],
    "train": [(("moe.json", "--system", "h100-x8", "--batch", "8", "--seq", "256"), "ep all_to_all routing")],
    "placement": [],
}  # fmt: skip
"""Scenarios beside the plain one, and options that must have a part in each, with other values where those above are
what holds without them."""
PLAIN: dict[str, tuple[str, ...]] = {
    "simulate": (*DENSE, *SMALL),
    "roofline": DENSE,
    "compare": ("llama-3.2-1b", "--systems", "h100-x1"),
    "kernels shapes": DENSE,
    "train": (*DENSE, "--batch", "1"),
    "placement": ("moe.json", "--system", "h100-2x2", *EVEN),
}
"""Commands that take a scenario's options themselves; `capacity`, `plan` and `benchmark` give theirs to `simulate`."""


def value_of(name: str) -> str | None:
    """What an option is tried with."""
    alone = name.removeprefix("prefill_").removeprefix("decode_")
    return VALUES[name if name in VALUES else alone]


def without_echo(answer: Answer) -> Any:
    """The answer without what was asked and how long it took."""
    found = answer.json()
    return {key: x for key, x in found.items() if key not in ("made_by", "wall_s")}


CASES = [(command, base, names) for command in PLAIN for base, names in [(PLAIN[command], ""), *NEEDED[command]]]


@pytest.mark.parametrize(("command", "base", "names"), CASES)
def test_every_option_has_a_part_or_is_refused(
    ask: Ask, tmp_home: Path, command: str, base: tuple[str, ...], names: str
) -> None:
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
    parser = dict(commands())[command]
    known = {o.name: o for o in parser.params if o.name in KNOWN and o.param_type_name != "argument"}
    before, unused = without_echo(ask(*command.split(), *base, "--json")), []
    for word in names.split() or [n for n in known if n not in ("model", "system")]:
        name, given, value = word.partition("=")
        flag, line = known[name].opts[0], list(base)
        if flag in line:
            del line[line.index(flag) : line.index(flag) + 2]
        value = value if given else value_of(name)
        line += [flag, *([] if value is None else [value])]
        answer = ask(*command.split(), *line, "--json")
        if answer.code:
            told = answer.refused()
            if names:
                unused.append(f"{' '.join(line)}: {told}")
        elif without_echo(answer) == before and (names or name not in FINE):
            unused.append(" ".join(line))
    assert not unused, "\n".join(unused)

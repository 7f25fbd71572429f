"""Do answers about two pools say what each did, which one limits, and what is wrong with a request?

Expected values: the devices asked for; the pool that is made too small by hand; the stamps of the run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opbyte.analysis.answers.simulate import simulate
from opbyte.analysis.studies.capacity import capacity
from opbyte.analysis.studies.sweep.point import OF_PARTS, metrics_of
from opbyte.simulator.parts.two_pools.asked import pair_of
from opbyte.simulator.parts.two_pools.run import limiting_pool
from opbyte.simulator.scenario import Scenario
from opbyte.workloads.errors import CapacityError, InputError

from .conftest import Ask

MODEL = "llama-3-8b"
LOAD: dict[str, Any] = {"rate": 8.0, "requests": 60, "input_len": 512, "output_len": 32}
PAIR = {"prefill": "h100-x1", "decode": "h100-x1"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"prefill": "h100-x1"}, "--decode: is needed too"),
        ({"decode_tp": 2}, "--prefill: is needed too"),
        ({**PAIR, "system": "h100-x1"}, "--system: cannot be combined with --prefill and --decode"),
        ({**PAIR, "replicas": 2}, "--replicas: cannot be combined with"),
        ({**PAIR, "prefill": "h100-x1x0"}, "--prefill: must have 1 to 65536 systems"),
        ({**PAIR, "decode": "h100-x1x70000"}, "--decode: must have 1 to 65536 systems"),
        ({**PAIR, "prefill": "duplex-split-x4"}, "--prefill: duplex-split-x4 has two pools"),
        ({**PAIR, "decode_tp": 3}, r"--decode-tp: must be in \[1, 1\]"),
        ({**PAIR, "kv_link": "0"}, "--kv-link: must be a name, or a rate above 0"),
        ({**PAIR, "kv_link": "50,-1"}, "--kv-link: must be a name, or a rate above 0"),
        ({**PAIR, "kv_link": "nvlnk4"}, "--kv-link: unknown link 'nvlnk4'; did you mean 'nvlink4'"),
        ({**PAIR, "kv_link": "nvlink3"}, "--kv-link: nvlink3 has 200 or 300 GB/s"),
        ({**PAIR, "kv_overlap": "all"}, "--kv-overlap: must be none or layers"),
        ({**PAIR, "decode": "zcu102-x1"}, "FPGA"),
    ],
)
def test_what_cannot_be_two_pools_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        simulate(MODEL, **options, **LOAD)


def test_a_model_that_does_not_fit_a_pool_is_refused() -> None:
    with pytest.raises(CapacityError, match="h200-x4: deepseek-v3 does not fit"):
        simulate("deepseek-v3", prefill="h200-x8", decode="h200-x4", **LOAD)


def test_pools_keep_caches_in_one_format(tmp_path: Path) -> None:
    engine = tmp_path / "engine.json"
    engine.write_text('{"kv_cache_dtype": "fp8"}')
    with pytest.raises(InputError, match="--kv-dtype: must be the same in both pools"):
        simulate(MODEL, **PAIR, decode_engine=str(engine), **LOAD)


def test_pools_have_options_of_their_own() -> None:
    pair = pair_of(
        Scenario.of(
            MODEL, prefill="h100-x2x3", decode="duplex-x4", tp=2, decode_tp=4, policy="vllm",
            decode_policy="mixed", decode_max_seqs=7, kv_link="25,3",
        )
    )  # fmt: skip
    assert [len(side.nodes) for side in (pair.prefill, pair.decode)] == [3, 1]
    assert [s.deployment.layout.tp for s in (pair.prefill, pair.decode)] == [2, 4]
    assert [s.settings.policy.name for s in (pair.prefill, pair.decode)] == ["vllm", "mixed"]
    assert pair.decode.settings.policy.max_sequences == 7
    assert (pair.link.bandwidth_bytes_per_s, pair.link.latency_s) == (25e9, pytest.approx(3e-6))
    default = pair_of(Scenario.of(MODEL, prefill="h100-x1", decode="duplex-x1")).link
    assert (default.name, default.bandwidth_bytes_per_s) == ("infiniband-ndr", 50e9)


def test_an_answer_tells_of_both_pools_and_the_link() -> None:
    made = simulate(MODEL, prefill="h100-x1x2", decode="duplex-x1", keep_stages=True, **LOAD)
    told, run = made.to_dict(), made.run
    assert [(p["name"], p["replicas"], p["devices"]) for p in told["pools"]] == [("prefill", 2, 2), ("decode", 1, 1)]
    assert sum(p["prompt_tokens"] for p in told["pools"]) == told["prompt_tokens"] == 60 * 512
    assert [p["output_tokens"] for p in told["pools"]] == [60, 60 * 31]
    assert told["kv_link"]["bytes"] == told["moved_kv_bytes"] == 60 * 512 * 131_072
    assert run.devices == 3
    waits = run.parts["two-pools"].moves.end_s - run.requests.first_token_s
    assert told["kv_link"]["share_of_latency"] == pytest.approx(
        waits.sum() / (run.requests.last_token_s - run.requests.arrival_s).sum()
    )
    assert {e["applies_to"].rpartition(", ")[2] for e in told["evidence"]} >= {"prefill", "decode"}
    assert set(run.stages["node"]) == {0.0, 1.0, 2.0}
    assert any("prefill" in str(block) for block in made.blocks())
    assert {op.processor.partition(" of ")[2] for op in run.ops} == {"h100", "duplex"}


def test_what_is_too_small_limits() -> None:
    """Long prompts, long answers with few places, a link of 0.2 GB/s."""
    for changes, name in (
        ({"input_len": 8000, "output_len": 2, "rate": 5.0}, "prefill"),
        ({"decode_max_seqs": 2, "output_len": 300}, "decode"),
        ({"kv_link": "0.2"}, "link"),
    ):
        made = simulate(MODEL, **PAIR, keep_stages=True, **{**LOAD, **changes})
        assert limiting_pool(made.run, made.run.parts["two-pools"], ("ttft_p99",)) == name


def test_capacity_tries_every_ratio_and_names_the_pool(ask: Ask) -> None:
    load = {"input_len": 2048, "output_len": 8}
    found = capacity(MODEL, "h100-x1", "ttft_p99=0.3", **PAIR, devices=4, requests=60,
                     tolerance=0.5, workers=1, **load).found  # fmt: skip
    assert [(f.system, f.devices) for f in found] == [
        ("h100-x1", 1), ("h100-x1+h100-x1x3", 4), ("h100-x1x2+h100-x1x2", 4),
        ("h100-x1x3+h100-x1", 4),
    ]  # fmt: skip
    loads = [f.load_per_s or 0.0 for f in found[1:]]
    assert loads == sorted(loads)  # prompts are nearly all of the work
    assert all(f.limit is not None and f.limit.resource.startswith("prefill pool") for f in found[1:])
    for arguments, line in (
        (("--devices", 4, "--systems", "h100-x1"), "--devices: belong to two pools"),
        (("--devices", 5, "--prefill", "h100-x2", "--decode", "h100-x2"), "is not the sum of systems"),
        (("--devices", 4, "--prefill", "h100-x1x2", "--decode", "h100-x1"), "--prefill: must not have a number xN"),
        ((), "--systems: needs comma-separated names"),
    ):
        assert line in ask("capacity", MODEL, "--slo", "ttft_p99=1", *arguments).refused()


def test_sweeps_have_columns_of_pools() -> None:
    row = metrics_of(simulate(MODEL, **PAIR, **LOAD))
    assert set(OF_PARTS["prefill"]) <= set(row)
    assert not set(OF_PARTS["prefill"]) & set(metrics_of(simulate(MODEL, "h100-x1", **LOAD)))


def test_files_show_every_engine_and_the_link(ask: Ask, tmp_path: Path) -> None:
    ask("simulate", MODEL, "--prefill", "h100-x1x2", "--decode", "h100-x1", "--rate", 8, "--requests", 20,
        "--input-len", 128, "--output-len", 8, "--out", tmp_path / "out")  # fmt: skip
    events = json.loads((tmp_path / "out" / "timeline.json").read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {1: "prefill 0", 2: "prefill 1", 3: "decode 0", 4: "KV link"}
    sent = [e for e in events if e["pid"] == 4 and e["ph"] in "be"]
    assert len(sent) == 40
    assert {e["pid"] for e in events if e["ph"] == "X"} == {1, 2, 3}
    header = (tmp_path / "out" / "requests.csv").read_text().partition("\n")[0]
    assert header.endswith("kv_start_s,kv_end_s")

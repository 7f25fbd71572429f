"""Do answers with speculation say what it did, what it cost and what it rests on?

Expected values: the plain answer for no drafts (equal but for what made it), one step as the sum of its
verification and K passes of what drafts, and memory as the sum of what both models hold.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opbyte import simulate
from opbyte.analysis.answers.roofline import roofline
from opbyte.simulator.engine.kv import kv_rules
from opbyte.simulator.parts.drafts.explicit import draft_batches
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import deployment_of
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch

from .conftest import Ask

RUN = ("simulate", "llama-3-8b", "--system", "h100-x1", "--policy", "vllm", "--rate", "8", "--requests", "30",
       "--input-len", "100", "--output-len", "20")  # fmt: skip
EAGLE = ("--speculative", "eagle:2", "--acceptance", "0.8,0.5")


def told(answer: Any) -> dict[str, Any]:
    """An answer without what made it."""
    return {k: v for k, v in answer.json().items() if k != "made_by"}


def test_no_drafts_are_the_plain_run(ask: Ask, tmp_path: Path, drawn: list[str]) -> None:
    plain = ask(*RUN, "--out", tmp_path / "plain")
    none = ask(*RUN, "--speculative", "eagle:0", "--out", tmp_path / "none")
    assert plain.code == none.code == 0
    for table in ("requests.csv", "stages.csv", "timeline.json"):
        assert (tmp_path / "plain" / table).read_bytes() == (tmp_path / "none" / table).read_bytes()
    assert told(ask(*RUN, "--json")) == told(ask(*RUN, "--speculative", "eagle:0", "--json"))


def test_an_answer_says_what_speculation_did(ask: Ask) -> None:
    found = ask(*RUN, *EAGLE, "--json").json()
    own = found["speculation"]
    assert own["expected_tokens_per_verification"] == 1 + 0.8 + 0.8 * 0.5
    assert 1.0 < own["tokens_per_verification"] < 3.0
    assert own["drafted_tokens"] == 2 * own["verifications"]
    assert own["accepted_share"] == own["accepted_tokens"] / own["drafted_tokens"]
    ops = {op["name"]: op for op in found["layers"]}
    drafting = sum(op["wall_s"] for op in found["layers"] if op["layer"] == "draft")
    assert drafting == pytest.approx(own["draft_seconds"], rel=1e-9)
    assert {"draft_fusion", "draft_logits", "draft_attention_decode"} <= set(ops)
    rests = [e for e in found["evidence"] if e["cost_model"] == "acceptance of drafts"]
    assert [(e["basis"], e["why"]) for e in rests] == [("given", "0.8, 0.5")]
    text = ask(*RUN, *EAGLE).out
    assert "Speculation: method eagle, " in text
    assert "chances given 0.8000, 0.5000" in text


def test_one_step_is_its_parts() -> None:
    found = roofline("llama-3-8b", "h100-x1", batch=4, context=500, speculative="eagle:3", acceptance="0.9,0.8,0.7")
    d = found.deployment
    assert d.parts["drafts"].draft is not None
    batch = Batch.of([500] * 4, new=4)
    verify = explicit_stage(d, [batch], expected=True).seconds
    passes = draft_batches(batch, 3)
    assert [b.tokens for b in passes] == [16, 4, 4]
    drafts = [explicit_stage(d.parts["drafts"].draft, [b], expected=True).seconds for b in passes]
    own = found.to_dict()["speculation"]
    assert own["verify_seconds"] == verify
    assert own["draft_seconds"] == pytest.approx(sum(drafts), rel=1e-12)
    assert found.step_seconds == pytest.approx(verify + sum(drafts), rel=1e-12)
    mean = 1 + 0.9 + 0.72 + 0.504
    assert own["speedup"] == pytest.approx(mean * own["plain_seconds"] / found.step_seconds)
    logits = {op.name: op for op in found.ops}
    # Four rows of logits a sequence are verified, one is drafted, at 2 x 4096 x 128256 FLOP each.
    assert logits["logits"].flops == 16 * 2 * 4096 * 128256
    assert logits["draft_logits"].flops == 4 * 2 * 4096 * 128256


@pytest.mark.parametrize(
    ("model", "system", "method"),
    [("llama-3-8b", "h100-x1", "eagle"), ("llama-3-70b", "h100-x4", "draft:llama-3-8b"),
     ("deepseek-v3", "h200-x8", "mtp"), ("qwen3-next-80b-a3b", "h100-x4", "mtp"),
     ("llama-3-8b", "h100-x1", "ngram")],
)  # fmt: skip
def test_memory_holds_both_models(model: str, system: str, method: str) -> None:
    plain = deployment_of(Scenario.of(model, system))[0]
    d = deployment_of(Scenario.of(model, system, speculative=f"{method}:2", acceptance="0.5,0.5"))[0]
    draft = 0.0 if d.parts["drafts"].draft is None else d.parts["drafts"].draft.memory(1e15).weights
    assert (draft > 0) == (method != "ngram")
    assert d.memory().weights == plain.memory().weights + draft
    mine, rules = kv_rules(plain), kv_rules(d)
    assert rules.capacity == mine.capacity - draft
    tokens = 0.0 if d.parts["drafts"].draft is None else d.parts["drafts"].draft.shard.kv_bytes_per_token
    per_token = mine.block_bytes.sum() / mine.block + tokens
    assert rules.block_bytes.sum() / rules.block == pytest.approx(per_token)
    assert rules.constant == 3 * mine.constant


BAD = {
    "no chances": (("--speculative", "eagle:2"), "--acceptance: is needed with --speculative eagle:2"),
    "too many": ((*EAGLE[:3], "0.5,0.5,0.5"), "has 3 values for the 2 drafts of eagle:2"),
    "above 1": ((*EAGLE[:3], "0.5,1.5"), "must be a comma-separated list of numbers from 0 to 1, not '1.5'"),
    "negative": ((*EAGLE[:3], "0.5,-1"), "must be a comma-separated list of numbers from 0 to 1"),
    "no drafts": (("--acceptance", "0.5"), "needs --speculative"),
    "method": (("--speculative", "medusa:2"), "unknown speculator; known: draft, eagle, mtp, ngram"),
    "no heads": (("--speculative", "mtp:1", "--acceptance", "0.5"), "has no multi-token-prediction heads"),
    "no column": (("--speculative", "eagle:2", "--trace", "requests.csv"), "request 1 of the trace has no value"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(ask: Ask, tmp_path: Path, case: str) -> None:
    options, says = BAD[case]
    trace = tmp_path / "requests.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens,acceptance\n0,9,9,0.5\n1,9,9,\n")
    given = [str(trace) if text == "requests.csv" else text for text in options]
    start = RUN[:4] if "--policy" in given or "--trace" in given else RUN
    found = ask(*start, "--requests", 20, *given) if start != RUN else ask(*RUN, *given)
    assert found.code == 2
    assert says in found.err
    assert len(found.err.strip().splitlines()) == 1


def test_the_pool_that_decodes_speculates() -> None:
    """The first token is the prompt's; the second comes without drafts, which nobody has made there yet."""
    found = simulate(
        "llama-3-8b", prefill="h100-x1", decode="h100-x1", rate=4.0, requests=4, input_len=64,
        output_len=8, speculative="eagle:1", acceptance="1",
    ).run  # fmt: skip
    assert found.parts["drafts"].counts.emitted == 4 * 7
    assert found.parts["drafts"].counts.verified == 4 * (1 + 3)  # 8 tokens: one, one, and three times two


def test_engine_files_ask_for_speculation(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    config = {"method": "eagle", "num_speculative_tokens": 2, "model": "some/eagle-head"}
    file.write_text(json.dumps({"speculative_config": config}))
    by_file = ask(*RUN, "--engine", file, "--acceptance", "0.8,0.5", "--json").json()
    by_option = ask(*RUN, *EAGLE, "--json").json()
    assert by_file["speculation"]["drafts"] == by_option["speculation"]["drafts"] == 2
    for key, value, says in (
        ("method", "medusa", "speculative_config.method: unknown method 'medusa'"),
        ("num_speculative_tokens", None, "num_speculative_tokens: is missing"),
        ("num_speculative_tokens", -1, "num_speculative_tokens: must be a whole number"),
        ("draft_tensor_parallel_size", 4, "must be equal to tensor_parallel_size (1)"),
        ("disable_by_batch_size", 8, "disable_by_batch_size: must be left out"),
    ):
        file.write_text(json.dumps({"speculative_config": config | {key: value}}))
        found = ask(*RUN, "--engine", file, "--acceptance", "0.8,0.5")
        assert found.code == 2
        assert says in found.err
        assert len(found.err.strip().splitlines()) == 1


def test_drafts_pay_at_low_load_and_cost_at_high() -> None:
    """A step of one sequence waits for weights, one of 512 computes (at 4 drafts of 5)."""
    for batch, pays in ((1, True), (512, False)):
        found = roofline("llama-3-8b", "h100-x1", batch=batch, context=200, speculative="eagle:4",
                         acceptance="0.7,0.5,0.4,0.3").to_dict()  # fmt: skip
        assert (found["speculation"]["speedup"] > 1.0) == pays

"""Are the steps of a run that are shown one by one those that were run?

The expected time of a step is the run's own; what a request went through adds up to its stamps.
Draws include prompts in chunks, preemptions, and what a framework's host adds.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.analysis.answers.run_steps import DECODES, HOST, PREEMPTED, PROMPT, QUEUED, read_window
from opbyte.analysis.answers.simulate import simulate
from opbyte.workloads.batch import PREFILL
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("duplex-x4", {}),
    ("h100-x4", {"policy": "vllm", "token_budget": 512}),
    ("h100-x4", {"framework": "vllm"}),
    ("h100-x4", {"adapters": 6}),
    ("duplex-x4", {"policy": "chunked", "token_budget": 300, "kv_dtype": "fp8"}),
)


@pytest.mark.parametrize("case", range(len(CASES)))
@given(data=st.data())
@settings(max_examples=2)
def test_steps_are_the_runs(case: int, data: st.DataObject) -> None:
    system, options = CASES[case]
    whole = load_model("mixtral-8x7b")
    run = simulate(
        replace(whole, layers=whole.layers[:8]), system, rate=data.draw(st.sampled_from((5.0, 200.0))), requests=6,
        input_len=data.draw(st.sampled_from((40, 2000))), output_len=12, lengths="lognormal",
        seed=data.draw(st.integers(0, 3)), steps="30", **options,
    )  # fmt: skip
    seen = run.steps
    assert seen is not None
    requests = run.run.requests
    # Every step's ops, and what it waits for beside them, end when it does.
    by_step: dict[int, list[Any]] = defaultdict(list)
    for bar in seen.bars:
        by_step[bar.step].append(bar)
    for step in seen.steps:
        own = by_step[step.number]
        assert max(bar.end_s for bar in own) == pytest.approx(step.end_s, abs=1e-12, rel=1e-9)
        assert min(bar.start_s for bar in own) >= step.start_s - 1e-12
        if not options.get("framework") and not (step.batch.phase == PREFILL).any():  # prompts are launched by the host
            assert not [bar for bar in own if bar.lane == HOST]
    # A request is in one state at a time, from its arrival to its last token.
    by_request: dict[int, list[Any]] = defaultdict(list)
    for span in seen.spans:
        by_request[span.request].append(span)
    last = seen.steps[-1].end_s
    for i, spans in by_request.items():
        for before, after in itertools.pairwise(spans):
            assert after.start_s >= before.end_s - 1e-12
        if requests.last_token_s[i] <= last:
            tokens = {w: sum(s.tokens for s in spans if s.what == w) for w in (PROMPT, DECODES)}
            assert tokens[PROMPT] >= 1
            if not requests.preemptions[i]:
                assert tokens[DECODES] == requests.output_tokens[i] - 1
            waits = [s for s in spans if s.what == QUEUED]
            begin = seen.steps[0].start_s  # a server prepares the first request before
            assert all(s.start_s == pytest.approx(max(requests.arrival_s[i], begin)) for s in waits)
            ends = max(s.end_s for s in spans)
            assert ends == pytest.approx(requests.last_token_s[i], rel=1e-6, abs=1e-3)


def test_preemptions_show() -> None:
    """80 requests of 6,100 tokens outgrow a KV cache of about 465,000: some are thrown out."""
    run = simulate(
        "llama-3-8b", "h100-x1", policy="vllm", closed_loop=80, requests=80, input_len=5500,
        output_len=600, lengths="fixed", max_seqs=80, token_budget=8192, steps="560:700",
    )  # fmt: skip
    assert run.steps is not None
    out = [span for span in run.steps.spans if span.what == PREEMPTED]
    assert len(out) == run.run.preemptions
    for span in out:  # computed again when there is room, as the step before ends
        again = next(
            s for s in run.steps.spans if s.request == span.request and s.what == PROMPT and s.start_s >= span.end_s
        )
        assert again.start_s == pytest.approx(span.end_s)
        assert again.tokens > 1  # its prompt and what it had made, but for what the cache still has


@pytest.mark.parametrize("text", ["0", "x", "5:5", "9:3", "1:1000", "-3", "1:2:3", ""])
def test_a_bad_window(text: str) -> None:
    with pytest.raises(InputError, match="--steps"):
        read_window(text)


def test_what_has_no_steps() -> None:
    few: dict[str, Any] = {"rate": 5.0, "requests": 3, "input_len": 8, "output_len": 3}
    with pytest.raises(InputError, match="one engine of one rank"):
        simulate("mixtral-8x7b", "h100-x4", steps="3", tp=1, **few)
    with pytest.raises(InputError, match="sglang's own scheduler"):
        simulate("mixtral-8x7b", "h100-x4", steps="3", framework="sglang", **few)
    with pytest.raises(InputError, match="must begin within the run"):
        simulate("mixtral-8x7b", "duplex-x4", steps="90:95", **few)

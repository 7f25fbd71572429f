"""Does a long run lose nothing, whatever parts it has: tokens, order, memory, energy?

10^4 requests over two pools and of the other parts together; ``make nightly`` serves 10^6 of each part alone too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opbyte.simulator.results.record import Run
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import run_scenario

MODEL, SYSTEM = "llama-3.2-1b", "h100-x1"
LOAD: dict[str, Any] = {
    "rate": 100.0, "input_len": 64, "output_len": 6, "lengths": "lognormal", "seed": 5, "policy": "vllm",
}  # fmt: skip
SESSIONS: dict[str, Any] = {"turns": 4, "think": 0.2, "rate": 25.0}
TIERS = SESSIONS | {"kv_tiers": "host:1GiB"}
DRAFTS: dict[str, Any] = {"speculative": "ngram:2", "acceptance": "0.5,0.5"}
ADAPTERS: dict[str, Any] = {"adapters": 12, "adapters_resident": 4}
FAILURES: dict[str, Any] = {"replicas": 2, "fail": ("0@20", "1@60"), "repair": 5.0}
PARTS: dict[str, dict[str, Any]] = {
    "pools": {"prefill": SYSTEM, "decode": SYSTEM},
    "drafts": DRAFTS,
    "adapters": ADAPTERS,
    "sessions": SESSIONS,
    "failures": FAILURES,
    "all": TIERS | DRAFTS | ADAPTERS | FAILURES,
}
NIGHT = pytest.mark.nightly


def run_of(requests: int, options: dict[str, Any]) -> Run:
    system = None if "prefill" in options else SYSTEM
    return run_scenario(Scenario.of(MODEL, system, **(LOAD | {"requests": requests} | options)))


@pytest.mark.parametrize(
    ("name", "requests"),
    [("pools", 10_000), ("all", 10_000), *(pytest.param(name, 1_000_000, marks=NIGHT) for name in PARTS)],
)
def test_nothing_is_lost(name: str, requests: int) -> None:
    found = run_of(requests, PARTS[name])
    rows = found.requests
    assert np.array_equal(np.sort(rows.request_id), np.arange(requests))
    assert found.output_tokens == rows.output_tokens.sum()
    assert found.prompt_tokens + found.cached_tokens >= rows.input_tokens.sum()
    if name not in ("failures", "all"):  # what a failure lost is computed again
        assert found.prompt_tokens + found.cached_tokens == rows.input_tokens.sum()
    for early, late in (
        ("arrival_s", "scheduled_s"),
        ("scheduled_s", "first_token_s"),
        ("first_token_s", "last_token_s"),
    ):
        assert (getattr(rows, early) <= getattr(rows, late)).all()
    assert rows.last_token_s.max() <= found.makespan_s
    assert 0.0 < found.kv_peak <= 1.0
    assert found.joules == pytest.approx(sum(sum(op.joules.values()) for op in found.ops), rel=1e-9)
    for quantiles in (found.ttft_s, found.tbt_s, found.tpot_s):
        assert 0.0 <= quantiles.p50 <= quantiles.p90 <= quantiles.p99
    assert found.failures == len(PARTS[name].get("fail", ()))

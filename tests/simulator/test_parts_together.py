"""Do parts that share devices, links or replicas run together, and is nothing lost between them?

Each pair of options runs whole: all requests end with all tokens, stamps are in order, and what has no effect leaves
every byte as it was. Where two parts share the host's link it never carries more than its time allows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opbyte.simulator.results.record import Run
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import run_scenario

LOAD: dict[str, Any] = {"rate": 12.0, "requests": 40, "input_len": 160, "output_len": 12, "seed": 5}
ADAPTERS: dict[str, Any] = {"adapters": 12, "adapters_resident": 2}
LLAMA = ("llama-3-8b", "h100-x2")
MIXTRAL = ("mixtral-8x7b", "h100-x4")
TIERS: dict[str, Any] = {"policy": "vllm", "kv_tiers": "host:8GiB", "turns": 4, "think": 0.2, "rate": 3.0}
PAIRS: dict[str, tuple[tuple[str, str | None], dict[str, Any]]] = {
    "resident-adapters+replicas": (LLAMA, ADAPTERS | {"tp": 1, "dp": 2, "replicas": 2}),
    "resident-adapters+two-pools": (("llama-3-8b", None), ADAPTERS | {"prefill": "h100-x1", "decode": "h100-x1"}),
    "resident-adapters+autoscale": (LLAMA, ADAPTERS | {"autoscale": "1:3,by=requests:3,start=0.1,every=0.2,hold=0.3"}),
    "resident-adapters+failures": (LLAMA, ADAPTERS | {"replicas": 2, "fail": ("0@0.8", "1@1.9"), "repair": 0.4}),
    "resident-adapters+drafts": (LLAMA, ADAPTERS | {"speculative": "ngram:2", "acceptance": "0.5,0.5"}),
    "resident-adapters+kv-tiers": (LLAMA, ADAPTERS | TIERS),
    "kv-tiers+resident-experts+resident-adapters": (MIXTRAL, ADAPTERS | TIERS | {"tp": 4, "experts_resident": "0.5"}),
    "kv-tiers+pipeline+drafts": (LLAMA, TIERS | {"pp": 2, "speculative": "ngram:2", "acceptance": "0.5,0.5"}),
    "experts-apart+autoscale": (
        MIXTRAL,
        {"experts_on": "h100-x4", "autoscale": "1:3,by=requests:3,start=0.1,every=0.2"},
    ),
}


def run_of(where: tuple[str, str | None], **options: Any) -> Run:
    return run_scenario(Scenario.of(*where, **(LOAD | {"policy": "vllm"} | options)))


@pytest.mark.parametrize("name", PAIRS)
def test_all_that_comes_ends(name: str) -> None:
    where, options = PAIRS[name]
    found = run_of(where, **options)
    r, asked = found.requests, (LOAD | options)["requests"]
    assert len(r.request_id) == asked
    assert found.output_tokens == int(r.output_tokens.sum()) == 12 * asked
    assert (r.arrival_s <= r.scheduled_s).all()
    assert (r.scheduled_s < r.first_token_s).all()
    assert (r.first_token_s <= r.last_token_s).all()
    assert (r.last_token_s > r.first_token_s).all()
    assert found.joules > 0.0
    if "resident-adapters" in name:
        assert 0 < found.parts["adapters"].counts.loads <= found.parts["adapters"].counts.asked
        assert found.parts["adapters"].counts.asked >= asked * (2 if "two-pools" in name else 1)
    if "kv-tiers" in name:
        assert "kv-tiers" in found.parts


def test_what_never_happens_changes_no_byte() -> None:
    """A failure after the end, an autoscaler that has nothing to decide, adapters that are all named 0."""
    plain = run_of(LLAMA, **ADAPTERS)
    for options in ({"fail": ("0@1e6",)}, {"autoscale": "1:1"}, {"replicas": 1}):
        other = run_of(LLAMA, **ADAPTERS, **options)
        assert np.array_equal(plain.requests.last_token_s, other.requests.last_token_s)
        assert plain.joules == other.joules
        assert plain.parts["adapters"].counts == other.parts["adapters"].counts


def test_a_failed_replica_comes_back_without_adapters() -> None:
    """One adapter is brought once, and once more after each failure."""
    one: dict[str, Any] = {"adapters": 2, "adapters_resident": 1, "adapter_popularity": "power_law:10"}
    whole, failed = (run_of(LLAMA, **one, **more) for more in ({}, {"fail": ("0@1.5",), "repair": 0.1}))
    assert failed.parts["adapters"].counts.loads == whole.parts["adapters"].counts.loads + 1
    assert failed.restarts > 0


def test_the_link_to_the_host_carries_one_thing_at_a_time() -> None:
    """What experts, adapters and KV blocks take of it adds up to no more than there is; experts go first."""
    where, options = PAIRS["kv-tiers+resident-experts+resident-adapters"]
    load = options | {"requests": 60, "rate": 30.0, "experts_resident": "0.25"}
    found = run_of(where, **load)
    up = sum(tier.up_s for tier in found.parts["kv-tiers"].tiers)
    used = up + found.parts["adapters"].counts.link_s + found.parts["resident-experts"].fetch.link_s
    assert found.parts["resident-experts"].fetch.link_s > 0.5 * found.makespan_s  # it is what all wait for
    assert used <= found.makespan_s * (1 + 1e-9)
    alone = run_of(where, **{k: v for k, v in load.items() if k != "experts_resident"})
    waits = [x.parts["adapters"].counts.waited_s / x.parts["adapters"].counts.asked for x in (alone, found)]
    assert waits[1] > waits[0]


def test_devices_with_experts_come_and_go_with_their_replica() -> None:
    where, options = PAIRS["experts-apart+autoscale"]
    found, fixed = run_of(where, **options), run_of(where, experts_on="h100-x4", replicas=3)
    assert found.parts["autoscale"].devices == 8
    assert found.parts["autoscale"].mean_devices(found.window) <= 24
    assert fixed.devices == 24

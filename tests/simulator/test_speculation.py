"""Does speculative decoding schedule as a slow reference does, and is nothing lost in it?

Expected values: closed forms (mean tokens of a verification are one and the products of the chances of
acceptance; chance 1 brings K + 1 tokens each time, chance 0 one), the plain run for no drafts, and
`reference.Verifying`, stamp for stamp, with acceptance drawn by a SplitMix64 of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.kv import CacheSettings
from opbyte.simulator.engine.policies import POLICIES, Policy
from opbyte.simulator.fleet.run import run
from opbyte.simulator.parts.drafts.run import speculating_policy
from opbyte.simulator.parts.drafts.speculating import speculating
from opbyte.simulator.parts.drafts.speculation import Speculation
from opbyte.simulator.parts.drafts.verify import ACCEPT_SEED
from opbyte.workloads.catalog import load_model
from opbyte.workloads.requests import RequestBlock, RequestStream
from opbyte.workloads.requests.block import Turns
from opbyte.workloads.speculators import SPECULATORS, expected_tokens, read_asked

from .deployments import small
from .pieces import check_ended, check_served, hosts, play, slow_engine, slow_requests, small_engine, stamps
from .reference import Verifying
from .test_scheduler import check_memory, workloads

SETUPS = (
    ("llama-3-8b", "h100-x1", "uniform", "eagle"),
    ("llama-3-8b", "h100-x1", "uniform", "draft:llama-3-8b"),
    ("windowed", "h100-x1", "uniform", "ngram"),
    ("windowed", "h100-x2", "uniform", "eagle"),
    ("jamba-mini", "duplex-x4", "uniform", "ngram"),
    ("qwen3-next-80b-a3b", "h100-x1", "uniform", "mtp"),
    ("deepseek-v3", "h100-x2", "uniform", "mtp"),
    ("mixtral-8x7b", "h100-2x2", "measured", "ngram"),
    ("llama-3-8b+adapters", "h100-x1", "uniform", "eagle"),
)

SEED = 7


def drawn(index: int, generated: int, rates: tuple[float, ...], seed: int = SEED) -> int:
    """How many drafts behind so many tokens of a request are accepted, in plain integers."""
    mask = 2**64 - 1

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    x = mix(((seed ^ ACCEPT_SEED) + golden) & mask)
    x = mix(x ^ ((index + golden) & mask))
    x = mix(x ^ ((generated * golden + golden) & mask))
    u = ((x >> 11) + 0.5) / 2**53
    good, reach = 0, 1.0
    for rate in rates:
        reach *= rate
        if u >= reach:
            break
        good += 1
    return good


def test_draws_have_the_chances_they_are_given() -> None:
    """Share of sequences whose first, second and third draft are accepted: the products."""
    rates = (0.9, 0.5, 0.25)
    found = np.array([drawn(i, g, rates) for i in range(200) for g in range(200)])
    for position, chance in enumerate(np.cumprod(rates)):
        share = float((found > position).mean())
        assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / len(found))
    mean = expected_tokens(rates)
    assert mean == 1 + 0.9 + 0.45 + 0.1125
    assert found.mean() + 1 == pytest.approx(mean, abs=0.02)


def test_expected_tokens() -> None:
    assert expected_tokens([]) == 1.0
    assert expected_tokens([1.0, 1.0, 1.0]) == 4.0
    assert expected_tokens([0.0, 1.0]) == 1.0


def test_no_step_is_scheduled_ahead_of_n_grams() -> None:
    """Which the host finds in tokens that it must know; heads run on the device."""
    for method in ("ngram", "eagle"):
        drafter = SPECULATORS[method](load_model("llama-3-8b"), "")
        own = Speculation(read_asked(f"{method}:1"), (0.5,), drafter.copies, drafter.on_host)
        assert speculating_policy(POLICIES["vllm"], own).ahead == (method == "eagle")


@st.composite
def loads(draw: st.DrawFn) -> dict[str, Any]:
    """Requests, a policy that speculation is built for, drafts and their chances."""
    load = draw(workloads())
    policy: Policy = load["policy"]
    policy = replace(
        policy, prompts_alone=False, poll_steps=1, gather_steps=0, even_steps=0,
        lazy=draw(st.booleans()), host=draw(hosts),
    )  # fmt: skip
    rate = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.2, 1.0))
    rates = tuple(draw(st.lists(rate, min_size=1, max_size=4)))
    return load | {"policy": policy, "rates": rates}


def speculative(deployment: Deployment, method: str, rates: tuple[float, ...] | None, k: int) -> Deployment:
    """A deployment with something that drafts."""
    return speculating(deployment, read_asked(f"{method}:{k}"), rates, "uniform", 3)


def engine_for(deployment: Deployment, load: dict[str, Any], **options: Any) -> Engine:
    """An engine with as little KV memory as the workload says."""
    spare = deployment.parts["drafts"].spare(load["policy"].ahead)
    return small_engine(deployment, load, spare, seed=SEED, **options)


def verifying(engine: Engine, load: dict[str, Any]) -> dict[str, Any]:
    """What a slow scheduler must know of an engine's drafts."""
    drafts = engine.deployment.parts["drafts"]
    return {
        "spare": engine.limits.spare, "several": engine.deployment.several, "drafts": engine.deployment.several - 1, "lookahead": drafts.lookahead,
        "accept": lambda request: drawn(request.index, request.generated, load["rates"]),
    }  # fmt: skip


@pytest.mark.parametrize(("model", "system", "routing", "method"), SETUPS)
@given(load=loads())
@settings(max_examples=5)
def test_same_schedule_as_the_reference(
    model: str, system: str, routing: str, method: str, load: dict[str, Any],
) -> None:  # fmt: skip
    rates: tuple[float, ...] = load["rates"]
    d = speculative(small(model, system, routing), method, rates, len(rates))
    engine = engine_for(d, load)
    play(engine, load)
    requests = slow_requests(load)
    slow = slow_engine(engine, load["clients"], Verifying, **verifying(engine, load))
    slow.serve(requests)
    check_served(engine, slow, requests)
    check_memory(engine, len(requests))
    check_ended(engine, load)
    spec, outputs, preempted = engine.parts["drafts"], load["outputs"], engine.state.counters[0].preemptions
    counts = spec.counts[0]
    assert (counts.verified, counts.wasted) == (slow.verified, slow.wasted)
    assert counts.verified <= counts.emitted <= counts.verified + counts.accepted
    assert counts.accepted <= counts.drafted <= counts.verified * len(rates)
    # Each request's first token, and one after each preemption that met it, come from a prompt.
    assert sum(outputs) - len(outputs) - preempted <= counts.emitted <= sum(outputs) - len(outputs)
    assert sum(spec.seconds[0].tolist()) <= engine.state.clocks[0].busy * (1 + 1e-9)
    assert (spec.seconds[0].draft > 0.0) == (d.parts["drafts"].draft is not None)
    assert spec.seconds[0].verify > 0.0


def run_of(deployment: Deployment, policy: Policy, n: int = 40, rates: Any = None) -> Engine:
    """An engine that has served requests of 20 + 33 tokens."""
    engine = Engine(deployment, policy, seed=SEED)
    block = RequestBlock(np.arange(n), np.zeros(n), np.full(n, 20), np.full(n, 33), acceptance=rates)
    engine.submit(block)
    engine.advance(math.inf)
    return engine


@pytest.mark.parametrize("method", ["eagle", "ngram"])
@pytest.mark.parametrize("policy", ["vllm", "chunked", "mixed"])
def test_chances_of_one_and_none(method: str, policy: str) -> None:
    """Of 33 tokens the prompt brings one: 8 verifications of K + 1 = 4, or 32 of one, dearer steps."""
    plain = small("llama-3-8b", "h100-x1", "uniform")
    sure = run_of(speculative(plain, method, (1.0,) * 3, 3), POLICIES[policy])
    none = run_of(speculative(plain, method, (0.0,) * 3, 3), POLICIES[policy])
    bare = run_of(plain, replace(POLICIES[policy], ahead=none.policy.ahead))
    assert sure.parts["drafts"].counts[["verified", "emitted"]].tolist() == [(40 * 8, 40 * 32)]
    assert none.parts["drafts"].counts[["verified", "emitted"]].tolist() == [(40 * 32, 40 * 32)]
    assert none.parts["drafts"].counts[0].wasted == 0
    assert none.state.counters[0].steps == bare.state.counters[0].steps
    assert sure.state.counters[0].steps < bare.state.counters[0].steps
    assert none.now > bare.now > sure.now


def test_requests_bring_their_own_chances() -> None:
    plain = small("llama-3-8b", "h100-x1", "uniform")
    d = speculative(plain, "eagle", None, 3)
    own = np.repeat([0.0, 1.0], 20)
    engine = run_of(d, POLICIES["vllm"], rates=own)
    assert engine.parts["drafts"] is not None
    assert engine.parts["drafts"].counts[0].verified == 20 * 32 + 20 * 8
    equal = run_of(speculative(plain, "eagle", (0.6,) * 3, 3), POLICIES["vllm"])
    same = run_of(d, POLICIES["vllm"], rates=np.full(40, 0.6))
    assert np.array_equal(stamps(equal, 40), stamps(same, 40))


@pytest.mark.parametrize("outputs", [4, 5])
def test_a_next_turn_finds_no_rejected_draft(outputs: int) -> None:
    """Of 20 tokens and an answer all but its last one are in memory, in blocks of four; its drafts are not."""
    d = speculative(small("llama-3-8b"), "ngram", (0.0,) * 3, 3)
    asked = np.array([20, 20 + outputs + 10])
    turns = Turns(np.array([-1, 0]), np.array([0, 0]), np.array([0.0, 1.0]))
    block = RequestBlock(np.arange(2), np.zeros(2), asked, np.array([outputs, 3]), turns=turns)
    stream = RequestStream("turns", True, None, lambda: iter([block]))
    found = run(d, POLICIES["vllm"], stream, cache=CacheSettings(4, 100))
    assert found.cached_tokens == (20 + outputs - 1) // 4 * 4

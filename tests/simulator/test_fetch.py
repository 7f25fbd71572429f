"""Do both paths agree on expert caches, and does a cache change nothing where it holds everything?

The explicit path (`simulator/parts/expert_cache/fetched.py`) is the definition, one access at a time; the compiled one
must give equal seconds to 1e-9 relative and equal counts, step after step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.devices.lines import TierSpec
from opbyte.devices.spec import SystemSpec
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.parts.expert_cache.cache_state import CLOCK, layer_wait
from opbyte.simulator.parts.expert_cache.fetched import StepCaches
from opbyte.simulator.parts.expert_cache.policies import BUILT_IN, CACHE_POLICIES
from opbyte.simulator.parts.expert_cache.store import HORIZONS, ExpertStore
from opbyte.simulator.parts.expert_map.placing import expert_placing
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.simulator.step.lowering import lower
from opbyte.simulator.step.step_totals import StepTotals, new_step_totals
from opbyte.simulator.step.timed import Lowered
from opbyte.workloads.adapters import Tenants
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError
from opbyte.workloads.records import records, summed

from .two_paths import compiled_step, some_work

HOST = TierSpec(capacity_bytes=2e12, bandwidth_bytes_per_s=50e9, latency_s=1e-5)
DISK = TierSpec(capacity_bytes=4e12, bandwidth_bytes_per_s=6e9, latency_s=1e-4)
SMALL = HOST.model_copy(update={"capacity_bytes": 2e9})


def with_tiers(name: str, host: TierSpec | None = HOST, disk: TierSpec | None = None) -> SystemSpec:
    """A system of the catalog with other memories below its own."""
    system = load_system(name)
    device = system.device.model_copy(update={"host_memory": host, "disk": disk})
    return system.model_copy(update={"device": device})


def fetched(step_totals: StepTotals) -> dict[str, float]:
    """Sums over the parts of experts."""
    assert step_totals.cache_state is not None
    return vars(summed([step_totals.cache_state.totals]))


def touched(deployment: Deployment, steps: list[list[Batch]], step: int, replica: int) -> None:  # fmt: skip
    """Run steps on both paths and compare."""
    plan, _ = lower(deployment, replica)
    step_totals, caches = new_step_totals(plan), StepCaches(deployment, replica)
    before = fetched(step_totals)
    for i, batches in enumerate(steps):
        moments = [b.moments(deployment.shard.windows) for b in batches]
        seconds = compiled_step(Lowered(plan, step_totals), batches, moments, step + i, True, 0)
        stage = explicit_stage(deployment, batches, step=step + i, replica=replica, caches=caches)
        fetch = stage.fetch
        assert fetch is not None
        total = fetched(step_totals)
        counts = {name: count - before[name] for name, count in total.items()}
        before = total
        assert seconds == pytest.approx(stage.seconds, rel=1e-9)
        assert step_totals.stages == pytest.approx(stage.stages, rel=1e-9)
        assert [round(counts[name], 6) for name in ("needed", "hits", "misses", "ahead")] == [
            fetch.needed, fetch.hits, fetch.misses, fetch.ahead,
        ]  # fmt: skip
        assert counts["bytes"] == pytest.approx(fetch.bytes, rel=1e-9)
        assert counts["link_s"] == pytest.approx(fetch.link_s, rel=1e-9)
        assert counts["wait_s"] == pytest.approx(fetch.waited_s, rel=1e-7, abs=1e-12)
        assert fetch.waited_s <= fetch.link_s * (1 + 1e-9)
        assert stage.seconds >= fetch.waited_s


batches_of = st.builds(
    Batch.of,
    st.lists(st.integers(0, 2000), max_size=6),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 99)), max_size=1),
)


@pytest.mark.parametrize(
    ("model", "system", "degrees"),
    [
        ("mixtral-8x7b", "h100-x2", {}),
        ("mixtral-8x7b", "h100-x4", {"pp": 2, "tp": 2}),
        ("deepseek-v2-lite", "h100-2x8", {}),
        ("gpt-oss-20b", "duplex-x4", {}),
        ("mixtral-8x7b", "h100-x4", {"tp": 1, "ep": 4, "expert_copies": expert_placing("balanced", 4, None)}),
        ("mixtral-8x7b", "h100-x2", {"tp": 2, "adapters": Tenants(6, 16, 6)}),
    ],
)
@given(data=st.data())
@settings(max_examples=7)
def test_both_paths_agree(model: str, system: str, degrees: dict[str, Any], data: st.DataObject) -> None:
    policy = data.draw(st.sampled_from(BUILT_IN))
    rule, share = CACHE_POLICIES[policy], data.draw(st.sampled_from((0.1, 0.3, 0.6, 1.0)))
    predicts = rule.predicts or data.draw(st.booleans())
    store = ExpertStore(
        share, True, policy, data.draw(st.integers(1, 3)) if rule.looks_ahead else 0,
        0.8 if predicts else 0.0, 0.1 if predicts else 0.0, data.draw(st.sampled_from(HORIZONS)),
    )  # fmt: skip
    tiers = data.draw(st.sampled_from(((HOST, None), (SMALL, DISK))))
    whole = load_model(model)
    deployment = deploy(
        replace(whole, layers=whole.layers[:6]), with_tiers(system, *tiers), **degrees, resident_experts=store,
        routing=data.draw(st.sampled_from(("uniform", "measured", "power_law:1.0"))),
        draws=data.draw(st.sampled_from(("layer", "step"))),
    )  # fmt: skip
    count = data.draw(st.integers(1, 3))
    steps = [some_work([data.draw(batches_of) for _ in range(deployment.ranks)]) for _ in range(count)]
    step, replica = data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 2))
    touched(deployment, steps, step, replica)


@pytest.mark.parametrize("policy", ["lru", "random", "belady"])
def test_a_cache_that_holds_everything_changes_nothing(policy: str) -> None:
    model, system, batch = load_model("mixtral-8x7b"), with_tiers("h100-x2"), Batch.of([9] * 5)
    seconds = []
    for store in (None, ExpertStore(1.0, True, policy, look_ahead=2 if policy == "belady" else 0)):
        d = deploy(model, system, resident_experts=store)
        plan, _ = lower(d)
        step_totals = new_step_totals(plan)
        moments = [batch.moments(d.shard.windows)]
        seconds.append([compiled_step(Lowered(plan, step_totals), [batch], moments, s, True, 0) for s in range(3)])
        assert explicit_stage(d, [batch], step=3).seconds > 0
    assert seconds[0] == seconds[1]


def test_more_slots_never_cost_more_time_or_less_memory() -> None:
    model, system = load_model("mixtral-8x7b"), with_tiers("h100-x2")
    deployments = [deploy(model, system, resident_experts=ExpertStore(n)) for n in (1, 2, 3, 4)]
    weights = [d.memory().weights for d in deployments]
    took = [explicit_stage(d, [Batch.of([99] * 4)], step=500, expected=True).seconds for d in deployments]
    whole = deploy(model, system)
    assert weights == sorted(weights)
    assert weights[-1] == whole.memory().weights
    assert took == sorted(took, reverse=True)
    assert took[-1] == explicit_stage(whole, [Batch.of([99] * 4)], expected=True).seconds


def test_a_model_that_does_not_fit_runs_from_the_host() -> None:
    model = load_model("mixtral-8x7b")
    with pytest.raises(CapacityError, match="does not fit"):
        deploy(model, with_tiers("h100-x1")).memory()
    d = deploy(model, with_tiers("h100-x1"), resident_experts=ExpertStore(4))
    fetch = explicit_stage(d, [Batch.of([99])], expected=True).fetch
    assert d.memory().kv > 0
    assert fetch is not None
    # Uniform routes, 4 of 8 resident: half of what a token asks for is there, whatever leaves.
    assert fetch.hit_rate == pytest.approx(0.5, abs=0.03)
    assert fetch.bytes == pytest.approx(fetch.misses * d.experts[0].expert_bytes(d.run))


def test_what_is_wanting_is_said_in_one_line() -> None:
    model = load_model("mixtral-8x7b")
    with pytest.raises(InputError, match="needs the key `host_memory`"):
        deploy(model, with_tiers("h100-x1", None), resident_experts=ExpertStore(4))
    with pytest.raises(InputError, match="at most the 8 experts"):
        deploy(model, with_tiers("h100-x1"), resident_experts=ExpertStore(9)).memory()
    with pytest.raises(InputError, match="has no experts"):
        deploy(load_model("llama-3-8b"), with_tiers("h100-x1"), resident_experts=ExpertStore(4))
    with pytest.raises(InputError, match="cannot be combined with --overlap two-batch"):
        deploy(model, with_tiers("h100-2x8"), resident_experts=ExpertStore(1), overlap="two-batch")
    with pytest.raises(CapacityError, match="experts of a device need"):
        lower(deploy(model, with_tiers("h100-x1", SMALL), resident_experts=ExpertStore(4)))


times = st.floats(0.0, 5.0)


@given(layers=st.lists(st.tuples(times, times, times), min_size=1, max_size=12), dense=times, step_ahead=st.booleans())
def test_what_layers_wait_lies_between_nothing_and_all_of_the_link(
    layers: list[tuple[float, float, float]], dense: float, step_ahead: bool
) -> None:
    clock = records(1, CLOCK)[0]
    clock.dense = dense
    waited = sum(layer_wait(clock, ahead, now, own, step_ahead) for ahead, now, own in layers)
    compute = sum(dense + own for _, _, own in layers)
    link = sum(ahead + now for ahead, now, _ in layers)
    assert max(0.0, link - compute) <= waited + 1e-9 <= link + 2e-9
    # What is not known ahead is waited for in full.
    assert waited >= sum(now for _, now, _ in layers) - 1e-9


def test_a_fetch_known_ahead_hides_behind_what_computes_until_it_is_needed() -> None:
    clock = records(1, CLOCK)[0]
    clock.dense = 2.0
    # Named before the step: 5 s on the link behind the 2 s of the first layer's dense part.
    assert layer_wait(clock, 5.0, 0.0, 1.0, True) == 3.0
    # The link is free at 5, now is 6, the dense part ends at 8: 3 s end at 8.
    assert layer_wait(clock, 3.0, 0.0, 1.0, True) == 0.0
    # The gate speaks at 11: 4 s are waited for in full.
    assert layer_wait(clock, 0.0, 4.0, 1.0, True) == 4.0
    # A layer ahead: known when the layer before began, at 9; its 6 s follow the link's last, at 15.
    assert layer_wait(clock, 6.0, 0.0, 1.0, False) == pytest.approx(21.0 - 18.0)

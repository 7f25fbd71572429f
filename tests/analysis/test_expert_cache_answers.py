"""Do answers say what an expert cache did, and nothing where there is none?"""

from __future__ import annotations

import pytest

from opbyte import Scenario, compare, roofline, simulate
from opbyte.workloads.errors import CapacityError, InputError

BASE = Scenario.of("mixtral-8x7b", "h100-x2", closed_loop=4, requests=12, input_len=32, output_len=8)


def test_without_the_option_nothing_is_said() -> None:
    found = simulate(BASE)
    assert "expert_cache" not in found.to_dict()
    assert "resident-experts" not in found.run.parts
    assert "expert_cache" not in roofline("mixtral-8x7b", "h100-x2", batch=4).to_dict()


def test_a_cache_of_all_experts_gives_the_same_run() -> None:
    plain, cached = simulate(BASE), simulate(BASE.changed(experts_resident="1.0"))
    told = cached.to_dict()
    assert told.pop("expert_cache")["hit_rate"] == 1.0
    kept = {name: value for name, value in told.items() if name not in ("layers", "evidence")}
    assert kept == {name: plain.to_dict()[name] for name in kept}


@pytest.mark.parametrize("degrees", [{}, {"pp": 2, "tp": 1}])
def test_what_is_waited_for_is_part_of_the_time(degrees: dict[str, int]) -> None:
    base = BASE.changed(**degrees)
    plain, cached = simulate(base), simulate(base.changed(experts_resident="2"))
    told = cached.to_dict()["expert_cache"]
    assert (told["slots"], told["held"]) == (2, 8 if degrees else 4)
    assert told["link_s"] == pytest.approx(told["waited_s"] + told["hidden_s"])
    assert cached.run.makespan_s > plain.run.makespan_s
    assert cached.run.makespan_s <= plain.run.makespan_s + told["waited_s"] * 1.0001
    assert cached.run.kv_capacity > plain.run.kv_capacity
    ops = {op.name: op for op in cached.run.ops}
    assert ops["expert_fetch"].wall_s == told["waited_s"]
    assert ops["expert_fetch"].bound == "link"
    text = " ".join(block for block in cached.blocks() if isinstance(block, str))
    assert "Expert cache: slots" in text
    assert any(e["applies_to"] == "experts fetched" for e in cached.evidence)


def test_a_predictor_hides_fetches_behind_compute() -> None:
    late = roofline("mixtral-8x7b", "h100-x2", batch=2, experts_resident="2")
    early = roofline("mixtral-8x7b", "h100-x2", batch=2, experts_resident="2",
                     expert_cache="predictive", expert_predictor="1.0")  # fmt: skip
    layer = roofline("mixtral-8x7b", "h100-x2", batch=2, experts_resident="2",
                     expert_cache="predictive", expert_predictor="1.0", expert_horizon="layer")  # fmt: skip
    assert late.parts["resident-experts"].fetch.waited_s == pytest.approx(late.parts["resident-experts"].fetch.link_s)
    assert early.parts["resident-experts"].fetch.waited_s < early.parts["resident-experts"].fetch.link_s
    assert early.parts["resident-experts"].fetch.waited_s <= layer.parts["resident-experts"].fetch.waited_s


def test_a_comparison_counts_what_lies_in_the_devices_memory() -> None:
    systems = ["h100-x1", "h100-x2"]
    plain = compare("mixtral-8x7b", systems, batch=4)
    cached = compare("mixtral-8x7b", systems, batch=4, experts_resident="2")
    assert [bool(row.reason) for row in plain.table] == [True, False]
    one = 3 * 4096 * 14336 * 2 * 32
    for before, after, slots in zip(plain.table, cached.table, (2, 4), strict=True):
        assert not after.reason
        assert after.memory_bytes <= after.memory_available_bytes
        assert after.memory_bytes == pytest.approx(before.memory_bytes - (8 - slots) * one)
        assert after.latency_s == pytest.approx(sum(part.seconds for part in after.layers))


def test_bad_options_name_themselves() -> None:
    with pytest.raises(InputError, match="experts_resident: must be at most the 4 experts"):
        simulate(BASE.changed(experts_resident="5"))
    with pytest.raises(InputError, match="expert_cache"):
        simulate(BASE.changed(experts_resident="2", expert_cache="least"))
    with pytest.raises(InputError, match="needs the key `host_memory`"):
        simulate(BASE.changed(system="mi300x-x2", experts_resident="2"))
    with pytest.raises(CapacityError, match="experts_resident N leaves all but N"):
        simulate(BASE.changed(system="h100-x1"))

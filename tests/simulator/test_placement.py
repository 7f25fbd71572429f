"""Does each placement rule send ops where it says, and is the expert split the best prefix?

Two processors made by hand: the main one computes 100 FLOP/s over 10 B/s (ridge 10 Op/B), the
near-memory one 20 FLOP/s over 40 B/s (ridge 0.5); they attain the same at 2 Op/B.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.catalog import load_device
from opbyte.devices.cost import Roofline
from opbyte.devices.device import Processor, SharedMemoryDevice, build_device
from opbyte.simulator.deploy.placement import BUILT_IN, processors_of, regions, split_experts
from opbyte.workloads.errors import SpecError
from opbyte.workloads.ops import Loads, Op


def processor(name: str, peak: float, bandwidth: float, fixed: float, runs: frozenset[str] | None) -> Processor:
    rates = {"bf16": peak}
    model = Roofline(rates, bandwidth, 1.0, 1.0, fixed, 0.0, 0.0, {"bf16": 0.0})
    return Processor(name, "xpu" if runs is None else "logic-pim", runs, rates, bandwidth, model, model)


NEAR_RUNS = frozenset({"attention_decode", "experts", "gemm"})
MAIN = processor("main", 100.0, 10.0, 0.0, None)
NEAR = processor("near", 20.0, 40.0, 0.0, NEAR_RUNS)


def device(main: Processor = MAIN, near: Processor = NEAR) -> SharedMemoryDevice:
    return SharedMemoryDevice(load_device("duplex")[0], {"near": near, "main": main})


def op(kind: str, flops: float, size: float, phase: str = "both", loads: Loads | None = None) -> Op:
    return Op(kind, "attention", kind, phase, {}, "bf16", flops, size, loads=loads)


def placed(rule: str, ops: list[Op], mixed: bool, on: SharedMemoryDevice) -> list[list[str]]:
    return [sorted(r.tracks) for r in regions(ops, on, rule, mixed)]


PREFILL = op("attention_prefill", 100.0, 1.0, "prefill")
DECODE = op("attention_decode", 8.0, 8.0, "decode")
DENSE = op("gemm", 1000.0, 10.0)
EXPERTS = op("experts", 16.0, 16.0, loads=Loads.drawn(np.array([1, 1])))


def test_the_main_processor_comes_first() -> None:
    assert [p.name for p in processors_of(device())] == ["main", "near"]
    with pytest.raises(SpecError, match="runs"):
        processors_of(SharedMemoryDevice(load_device("duplex")[0], {"near": NEAR}))


def test_xpu_only() -> None:
    ops = [PREFILL, DECODE, DENSE, EXPERTS]
    assert placed("xpu-only", ops, False, device()) == [["main"]] * 4


@pytest.mark.parametrize(("flops", "where"), [(1.0, "near"), (19.9, "near"), (20.1, "main")])
def test_op_per_byte_changes_sides_where_the_rooflines_cross(flops: float, where: str) -> None:
    assert placed("op-per-byte", [op("gemm", flops, 10.0)], False, device()) == [[where]]


def test_op_per_byte_keeps_what_only_the_main_processor_runs() -> None:
    assert placed("op-per-byte", [op("norm", 1.0, 100.0)], False, device()) == [["main"]]


@pytest.mark.parametrize("rule", ["fastest", "op-per-byte"])
def test_fastest_counts_launch_times(rule: str) -> None:
    slow_start = processor("near", 20.0, 40.0, 100.0, NEAR_RUNS)
    small = op("gemm", 10.0, 10.0)  # 1 s on main, 0.5 s near
    assert placed(rule, [small], False, device()) == [["near"]]
    assert placed(rule, [small], False, device(near=slow_start)) == [["main"]]


def test_paper_rule() -> None:
    ops = [DENSE, PREFILL, DECODE, EXPERTS]
    assert placed("paper", ops, True, device()) == [["main"], ["main"], ["near"], ["main"]]
    assert placed("paper", ops, False, device()) == [["main"], ["main"], ["near"], ["near"]]


def test_attention_of_high_op_per_byte_stays_on_the_main_processor() -> None:
    """A latent cache is read once for all heads; 2 Op/B is where the rooflines cross."""
    for rule in ("paper", "co-process"):
        for flops, where in ((15.9, "near"), (16.1, "main")):
            latent = op("attention_decode", flops, 8.0, "decode")
            assert placed(rule, [latent], False, device()) == [[where]]


def test_co_process_pairs_attention_and_splits_experts() -> None:
    found = placed("co-process", [DENSE, PREFILL, DECODE, EXPERTS], True, device())
    # One expert each takes 0.8 s, as both near memory would: the earlier of equal splits.
    assert found == [["main"], ["main", "near"], ["main", "near"]]
    alone = placed("co-process", [DENSE, DECODE], False, device())
    assert alone == [["main"], ["near"]]


def test_every_rule_of_the_library_is_tested_here() -> None:
    assert set(BUILT_IN) == {"xpu-only", "op-per-byte", "fastest", "paper", "co-process"}


loads_of = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any)


def expert_op(tokens: list[int], flop: float, weights: float, act: float) -> Op:
    loads = Loads.drawn(np.array(tokens))
    return Op(
        "experts", "moe", "experts", "both", {}, "bf16", flop * loads.routed,
        weights * loads.active, act * loads.routed, loads=loads,
    )  # fmt: skip


def seconds_of(tracks: Mapping[str, list[Op]], on: Mapping[str, Processor]) -> float:
    return max(on[name].model.cost(ops[0]).seconds for name, ops in tracks.items())


@given(
    loads_of, st.integers(1, 6), st.floats(0.1, 50.0), st.floats(0.1, 50.0), st.floats(0.0, 5.0),
    st.sampled_from([0.0, 0.5, 20.0]),
)  # fmt: skip
def test_the_split_is_the_best_prefix(
    tokens: list[int], spaces: int, flop: float, weights: float, act: float, fixed: float
) -> None:
    main = processor("main", 100.0, 10.0, fixed, None)
    near = processor("near", 20.0, 40.0, fixed / 2, NEAR_RUNS)
    whole = expert_op(tokens, flop, weights, act)
    chosen = split_experts(whole, main, near, spaces)
    got = seconds_of({k: list(v) for k, v in chosen.tracks.items()}, {"main": main, "near": near})

    def side(experts: list[int], processor: Processor, launch: float) -> float:
        busy = [
            max(n * flop / processor.peak["bf16"], (weights + n * act) / processor.bandwidth)
            for n in (tokens[e] for e in experts)
            if n
        ]
        return sum(busy) + launch if busy else 0.0

    space = [e % spaces if len(tokens) > spaces else e for e in range(len(tokens))]
    members = {s: [e for e in range(len(tokens)) if space[e] == s] for s in set(space)}
    order = sorted(members, key=lambda s: (sum(tokens[e] for e in members[s]), s))
    best = min(
        max(
            side([e for s in order[moved:] for e in members[s]], main, fixed),
            side([e for s in order[:moved] for e in members[s]], near, fixed / 2),
        )
        for moved in range(len(order) + 1)
    )
    assert got == pytest.approx(best, rel=1e-9)
    routed = sum(ops[0].loads.routed for ops in chosen.tracks.values() if ops[0].loads)
    assert routed == sum(tokens)
    for field in ("flops", "weight_bytes", "act_bytes"):
        total = sum(getattr(ops[0], field) for ops in chosen.tracks.values())
        assert total == pytest.approx(getattr(whole, field))


def test_catalog_devices_follow_their_rule() -> None:
    built = build_device(load_device("duplex-gpu")[0])
    assert len(processors_of(built)) == 1


def test_the_caches_of_decodes_lie_apart_from_what_prompts_read() -> None:
    """The last memory space is the prompts', so that both kinds of attention run side by side."""
    (both,) = regions([PREFILL, DECODE], device(), "co-process", True)
    last = load_device("duplex")[0].memory.spaces - 1
    assert both.spaces == {"main": {last}, "near": set(range(last))}
    assert last > 0
    assert not both.conflict

"""Are experts split between two processors as Duplex says, and how far from the best split?

Duplex (arXiv 2409.01141): section V-B, experts move to Logic-PIM in increasing load; section V-C,
experts of one memory space move together; section V-A, every stack leaves a partial sum. The
devices are the paper's: ridge 295 Op/B on the xPU, 8 on Logic-PIM, four times the bandwidth.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_device, load_system
from opbyte.devices.device import Region, SharedMemoryDevice, build_device
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.deploy.placement import added_sums, processors_of, regions, split_experts, sum_bytes
from opbyte.simulator.step.lowering import lower
from opbyte.simulator.step.step_totals import T_ACT, totals
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.layers import MixtureOfExperts, Run
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads, Op

from .two_paths import check_paths

DUPLEX = build_device(load_device("duplex")[0])
XPU, PIM = processors_of(DUPLEX)
LAYER = MixtureOfExperts(hidden=4096, experts=8, top_k=2, width=14336 // 4)
"""Mixtral's experts as one of four devices holds them under tensor parallelism."""

XPU_RIDGE = int(989.4e12 / (3.352e12 * 0.85))


def experts(tokens: list[int]) -> Op:
    return LAYER.expert_op(Loads.drawn(np.array(tokens)), Run(Numerics("fp16")))


def seconds(op: Op, chosen: Region) -> float:
    named = {p.name: p for p in (XPU, PIM)}
    return max(named[n].model.cost(ops[0]).seconds for n, ops in chosen.tracks.items())


def side(tokens: list[int], mask: tuple[int, ...], near: bool) -> float:
    """Closed form: sum over experts of the slower of arithmetic and traffic."""
    p = PIM if near else XPU
    flop, weights = 2 * 3 * 4096 * 3584, 2 * 3 * 4096 * 3584
    act = 2 * (2 * 4096 + 3 * 3584)
    rate, width = p.peak["fp16"], p.bandwidth * 0.85
    return sum(max(n * flop / rate, (weights + n * act) / width) for n in (tokens[e] for e in mask) if n)


def best_subset(tokens: list[int], spaces: int) -> float:
    """Smallest maximum over all subsets of memory spaces."""
    every = range(len(tokens))
    held = [[e for e in every if (e % spaces if len(tokens) > spaces else e) == s]
            for s in range(min(spaces, len(tokens)))]  # fmt: skip
    best = np.inf
    for count in range(len(held) + 1):
        for moved in combinations(range(len(held)), count):
            near = tuple(e for s in moved for e in held[s])
            main = tuple(e for e in every if e not in near)
            best = min(best, max(side(tokens, main, False), side(tokens, near, True)))
    return best


loads = st.lists(st.integers(0, XPU_RIDGE - 1), min_size=1, max_size=8).filter(any)


@given(loads, st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=60)
def test_the_optimal_splitter_is_the_best_of_all_subsets(tokens: list[int], spaces: int) -> None:
    op = experts(tokens)
    got = seconds(op, split_experts(op, XPU, PIM, spaces, "optimal"))
    assert got == pytest.approx(best_subset(tokens, spaces), rel=1e-9)


@given(st.lists(st.integers(1, XPU_RIDGE - 1), min_size=1, max_size=8))
@settings(max_examples=80)
def test_below_the_xpus_ridge_the_papers_prefix_is_the_best_subset(tokens: list[int]) -> None:
    """There every expert costs the xPU the same, its weights, so that only how many move counts
    and the least loaded are the cheapest near memory. Activations, the one part of the xPU's
    time that depends on the load, are left out here; with them the gap is their share."""
    bare = replace(experts(tokens), act_bytes=0.0, shape={})
    paper, best = (seconds(bare, split_experts(bare, XPU, PIM, 8, s)) for s in ("paper", "optimal"))
    assert paper == pytest.approx(best, rel=1e-12)
    op = experts(tokens)
    paper, best = (seconds(op, split_experts(op, XPU, PIM, 8, s)) for s in ("paper", "optimal"))
    act = 2 * (2 * 4096 + 3 * 3584) * max(tokens)
    assert best <= paper <= best * (1 + act / (2 * 3 * 4096 * 3584)) * (1 + 1e-12)


def test_the_gap_of_the_papers_splitter_is_bounded_on_uniform_draws() -> None:
    """Mixtral decoding-only, batch 32 to 128: the paper's splitter against every subset."""
    rng = np.random.default_rng(7)
    worst = {}
    for batch in (32, 64, 128):
        gaps = []
        for _ in range(200):
            picks = [rng.choice(8, 2, replace=False) for _ in range(batch)]
            op = experts(np.bincount(np.concatenate(picks), minlength=8).tolist())
            paper, best = (seconds(op, split_experts(op, XPU, PIM, 4, s)) for s in ("paper", "optimal"))
            gaps.append(paper / best - 1)
        worst[batch] = max(gaps)
        print(f"batch {batch}: gap mean {np.mean(gaps):.2%}, largest {worst[batch]:.2%}")
        assert min(gaps) >= -1e-12
    assert max(worst.values()) < 0.35


def test_experts_on_two_processors_never_share_a_memory_space() -> None:
    op = experts([3, 9, 1, 30, 12, 40, 2, 8])
    split = split_experts(op, XPU, PIM, 4)
    assert len(split.tracks) == 2
    assert not split.conflict
    assert split.spaces["xpu"] | split.spaces["logic-pim"] == {0, 1, 2, 3}


def test_tracks_that_read_one_bank_bundle_wait_for_each_other() -> None:
    op = experts([100] * 8)
    both = {"xpu": [op], "logic-pim": [op]}
    one, two = (p.model.cost(op).seconds for p in (XPU, PIM))
    apart = Region(both, {"xpu": frozenset({0, 1}), "logic-pim": frozenset({2, 3})})
    clash = Region(both, {"xpu": frozenset({0, 1}), "logic-pim": frozenset({1, 2})})
    assert DUPLEX.run([apart])[0].seconds == pytest.approx(max(one, two))
    assert DUPLEX.run([clash])[0].seconds == pytest.approx(one + two)


def mixed_attention(spaces: int) -> list[Region]:
    spec = load_device("duplex")[0]
    spec = spec.model_copy(update={"memory": spec.memory.model_copy(update={"spaces": spaces})})
    ops = [
        Op(f"attention_{p}", "attention", f"attention_{p}", p, {}, "fp16", 1e9, kv_read_bytes=b)
        for p, b in (("prefill", 1e6), ("decode", 2.5e8))
    ]
    return regions(ops, SharedMemoryDevice(spec, DUPLEX.processors), "co-process", True)


def test_prefill_attention_has_a_memory_space_of_its_own() -> None:
    """Section V-C: the KV cache lies in three spaces, Q, K and V of prefills in the fourth."""
    (region,) = mixed_attention(4)
    assert region.spaces == {"xpu": {3}, "logic-pim": {0, 1, 2}}
    assert not region.conflict


def test_with_one_space_attention_cannot_overlap() -> None:
    (region,) = mixed_attention(1)
    assert region.conflict
    tracks = DUPLEX.run([region])[0]
    assert tracks.seconds == pytest.approx(sum(c.seconds for _, _, c in tracks.ops))


def test_every_stack_leaves_a_partial_sum_and_the_xpu_adds_them() -> None:
    """Five stacks leave one output row of 4096 FP16 values per routed token; the xPU reads all."""
    op = experts([4] * 8)
    assert sum_bytes(op, PIM) == 5 * 4096 * 2
    assert sum_bytes(op, XPU) == 0
    (region,) = added_sums(Region({"logic-pim": [op]}), [XPU, PIM])
    ((add,),) = region.tracks.values()
    assert list(region.tracks) == ["xpu"]
    cost = XPU.model.cost(add)
    assert cost.seconds == pytest.approx(32 * 5 * 4096 * 2 / (3.352e12 * 0.85))
    assert cost.total_joules == pytest.approx(32 * 5 * 4096 * 2 * 8 * 3.591e-12)
    assert added_sums(Region({"xpu": [op]}), [XPU, PIM]) == []


def changed(**update: object) -> Deployment:
    """Two layers of Mixtral on a Duplex whose device description is changed."""
    model = load_model("mixtral-8x7b")
    system = load_system("duplex-x4")
    memory = system.device.memory.model_copy(update={"spaces": update.pop("spaces", 4)})
    device = system.device.model_copy(update={"memory": memory})
    mapping = system.mapping.model_copy(update=update)
    system = system.model_copy(update={"device": device, "mapping": mapping})
    return deploy(replace(model, layers=model.layers[:2]), system)


@pytest.mark.parametrize("splitter", ["paper", "optimal"])
@pytest.mark.parametrize("spaces", [1, 2, 4])
@pytest.mark.parametrize("batch", [Batch.of([700] * 40), Batch.of([900] * 9, [(400, 0)])])
def test_both_paths_agree(splitter: str, spaces: int, batch: Batch) -> None:
    deployment = changed(splitter=splitter, spaces=spaces)
    plan, step_totals, (stage,) = check_paths(deployment, [[batch]], 3)
    act = sum(p.op.act_bytes * p.count * p.devices for p in stage.ops if p.op.layer == "moe")
    moe = [i for i, layer in enumerate(lower(deployment)[1].layer) if layer == "moe"]
    assert totals(plan, step_totals.tally)[moe][:, :, T_ACT].sum() == pytest.approx(act, rel=1e-9)

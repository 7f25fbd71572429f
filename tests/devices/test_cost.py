"""Do the roofline and the collectives follow their closed forms, said once and lowered?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opbyte.devices.cost import BOUNDS, Roofline, bound_code
from opbyte.devices.link import LinkModel, collective
from opbyte.devices.prices import ALONE
from opbyte.devices.spec import LinkSpec
from opbyte.workloads.ops import Loads, Op

MODEL = Roofline(
    peak={"bf16": 100e12}, bandwidth=2e12, compute_efficiency=0.5, memory_efficiency=0.8,
    fixed_s=1e-6, stream_J_per_byte=3e-12, act_J_per_byte=5e-12, J_per_flop={"bf16": 2e-13},
)  # fmt: skip


def op(flops: float, weights: float, act: float, loads: Loads | None = None) -> Op:
    return Op("x", "x", "gemm", "both", {}, "bf16", flops, weights, act, loads=loads)


@pytest.mark.parametrize(
    ("flops", "weights", "act", "busy", "bound"),
    [
        (100e9, 1e6, 0.0, 2e-3, "compute"),  # 100 GFLOP at 50 TFLOP/s
        (1e6, 1.6e9, 1.6e9, 2e-3, "memory"),  # 3.2 GB at 1.6 TB/s
        (1e3, 1e3, 1e3, 1.25e-9, "latency"),  # less than its launch
    ],
)
def test_roofline(flops: float, weights: float, act: float, busy: float, bound: str) -> None:
    cost = MODEL.cost(op(flops, weights, act))
    assert cost.seconds == pytest.approx(busy + 1e-6)
    assert cost.bound == bound
    assert (cost.compute_s, cost.memory_s) == pytest.approx((flops / 50e12, (weights + act) / 1.6e12))
    assert cost.joules["dram"] == pytest.approx(weights * 3e-12 + act * 5e-12)
    assert cost.joules["compute"] == pytest.approx(flops * 2e-13)


def test_what_is_no_weight_takes_its_own_energy_where_it_is_known() -> None:
    models, ops = (MODEL, replace(MODEL, kv_J_per_byte=7e-12)), (op(1.0, 0.0, 1.0), op(1.0, 1.0, 1.0))
    assert [m.streamed_J_per_byte(o) for m in models for o in ops] == [3e-12, 3e-12, 7e-12, 3e-12]


def test_waiting_kernels_and_rows_of_tiles_without_tokens() -> None:
    """Half of the activations' bytes are moved; two experts fill a tile with a row of 4 FLOP each."""
    work = op(16.0, 8.0, 4.0, Loads.drawn(np.array([1, 3, 0])))
    plain, tiles = (replace(MODEL, tile_J_per_flop=of).joules(work)["dram"] for of in ({}, {"bf16": 1e-12}))
    assert tiles - plain == pytest.approx(2 * 4 * 1e-12)
    assert plain - MODEL.joules(replace(work, moved=0.5))["dram"] == pytest.approx(2 * MODEL.act_J_per_byte)


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=20).filter(any),
    st.floats(1.0, 1e9), st.floats(1.0, 1e9), st.floats(1.0, 1e6),
)  # fmt: skip
@example([0.9, 0.1], 1e8, 1e6, 1.0)  # one expected token: the first expert is bound by FLOP, the second by bytes
def test_experts_run_one_after_another(tokens: list[float], flop: float, weights: float, act: float) -> None:
    loads = Loads.drawn(np.array(tokens))
    whole = op(flop * loads.routed, weights * loads.active, act * loads.routed, loads)
    one_by_one = sum(max(n * flop / 50e12, (weights + n * act) / 1.6e12) for n in tokens if n > 0)
    assert MODEL.cost(whole).seconds == pytest.approx(one_by_one + 1e-6)
    assert MODEL.cost(whole).seconds >= max(whole.flops / 50e12, whole.bytes / 1.6e12)


def test_lowering_says_the_same() -> None:
    some = op(7e9, 3e6, 2e6)
    cost, params = MODEL.cost(some), MODEL.row(some, ALONE).params
    assert cost.seconds == pytest.approx(max(7e9 / params.flops, 5e6 / params.bytes) + params.fixed)
    joules = 3e6 * params.j_stream + 2e6 * params.j_act + 7e9 * params.j_flop
    assert cost.total_joules == pytest.approx(joules)


@pytest.mark.parametrize(
    ("seconds", "compute", "memory", "fixed", "bound"),
    [
        (5.0, 3.0, 2.0, 2.0, "compute"),
        (5.0, 2.0, 3.0, 2.0, "memory"),
        (5.0, 2.0, 2.0, 2.0, "memory"),  # equal: more of either helps, and memory is scarcer
        (5.0, 2.0, 1.0, 2.6, "latency"),  # most of the time
        (0.0, 0.0, 0.0, 0.0, "memory"),
    ],
)
def test_the_bound_of_a_price(seconds: float, compute: float, memory: float, fixed: float, bound: str) -> None:
    assert BOUNDS[bound_code(seconds, compute, memory, fixed)] == bound
    columns = (np.array([x, x]) for x in (seconds, compute, memory, fixed))
    assert bound_code(*columns).tolist() == [BOUNDS.index(bound)] * 2


Share = Callable[[int], float]
LINK = LinkSpec(name="wire", bandwidth_bytes_per_s=100e9, latency_s=2e-6, energy_J_per_byte=1e-11)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("kind", "hops", "traffic"),
    [
        ("all_reduce", lambda n: 2 * (n - 1), lambda n: 2 * (n - 1) / n),
        ("all_gather", lambda n: n - 1, lambda n: (n - 1) / n),
        ("reduce_scatter", lambda n: n - 1, lambda n: (n - 1) / n),
        ("all_to_all", lambda n: min(n - 1, 1), lambda n: (n - 1) / n),
    ],
)
def test_collectives(kind: str, hops: Share, traffic: Share, ranks: int) -> None:
    message = Op("x", "communication", kind, "both", {}, "bf16", 0.0, act_bytes=1e8)
    link = LinkModel(LINK, ranks)
    cost, params = link.cost(message), link.row(message, ALONE).params
    sent = 1e8 * traffic(ranks)
    assert cost.seconds == pytest.approx(hops(ranks) * 2e-6 + sent / 100e9)
    assert cost.total_joules == pytest.approx(sent * 1e-11)
    assert 1e8 / params.bytes + params.fixed == pytest.approx(cost.seconds)
    assert 1e8 * params.j_act == pytest.approx(cost.total_joules)


def test_an_all_reduce_is_a_scatter_and_a_gather() -> None:
    for ranks in range(1, 9):
        parts = [collective(kind, ranks) for kind in ("reduce_scatter", "all_gather")]
        whole = collective("all_reduce", ranks)
        assert whole.hops == sum(p.hops for p in parts)
        assert math.isclose(whole.traffic, sum(p.traffic for p in parts))


def test_unknown_collectives_are_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        collective("broadcast", 4)

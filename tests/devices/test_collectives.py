"""Do collectives by algorithm send what they must, and is the cheapest the cheapest?

Closed forms: DeepSpeed-MoE (arXiv 2201.05596, section 5.3) for all-to-alls; rings and trees as in
Thakur et al. (IJHPCA 2005) and Sanders et al. (Parallel Computing 2009).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.calibrated.kernel_sets import LABELS
from opbyte.devices.catalog import load_device
from opbyte.devices.collectives import deepep
from opbyte.devices.collectives.plans import (
    ALGORITHMS,
    BY_NAME,
    Level,
    PlannedLink,
    Timed,
    Topology,
    algorithms_of,
    cheapest,
    plan,
    usual,
)
from opbyte.devices.cost import Roof
from opbyte.devices.link import collective
from opbyte.devices.ratios import Ratios
from opbyte.devices.spec import LinkSpec
from opbyte.workloads.errors import InputError
from opbyte.workloads.training import collective_op

FAST = LinkSpec(name="fast", bandwidth_bytes_per_s=300e9, latency_s=1e-6)
SLOW = LinkSpec(name="slow", bandwidth_bytes_per_s=25e9, latency_s=5e-6)
KINDS = sorted({name.partition(":")[0] for name in ALGORITHMS})
DENSE = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all")
SIZES = st.sampled_from((1, 2, 4, 8, 16, 32))

MODES = BY_NAME - {"hybrid-ep"}
"""Of DeepEP's main branch, whose kernels were timed."""


def nodes(inside: int, outside: int, slices: int = 1) -> Topology:
    return Topology((Level(FAST, inside), Level(SLOW, outside)), slices)


def test_deepspeed_moes_counts() -> None:
    """128 devices in nodes of 8 with 8-way slicing: 128 participants, 8 + 16, 16; bytes x 2, / 8."""
    plans = {name: plan("all_to_all", name, nodes(8, 16, 8)) for name in algorithms_of("all_to_all")}
    assert plans["flat"].participants == 128
    assert plans["hierarchical"].participants == 8 + 16
    assert plans["coordinated"].participants == 16
    assert plans["hierarchical"].passes / plans["flat"].passes == 2
    assert plans["flat"].passes / plans["coordinated"].passes == 8


@pytest.mark.parametrize("kind", DENSE)
@given(n=st.integers(1, 64))
def test_one_level_agrees_with_the_link(kind: str, n: int) -> None:
    """Rings are those of `devices.link`; a flat all-to-all sends the same bytes in n - 1 messages."""
    known = collective(kind, n)
    made = plan(kind, "flat" if kind == "all_to_all" else "ring", nodes(n, 1))
    assert sum(hop.traffic for hop in made.hops) == pytest.approx(known.traffic)
    messages = n - 1 if kind == "all_to_all" else known.hops
    assert sum(hop.messages for hop in made.hops) == messages


@pytest.mark.parametrize("kind", KINDS)
@given(inside=SIZES, outside=SIZES, message=st.floats(1.0, 1e10))
def test_the_cheapest_is_never_beaten_and_more_bandwidth_never_hurts(
    kind: str, inside: int, outside: int, message: float
) -> None:
    topology = nodes(inside, outside)
    best = cheapest(kind, topology, message).seconds(message)
    for name in usual(kind):
        made = plan(kind, name, topology)
        assert best <= made.seconds(message)
        assert made.seconds(message) <= made.seconds(2 * message)
    better = SLOW.model_copy(update={"bandwidth_bytes_per_s": 50e9})
    faster = Topology((Level(FAST, inside), Level(better, outside)))
    assert cheapest(kind, faster, message).seconds(message) <= best


@given(inside=SIZES, outside=SIZES)
def test_no_algorithm_sends_less_between_nodes_than_must_cross(inside: int, outside: int) -> None:
    """All-to-all: a share (N - 1) / N of every buffer; all-reduce: 2 (N - 1) / N of a 1 / g share."""
    topology = nodes(inside, outside)
    away = (outside - 1) / outside
    for kind, least in (
        ("all_to_all", away), ("reduce_scatter", away / inside), ("all_gather", away / inside),
        ("all_reduce", 2 * away / inside),
    ):  # fmt: skip
        for name in usual(kind):
            crossed = sum(h.traffic for h in plan(kind, name, topology).hops if h.link is SLOW)
            assert crossed >= least - 1e-12, (kind, name)


@given(inside=SIZES, outside=SIZES, message=st.floats(1.0, 1e10))
def test_sparse_gathers(inside: int, outside: int, message: float) -> None:
    """Straight: a message's worth of bytes arrive; level by level: as a dense gather of the message."""
    topology = nodes(inside, outside)
    for kind in ("sparse_gather", "sparse_scatter"):
        straight = plan(kind, "flat", topology)
        moved = sum(hop.traffic for hop in straight.hops)
        assert moved == pytest.approx(1.0 if inside * outside > 1 else 0.0)
        dense = plan("all_gather", "hierarchical", topology)
        assert plan(kind, "hierarchical", topology).seconds(message) == dense.seconds(message)
        if inside > 1 and outside > 1:  # nodes share what crosses
            crossed = [
                sum(h.traffic for h in plan(kind, name, topology).hops if h.link is SLOW)
                for name in ("flat", "hierarchical")
            ]
            assert crossed[1] < crossed[0]


@given(inside=SIZES, outside=SIZES, message=st.floats(1.0, 1e9))
def test_a_planned_links_row_is_its_cost(inside: int, outside: int, message: float) -> None:
    for name in algorithms_of("all_to_all"):
        model = PlannedLink((plan("all_to_all", name, nodes(inside, outside)),), SLOW, 4.0)
        op = collective_op("all_to_all", message, inside * outside)
        row = model.row(op, None).params  # type: ignore[arg-type]  # rows of links ask no probe
        cost = model.cost(op)
        assert cost.seconds == pytest.approx(row.fixed + message / row.bytes)
        assert (cost.compute_s, cost.memory_s) == (0.0, pytest.approx(message / row.bytes))
        assert model.roof("bf16") == Roof(np.inf, row.bytes, 1.0, 1.0, row.fixed)


@given(inside=SIZES, outside=SIZES, copies=st.integers(1, 16), message=st.floats(1.0, 1e9))
def test_deepeps_modes(inside: int, outside: int, copies: int, message: float) -> None:
    """Normal: a copy a distinct node, levels at once. Low latency: one message time, every copy."""
    topology = Topology((Level(FAST, inside), Level(SLOW, outside)), copies=copies)
    made = {name: plan("all_to_all", name, topology) for name in BY_NAME}
    normal, quick = made["deepep-normal"], made["deepep-low-latency"]
    assert (
        normal.s_per_byte <= made["hybrid-ep"].s_per_byte <= normal.s_per_byte / 0.68 + 1e-18
    )  # the same way, below the stated rates
    crossed = sum(hop.traffic for hop in normal.hops if hop.link is SLOW)
    assert crossed <= (outside - 1) / outside + 1e-12
    if outside > 1:
        distinct = sum(1 - (1 - 1 / outside) ** copies for _ in range(outside))
        assert crossed == pytest.approx(distinct * (outside - 1) / outside / copies)
        assert quick.latency_s == SLOW.latency_s
        assert normal.latency_s >= quick.latency_s
        flat = plan("all_to_all", "flat", topology)
        assert quick.seconds(0.0) <= flat.seconds(0.0)
    if inside * outside > 1:
        slowest = max(hop.traffic / hop.link.bandwidth_bytes_per_s for hop in normal.hops)
        assert normal.seconds(message) == pytest.approx(normal.latency_s + message * slowest)
    assert cheapest("all_to_all", topology, message).algorithm not in BY_NAME


@given(
    inside=SIZES, outside=SIZES, slices=st.sampled_from((1, 2)), message=st.floats(1.0, 1e9),
    scale=st.sampled_from((0.25, 1.0, 64.0)),
)  # fmt: skip
def test_a_link_by_cost_is_the_cheapest_of_all(
    inside: int, outside: int, slices: int, message: float, scale: float
) -> None:
    topology = nodes(2 * inside, outside, slices)
    plans = tuple(plan("all_to_all", name, topology) for name in usual("all_to_all"))
    op = collective_op("all_to_all", message, topology.ranks)
    taken, sent = PlannedLink(plans, SLOW, scale).cost(op), scale * message
    assert taken.seconds == cheapest("all_to_all", topology, sent).seconds(sent)
    assert taken.seconds == min(PlannedLink((p,), SLOW, scale).cost(op).seconds for p in plans)


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(InputError, match=r"must be auto or an algorithm of all_to_all, not 'rings'"):
        plan("all_to_all", "rings", nodes(8, 2))
    with pytest.raises(InputError, match="3 slices: do not fill the nodes evenly"):
        plan("all_to_all", "coordinated", nodes(8, 2, 3))
    with pytest.raises(InputError, match="32 slices: are more than the 16 devices"):
        plan("all_to_all", "coordinated", nodes(8, 2, 32))
    with pytest.raises(InputError, match="at least 1"):
        nodes(0, 2)


def over(kind: str, name: str, topology: Topology, link: LinkSpec) -> tuple[float, float]:
    """Messages and shares of the buffer that cross one link."""
    hops = [hop for hop in plan(kind, name, topology).hops if hop.link is link]
    return sum(hop.messages for hop in hops), sum(hop.traffic for hop in hops)


@pytest.mark.parametrize(("kind", "rounds"), [("all_gather", 1), ("reduce_scatter", 1), ("all_reduce", 2)])
def test_outer_levels_carry_what_inner_ones_leave(kind: str, rounds: int) -> None:
    """Of 8 x 2: 7/8 of the message inside, and half of an eighth between the nodes, a round."""
    assert over(kind, "hierarchical", nodes(8, 2), FAST) == (7 * rounds, 7 / 8 * rounds)
    assert over(kind, "hierarchical", nodes(8, 2), SLOW) == (rounds, 1 / 16 * rounds)


@pytest.mark.parametrize(("inside", "outside"), [(8, 2), (4, 4), (2, 16)])
def test_a_flat_exchange_sends_all_that_is_not_its_own(inside: int, outside: int) -> None:
    """(n - 1)/n of the buffer, that of the node's peers inside and all else between nodes."""
    n = inside * outside
    assert over("all_to_all", "flat", nodes(inside, outside), FAST) == (inside - 1, (inside - 1) / n)
    assert over("all_to_all", "flat", nodes(inside, outside), SLOW) == (n - inside, (n - inside) / n)


@pytest.mark.parametrize(("n", "steps"), [(2, 2), (8, 6), (9, 8), (64, 12)])
def test_a_tree_goes_up_and_down(n: int, steps: int) -> None:
    """2 log2 n messages one after another, which is all that a small all-reduce takes."""
    made = plan("all_reduce", "tree", nodes(n, 1))
    assert made.seconds(1e-9) == pytest.approx(steps * FAST.latency_s, rel=1e-6)


def test_a_hierarchical_exchange_sends_the_whole_buffer_on_every_level() -> None:
    """But for what a device keeps for its own group: of 8 x 2, 7/8 inside and half between nodes."""
    assert over("all_to_all", "hierarchical", nodes(8, 2), FAST) == (7, 7 / 8)
    assert over("all_to_all", "hierarchical", nodes(8, 2), SLOW) == (1, 1 / 2)


def test_deepeps_kernels_inside_a_node_are_measured_ones() -> None:
    """A card has its own rows, or its generation's; no rate is above its link's; other makers and PCIe have none."""
    for back in (False, True):
        for name in ("h100", "h800", "b200", "gb300"):
            spec = load_device(name)[0]
            for engine in (*LABELS, "typical", "measured"):
                found = deepep.kernels(spec, spec.link, engine, back=back)
                assert set(found) == MODES
                assert {t.moved for t in found.values()} == {name in ("h800", "gb300")}
                for t in found.values():
                    assert t.rate <= spec.link.bandwidth_bytes_per_s
                    assert 5e-6 < t.launch_s < 4e-4
                    assert t.ratios.low < t.ratios.middle < t.ratios.high
        for name in ("mi300x", "rtx-pro-6000", "a100-80gb"):
            spec = load_device(name)[0]
            assert deepep.kernels(spec, spec.link, "vllm", back=back) == {}


@given(outside=st.sampled_from((1, 4)), message=st.floats(1.0, 1e9), name=st.sampled_from(sorted(MODES)))
def test_a_measured_exchange_takes_its_launch_and_its_rate(outside: int, message: float, name: str) -> None:
    timed = {name: Timed(5e-5, 1e10, 9, Ratios(-0.1, 0.0, 0.1))}
    topology = Topology((Level(FAST, 8), Level(SLOW, outside)), copies=8, timed=timed)
    made, bare = plan("all_to_all", name, topology), plan("all_to_all", name, replace(topology, timed={}))
    assert made.seconds(0.0) >= 5e-5
    assert made.J_per_byte == bare.J_per_byte
    if outside == 1:
        reached = deepep.distinct(8, 8) / 8 if name == deepep.NORMAL else 1.0
        assert made.seconds(message) == pytest.approx(5e-5 + message * reached * 7 / 8 / 1e10)
    found = PlannedLink((made,), SLOW).evidence([collective_op("all_to_all", message, 8 * outside)])
    assert [e.basis for e in found] == ["fitted" if outside == 1 else "description"]


@given(
    units=st.sampled_from((1, 2, 4, 9)),
    groups=st.sampled_from((1, 2, 8)),
    copies=st.integers(1, 8),
    seed=st.integers(0, 9),
)
def test_the_fewer_groups_a_router_chooses_the_fewer_units_its_tokens_reach(
    units: int, groups: int, copies: int, seed: int
) -> None:
    """Against all sets of groups one by one; with all groups and experts evenly strewn it is `distinct`."""
    held = np.random.default_rng(seed).dirichlet(np.full(units, 0.3), groups).T
    found = [deepep.reached(held, chosen, copies) for chosen in range(1, groups + 1)]
    for chosen, got in enumerate(found, 1):
        sets = [held[:, s].mean(axis=1) for s in map(list, combinations(range(groups), chosen))]
        assert got == pytest.approx(np.mean([np.sum(1.0 - (1.0 - each) ** copies) for each in sets]))
        assert got <= min(units, copies) * (1 + 1e-12)
    assert all(more >= fewer * (1 - 1e-12) for fewer, more in pairwise(found))
    even = deepep.reached(np.full((units, groups), 1.0 / units), groups, copies)
    assert even == pytest.approx(deepep.distinct(units, copies))


@given(message=st.floats(1e6, 1e9))
def test_8_bits_cross_between_nodes_and_copies_inside_are_as_measured(message: float) -> None:
    timed = {name: Timed(5e-5, 1e10, 9, Ratios(-0.1, 0.0, 0.1)) for name in MODES}
    for name in sorted(MODES):
        for outside in (1, 4):
            wide = Topology((Level(FAST, 8), Level(SLOW, outside)), copies=8, timed=timed)
            made, narrow = (plan("all_to_all", name, t) for t in (wide, replace(wide, width=0.5)))
            crossed = [sum(h.traffic for h in p.hops if h.link is SLOW) for p in (made, narrow)]
            assert crossed[1] == crossed[0] / 2
            if outside == 1:
                assert narrow.seconds(message) == made.seconds(message)


def test_shipped_exchanges_are_fits_to_the_rows(data_set: Callable[[str], Path]) -> None:
    spec = importlib.util.spec_from_file_location("ship", Path(__file__).parents[2] / "docs/converters/deepep.py")
    assert spec is not None
    assert spec.loader is not None
    ship = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ship)
    rows = ship.rows_of(data_set("measured_2026") / "moe_alltoall.csv")
    alike = [r for r in rows if r["engine"] == "trtllm" and r["mode"] == deepep.LOW_LATENCY]
    lines = ship.lines_of([r for r in alike if r["direction"] == "combine"], "trtllm", deepep.LOW_LATENCY, "combine")
    shipped = deepep.table().read_text(encoding="utf-8").splitlines()
    assert {",".join(line) for line in lines} <= set(shipped)

"""Do placed experts lose nothing, and do both paths agree on what they cost?

Maps: every expert somewhere, no device over its slots; EPLB's own are in `test_eplb.py`. Loads: whole numbers that add up. Steps: explicit = compiled to 1e-9 relative, and
a placement that changes nothing changes no bit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.deploy.expert_maps import DISPATCHES, EMPTY, ExpertMap, Sites, dispatch
from opbyte.simulator.parts.expert_map.placing import ExpertPlacing, expert_placing
from opbyte.simulator.parts.expert_map.policies import MAP_POLICIES
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError

from .two_paths import check_paths, some_work

POLICIES = MAP_POLICIES.names()
BY_NODE = "balanced-by-node"


@st.composite
def sites_of(draw: st.DrawFn) -> Sites:
    """Any place for experts: groups within nodes or over them, copies or none."""
    groups = draw(st.sampled_from((2, 4, 8, 16)))
    own = draw(st.integers(1, 4))
    copies = draw(st.integers(0, min(3, own * groups - own)))
    wide = draw(st.sampled_from((1, 2)))
    rank = draw(st.sampled_from([r for r in (1, 2, 4) if r <= groups * wide]))
    node, parts = draw(st.sampled_from((2, 4, 8))), draw(st.sampled_from((1, 2, 4, 8)))
    sites = Sites(own * groups, groups, own + copies, wide, rank, node)
    return replace(sites, expert_groups=parts) if sites.experts % parts == 0 else sites


loads_of = st.lists(st.integers(0, 10_000), min_size=64, max_size=64)


@given(sites=sites_of(), policy=st.sampled_from(POLICIES), rule=st.sampled_from(DISPATCHES),
       loads=loads_of, tokens=loads_of, data=st.data())  # fmt: skip
def test_every_expert_somewhere_and_no_token_lost(
    sites: Sites, policy: str, rule: str, loads: list[int], tokens: list[int], data: st.DataObject
) -> None:
    own = np.array(loads[: sites.experts], dtype=np.float64)
    if policy == BY_NODE and not sites.distributes_by_node:
        with pytest.raises(InputError, match="--expert-placement balanced-by-node: needs groups"):
            ExpertPlacing(policy, 0, rule).placed(own, sites, 0)
        return
    found = ExpertPlacing(policy, 0, rule).placed(own, sites, 0)
    assert found.map.slots.shape == (sites.groups, sites.slots)
    assert (found.map.copies >= 1).all()
    each = np.bincount(found.experts, found.share.reshape(-1), minlength=sites.experts)
    assert each == pytest.approx(np.ones(sites.experts))
    assert ((found.out >= 0) & (found.out <= found.away + 1e-12)).all()
    assert (found.away <= 1 + 1e-12).all()
    drawn = np.array(tokens[: sites.experts])
    offsets = np.array(data.draw(st.lists(st.integers(0, 65535), min_size=64, max_size=64)))
    placed = found.drawn(drawn, offsets[: sites.experts] / 65536.0)
    whole = placed.tokens.astype(np.int64)
    assert (whole >= 0).all()
    assert np.bincount(found.experts, whole, minlength=sites.experts).tolist() == drawn.tolist()
    expected = drawn[found.experts] * found.share.reshape(-1)
    assert np.abs(whole - expected).max() < 1.0 + 1e-6
    assert found.group_loads(drawn.astype(np.float64)).sum() == pytest.approx(drawn.sum())


def test_balanced_splits_what_is_hot() -> None:
    """One expert with half of all tokens: 4 more of it, since its copies have most (12, 6, 4, 3 tokens).

    Packed by hand, heaviest first, on 4 devices of 3 slots: 2.4 + 2.4 + 1, twice 2.4 + 2 + 2, 2.4 + 2 + 1.
    """
    loads = np.array([12.0, 2, 2, 2, 2, 2, 1, 1])
    sites = Sites(8, 4, 3)
    found = dispatch(ExpertMap(sites, MAP_POLICIES["balanced"].make(loads, sites)), "any")
    assert found.map.copies.tolist() == [5, 1, 1, 1, 1, 1, 1, 1]
    assert found.group_loads(loads).max() == pytest.approx(2.4 + 2.0 + 2.0)
    assert dispatch(
        ExpertMap(sites, MAP_POLICIES["even"].make(loads, sites)), "any"
    ).group_loads(loads).max() > found.group_loads(loads).max()  # fmt: skip


def test_a_local_copy_serves_its_own_tokens() -> None:
    """Two nodes of two devices, expert 0 on devices 0 and 2: each node's tokens stay in it."""
    sites = Sites(4, 4, 2, node=2)
    map = ExpertMap(sites, np.array([[0, EMPTY], [1, EMPTY], [2, 0], [3, EMPTY]]))
    far, near, own = (dispatch(map, rule) for rule in DISPATCHES)
    assert far.share[0, 0] == near.share[0, 0] == own.share[0, 0] == 0.5
    assert (far.out[0], near.out[0], own.out[0]) == (0.5, 0.0, 0.0)
    assert (far.away[0], near.away[0], own.away[0]) == (0.75, 0.5, 0.5)
    assert far.out[1] == near.out[1] == own.out[1] == 0.5


def test_what_moves() -> None:
    sites = Sites(4, 2, 2)
    old, new = (ExpertMap(sites, np.array([[0, 1], [2, 3]])), ExpertMap(sites, np.array([[1, 2], [0, 3]])))
    assert new.moved(old).tolist() == [1, 1]
    assert old.moved(old).tolist() == [0, 0]


ROUTINGS = ("uniform", "measured", "power_law:1.0")
batches_of = st.builds(
    Batch.of,
    st.lists(st.integers(0, 2000), max_size=6),
    st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 99)), max_size=1),
)


@pytest.mark.parametrize(
    ("model", "system", "degrees"),
    [
        ("deepseek-v2-lite", "h100-2x8", {"tp": 1}),
        ("mixtral-8x7b", "h100-x4", {"tp": 2}),
        ("mixtral-8x7b", "h100-x8", {"pp": 2, "tp": 4}),
        ("gpt-oss-20b", "duplex-x4", {"ep": 4}),
        ("jamba-mini", "h100-x8", {"dp": 2}),
    ],
)
@given(data=st.data())
@settings(max_examples=6)
def test_both_paths_agree(model: str, system: str, degrees: dict[str, int], data: st.DataObject) -> None:
    given_ = {
        "routing": data.draw(st.sampled_from(ROUTINGS)),
        "draws": data.draw(st.sampled_from(("layer", "step"))), **degrees,
    }  # fmt: skip
    whole = load_model(model)
    few = replace(whole, layers=whole.layers[: 8 if model == "jamba-mini" else 4])  # all kinds that it has
    bare = deploy(few, load_system(system), **given_)  # type: ignore[arg-type]
    if bare.lockstep and data.draw(st.booleans()):
        given_["all_to_all"] = "deepep-auto"
    overlap = data.draw(st.sampled_from(("none", "auto", "two-batch"))) if bare.exchanges else "none"
    placing = ExpertPlacing(
        data.draw(st.sampled_from([p for p in POLICIES if p != BY_NODE])), bare.layout.ep * data.draw(st.integers(0, 2)),
        data.draw(st.sampled_from(DISPATCHES)),
    )  # fmt: skip
    deployment = deploy(
        bare.model, bare.system, **given_, overlap=overlap, expert_copies=placing,  # type: ignore[arg-type]
    )  # fmt: skip
    step, replica = data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 3))
    batches = some_work([data.draw(batches_of) for _ in range(deployment.ranks)])
    check_paths(deployment, [batches], step, replica)


@pytest.mark.parametrize(("system", "ep"), [("h200-9x8", 72), ("h200-18x8", 144)])
def test_copies_even_out_what_groups_do_not_divide(system: str, ep: int) -> None:
    """256 experts and 32 copies: four a device on 72, two on 144; batches of ranks differ, one is empty."""
    model = load_model("deepseek-v3")
    model = replace(model, layers=model.layers[-1:])
    d = deploy(model, load_system(system), tp=1, ep=ep, routing="power_law:0.8",
               expert_copies=ExpertPlacing("eplb", 32, "any"))  # fmt: skip
    part = d.experts[0]
    assert part.placed is not None
    assert part.held == 288 // ep
    copies = part.placed.map.copies
    assert (copies >= 1).all()
    assert copies.sum() == 288
    batches = [Batch.of([500 + r] * (r % 5)) for r in range(ep)]
    check_paths(d, [batches], 3)
    with pytest.raises(InputError, match=f"cannot be distributed to {ep} groups"):
        deploy(model, load_system(system), tp=1, ep=ep, expert_copies=ExpertPlacing("even", 32, "any"))
    with pytest.raises(InputError, match=f"ep={ep}: does not divide the 256 experts; try --redundant-experts"):
        deploy(model, load_system(system), tp=1, ep=ep)
    with pytest.raises(InputError, match=f"tp=9: does not divide the 2048 columns of an expert, with ep={ep // 9}"):
        deploy(model, load_system(system), tp=1)


def step_of(deployment: Deployment, expected: bool = True) -> float:
    """Seconds of a step of 64 decodes a rank."""
    return explicit_stage(deployment, [Batch.of([1024] * 64)] * deployment.ranks, expected=expected).seconds


def placed(policy: str, redundant: int, rule: str = "any", routing: str = "power_law:0.8") -> Deployment:
    return deploy(
        load_model("deepseek-v2-lite"), load_system("h100-2x8"), tp=1, routing=routing,
        expert_copies=ExpertPlacing(policy, redundant, rule),
    )  # fmt: skip


@pytest.mark.parametrize("expected", [True, False])
def test_even_without_copies_changes_no_bit(expected: bool) -> None:
    found = placed("even", 0)
    plain = deploy(found.model, found.system, tp=1, routing="power_law:0.8")
    assert step_of(found, expected) == step_of(plain, expected)
    assert found.memory() == plain.memory()


def test_copies_cost_memory_and_even_out_a_skewed_step() -> None:
    plain, found = placed("even", 0), placed("balanced", 16)
    one = plain.experts[0].expert_bytes(plain.run)
    layers = sum(part.layers for part in plain.experts)
    assert found.memory().weights - plain.memory().weights == pytest.approx(one * layers)
    assert step_of(found) < step_of(placed("balanced", 0)) < step_of(plain)


def test_copies_on_every_device_leave_nothing_to_send() -> None:
    """As many slots as experts: with local dispatch no token leaves its device."""
    found = placed("replicated", (64 - 4) * 16, "local")
    assert found.layout.sent == 0.0
    assert placed("replicated", (64 - 4) * 16, "any").layout.sent == 1.0


@pytest.mark.parametrize("skew", ["0.8", "1.5"])
def test_files(tmp_path: Path, skew: str) -> None:
    d = placed("balanced", 16, routing=f"power_law:{skew}")
    rows = ["layer,expert,device"]
    for layer, part in enumerate(d.experts):
        assert part.placed is not None
        rows += [f"{layer},{e},{g}" for g, own in enumerate(part.placed.map.slots) for e in sorted(own)]
    path = tmp_path / "map.csv"
    path.write_text("\n".join(rows) + "\n")
    again = deploy(d.model, d.system, tp=1, routing=f"power_law:{skew}",
                   expert_copies=expert_placing(f"file:{path}", None, None))  # fmt: skip
    assert step_of(again) == pytest.approx(step_of(d), rel=1e-12)
    assert again.memory() == d.memory()


def refused(text: str, tmp_path: Path) -> str:
    path = tmp_path / "map.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        deploy(load_model("mixtral-8x7b"), load_system("h100-x4"), tp=1, ep=2,
               expert_copies=expert_placing(f"file:{path}", None, None))  # fmt: skip
    return str(error.value).replace(str(tmp_path), "")


def test_bad_files_are_refused_in_one_line(tmp_path: Path) -> None:
    head = "layer,expert,device\n"
    assert refused(head + "0,0,0\n0,1,1\n", tmp_path) == "/map.csv: layer 0: expert 2 is on no device"
    assert "has no row for MoE layer 0" in refused(head + "1,0,0\n", tmp_path)
    assert "device '1.5' must be a whole number" in refused(head + "0,0,1.5\n", tmp_path)
    every = "".join(f"0,{e},{e % 2}\n" for e in range(8))
    assert "has devices 0 to 3, but the experts of h100-x4 are distributed to 2 groups" in refused(
        head + every + "0,0,3\n", tmp_path
    )
    assert "names expert 8; there are 0 to 7" in refused(head + every + "0,8,1\n", tmp_path)
    assert "missing column 'device'" in refused("layer,expert\n0,1\n", tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("nope", None, None), "unknown expert placement"),
        ((None, None, "local"), "needs --expert-placement or --redundant-experts"),
        (("even", 3, None), "must fill the 16 groups"),
        (("even", 1600, None), "more than the 64 experts"),
        (("even", 0, "far"), "must be any, node, local"),
        (("file:", None, None), "must be file:PATH"),
        (("sorted:3", None, None), "must be file:PATH"),
    ],
)
def test_bad_options_are_refused(options: tuple[str | None, int | None, str | None], says: str) -> None:
    with pytest.raises(InputError, match=says):
        deploy(load_model("deepseek-v2-lite"), load_system("h100-2x8"), tp=1, expert_copies=expert_placing(*options))


def test_copies_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CapacityError, match="GiB of weights per device"):
        deploy(load_model("deepseek-v3"), load_system("h800-4x8"), tp=1,
               expert_copies=ExpertPlacing("balanced", 32 * 40)).memory()  # fmt: skip


def test_nothing_to_place_is_refused() -> None:
    with pytest.raises(InputError, match="has no experts that can be distributed"):
        deploy(load_model("llama-3-8b"), load_system("h100-x4"), expert_copies=ExpertPlacing("even"))
    with pytest.raises(InputError, match="has no effect with ep 1: all experts of"):
        deploy(load_model("mixtral-8x7b"), load_system("h100-x4"), ep=1, expert_copies=ExpertPlacing("even"))


def test_expected_loads_are_the_mean_of_draws() -> None:
    """Mean over 200 draws of one layer's slots, each of another pool, against the expectation, 5 standard errors."""
    d = placed("replicated", 32, "local", routing="power_law:0.5")
    part, batch = d.experts[3], Batch.of([10] * 256)
    assert part.placed is not None
    from opbyte.simulator.parts.expert_map.placed import offsets_of

    draws = np.array([
        part.placed.drawn(
            replace(part.router, seed=step).loads(step, part.row, batch).tokens.astype(np.int64),
            offsets_of(part, step, 0),
        ).tokens
        for step in range(200)
    ])  # fmt: skip
    expected = part.expected(256.0)
    mean, error = draws.mean(axis=0), draws.std(axis=0) / np.sqrt(200) + 1e-3
    assert (np.abs(mean - expected.tokens * expected.experts) < 5 * error).all()


def test_groups_by_layer() -> None:
    """Pyramid of 64 and 128 experts on 128 devices: an expert of the former is cut in two."""
    system, model = load_system("a100-40gb-16x8"), load_model("dsmoe-1.3b-pr")
    mapping = system.mapping.model_copy(update={"experts": "expert-parallel-by-layer"})
    common = deploy(model, system, tp=1)
    own = deploy(model, system.model_copy(update={"mapping": mapping}), tp=1)
    found = {(p.spec.routed.experts, p.ep, p.held, p.spec.width) for p in own.experts}  # type: ignore[attr-defined]
    assert found == {(64, 64, 1, 4096), (128, 128, 1, 8192)}
    assert {part.ep for part in common.experts} == {64}
    assert own.memory().weights == pytest.approx(common.memory().weights, rel=1e-3)
    assert deploy(model, own.system, tp=1, ep=64).layout == common.layout
    placed = deploy(model, own.system, tp=1, expert_copies=ExpertPlacing("balanced", 128))
    assert {(part.ep, part.held) for part in placed.experts} == {(64, 3), (128, 2)}


def test_groups_by_layer_on_both_paths() -> None:
    system, model = load_system("a100-40gb-16x8"), load_model("dsmoe-1.3b-pr")
    mapping = system.mapping.model_copy(update={"experts": "expert-parallel-by-layer"})
    for placing in (None, ExpertPlacing("balanced", 128, "node")):
        d = deploy(model, system.model_copy(update={"mapping": mapping}), tp=1, expert_copies=placing,
                   routing="power_law:0.7")  # fmt: skip
        check_paths(d, [[Batch.of([100 + rank] * 4) for rank in range(d.ranks)]], 5)

"""Is an op priced alike by every command, in both paths, on every processor, whatever its cost model?

The explicit path (`simulator/step/explicit.py`) is the definition. Devices here have processors whose
models differ: fitted kernels beside a roofline, measured tables beside one, two sets of fitted
kernels. Before the price list, compiled code knew the cost model of the first processor only, and
commands named what bounds an op by rules of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte import simulate
from opbyte.analysis.answers.evidence import evidence
from opbyte.devices.calibrated.formulas import Formula
from opbyte.devices.catalog import list_systems, load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.deploy.placement import PLACEMENTS, PREFILL, Option, kind_code, placement
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.simulator.step.lowering import _affine, lower
from opbyte.simulator.step.prices import Kernels, experts_price
from opbyte.simulator.step.step_totals import T_RUNS, new_step_totals, totals
from opbyte.simulator.step.timed import Lowered
from opbyte.workloads.batch import Batch, Moments
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError
from opbyte.workloads.jit import compiled
from opbyte.workloads.ops import Access, Op

from .pieces import batches_up_to
from .two_paths import check_paths, compiled_step


@compiled
def priced(kernels: Kernels, row: int, routed: float, active: float) -> tuple[float, int]:
    """`experts_price`, for a test."""
    return experts_price(kernels, row, 0, routed, active)


TWO_GPUS = """
device:
  extends: h100
  name: two-gpus
  processors:
    second:
      kind: xpu
      peak_TFLOPS: {bf16: 400, fp16: 400, fp8: 800, int8: 800, source: "assumed: a smaller chip"}
      compute_efficiency: {value: 0.8, source: "assumed: as the first"}
      memory_efficiency: {value: 0.85, source: "assumed: as the first"}
      launch_us: {value: 1, source: "assumed: shorter"}
      memory_pJ_per_bit: {value: 3.9, source: "assumed: as the first"}
      compute_pJ_per_FLOP: {bf16: 0.2, fp16: 0.2, fp8: 0.1, int8: 0.1, source: "assumed: as the first"}
      cores: {value: 100, source: "assumed: fewer"}
      clock_MHz: {value: 1600, source: "assumed: slower"}
      bandwidth_multiple: {value: 1.5, source: "assumed: nearer"}
      runs: [attention_decode, attention_prefill, experts, gemm]
  memory:
    spaces: {value: 4, source: "assumed: four"}
name: two-gpus-x1
devices_per_node: {value: 1, source: "assumed: one"}
"""
PIM = """
device:
  extends: {device}
  name: with-pim
  processors:
    pim:
      kind: logic-pim
      peak_TFLOPS: {{bf16: {peak}, fp16: {peak}, source: "assumed: for the test"}}
      bandwidth_multiple: {{value: 4, source: "assumed: for the test"}}
      compute_efficiency: {{value: 1, source: "assumed: for the test"}}
      memory_efficiency: {{value: 0.85, source: "assumed: for the test"}}
      launch_us: {{value: 1, source: "assumed: for the test"}}
      memory_pJ_per_bit: {{value: 2, source: "assumed: for the test"}}
      compute_pJ_per_FLOP: {{bf16: 0.2, fp16: 0.2, source: "assumed: for the test"}}
      runs: [attention_decode, experts]
  memory:
    spaces: {{value: 4, source: "assumed: for the test"}}
name: with-pim-x1
devices_per_node: {{value: 1, source: "assumed: for the test"}}
"""


@pytest.fixture(scope="session")
def system_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A system file of a text."""
    folder = tmp_path_factory.mktemp("systems")

    @cache
    def write(name: str, text: str) -> Path:
        path = folder / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def renamed_tables(tmp_path_factory: pytest.TempPathFactory, data_set: Callable[[str], Path]) -> Path:
    """Tables of an RTX 4090 as if they were measured on the device of `PIM`."""
    folder = tmp_path_factory.mktemp("tables")
    for table in (data_set("serving_runs") / "rtx4090--llama-3.1-8b" / "kernels").glob("*.csv"):
        (folder / table.name).write_text(table.read_text().replace("rtx-4090", "with-pim"))
    return folder


def pim(device: str, peak: float) -> str:
    return PIM.format(device=device, peak=peak)


batches = batches_up_to(20_000)


def agree(deployment: Deployment, batch: Batch, step: int = 3) -> list[tuple[str, str, str]]:
    """Both paths: equal seconds and joules, and per op the same processor and bound.

    Returns the ops that have several processors to run on, where they ran, and their bounds.
    """
    plan, slots = lower(deployment)
    _, step_totals, (stage,) = check_paths(deployment, [[batch] * deployment.ranks], step, plan=plan)
    whole = totals(plan, step_totals.tally)
    explicit: dict[tuple[str, str], dict[str, float]] = {}
    for placed in stage.ops:
        bound = "memory" if placed.cost.bound == "link" else placed.cost.bound
        busy = explicit.setdefault((placed.op.name, placed.processor), {})
        took = placed.cost.seconds * placed.count * placed.devices
        busy[bound] = busy.get(bound, 0.0) + took
    compiled: dict[tuple[str, str], dict[str, float]] = {}
    for s, name in enumerate(slots.name):
        for p, processor in enumerate(slots.processors):
            if whole[s, p, T_RUNS] > 0:
                busy = compiled.setdefault((name, slots.link[s] or processor), {})
                for bound, took in zip(("compute", "memory", "latency"), whole[s, p], strict=False):
                    if took > 0:
                        busy[bound] = busy.get(bound, 0.0) + took
    sums = explicit.pop(("partial_sums", slots.processors[0]), {})  # booked with the experts
    if sums:
        into = explicit.setdefault(("experts", slots.processors[0]), {})
        for bound, took in sums.items():
            into[bound] = into.get(bound, 0.0) + took
    explicit = {k: {b: t for b, t in v.items() if t > 0} for k, v in explicit.items()}
    assert {k: v for k, v in explicit.items() if v} == {k: pytest.approx(v, rel=1e-9) for k, v in compiled.items() if v}
    return [(name, *key) for name, key in ((k[0], (k[1], max(v))) for k, v in compiled.items() if v)]


@pytest.mark.parametrize("device", ["two-gpus", "pim", "tables"])
@pytest.mark.parametrize("model", ["mixtral-8x7b", "gpt-oss-20b", "llama-3-8b"])
@given(data=st.data())
@settings(max_examples=6)
def test_processors_of_different_models(
    device: str, model: str, system_of: Callable[[str, str], Path],
    request: pytest.FixtureRequest, data: st.DataObject,
) -> None:  # fmt: skip
    """Fitted beside fitted, fitted beside roofline, tables beside roofline: equal to 1e-9."""
    kernels: tuple[str, ...] = ()
    if device == "tables":
        kernels = (str(request.getfixturevalue("renamed_tables")),)
        path = system_of("tables", pim("rtx-4090", 50.0))
    else:
        path = system_of(device, TWO_GPUS if device == "two-gpus" else pim("h100", 50.0))
    rule = data.draw(st.sampled_from(["op-per-byte", "fastest", "paper", "co-process"]))
    d = deployed(str(path), model, rule, kernels)
    agree(d, data.draw(batches), data.draw(st.integers(0, 99)))


@cache
def deployed(path: str, model: str, rule: str | None = None, kernels: tuple[str, ...] = ()) -> Deployment:
    whole = load_model(model)
    return deploy(replace(whole, layers=whole.layers[:8]), load_system(path), placement=rule, kernels=kernels)


@pytest.mark.parametrize("rule", ["op-per-byte", "fastest", "co-process", "paper", "xpu-only"])
@pytest.mark.parametrize("model", ["mixtral-8x7b", "llama-3-8b"])
def test_a_pim_of_no_throughput_changes_nothing(rule: str, model: str, system_of: Callable[[str, str], Path]) -> None:
    plain = deployed("h100-x1", model)
    beside = deployed(str(system_of("zero", pim("h100", 0.0))), model, rule)
    for batch in (Batch.of([700] * 40), Batch.of([20, 9000], [(512, 0)])):
        found, expected = (explicit_stage(d, [batch], expected=True) for d in (beside, plain))
        assert found.seconds == pytest.approx(expected.seconds, rel=1e-9)
        assert found.joules == pytest.approx(expected.joules, rel=1e-9)


@pytest.mark.parametrize("product", ["h100", "h200", "b200"])
@given(batch=batches, model=st.sampled_from(["mixtral-8x7b", "qwen3-30b-a3b", "llama-3-8b"]))
@settings(max_examples=10)
def test_a_pim_beside_a_product_never_makes_it_slower(product: str, batch: Batch, model: str) -> None:
    plain = deployed(f"{product}-x4", model)
    beside = deployed(f"{product}-logic-pim-x4", model, "fastest")
    found, expected = (explicit_stage(d, [batch], expected=True) for d in (beside, plain))
    assert found.seconds <= expected.seconds * (1 + 1e-9)


def test_a_pim_keeps_the_fits_of_the_product() -> None:
    """W3: what the xPU rests on is the product's, and the PIM says what it rests on."""
    plain, beside = (deployed(s, "mixtral-8x7b") for s in ("h100-x4", "h100-logic-pim-x4"))

    def fitted(deployment: Deployment) -> dict[str, tuple[float | None, int]]:
        rows = evidence(deployment, {"device.processors.logic-pim.launch_us": "assumed: a guess"})
        return {r["applies_to"]: (r["error"], r["rows"]) for r in rows if r["basis"] == "fitted"}

    known = {f"{name} on xpu": found for name, found in fitted(plain).items()}
    mine = fitted(beside)
    assert mine
    assert all(known.get(name, known.get(f"{name} on xpu")) == found for name, found in mine.items())
    rows = evidence(beside, {"device.processors.logic-pim.launch_us": "assumed: a guess"})
    (near,) = (r for r in rows if r["applies_to"] == "logic-pim")
    assert (near["cost_model"], near["basis"]) == ("roofline", "assumed")
    assert {r["applies_to"] for r in evidence(plain, {})} >= {"MoE experts", "GEMM"}


ALL_SYSTEMS = [name for name in list_systems() if not name.startswith(("u280", "u55c", "vck", "zcu"))]


@given(data=st.data())
@settings(max_examples=30)
def test_roofline_and_simulation_name_the_same_bounds(data: st.DataObject) -> None:
    """W4: processor and bound of every op, on all systems of the catalog."""
    name = data.draw(st.sampled_from(ALL_SYSTEMS))
    model = data.draw(st.sampled_from(["llama-3-8b", "mixtral-8x7b", "deepseek-v2-lite"]))
    try:
        d = deployed(name, model)
    except (InputError, CapacityError):
        return
    if d.pools:
        return
    agree(d, data.draw(batches))


@pytest.mark.parametrize(
    "name", ["attacc-x8", "attacc-bg-x8", "attacc-buffer-x8", "cent-x8", "stratum-x2", "flightllm-vhk158-x1"]
)
@given(data=st.data())
@settings(max_examples=6)
def test_published_systems_cost_the_same_in_both_paths(name: str, data: st.DataObject) -> None:
    """Their own kinds of processor (`devices.published`) say each price twice."""
    d = deployed(name, data.draw(st.sampled_from(["llama-2-7b", "mixtral-8x7b"])))
    agree(d, data.draw(batches))


@pytest.fixture
def least_energy() -> Iterator[str]:
    """A rule from outside, for a while: tests that draw from all rules must not meet it."""
    name = "least-energy-for-a-test"

    @placement(name, priced=True)
    def least(option: Option) -> float:
        """Each op where it takes the least dynamic energy."""
        return option.joules

    yield name
    del PLACEMENTS._items[name]


def test_a_rule_from_outside_is_followed(least_energy: str) -> None:
    """Both paths run such a rule: `test_outside_paths`."""
    joules = {
        rule: explicit_stage(deployed("duplex-plain-x4", "mixtral-8x7b", rule), [Batch.of([500] * 30)]).joules
        for rule in (least_energy, "fastest", "xpu-only")
    }
    assert joules[least_energy] == min(joules.values())
    same = (lower(deployed("duplex-plain-x4", "mixtral-8x7b", least_energy))[0].custom for _ in range(2))
    assert len(set(same)) == 1  # else each engine is compiled anew


NEAR_BELOW, EXPERTS = 12.0, kind_code("experts")


@pytest.fixture
def by_op_per_byte() -> Iterator[str]:
    """Finding 12 of a trial: a rule of Op/B, kind, phase and batch, for a while."""
    name = "by-op-per-byte-for-a-test"

    @placement(name)
    def below(option: Option) -> float:
        """Near memory below 12 Op/B: experts of up to 64 tokens, and decodes; prompts never."""
        small = option.op_per_byte < NEAR_BELOW and option.phase != PREFILL
        near = small and (option.kind != EXPERTS or option.batch <= 64)
        return 0.0 if (option.place > 0) == near else 1.0

    yield name
    del PLACEMENTS._items[name]


def test_a_rule_by_op_per_byte_kind_phase_and_batch(by_op_per_byte: str) -> None:
    """Both paths tell a rule the same: at 90 decodes 180 tokens are sent to experts, which stay."""
    d = deployed("duplex-plain-x4", "mixtral-8x7b", by_op_per_byte)
    chosen = set()
    for decodes, chunks in ((4, []), (30, []), (90, []), (4, [(300, 0)])):
        batch = Batch.of([500] * decodes, chunks)
        agree(d, batch)
        found = explicit_stage(d, [batch], expected=True)
        where = {p.op.kind: p.processor for p in found.ops}
        own = [p.op for p in found.ops if p.op.loads is not None]
        near = all(op.loads.routed <= 64 and op.flops < NEAR_BELOW * op.bytes for op in own)
        assert where["experts"] == ("logic-pim" if near else "xpu")
        assert where["attention_decode"] == "logic-pim"
        assert where.get("attention_prefill", "xpu") == "xpu"
        chosen.add(near)
    assert chosen == {True, False}


def refused(**bad: Any) -> str:
    with pytest.raises(InputError) as caught:
        placement("bad-rule-for-a-test")(bad["score"])
    assert "bad-rule-for-a-test" not in PLACEMENTS
    return str(caught.value)


def test_rules_that_cannot_work_are_refused_at_once() -> None:
    assert "needs a docstring" in refused(score=lambda o: 1.0)

    def word(option: Option) -> Any:
        """A word."""
        return "near"

    assert "must give a number" in refused(score=word)


@pytest.mark.parametrize("board", ["u280", "u55c", "zcu102", "zcu104", "vck190"])
def test_an_fpga_is_costed_by_its_engine_alone(board: str) -> None:
    """W7: a roofline of a board would contradict what its engine says."""
    with pytest.raises(InputError, match=f"^{board}-x1: is an FPGA.*opbyte compare") as caught:
        deployed(f"{board}-x1", "llama-3-8b")
    assert "\n" not in str(caught.value)


def test_cells_hold_a_bound() -> None:
    """Every op that ran has one of the three codes."""
    d = deployed("h100-x1", "llama-3-8b")
    plan, _ = lower(d)
    step_totals = new_step_totals(plan)
    batch = Batch.of([300] * 8, [(64, 0)])
    compiled_step(Lowered(plan, step_totals), [batch], [batch.moments(d.shard.windows)])
    ran = step_totals.cells.processor[0, :] >= 0
    assert ran.any()
    assert np.isin(step_totals.cells.bound[0, ran], (0.0, 1.0, 2.0)).all()


@pytest.mark.parametrize(
    ("op", "says"),
    [
        (lambda m: {"flops": m.tokens**2}, "not affine"),
        (lambda m: {"flops": 1.0, "access": Access("gather", m.tokens)}, "changes with the batch"),
    ],
)
def test_ops_that_no_row_can_price_are_refused(op: Any, says: str) -> None:
    def build(moments: Moments) -> list[Op]:
        return [Op("own", "ffn", "elementwise", "both", {}, "bf16", act_bytes=moments.tokens, **op(moments))]

    with pytest.raises(InputError, match=says):
        _affine(build, Moments((0,), np.ones(9)), 1)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_prices_of_experts_that_are_remembered_are_those_of_others(seed: int) -> None:
    """Equal rows share a number, others do not; places in the memory are shared by many loads."""
    rng = np.random.default_rng(seed)
    kernels = lower(deployed("h100-x1", "mixtral-8x7b"))[0].kernels
    again = lower(deployed("h100-x1", "mixtral-8x7b"))[0].kernels
    assert kernels is not None
    assert again is not None
    rows = [s for s in range(len(kernels.slots)) if kernels.slots[s, 0, 0] == Formula.MOE]
    for s in rows:
        for t in rows:
            same = bool((kernels.formulas[s, 0, 0] == kernels.formulas[t, 0, 0]).all())
            assert same or kernels.twins[s, 0] != kernels.twins[t, 0]
    loads = [(float(n), float(min(n, rng.integers(1, 9)))) for n in rng.integers(0, 40_000, 60)]
    for routed, active in [*loads, *loads[::-1]]:  # those remembered, and those that others drove out
        again.seen[:] = -1.0
        assert priced(kernels, rows[0], routed, active) == priced(again, rows[0], routed, active)


def test_a_prompt_beyond_the_counts_of_the_curves_costs_what_its_step_does() -> None:
    """Products rise in steps of their tiles, so that two counts are not a line."""
    found = simulate(
        "llama-3.2-1b", "h100-x1", framework="trtllm", closed_loop=1, requests=2, input_len=20_000, output_len=1,
        token_budget=20_000,
    )  # fmt: skip
    rows, front = found.run.requests, found.run.policy.host.front
    took = float((rows.first_token_s - rows.arrival_s)[0]) - front.round_s - front.token_s * 20_000
    stage = explicit_stage(found.run.deployment, [Batch.of(chunks=[(20_000, 0)])], expected=True)
    assert took == pytest.approx(stage.seconds, rel=0.02)

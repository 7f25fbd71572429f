"""Do a family's kernels have parameters of their own, and are versions of an engine told apart?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opbyte.analysis.validate.kernels import validate_kernels
from opbyte.devices.calibrated.family import families
from opbyte.devices.calibrated.fit import fit, predict, with_kernels
from opbyte.devices.calibrated.hardware import CODES, WEIGHT_BYTES
from opbyte.devices.calibrated.kernel_sets import LABELS, named, of_version, shared_parameters
from opbyte.devices.calibrated.moe import busiest_share
from opbyte.devices.calibrated.terms import COLD
from opbyte.devices.catalog import load_device
from opbyte.workloads.errors import InputError
from opbyte.workloads.kernel_tables import read_tables

from .pieces import gemm_on_h100

HEAD = (
    "source,device,kernel,dtype,tokens,hidden,inter,experts,topk,tp,ep,gated,distribution,"
    "active_experts,timing,measured_s"
)
ROW = "aiconfigurator/trtllm-1.3.0rc20,{device},fused_moe,{dtype},{n},4096,1536,128,8,1,1,1,balanced,128,graph,0.001"


def products(dtype: str, count: int = 80) -> np.ndarray:
    """Random matrix products of a format."""
    rng, code = np.random.default_rng(1), CODES[dtype]
    m, n, k = np.floor(2.0 ** rng.uniform(5, 13, (3, count)))
    w = WEIGHT_BYTES[code]
    return np.array([[a, b, c, 1, code, w, w, 0, COLD, 0, 0] for a, b, c in zip(m, n, k, strict=True)])


def test_each_kernel_of_a_framework_is_told_by_its_own_rows() -> None:
    family, h = gemm_on_h100()
    x = np.concatenate([products("bf16"), products("fp8")])
    slow = family.vector({"peak_8": 0.25, "launch_s": 2e-5})
    fast = family.vector({"peak_16": 0.9, "launch_s": 1e-6})
    measured = np.where(x[:, 4] == CODES["fp8"], family.seconds(slow, h, x), family.seconds(fast, h, x))
    labels = np.full(len(x), LABELS["vllm"], dtype=object)
    base = fit(family, h, x, measured, labels, starts=1)
    own = with_kernels(family, base, h, x, measured, labels)
    assert {name.partition("+")[0] for name in own.kernels[LABELS["vllm"]]} == {"bf16", "fp8"}

    def off(done: object) -> float:
        return float(np.median(np.abs(np.log(predict(family, done, h, x, labels) / measured))))  # type: ignore[arg-type]

    assert off(own) < 0.02 < off(base)


def test_parameters_of_branches_price_their_rows_alone() -> None:
    family, h = gemm_on_h100()
    x, one = products("fp8", 5), family.defaults
    every = family.per_branch(one)
    assert family.seconds(every, h, x).tolist() == family.seconds(one, h, x).tolist()
    every[family.branches.index("bf16")] *= 2.0  # another kernel's
    assert family.seconds(every, h, x).tolist() == family.seconds(one, h, x).tolist()
    assert family.of_branch(every, x[0]).tolist() == one.tolist()


def test_the_busiest_of_one_device_has_all_and_of_more_at_least_its_share() -> None:
    assert busiest_share(512, 8, 128, 1, 1.2) == pytest.approx(1.0)
    shares = [busiest_share(4096, 8, 128, ranks, 1.2) for ranks in (2, 8, 64, 128)]
    assert shares == sorted(shares)
    assert shares[0] > 1.0
    assert shares[-1] <= 128 / 8  # no expert has more than every token


def test_means_of_two_kernels_are_left_out_where_tables_do_not_tell_them(tmp_path: Path) -> None:
    rows = [ROW.format(device=d, dtype=t, n=n) for n in (1, 8)
            for d, t in (("B200-SXM-180GB", "nvfp4"), ("B200-SXM-180GB", "fp8"), ("H100-SXM-80GB", "fp8"))]  # fmt: skip
    (tmp_path / "moe.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    read, skipped = read_tables([tmp_path])
    assert len(read["moe"]) == 4
    assert set(read["moe"]["impl"]) == {""}
    assert [s.line for s in skipped] == [2, 5]
    assert "two kernels" in skipped[0].reason
    (tmp_path / "moe_more.csv").write_text(
        f"{HEAD.replace(',timing', ',routing,impl,timing')}\n"
        + ROW.format(device="B200-SXM-180GB", dtype="w4a8_mxfp4_mxfp8", n=4).replace(
            ",graph", ",plain,moe_torch_flow,graph") + "\n"
    )  # fmt: skip
    read, skipped = read_tables([tmp_path])
    assert len(read["moe"]) == 7
    assert not skipped


def test_a_version_is_asked_for_and_what_there_is_instead_is_said() -> None:
    assert named("vllm@0.24") == ("vllm", "0.24")
    assert named("typical") == ("typical", "")
    assert of_version(("0.24.0",), "0.24")
    assert not of_version(("0.24.0",), "0.2")
    with pytest.raises(InputError, match=r"vlm@0\.24.*did you mean 'vllm'"):
        named("vlm@0.24")
    for wrong in ("vllm@", "vllm@new", "typical@1.0"):
        with pytest.raises(InputError, match=r"needs a version such as 0\.24"):
            named(wrong)
    spec, gemm = load_device("b200")[0], families()["gemm"]
    assert shared_parameters(spec, gemm, "vllm@0.24").other_version == ""
    other = shared_parameters(spec, gemm, "vllm@0.11")
    assert other.other_version == "rows of vllm 0.24.0, not of 0.11"
    assert other.fit.values.tolist() == shared_parameters(spec, gemm, "vllm").fit.values.tolist()


def test_a_device_left_out_is_predicted_from_the_others() -> None:
    found = validate_kernels(transfer=True)
    rows = [row for row in found.records() if row["n"] >= 20]
    assert all(row["basis"] == "transferred" for row in rows)
    assert all(row["interval_low"] <= 1.0 <= row["interval_high"] for row in rows if "held" in row)
    assert any("held" in row for row in rows)


WIDE = (
    "source,device,kernel,dtype,phase,tokens,dp_tokens,rank_tokens,hidden,inter,experts,slots,topk,tp,ep,"
    "distribution,impl,timing,measured_s"
)


def test_behind_an_all_to_all_experts_compute_the_rows_that_reach_them(tmp_path: Path) -> None:
    row = ("aiconfigurator/sglang-0.5.10,H100-SXM-80GB,{kernel},fp8_block,{phase},{n},-1,-1,7168,2048,256,{slots},8,1,"
           "{ep},{load},deepepmoe,{timing},{s}")  # fmt: skip
    kinds = [
        {"kernel": "moe_generation", "phase": "generation", "timing": "graph", "s": 1e-4},
        {"kernel": "moe_context", "phase": "context", "timing": "event", "s": 5e-4},
        {"kernel": "wideep_moe_eplb", "phase": "any", "timing": "graph", "s": 1e-4},
    ]
    loads = [("uniform", 256), ("power_law_1.2", 256), ("power_law_1.2_eplb", 288)]
    rows = [row.format(n=4096, ep=32, load=name, slots=slots, **kind)
            for kind, (name, slots) in zip(kinds, loads, strict=True)]  # fmt: skip
    rows += [row.format(n=4096, ep=32, load="power_law_1.2", slots=256, **kinds[0])]
    (tmp_path / "wideep_moe.csv").write_text("\n".join([WIDE, *rows]) + "\n")
    read, skipped = read_tables([tmp_path])
    assert [s.line for s in skipped] == [3]
    assert "launched one by one" in skipped[0].reason
    family = families()["moe"]
    x = family.from_table(read["moe"])
    at = {name: x[:, i] for i, name in enumerate(family.quantities)}
    even = 4096 * 8 / 32
    assert at["routed"][:2].tolist() == [even, even]  # copies of experts even the load out
    assert at["routed"][2] > even  # the busiest rank's
    assert at["slots"].tolist() == at["routed"].tolist()
    assert at["local_experts"].tolist() == [8.0, 9.0, 8.0]
    assert at["chain"].tolist() == [0.0, 1.0, 0.0]
    assert {family.branches[i] for i in family.kernel_of(x)} == {"fp8_block+wide"}


def test_a_step_says_which_experts_are_behind_an_all_to_all() -> None:
    from opbyte.simulator.deploy.deployment import deploy
    from opbyte.simulator.scenario.load import load
    from opbyte.simulator.step.explicit import explicit_stage
    from opbyte.workloads.batch import Batch

    family = families()["moe"]
    model, system = load("deepseek-v3", "h200-x8", None, None)
    for exchange, behind in (("all_to_all", 1.0), ("gather", 0.0)):
        side = deploy(model, system, tp=1, dp=8, ep=8, exchange=exchange, costs="roofline")
        stage = explicit_stage(side, [Batch.of([1024] * 4)] * 8, expected=True)
        (op, *_) = (p.op for p in stage.ops if p.op.kind == "experts")
        x = family.from_op(op)
        assert x is not None
        assert x[family.quantities.index("wide")] == behind

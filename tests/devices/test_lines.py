"""Do fitted lines price ops as they say, readably and for compiled code, and refuse what they are not?

Expected values: alpha + beta n by hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opbyte.devices.catalog import load_device, load_system
from opbyte.devices.device import build_device
from opbyte.devices.kinds import check_rows
from opbyte.devices.lines import LineModel, LineSpec
from opbyte.devices.link import LinkModel
from opbyte.devices.prices import ALONE
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.deploy.programs import all_to_all
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import SpecError
from opbyte.workloads.layers import MixtureOfExperts, Run
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads, Op

DEVICE = build_device(load_device("fsmoe-a")[0], calibrated=True)
MODEL = DEVICE.processors["xpu"].model
RUN = Run(Numerics("fp32"))


def test_rows_and_costs_agree_on_steps_of_small_layers() -> None:
    check_rows(build_device(load_device("fsmoe-a-times")[0], calibrated=True).processors["xpu"].model)


def test_a_matmul_is_its_line() -> None:
    op = Op("qkv", "attention", "gemm", "both", {}, "fp32", flops=2e12)
    cost, row = MODEL.cost(op), MODEL.row(op, ALONE)
    assert cost.seconds == pytest.approx(4.26e-5 + 2.29e-14 * 1e12)
    assert row.params.fixed + op.flops / row.params.flops == pytest.approx(cost.seconds)
    assert row.params.bytes == np.inf
    assert cost.bound == "compute"


def test_experts_launch_once_a_matrix() -> None:
    op = MixtureOfExperts(1024, 8, 2, 512).expert_op(Loads(np.array([100.0]), np.ones(1)), RUN)
    multiply_adds = 100 * 3 * 1024 * 512
    assert MODEL.cost(op).seconds == pytest.approx(3 * 4.26e-5 + 2.29e-14 * multiply_adds)


def test_an_exchange_is_its_line_and_costs_the_links_energy() -> None:
    op = all_to_all("dispatch", 4096, 1600, 2, 1, 6, RUN)
    link = LinkModel(DEVICE.spec.link, 6, DEVICE.collectives)
    cost, row = link.cost(op), link.row(op, ALONE)
    assert cost.seconds == pytest.approx(2.87e-4 + 2.21e-10 * 4096 * 1600 * 2)
    assert row.params.fixed + op.act_bytes / row.params.bytes == pytest.approx(cost.seconds)
    assert set(cost.joules) == {"link"}


def test_what_has_no_line_keeps_its_price() -> None:
    op = Op("norm", "norm", "elementwise", "both", {}, "fp32", flops=0.0, act_bytes=1e9)
    plain = build_device(load_device("rtx-a6000")[0]).processors["xpu"].model
    assert isinstance(MODEL, LineModel)
    assert MODEL.cost(op) == plain.cost(op)
    assert [e.cost_model for e in MODEL.evidence([op])] == ["roofline"]


def test_lines_serve_steps_of_any_model() -> None:
    d = deploy(load_model("mixtral-8x7b"), load_system("fsmoe-a-x8"))
    stage = explicit_stage(d, [Batch.of([], [(512, 0)])], expected=True)
    times = {p.op.name: p.cost.seconds for p in stage.ops}
    assert times["qkv"] > 4.26e-5
    assert times["mixer_all_reduce"] > 5.11e-4


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("gem: {alpha_ms: 1, beta_ms: 1, per: FLOP, source: a line made up}", "'gem' is not a line"),
        ("gemm: {alpha_ms: 1, beta_ms: 1, per: byte, source: a line made up}", "gemm is per multiply-add or FLOP"),
        ("gemm: {alpha_ms: 1, beta_ms: 0, per: FLOP, source: a line made up}", "greater than 0"),
        ("all_reduce: {alpha_ms: 1, beta_ms: 1, per: FLOP, source: a line made up}", "per element or byte"),
    ],
)
def test_lines_of_nothing_are_refused(tmp_path: Path, lines: str, words: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"extends: rtx-a6000\nname: own\nlines:\n  {lines}\n", encoding="utf-8")
    with pytest.raises(SpecError, match=words):
        load_device(str(file))


def test_a_line_counts_elements() -> None:
    line = LineSpec(alpha_s=0.0, beta_s=1.0, per="element", element_bytes=4)
    assert line.count(Op("x", "communication", "all_gather", "both", {}, "fp32", 0.0, act_bytes=8.0)) == 2.0

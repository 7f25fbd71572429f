"""Do designs fit their boards, and are those that do not refused in one line?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.catalog import load_device, load_system
from opbyte.devices.checks import check_resources, engine_of, resource_use
from opbyte.devices.device import break_even_tokens, build_device, ridge_point
from opbyte.simulator.fpga.deploy import check_schedule, deploy_fpga, image_program, on_chip_bytes
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError, SpecError
from opbyte.workloads.layers import Run
from opbyte.workloads.layers.moe import MixtureOfExperts
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads

# DSP slices, block and ultra RAM [MiB], and external memory [GiB, GB/s] of the boards' documents.
BOARDS = {
    "zcu104": (1728, 4.746, 2, 19.2),
    "zcu102": (2520, 4.008, 4, 17.07),
    "u280": (9024, 42.6, 8, 460),
    "u55c": (9024, 42.6, 16, 460),
    "vck190": (1968, 20.5, 8, 25.6),
}


@pytest.mark.parametrize("name", BOARDS)
def test_boards_are_what_their_documents_say(name: str) -> None:
    spec, _ = load_device(name)
    dsp, on_chip, capacity, bandwidth = BOARDS[name]
    _, _, fabric = engine_of(spec)
    assert fabric.dsp == dsp
    assert fabric.on_chip_bytes / 2**20 == pytest.approx(on_chip, rel=2e-3)
    assert spec.memory.capacity_bytes == capacity * 2**30
    assert spec.memory.bandwidth_bytes_per_s == pytest.approx(bandwidth * 1e9)


@pytest.mark.parametrize("name", BOARDS)
def test_every_design_of_the_catalog_fits(name: str) -> None:
    spec, _ = load_device(name)
    warnings = check_resources(spec)
    full = [u for u in resource_use(*engine_of(spec)[1:]) if u.share > 0.8]
    assert len(warnings) == len([u for u in full if u.resource in ("DSP slices", "on-chip bytes")])


def test_rates_by_hand() -> None:
    """Edge-MoE: 256 MACs at 300 MHz, 153.6 GOPS; 128 bits a port, 4.8 GB/s."""
    spec, _ = load_device("edge-moe-zcu102")
    (processor,) = build_device(spec).processors.values()
    assert processor.peak["fp16"] == 153.6e9
    assert processor.bandwidth == pytest.approx(4.8e9)
    _, engine, _ = engine_of(spec)
    assert (engine.ports.kernel_bits / engine.ports.port_bits, engine.dsp) == (2, 512 + 2 * 32 * 4)


@pytest.mark.parametrize(("device", "tokens"), [("zcu104", 48), ("zcu102", 32)])
def test_break_even_queue_of_the_published_designs(device: str, tokens: float) -> None:
    """P x stretch / (weights per word): 1,536 x 1 / 32 and 256 x 2 / 16."""
    (processor,) = build_device(load_device(device)[0]).processors.values()
    assert processor.break_even_tokens("fp16", 2.0) == pytest.approx(tokens, rel=0.005)


@given(st.floats(0.1, 1e4), st.floats(0.25, 4), st.floats(0, 1e-4))
def test_break_even_is_the_ridge_counted_in_tokens(ridge: float, weight: float, act: float) -> None:
    """At the break-even a matmul's Op/B is the ridge point."""
    tokens = break_even_tokens(ridge, weight, act)
    assert 2 * tokens / (weight + tokens * act) == pytest.approx(ridge, rel=1e-6)
    assert break_even_tokens(ridge, weight, 3 / ridge) == float("inf")
    assert ridge_point(6e12, 3e12) == 2


@pytest.mark.parametrize("device", ["h100", "logic-pim", "u280"])
def test_an_expert_changes_its_bound_at_the_break_even(device: str) -> None:
    """One expert costed a token below and above: memory first, arithmetic after."""
    (processor,) = build_device(load_device(device)[0]).processors.values()
    moe, run = MixtureOfExperts(4096, 8, 2, 14336), Run(Numerics("bf16"))
    per_token = 2.0 * (2 * 4096 + 3 * 14336) / (3 * 4096 * 14336)
    tokens = processor.break_even_tokens("bf16", 2.0, per_token)
    costs = [
        processor.model.cost(moe.expert_op(Loads(np.array([n]), np.ones(1)), run))
        for n in (tokens * 0.99, tokens * 1.01)
    ]
    assert [cost.bound for cost in costs] == ["memory", "compute"]


Write = Callable[[str], Path]


@pytest.fixture
def design(tmp_path: Path) -> Callable[[str], Path]:
    """A design of the user's: the catalog's ZCU102 with some keys of its engine replaced."""

    def write(engine: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(
            f"extends: zcu102\nname: mine\ntitle: a test\nprocessors:\n  fabric:\n    engine:\n      {engine}\n"
        )
        return path

    return write


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("linear: {inputs: 64, outputs: 64, source: a test}",
         r"mine: the design does not fit: needs 8,448 DSP slices, 2,520 available"),
        ("buffers: {weights_KiB: 4096, source: a test}",
         r"mine: the design does not fit: needs [\d,]+ on-chip bytes, 4,202,496 available"),
        ("ports: {weights: 4, source: a test}",
         r"mine: the design does not fit: needs 8 memory ports, 6 available"),
        ("ports: {port_bits: 256, source: a test}",
         r"mine: the design does not fit: needs 256 bits of a memory port, 128 available"),
        ("buffers: {weights_KiB: 64, source: a test}",
         r"is larger than its buffer: needs [\d,]+ bytes, 65,536 available"),
    ],
)  # fmt: skip
def test_a_design_that_does_not_fit(design: Write, engine: str, message: str) -> None:
    spec = load_system(design(engine)).device
    with pytest.raises(CapacityError, match=message) as caught:
        image_program(deploy_fpga(load_model("edge-moe-cityscapes"), spec))
    assert "\n" not in str(caught.value)


def test_an_expert_larger_than_its_buffer(design: Write) -> None:
    """Whole experts of Edge-MoE: 294,912 bytes."""
    path = design("{load_unit: expert, buffers: {weights_KiB: 200, source: a test}}")
    with pytest.raises(CapacityError, match=r"an expert is larger than its buffer: needs 294,912"):
        image_program(deploy_fpga(load_model("edge-moe-cityscapes"), load_system(path).device))


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("ports: {port_bits: 0, source: a test}",
         r"processors\.fabric\.engine\.ports\.port_bits: .*greater than 0, got 0"),
        ("linear: {inputs: 0, source: a test}",
         r"engine\.linear\.inputs: .*greater than 0, got 0"),
        ("load_unit: row", r"engine\.load_unit: .*'expert', 'matrix' or 'tile'"),
        ("clock_MHz: {value: -1, source: a test}", r"engine\.clock_MHz: .*greater than 0"),
        ("colour: red", r"engine\.colour: unknown key"),
    ],
)  # fmt: skip
def test_a_design_that_breaks_the_schema(design: Write, engine: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        load_system(design(engine))
    assert "\n" not in str(caught.value)


def test_engine_and_board_go_together(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: zcu102\nname: mine\ntitle: a test\nfabric: null\n")
    with pytest.raises(SpecError, match="a processor with an engine needs `fabric`"):
        load_device(path)
    path.write_text("extends: h100\nname: mine\ntitle: t\nprocessors: {xpu: {kind: fpga}}\n")
    with pytest.raises(SpecError, match="kind fpga needs an engine"):
        load_device(path)


def test_schedules_need_memory() -> None:
    """M3ViT: 4.84 MiB reordered whatever the experts, 11.61 with all 16 of a layer on chip."""
    d = deploy_fpga(load_model("m3vit-pascal"), load_device("zcu104")[0])
    size = {s: on_chip_bytes(d, s) / 2**20 for s in ("reordered", "cache", "on-chip")}
    assert size["reordered"] == pytest.approx(4.840, rel=1e-3)
    assert size["on-chip"] == pytest.approx(11.610, rel=1e-3)
    assert size["cache"] == pytest.approx(4.840, rel=1e-3)
    with pytest.raises(CapacityError, match=r"needs 11\.61 MiB on chip, 4\.75 MiB available"):
        check_schedule(d, "on-chip")
    dense = deploy_fpga(load_model("vit-small-pascal"), load_device("zcu104")[0])
    assert on_chip_bytes(dense, "reordered") / 2**20 == pytest.approx(4.828, rel=1e-3)


def test_weights_beyond_external_memory() -> None:
    with pytest.raises(CapacityError, match=r"needs 86\.99 GiB of weights, 7\.60 GiB available"):
        deploy_fpga(load_model("mixtral-8x7b"), load_device("u280")[0])
    with pytest.raises(SpecError, match="h100: is not an FPGA"):
        deploy_fpga(load_model("m3vit-pascal"), load_device("h100")[0])
    with pytest.raises(InputError, match="takes tokens, not images"):
        image_program(deploy_fpga(load_model("llama-2-7b"), load_device("u55c")[0]))

"""Do the Duplex paper's devices have the paper's constants (MICRO 2024, arXiv 2409.01141)?"""

from __future__ import annotations

import pytest

from opbyte.devices.catalog import load_device, load_system, of_device
from opbyte.devices.spec import DeviceSpec, MappingSpec, ProcessorSpec

CLOSED_SET = [
    "duplex-gpu", "duplex-2xgpu", "duplex-plain", "duplex-pe", "duplex",
    "duplex-bankpim", "duplex-bankgroup", "duplex-hetero", "duplex-split",
]  # fmt: skip
PJ_PER_BIT = 8e-12
ACTIVATION = 0.909e-9 / (1024 * 8) / 1e-12
"""Row activation [pJ/bit]: 0.909 nJ for a fully used 1 KB row (LLMSimulator, power.h)."""

MAC, ON_DRAM = 0.23, 0.0883 / 0.0478
"""Arithmetic in 7 nm [pJ/FLOP] (LLMSimulator, power.h), and 16 nm over 7 nm at 0.7 V: 0.2958 V^2 - 0.1241 V + 0.03024
over 0.1776 V^2 - 0.09097 V + 0.02447 (Stillmaker and Baas, Integration 58, 2017)."""
OPERAND = 10.0 / 8 * 0.0883 / 0.6989
"""2 B out of an 8 KB SRAM, 10 pJ for 8 B at 45 nm and 0.9 V (Horowitz, ISSCC 2014), for the 2 FLOP of a MAC
[pJ/FLOP]: 1.018 V^2 - 0.3107 V + 0.1539."""


def device(name: str) -> DeviceSpec:
    return load_device(name)[0]


def mapping(name: str) -> MappingSpec:
    return of_device(name)[0].mapping


def mac_peak(spec: DeviceSpec, processor: ProcessorSpec) -> float:
    array = processor.mac_array
    assert array is not None
    per_stack = 2 * array.modules_per_stack * array.macs_per_module * array.clock_Hz
    return per_stack * spec.memory.stacks


def bandwidth(spec: DeviceSpec, processor: ProcessorSpec) -> float:
    return spec.memory.bandwidth_bytes_per_s * processor.bandwidth_multiple


@pytest.mark.parametrize("name", CLOSED_SET)
def test_the_baseline_is_an_h100_without_losses(name: str) -> None:
    spec = device(name)
    xpu = spec.processors["xpu"]
    assert xpu.peak_flops_per_s is not None
    assert xpu.peak_flops_per_s["fp16"] == pytest.approx(989.4e12)
    assert xpu.peak_flops_per_s["fp8"] == 2 * xpu.peak_flops_per_s["fp16"]
    assert spec.memory.bandwidth_bytes_per_s == pytest.approx(3.352e12)
    assert spec.memory.capacity_bytes == 80 * 2**30
    assert spec.memory.stacks == 5
    assert spec.memory.usable_fraction == 1.0
    ridge = xpu.peak_flops_per_s["fp16"] / spec.memory.bandwidth_bytes_per_s
    assert ridge == pytest.approx(295, rel=2e-3)
    assert (xpu.compute_efficiency, xpu.memory_efficiency, xpu.launch_s) == (1.0, 0.85, 0.0)
    assert (mapping(name).attention, spec.static_W) == ("fused-softmax", 0.0)


@pytest.mark.parametrize("name", CLOSED_SET)
def test_links_are_the_papers(name: str) -> None:
    spec = device(name)
    assert spec.link.bandwidth_bytes_per_s == 450e9  # 900 GB/s in both directions, section VI
    assert spec.link.latency_s == pytest.approx(3e-6)
    assert spec.node_link.bandwidth_bytes_per_s * spec.node_size == 400e9  # per node, section VI
    assert spec.node_link.latency_s == pytest.approx(0.5e-6)
    assert spec.link.energy_J_per_byte == spec.node_link.energy_J_per_byte == 0.0  # Fig. 15


@pytest.mark.parametrize("name", ["duplex-plain", "duplex-pe", "duplex", "logic-pim"])
def test_logic_pim_peak_follows_from_its_multipliers(name: str) -> None:
    spec = device(name)
    pim = spec.processors["logic-pim"]
    peak = mac_peak(spec, pim)
    assert peak / 5 == pytest.approx(21.3e12, rel=5e-3)  # per stack, section VI
    assert bandwidth(spec, pim) == pytest.approx(13.4e12, rel=1e-3)
    assert peak / bandwidth(spec, pim) == pytest.approx(8, rel=1e-2)  # design point, IV-B


def test_bank_pim_has_sixteen_times_the_bandwidth_at_one_op_per_byte() -> None:
    spec = device("duplex-bankpim")
    pim = spec.processors["bank-pim"]
    assert bandwidth(spec, pim) == pytest.approx(53.6e12, rel=1e-3)
    assert pim.peak_op_per_byte == 1.0


def test_bank_group_pim_has_logic_pims_rates() -> None:
    spec, logic = device("duplex-bankgroup"), device("duplex-plain")
    pim, other = spec.processors["bank-group-pim"], logic.processors["logic-pim"]
    assert mac_peak(spec, pim) == mac_peak(logic, other)
    assert bandwidth(spec, pim) == bandwidth(logic, other)


@pytest.mark.parametrize(
    ("name", "processor", "column", "arithmetic"),
    [  # column access [pJ/bit] of LLMSimulator, power.h, and arithmetic [pJ/FLOP]
        ("duplex-gpu", "xpu", 3.48, MAC),
        ("duplex-plain", "logic-pim", 1.81, MAC),
        ("duplex-bankgroup", "bank-group-pim", 2.68, MAC * ON_DRAM),
        ("duplex-bankpim", "bank-pim", 0.73, MAC * ON_DRAM + OPERAND),
    ],
)
def test_energy_is_column_access_plus_row_activation(
    name: str, processor: str, column: float, arithmetic: float
) -> None:
    spec = device(name).processors[processor]
    assert spec.memory_J_per_byte / PJ_PER_BIT == pytest.approx(column + ACTIVATION, rel=1e-3)
    assert spec.compute_J_per_flop["fp16"] == pytest.approx(arithmetic * 1e-12, rel=2e-3)
    if processor != "xpu":  # inputs and outputs are charged as xPU accesses
        assert spec.activation_J_per_byte is not None
        external = device("duplex-gpu").processors["xpu"].memory_J_per_byte
        assert spec.activation_J_per_byte == external


@pytest.mark.parametrize(
    ("name", "placement", "experts", "processors"),
    [
        ("duplex-gpu", "xpu-only", "expert-parallel", {"xpu"}),
        ("duplex-2xgpu", "xpu-only", "expert-parallel", {"xpu"}),
        ("duplex-plain", "paper", "expert-parallel", {"xpu", "logic-pim"}),
        ("duplex-pe", "co-process", "expert-parallel", {"xpu", "logic-pim"}),
        ("duplex", "co-process", "tensor-parallel", {"xpu", "logic-pim"}),
        ("duplex-bankpim", "op-per-byte", "tensor-parallel", {"xpu", "bank-pim"}),
        ("duplex-bankgroup", "paper", "expert-parallel", {"xpu", "bank-group-pim"}),
        ("logic-pim", "paper", "expert-parallel", {"logic-pim"}),
        ("duplex-hetero", "paper", "expert-parallel", {"xpu", "logic-pim"}),
        ("duplex-split", "co-process", "tensor-parallel", {"xpu", "logic-pim"}),
    ],
)
def test_each_variant_adds_one_mechanism(name: str, placement: str, experts: str, processors: set[str]) -> None:
    spec, mapped = of_device(name)[0].device, mapping(name)
    assert (mapped.placement, mapped.experts, mapped.attention) == (placement, experts, "fused-softmax")
    assert set(spec.processors) == processors
    assert spec.memory.spaces == (1 if processors == {"xpu"} else 4)  # bank bundles, section V-C


def test_fully_connected_layers_stay_on_the_xpu() -> None:
    runs = device("duplex").processors["logic-pim"].runs
    assert runs is not None
    assert {"attention_decode", "mla_decode", "experts"} <= set(runs)
    assert not {"gemm", "attention_prefill", "mla_prefill"} & set(runs)
    assert device("logic-pim").processors["logic-pim"].runs is None


def test_only_hetero_is_several_devices_and_only_split_has_pools() -> None:
    """Section III-B: GPUs beside Logic-PIM devices; Fig. 16: two of four devices prefill."""
    assert {n for n in CLOSED_SET if mapping(n).separate} == {"duplex-hetero"}
    assert {n for n in CLOSED_SET if mapping(n).prefill_share == 0.5} == {"duplex-split"}


def test_one_silicon_has_four_mappings() -> None:
    """Duplex without co-processing, +PE, +PE+ET and Split differ in the mapping alone."""
    names = ("duplex-plain", "duplex-pe", "duplex", "duplex-split")
    systems = [load_system(f"{name}-x4") for name in names]
    assert [s.name for s in systems] == [f"{name}-x4" for name in names]
    assert len({s.device.name for s in systems}) == 1
    assert len({str(s.mapping) for s in systems}) == 4
    assert load_system("duplex-pe-et-x8").name == "duplex-x8"


def test_units_in_the_stacks_leave_partial_sums() -> None:
    """Section V-A: experts are spread over all stacks; the xPU has nothing to add up."""
    for name in CLOSED_SET:
        for processor in device(name).processors.values():
            assert processor.partial_sums == (processor.kind != "xpu")


def test_twice_the_gpus_are_the_same_gpu() -> None:
    own = {"name": "", "title": ""}
    one, two = device("duplex-gpu"), device("duplex-2xgpu")
    assert one.model_copy(update=own) == two.model_copy(update=own)

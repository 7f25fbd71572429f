"""Does the catalog hold what its sources say, and does every name lead to a device?"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from opbyte.devices.catalog import device_aliases, index_aliases, list_devices, list_systems, load_device, load_system
from opbyte.workloads.errors import SpecError

from ..tables import tables

MEASURED_PEAKS = tables(__file__)["peaks"]
OTHER_NAMES = {"rtx-4090": "rtx-4090", "rtx-pro-6000": "rtx-pro-6000"}


def numbers(node: Any) -> int:
    """How many numbers a dumped spec holds."""
    if isinstance(node, dict):
        return sum(numbers(value) for value in node.values())
    if isinstance(node, tuple):
        return sum(map(numbers, node))
    return int(isinstance(node, (int, float)) and not isinstance(node, bool))


@pytest.mark.parametrize("name", list_devices())
def test_every_number_of_every_device_has_a_source(name: str) -> None:
    spec, sources = load_device(name)
    assert spec.name == name == name.lower()
    assert spec.title
    assert len(sources) == numbers(spec.model_dump(exclude_unset=True))
    assert all(" " in source for source in sources.values())


@pytest.mark.parametrize("name", list_devices())
def test_an_assumption_is_marked_and_says_why(name: str) -> None:
    _, sources = load_device(name)
    for key, source in sources.items():
        if "assumed" in source:
            assert source.startswith("assumed: "), (key, source)
            assert len(source.split()) >= 3, (key, source)


@pytest.mark.parametrize("device", MEASURED_PEAKS)
def test_products_agree_with_published_peaks(device: str) -> None:
    spec, _ = load_device(device)
    wide, narrow, narrow_format, bandwidth, cache, link = MEASURED_PEAKS[device]
    peak = spec.processors["xpu"].peak_flops_per_s
    assert peak is not None
    # Published tables round to whole TFLOPS or GB/s.
    assert peak["fp16"] / 1e12 == pytest.approx(wide, rel=1e-3)
    assert peak["bf16"] == peak["fp16"]
    assert peak[narrow_format] / 1e12 == pytest.approx(narrow, rel=2e-3)
    assert spec.memory.bandwidth_bytes_per_s / 1e9 == pytest.approx(bandwidth, rel=1e-3)
    assert spec.memory.cache_bytes == cache * 2**20
    assert (spec.bridge or spec.link).bandwidth_bytes_per_s / 1e9 == pytest.approx(link, rel=1e-3)


@pytest.mark.parametrize("device", MEASURED_PEAKS)
def test_capacity_is_what_the_name_says(device: str) -> None:
    """The GB of a name are 2^30 bytes at best, less ECC and reserved pages (up to 7 %)."""
    if device.endswith("GB"):
        named = int(device.rpartition("-")[2].removesuffix("GB"))
        gib = load_device(device)[0].memory.capacity_bytes / 2**30
        assert 0.93 * named <= gib <= 1.01 * named


@pytest.mark.parametrize("name", ["b200", "gb200", "rtx-pro-6000", "mi355x"])
def test_four_bit_rate_is_twice_the_eight_bit_rate(name: str) -> None:
    peak = load_device(name)[0].processors["xpu"].peak_flops_per_s
    assert peak is not None
    assert peak["fp4"] == pytest.approx(2 * peak["fp8"], rel=1e-3)


@pytest.mark.parametrize("name", ["b300", "gb300"])
def test_blackwell_ultra_triples_the_four_bit_rate(name: str) -> None:
    """And gives up that of int8; its memory is 288 GB less ECC and reserved pages."""
    spec = load_device(f"{name}-sxm-288gb")[0]
    peak = spec.processors["xpu"].peak_flops_per_s
    assert peak is not None
    assert peak["fp4"] == pytest.approx(3 * peak["fp8"], rel=0.03)
    assert peak["int8"] < peak["fp16"]
    assert 0.93 * 288 <= spec.memory.capacity_bytes / 2**30 <= 288


@pytest.mark.parametrize("name", ["a100-80gb", "a40", "mi210"])
def test_devices_without_eight_bit_floats_do_not_claim_them(name: str) -> None:
    assert "fp8" not in (load_device(name)[0].processors["xpu"].peak_flops_per_s or {})


def test_gddr_cards_are_one_stack_and_hbm_cards_are_several() -> None:
    stacks = {name: load_device(name)[0].memory.stacks for name in list_devices()}
    assert {stacks[name] for name in ("a40", "l40s", "rtx-4090", "rtx-pro-6000")} == {1}
    hbm = ("a100-80gb", "h100", "h200", "b200", "b300", "mi210", "mi300x", "mi325x", "mi355x")
    assert min(stacks[name] for name in hbm) > 1


@pytest.mark.parametrize("device", [*MEASURED_PEAKS, *OTHER_NAMES])
def test_every_device_string_of_the_tables_resolves_in_any_case(device: str) -> None:
    found = {load_device(d)[0].name for d in (device, device.lower(), device.upper())}
    assert len(found) == 1


def test_every_device_column_of_the_data_folder_resolves() -> None:
    root = os.environ.get("OPBYTE_DATA")
    if not root:
        pytest.skip("OPBYTE_DATA is unset: no measured tables to read")
    strings = set()
    for pattern in ("measured/*.csv", "serving_points/*.csv", "serving_runs/*/kernels/*.csv"):
        for path in sorted(Path(root).glob(pattern)):
            with path.open(newline="") as file:
                strings |= {row["device"] for row in csv.DictReader(file)}
    assert strings >= set(MEASURED_PEAKS)
    assert strings <= set(MEASURED_PEAKS) | set(OTHER_NAMES)
    for device in strings:
        load_device(device)


def test_no_alias_is_taken_twice(tmp_path: Path) -> None:
    assert device_aliases()["h100-sxm-80gb"] == "h100"
    (tmp_path / "a.yaml").write_text("name: a\naliases: [Fast]\n")
    (tmp_path / "b.yaml").write_text("name: b\naliases: [fast]\n")
    with pytest.raises(SpecError, match=r"b\.yaml: aliases: 'fast' already means 'a'"):
        index_aliases({"a": tmp_path / "a.yaml", "b": tmp_path / "b.yaml"})
    (tmp_path / "b.yaml").write_text("name: b\naliases: [A]\n")
    with pytest.raises(SpecError, match="'A' already means 'a'"):
        index_aliases({"a": tmp_path / "a.yaml", "b": tmp_path / "b.yaml"})


@pytest.mark.parametrize("name", list_systems())
def test_every_listed_system_loads_under_its_own_name(name: str) -> None:
    assert load_system(name).name == name


@pytest.mark.parametrize(("text", "name", "nodes", "devices"), tables(__file__)["a system name says nodes and devices"])
def test_a_system_name_says_nodes_and_devices(text: str, name: str, nodes: int, devices: int) -> None:
    system = load_system(text)
    assert (system.name, system.nodes, system.devices_per_node) == (name, nodes, devices)


def test_the_closed_set_of_the_duplex_paper_is_listed() -> None:
    variants = ["gpu", "bankpim", "bankgroup", "plain", "pe"]
    four = {"duplex-x4", "duplex-2xgpu-x8", *(f"duplex-{v}-x4" for v in variants)}
    twins = {"duplex-x8", "duplex-2x8", "duplex-2xgpu-2x8", "duplex-gpu-2x8"}
    assert four | twins <= set(list_systems())

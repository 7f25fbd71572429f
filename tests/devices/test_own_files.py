"""Can a user describe a device or system of their own, and is every mistake one clear line?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from opbyte.devices.catalog import describe_system, load_device, load_system
from opbyte.devices.spec import MappingSpec
from opbyte.workloads.errors import InputError, SpecError

from ..tables import tables

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "wide-logic-pim.yaml"
OWN = """\
name: mine
sources: {guess: "assumed: an example of the tests"}
processors:
  xpu:
    kind: xpu
    peak_TFLOPS: {fp16: 100, source: guess}
    compute_efficiency: {value: 1.0, source: guess}
    memory_efficiency: {value: 1.0, source: guess}
    launch_us: {value: 2, source: guess}
    memory_pJ_per_bit: {value: 4, source: guess}
    compute_pJ_per_FLOP: {fp16: 0.2, source: guess}
memory: {capacity_GiB: 80, bandwidth_GBps: 1000, usable_fraction: 0.9, source: guess}
link: {name: wire, bandwidth_GBps: 10, latency_us: 1, source: guess}
node_link: {name: cable, bandwidth_GBps: 1, latency_us: 5, source: guess}
"""


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_units_become_si(tmp_path: Path) -> None:
    spec, sources = load_device(write(tmp_path, OWN))
    xpu = spec.processors["xpu"]
    assert xpu.peak_flops_per_s == {"fp16": 100e12}
    assert xpu.launch_s == pytest.approx(2e-6)
    assert xpu.memory_J_per_byte == pytest.approx(32e-12)  # 4 pJ/bit
    assert spec.memory.capacity_bytes == 80 * 2**30
    assert sources["link.latency_us"] == "assumed: an example of the tests"


def test_extends_changes_only_what_is_written(tmp_path: Path) -> None:
    text = """
    name: fat
    extends: h100
    memory: {capacity_GB: {value: 144, source: "assumed: more stacks"}}
    processors: {xpu: {peak_TFLOPS: {fp8: null}}}
    """
    spec, sources = load_device(write(tmp_path, text))
    parent, parent_sources = load_device("h100")
    assert spec.memory.capacity_bytes == 144e9  # replaces the parent's, given in MiB
    assert spec.memory.bandwidth_bytes_per_s == parent.memory.bandwidth_bytes_per_s
    assert spec.aliases == ()  # a name and its aliases are never inherited
    peak = spec.processors["xpu"].peak_flops_per_s
    assert peak is not None
    assert "fp8" not in peak  # null drops what was inherited
    assert sources["memory.capacity_GB"] == "assumed: more stacks"
    assert "memory.capacity_MiB" not in sources
    assert sources["memory.bandwidth_GBps"] == parent_sources["memory.bandwidth_GBps"]


def test_extends_takes_a_path_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, OWN, "base.yaml")
    spec, _ = load_device(write(tmp_path, "name: child\nextends: base.yaml\n"))
    assert (spec.name, spec.memory.capacity_bytes) == ("child", 80 * 2**30)


def test_a_bare_name_means_the_catalog_even_beside_a_file_of_that_name(tmp_path: Path) -> None:
    write(tmp_path, OWN, "h100.yaml")
    write(tmp_path, OWN, "h100")
    spec, _ = load_device(write(tmp_path, "name: child\nextends: H100\n"))
    assert spec.link.name == load_device("h100")[0].link.name


def test_an_edited_file_is_read_afresh(tmp_path: Path) -> None:
    path = write(tmp_path, OWN)
    assert load_device(path)[0].memory.capacity_bytes == 80 * 2**30
    path.write_text(OWN.replace("capacity_GiB: 80", "capacity_GiB: 40"))
    assert load_device(str(path))[0].memory.capacity_bytes == 40 * 2**30


def test_the_documented_example_doubles_logic_pim() -> None:
    system, sources = describe_system(EXAMPLE)
    pim = system.device.processors["logic-pim"]
    paper = load_device("duplex")[0].processors["logic-pim"]
    assert (system.name, system.nodes, system.devices_per_node) == ("wide-logic-pim-x4", 1, 4)
    assert pim.bandwidth_multiple == 2 * paper.bandwidth_multiple
    assert pim.mac_array is not None
    assert paper.mac_array is not None
    assert pim.mac_array.modules_per_stack == 2 * paper.mac_array.modules_per_stack
    assert pim.mac_array.macs_per_module == paper.mac_array.macs_per_module
    assert sources["device.processors.logic-pim.bandwidth_multiple"].startswith("assumed: ")


@pytest.mark.parametrize("device", ["h100", "mine.yaml"])
def test_a_system_file_names_its_device(tmp_path: Path, device: str) -> None:
    write(tmp_path, OWN)
    text = f"name: pod\ndevice: {device}\ndevices_per_node: 4\nnodes: 2\nsource: a test's pod\n"
    system, sources = describe_system(str(write(tmp_path, text, "pod.yaml")))
    assert (system.nodes, system.devices_per_node) == (2, 4)
    assert sources["nodes"] == "a test's pod"
    assert any(key.startswith("device.memory.") for key in sources)


def test_a_device_file_stands_for_one_device(tmp_path: Path) -> None:
    system = load_system(write(tmp_path, OWN))
    assert (system.name, system.nodes, system.devices_per_node) == ("mine-x1", 1, 1)
    longest = write(tmp_path, OWN.replace("name: mine", f"name: {'m' * 80}"))
    assert load_system(longest).name == "m" * 80 + "-x1"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("h1000", "'h1000': unknown device; did you mean 'h100'"),
        ("zzz", "known: a100-40gb, "),
        ("no/such.yaml", "no such file"),
        ("bad\0name.yaml", "is not a file name"),
    ],
)
def test_unknown_devices(name: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_device(name)
    assert says in str(caught.value)
    assert len(str(caught.value)) <= 200  # finding G11: all 70 devices stood in it


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("duplx-x4", "did you mean 'duplex'"),
        ("h100", "is a device; a system is 'h100-x1'"),
        ("h100-4", "did you mean 'h100-x1'"),
        ("nonsense", "a system is <device>-x<N>, <device>-<nodes>x<N> or a YAML file"),
        ("h100-x0", "must be 1 to 4096"),
        ("h100-x4097", "must be 1 to 4096"),
        ("h100-0x8", "must be 1 to 4096"),
        ("h100-x" + "9" * 5000, "must be 1 to 4096"),
        ("h100-x-x4", "the name has an unknown device"),
        ("", "unknown system"),
        ("no.yaml", "no such file"),
    ],
)
def test_unknown_systems(name: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_system(name)
    assert says in str(caught.value)


def test_a_folder_is_not_a_description(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a folder"):
        load_device(tmp_path)
    with pytest.raises(SpecError, match="is a folder"):
        load_system(f"{tmp_path}/")


LONG_NUMBERS = [("fp16: 100", f"fp16: 1{'0' * zeros}", says)
                for zeros, says in ((400, "must be a finite number"), (5000, "not valid YAML"))]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), [*tables(__file__)["mistakes"], *LONG_NUMBERS])
def test_mistakes_in_a_device_file(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in OWN
    path = write(tmp_path, OWN.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        load_device(path)
    message = str(caught.value)
    assert says in message
    assert "mine.yaml" in message or "no.yaml" in message
    assert "\n" not in message
    assert len(message) < 600


def test_a_device_without_processors(tmp_path: Path) -> None:
    tree = yaml.safe_load(OWN)
    for empty in ({}, None):
        tree["processors"] = empty
        with pytest.raises(SpecError, match="processors: "):
            load_device(write(tmp_path, yaml.safe_dump(tree)))
    del tree["processors"]
    with pytest.raises(SpecError, match="processors: is missing"):
        load_device(write(tmp_path, yaml.safe_dump(tree)))


@pytest.mark.parametrize("text", ["", "- 1\n", "42\n", "value: 3\nsource: two words\n", "a: b: c"])
def test_files_that_are_no_description(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError):
        load_device(write(tmp_path, text))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="larger than 4 MiB"):
        load_device(write(tmp_path, OWN + "#" * (4 << 20)))


def test_a_loop_of_two_files(tmp_path: Path) -> None:
    write(tmp_path, "name: a\nextends: b.yaml\n", "a.yaml")
    path = write(tmp_path, "name: b\nextends: a.yaml\n", "b.yaml")
    with pytest.raises(SpecError, match="leads back to this file"):
        load_device(path)


@pytest.mark.parametrize(("text", "says"), tables(__file__)["mistakes in a system file"])
def test_mistakes_in_a_system_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_system(write(tmp_path, text, "pod.yaml"))
    assert "pod.yaml: " in str(caught.value)
    assert says in str(caught.value)


def loads_or_says_why(path: Path) -> None:
    for load in (load_device, load_system):
        reason = ""
        try:
            load(path)
        except InputError as error:
            reason = str(error)
        assert "\n" not in reason


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_gives_a_reason(tmp_path: Path, opening: str) -> None:
    for depth in (50, 5000):
        loads_or_says_why(write(tmp_path, "a: " + opening * depth))
        closing = {"[": "]", "{a: ": "1}"}.get(opening, "")
        text = "name: x\nmemory: " + opening * depth + closing * depth
        loads_or_says_why(write(tmp_path, text))


TWO = 'devices_per_node: {value: 2, source: "assumed: two"}\n'


def test_a_system_is_mapped_as_what_its_device_extends(tmp_path: Path) -> None:
    """The mapping of the catalog's name goes with it, also through a file; keys given come first."""
    (tmp_path / "base.yaml").write_text("extends: duplex-pe\nname: base\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nname: mine\n")
    assert load_system(tmp_path / "mine.yaml").mapping == load_system("duplex-pe-x4").mapping
    system = tmp_path / "system.yaml"
    system.write_text("name: two\ndevice: mine.yaml\nmapping: {splitter: optimal}\n" + TWO)
    found, sources = describe_system(system)
    assert (found.mapping.placement, found.mapping.splitter) == ("co-process", "optimal")
    assert sources["device.memory.capacity_GiB"]
    system.write_text("name: two\ndevice: duplex-split\n" + TWO)
    found, sources = describe_system(system)
    assert found.mapping.prefill_share == 0.5
    assert "Fig. 16" in sources["mapping.prefill_share"]
    assert [pool.devices_per_node for pool in found.pools()] == [1, 1]
    system.write_text("name: two\ndevice: h100\n" + TWO)
    assert load_system(system).mapping == MappingSpec()


@pytest.mark.parametrize("key", MappingSpec.model_fields)
def test_a_device_has_no_mapping(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, OWN + f"{key}: paper\n")
    with pytest.raises(SpecError, match=f"{key} is not part of a device: give `mapping:"):
        load_device(path)

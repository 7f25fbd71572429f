"""Are expressions of parameters worked out in their units, and wrong ones refused in one line?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.catalog import load_device
from opbyte.simulator.scenario.load import changed_system
from opbyte.workloads.errors import SpecError
from opbyte.workloads.formula import Formula, evaluate
from opbyte.workloads.parameters import UNIT_NAMES

SOURCE = "a test's own figure"


def device(folder: Path, multiple: str = "= tsv", **parameters: object) -> Path:
    """A Duplex whose Logic-PIM follows parameters."""
    own: dict[str, object] = {"modules": 32, "tsv": 4, "clock_MHz": 650, "sram_MiB": 1}
    own |= parameters
    array = {"modules_per_stack": "= modules", "clock_MHz": "= clock_MHz", "input_buffer_KiB": "= sram_MiB"}
    unit = {"mac_array": {**array, "source": SOURCE}, "bandwidth_multiple": {"value": multiple, "source": SOURCE}}
    path = folder / "mine.yaml"
    tree = {"extends": "duplex", "name": "mine", "parameters": {**own, "source": SOURCE},
            "processors": {"logic-pim": unit}}  # fmt: skip
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_device_is_a_function_of_its_parameters(tmp_path: Path) -> None:
    path = device(tmp_path)
    spec, sources = load_device(path)
    assert spec == load_device(path, {"modules": 32})[0]
    array = load_device(path, {"modules": 8, "clock_MHz": 1000, "sram_MiB": 2})[0].processors["logic-pim"].mac_array
    assert array is not None
    assert (array.modules_per_stack, array.clock_Hz, array.input_buffer_bytes) == (8, 1e9, 2**21)
    assert sources["processors.logic-pim.bandwidth_multiple"] == f"{SOURCE}; = tsv"
    assert {name: spec.parameters[name] for name in ("modules", "tsv")} == {"modules": 32, "tsv": 4}
    changed = changed_system(str(path), (("parameters.tsv", 8), ("device.node_size", 4)))
    assert changed.device.processors["logic-pim"].bandwidth_multiple == 8
    assert changed.device.node_size == 4


def test_one_that_extends_it_replaces_parameters(tmp_path: Path) -> None:
    device(tmp_path, twice="= 2 * tsv", multiple="= twice")
    child = tmp_path / "child.yaml"
    tree = {"extends": "mine.yaml", "name": "child", "parameters": {"tsv": 3, "source": SOURCE}}
    child.write_text(yaml.safe_dump(tree))
    assert load_device(child)[0].processors["logic-pim"].bandwidth_multiple == 6


@pytest.mark.parametrize(
    ("multiple", "line"),
    [
        ("= modules * GBps", "must be a plain number, but '= modules * GBps' is bytes/s"),
        ("= sram_MiB + tsv", "puts bytes and a plain number together"),
        ("= tvs", "unknown name 'tvs' in '= tvs'; did you mean 'tsv'?"),
        ("= tsv / (modules - 32)", "has no value (float division by zero)"),
        ("= __import__('os')", "may contain only arithmetic"),
        ("= tsv ** 1000", "may use + - * / and powers of 2 to 4"),
        ("= ceil(clock_MHz)", "puts 1/s and a plain number together"),
        ("= tsv +", "is not an expression"),
    ],
)
def test_wrong_expressions(tmp_path: Path, multiple: str, line: str) -> None:
    with pytest.raises(SpecError) as error:
        load_device(device(tmp_path, multiple))
    assert line in str(error.value)
    assert "processors.logic-pim.bandwidth_multiple" in str(error.value)


def test_circles_and_units_of_parameters(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="form a cycle: a -> b -> a"):
        load_device(device(tmp_path, a="= b + 1", b="= a"))
    with pytest.raises(SpecError, match=r"parameters.wide_GBps: must be bytes/s, but '= tsv'"):
        load_device(device(tmp_path, wide_GBps="= tsv"))
    with pytest.raises(SpecError, match="has no parameter 'module'; did you mean 'modules'"):
        load_device(device(tmp_path), {"module": 3})


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6))
def test_units_go_with_the_numbers(a: float, b: float) -> None:
    text = f"({a} * GBps) / ({b} * MHz) + 1 * KiB"
    found = evaluate(Formula(text, SOURCE, "here"), UNIT_NAMES)
    assert found.value == pytest.approx(a * 1e9 / (b * 1e6) + 1024)
    assert found.dims == (1, 0, 0, 0, 0)

"""Does ``opbyte show`` print a file that describes the very same device or system?"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from opbyte import roofline
from opbyte.analysis.answers.description import describe, spaces
from opbyte.analysis.reference.kinds import TEMPLATES, template
from opbyte.devices.catalog import describe_system, list_devices, load_device
from opbyte.devices.dram.spec import load_memory
from opbyte.simulator.engine.policies import POLICIES, Policy
from opbyte.simulator.frameworks.engine_file import ENGINES
from opbyte.workloads.catalog import load_model

from .conftest import Ask


@pytest.mark.parametrize("name", list_devices())
def test_what_is_shown_describes_the_same_device(name: str, tmp_path: Path) -> None:
    """Read back: every field and every source is equal."""
    path = tmp_path / "own.yaml"
    path.write_text(describe(name).text(), encoding="utf-8")
    spec, sources = load_device(path)
    own, known = load_device(name)
    assert spec.name == f"my-{name}"
    one, other = (s.model_dump(exclude={"calibration", "aliases", "name"}) for s in (spec, own))
    assert approx(one) == approx(other)
    assert set(sources.values()) <= set(known.values())


def test_a_copy_costs_what_the_original_does(tmp_path: Path) -> None:
    """The kernels of its silicon come along, by name."""
    path = tmp_path / "own.yaml"
    path.write_text(describe("h100").text(), encoding="utf-8")
    one, two = (roofline("mixtral-8x7b", s, batch=16).step_seconds for s in ("h100-x1", path))
    assert one == pytest.approx(two, rel=1e-9)


def approx(tree: object) -> object:
    """Numbers to twelve digits: units turn them about."""
    if isinstance(tree, dict):
        return {k: approx(v) for k, v in tree.items()}
    return float(f"{tree:.9g}") if isinstance(tree, float) else tree


def test_systems_too(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(describe("duplex-split-x4").text(), encoding="utf-8")
    spec, _ = describe_system(path)
    known, _ = describe_system("duplex-split-x4")
    assert spec.mapping == known.mapping
    assert (spec.nodes, spec.devices_per_node) == (known.nodes, known.devices_per_node)
    left_out = {"calibration", "aliases", "name"}
    one, other = (s.device.model_dump(exclude=left_out) for s in (spec, known))
    assert approx(one) == approx(other)


def test_the_command(ask: Ask, tmp_path: Path) -> None:
    found = ask("show", "h100", "--out", tmp_path / "o")
    assert "bandwidth_GBps:\n    value: 3352" in found.out
    assert (tmp_path / "o/my-h100.yaml").read_text() == found.out
    assert ask("show", "h100", "--json").json()["description"]["limit_W"]["value"] == 700
    assert "not a device, system, host" in ask("show", "nothing").refused()


def test_memories_and_spaces_are_shown_as_files_to_edit(ask: Ask, tmp_path: Path) -> None:
    """Finding U15: the files to copy were in the package's folders only."""
    path = tmp_path / "memory.yaml"
    path.write_text(ask("show", "hbm4-8000-8hi").out, encoding="utf-8")
    assert load_memory(path).timings == load_memory("hbm4-8000-8hi").timings
    assert ask("show", path).out.startswith("# Whole description")
    for name in spaces().keys() - set(list_devices()):
        path.write_text(ask("show", name).out, encoding="utf-8")
        assert yaml.safe_load(path.read_text()) == yaml.safe_load(spaces()[name].read_text())


@pytest.mark.parametrize("kind", ["sweep", "engine"])
def test_files_that_another_command_takes(kind: str, ask: Ask, tmp_path: Path) -> None:
    """Finding G10: a memory's file was refused as a device that extends an unknown one."""
    path = tmp_path / TEMPLATES[kind]
    path.write_text(template(kind), encoding="utf-8")
    told = ask("show", path).refused()
    assert "show takes a device, system, host or memory" in told
    assert f"{path}" in told.partition("For this file: opbyte ")[2]


@pytest.mark.parametrize("name", ["llama-3.1-70b", "mixture-of-mamba-1.4b", "gemma-3-270m"])
def test_models_are_shown_as_files_of_the_same_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(describe(name).text(), encoding="utf-8")
    own, known = load_model(path), load_model(name)
    assert own.layers == known.layers
    assert own.total_params == known.total_params
    assert known.source in path.read_text().partition("\n")[0]


@pytest.mark.parametrize("name", [*POLICIES, *ENGINES])
def test_policies_and_engines_are_spelled_out(name: str) -> None:
    tree = yaml.safe_load(describe(name).text())
    policy = tree["policy"] if name in ENGINES else tree
    if name in POLICIES:
        assert policy["token_budget"] == POLICIES[name].token_budget
    assert set(policy) == {field.name for field in fields(Policy)}
    if name in ENGINES:
        assert {"max_num_seqs", "max_running_requests", "max_batch_size"} & set(tree["keys"])

"""Do the checks of `.ci` see what they should: syntax nodes by room, tests by the import graph, mutants that apply?"""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from opbyte.analysis.commands.app import COMMANDS

ROOT = Path(__file__).resolve().parent.parent


@cache
def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nodes_of(text: bytes) -> int:
    return sum(1 for _ in ast.walk(ast.parse(text)))


def test_papers_are_one_room_of_the_product() -> None:
    lines = script("lines")
    files = lines.files_of(None)
    by_room, counts = lines.rooms(files), lines.totals(files)
    papers = [p for folder in lines.PAPERS for p in (ROOT / folder).rglob("*.py")]
    assert by_room["papers"] == counts["papers"] == sum(nodes_of(p.read_bytes()) for p in papers)
    assert not [room for room in by_room if room.startswith(lines.PAPERS)]
    assert counts["product"] > counts["papers"] > 0
    assert counts["product"] + counts["tests"] == sum(files.values())


def test_unclear_english_is_counted_where_it_is() -> None:
    tree = ast.parse('"""A load is held."""\nx = "three words only"\ny = "this must be in between"\n')
    assert dict(script("lines")._strings(tree)) == {True: "A load is held.", False: "this must be in between"}


def test_a_budget_that_is_passed_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = script("lines")
    monkeypatch.setattr(lines, "files_of", lambda revision: {"workloads/a/b.py": 11, "src/c.py": 1})
    monkeypatch.setattr(lines, "BUDGETS", {"product": 12})
    monkeypatch.setattr(lines, "english", dict)
    assert lines.main(None) == 0
    monkeypatch.setattr(lines, "BUDGETS", {"product": 11})
    assert lines.main(None) == 1
    assert "over the budget: product" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "chosen", "left"),
    [
        ("workloads/errors.py", "tests/workloads/test_classes.py", None),
        ("devices/collectives/exchanges.py", "tests/devices/test_collectives.py", "tests/workloads/test_yaml_text.py"),
        ("tests/devices/test_dram.py", "tests/devices/test_dram.py", "tests/devices/test_collectives.py"),
        ("devices/specs/h100.yaml", "tests/devices/test_catalog.py", "tests/workloads/test_yaml_text.py"),
        ("analysis/commands/special.py", "tests/analysis/test_cli_usage.py", "tests/devices/test_dram.py"),
        ("analysis/studies/plan/trial.py", "tests/test_doctests.py", "tests/devices/test_dram.py"),
        ("pyproject.toml", "tests/workloads/test_yaml_text.py", None),
        ("docs/guide.md", "tests/test_docs.py", "tests/devices/test_collectives.py"),
    ],
)
def test_a_change_chooses_its_tests(changed: str, chosen: str, left: str | None) -> None:
    found = script("changed").chosen([changed])
    assert chosen in found
    assert left not in found


def test_every_mutant_applies_and_names_tests_that_are_there() -> None:
    for path, old, new, tests in script("mutants").MUTANTS:
        assert (ROOT / path).read_text(encoding="utf-8").count(old) == 1, (path, old)
        assert old != new
        for file, _, name in (test.partition("::") for test in tests.split()):
            assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_a_revision_is_counted_as_it_stood() -> None:
    inside = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False)
    if inside.returncode:
        pytest.skip("no repository here")
    lines = script("lines")
    listed = subprocess.run(
        ["git", "show", "HEAD:workloads/errors.py"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    assert lines.files_of("HEAD")["workloads/errors.py"] == nodes_of(listed)


def test_a_replay_asks_every_command() -> None:
    """153 lines, each once."""
    listed = [line for line in (ROOT / ".ci" / "replay.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(set(listed)) == len(listed) == 153
    commands = {name for names in COMMANDS.values() for name in names}
    assert {line.split()[0] for line in listed} == commands

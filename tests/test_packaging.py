"""Does the package hold every module and data file, and the repository nothing else?

Expected values are the folders on disk and the project's metadata.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import setuptools

import opbyte

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["simulator", "devices", "kernels", "workloads", "analysis"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Import name of a requirement, where it differs from the name it is installed by.
IMPORT_NAMES = {"pyyaml": "yaml", "cupy-cuda12x": "cupy"}


@pytest.fixture
def mapping(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py passes to setuptools."""
    passed: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", passed.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return passed


def library_files() -> list[Path]:
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return sorted(p for p in files if p.is_file() and "__pycache__" not in p.parts)


def test_packages_are_the_folders_on_disk(mapping: dict[str, Any]) -> None:
    holders = {path.parent for path in library_files() if path.suffix == ".py"}
    names = {"opbyte." + ".".join(path.relative_to(ROOT).parts) for path in holders}
    assert set(mapping["packages"]) == {"opbyte", "opbyte.extend", *names}
    assert len(mapping["packages"]) == len(set(mapping["packages"]))
    assert mapping["package_dir"] == {"opbyte": "src/opbyte", **{f"opbyte.{folder}": folder for folder in FOLDERS}}


def test_every_folder_with_modules_is_a_package() -> None:
    for path in library_files():
        if path.suffix == ".py":
            assert (path.parent / "__init__.py").exists(), f"{path.parent} lacks __init__.py"


def test_every_data_file_is_package_data(mapping: dict[str, Any]) -> None:
    matched = {
        path
        for package, patterns in mapping["package_data"].items()
        if package != "opbyte"
        for pattern in patterns
        for path in (ROOT / package.removeprefix("opbyte.").replace(".", "/")).glob(pattern)
    }
    data = {path for path in library_files() if path.suffix != ".py"}
    assert not data - matched, "add a pattern to package_data in setup.py"


def test_links_make_the_package_whole() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: a source archive carries no links")
    for folder in FOLDERS:
        link = ROOT / "src/opbyte" / folder
        assert link.is_symlink(), f"{link} is not a link (git config core.symlinks)"
        assert os.readlink(link) == f"../../{folder}"
    assert (ROOT / "src/opbyte/py.typed").exists()


def test_version_is_stated_once() -> None:
    assert opbyte.__version__ == PROJECT["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest
    assert newest[1] == PROJECT["version"]


def test_imports_are_declared() -> None:
    """A plain install brings every package that a module imports; extras bring the others."""
    requirements = [*PROJECT["dependencies"]]
    for extra in ("gpu", "cluster", "serve"):
        requirements += PROJECT["optional-dependencies"][extra]
    names = [re.split(r"[\[<>=!~; ]", text.lower())[0] for text in requirements]
    declared = {IMPORT_NAMES.get(name, name) for name in names} | {"cupyx", "distributed"}
    for path in library_files():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                targets = [node.module or ""]
            for target in targets:
                top = target.split(".")[0]
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert top in {"opbyte", *declared} or top in sys.stdlib_module_names, f"{where}: {top}"


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Files that git tracks, links left out."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"git cannot list the files: {run.stderr.strip()}")
    paths = [ROOT / name for name in run.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_no_other_folder(tracked: list[Path]) -> None:
    """What a command leaves in a checkout (`opbyte sweep` a folder by the study's name) is not committed."""
    top = {path.relative_to(ROOT).parts[0] for path in tracked if path.parent != ROOT}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not [name for name in sorted(top) if f"`{name}/" not in text]


def test_no_large_file(tracked: list[Path]) -> None:
    assert not [path for path in tracked if path.stat().st_size > 2**20]


def test_no_machine_paths(tracked: list[Path]) -> None:
    """No file names a folder of the machine it was written on.

    Suspect are the top folders of the machine the test runs on, those that every system has
    left out, and the usual homes.
    """
    common = {"bin", "boot", "dev", "etc", "lib", "lib64", "opt", "proc", "run", "sbin", "sys"}
    common |= {"tmp", "usr", "var"}
    here = {path.name for path in Path("/").iterdir() if path.is_dir() and path.name.isalnum()}
    suspects = sorted((here - common) | {"home", "Users"})
    pattern = re.compile(rf"(?<![\w.~/}})>-])/(?:{'|'.join(suspects)})(?![\w.-])")
    found = []
    for path in tracked:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if path.name != Path(__file__).name and (pattern.search(line) or str(ROOT) in line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found

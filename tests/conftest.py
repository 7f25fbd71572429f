"""Shared fixtures and the settings every test process starts with."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("simulator", "devices", "kernels", "workloads", "analysis")


def _numba_cache() -> Path:
    """A cache folder named by the sources.

    Numba does not notice an edit of a compiled callee that lives in another file, so a change of
    any source starts an empty cache; unchanged sources find theirs again.
    """
    digest = hashlib.sha256()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    home = ROOT / ".numba_cache"
    mine = home / digest.hexdigest()[:16]
    for stale in home.glob("*"):
        if stale != mine:
            shutil.rmtree(stale, ignore_errors=True)
    return mine


# Set before anything imports numba or matplotlib; child processes inherit it.
os.environ["NUMBA_CACHE_DIR"] = str(_numba_cache())
os.environ["MPLBACKEND"] = "Agg"

# Examples are drawn from a fixed seed: a failure here is a failure everywhere.
settings.register_profile("opbyte", deadline=None, derandomize=True, max_examples=30, database=None)
settings.load_profile("opbyte")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout's folder."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of measured data (see docs/data.md), or skip."""
    name = os.environ.get("OPBYTE_DATA", "")
    if not name:
        pytest.skip("OPBYTE_DATA is not set: no measured data to compare with")
    folder = Path(name).resolve()
    assert folder.is_dir(), f"OPBYTE_DATA={name} is not a folder"
    return folder


@pytest.fixture
def tmp_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working folder, for code that writes files."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home)
    return home

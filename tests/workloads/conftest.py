"""Fixtures of the workload tests: the folder of real data, and files made on the spot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real traces (see docs/data.md), or a skip."""
    folder = os.environ.get("OPBYTE_DATA")
    if not folder:
        pytest.skip("OPBYTE_DATA does not name the data folder")
    return Path(folder)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write bytes or text to a file of the test's own folder."""

    def write_file(content: str | bytes, name: str = "trace") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file

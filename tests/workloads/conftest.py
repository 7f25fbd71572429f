"""Fixtures of the workload tests: the folder of real data, and files made on the spot."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def refused_configs(test: str) -> list[tuple[str, Any, str]]:
    """Cases of a test in `refused_configs.txt`: name of the keys, what is changed in them, and a part of the message."""
    rows = Path(__file__).with_name("refused_configs.txt").read_text(encoding="utf-8").splitlines()
    cases = [row.split(" ", 2) for row in rows if row.startswith(f"{test} ")]
    parts = [(keys, *rest.rsplit(" => ", 1)) for _, keys, rest in cases]
    return [(keys, json.loads(changes), message) for keys, changes, message in parts]

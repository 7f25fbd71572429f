"""Does compiled code do without a cache that is full or broken?"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from opbyte.simulator.engine.loop import run
from opbyte.workloads.jit import cache_dir, forgiving


def made(folder: Path) -> Any:
    def twice(x: float) -> float:
        return 2.0 * x

    config: Any = numba.config
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        return forgiving(numba.njit(cache=True)(twice))
    finally:
        config.CACHE_DIR = before


def test_broken_files_are_compiled_anew(tmp_path: Path) -> None:
    assert made(tmp_path)(3.0) == 6.0
    stored = sorted(tmp_path.rglob("*.nbc"))
    assert stored
    for file in stored:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    again = made(tmp_path)
    assert again(4.0) == 8.0
    assert sum(again.stats.cache_hits.values()) == 0
    assert made(tmp_path)(5.0) == 10.0  # from the files that were written anew


def test_a_full_disk_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function = made(tmp_path)

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(function._cache._inner, "save_overload", full)
    assert function(3.0) == 6.0
    assert np.isclose(function(4), 8.0)


def test_code_lies_by_its_place_in_the_library() -> None:
    """Not by the path of its file: a wheel loads what its checkout compiled."""
    folder = cache_dir()
    function: Any = run
    assert folder
    assert function.stats.cache_path == str(folder / "simulator" / "engine")
    assert not function._cache._cache_file._source_stamp  # the folder's name tells the sources

"""Does every CUDA source compile for both architectures, without spills, on tensor cores where claimed?

NVRTC runs in a process of its own for each source and architecture: it may crash.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opbyte.kernels.cuda_build import ARCHITECTURES, SOURCES, find_nvrtc, header_folders

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", SOURCES)
def test_compiles(name: str, arch: str) -> None:
    if find_nvrtc() is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
    if not header_folders():
        pytest.skip("CUDA's headers are not installed: pip install nvidia-cuda-runtime-cu12")
    run = subprocess.run(
        [sys.executable, "-m", "opbyte.kernels.cuda_build", name, arch], capture_output=True,
        text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    lines = [dict(f.split("=", 1) for f in line.split() if "=" in f and f[0].islower())
             for line in run.stdout.splitlines()]  # fmt: skip
    assert len(lines) == 2 * len(SOURCES[name].variants)
    for line in lines:
        assert int(line["spilled"]) == 0, run.stdout
        assert (int(line["mma"]) > 0) == SOURCES[name].tensor_cores, run.stdout


def test_a_broken_source_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_nvrtc() is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
    from opbyte.kernels import cuda_build

    monkeypatch.setattr(cuda_build, "source_text", lambda name: "this is no CUDA")
    with pytest.raises(RuntimeError, match=r"x\.cu for sm_80 does not compile"):
        cuda_build.build("x", "sm_80")

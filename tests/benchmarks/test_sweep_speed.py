"""How fast is a sweep? 1,000 points, each a simulation of 300 requests; `make bench` prints it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from opbyte.analysis.studies.sweep import sweep

STUDY = """
base: {model: mixtral-8x7b, system: duplex-x4, requests: 300, input_len: 512, output_len: 128,
       lengths: lognormal}
axes:
  rate: {grid: {low: 1, high: 16, points: 10, scale: log}}
  tsv: {set: system.device.processors.logic-pim.bandwidth_multiple, values: [1, 2, 4, 8, 16]}
  modules: {set: system.device.processors.logic-pim.mac_array.modules_per_stack,
            values: [16, 32, 64, 128]}
  seed: [0, 1, 2, 3, 4]
"""


@pytest.mark.benchmark
def test_a_thousand_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    began = time.perf_counter()
    result = sweep(file, tmp_path / "out", workers=2)
    took = time.perf_counter() - began
    assert (len(result.table), result.failed) == (1000, 0)
    with capsys.disabled():
        load = os.getloadavg()[0]
        print(f"\n1,000 points of 300 requests, 2 workers: {took:.0f} s (load {load:.1f})")

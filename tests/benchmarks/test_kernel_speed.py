"""Do the CPU kernels keep their promises? Ratios within one run; see `kernel_bars.py`.

The table is the result. On a machine shared with other work few rounds count, and the figures say how
many; no time is asserted.
"""

from __future__ import annotations

import os

import pytest

from .kernel_bars import figures

pytestmark = pytest.mark.benchmark


def test_promises(capsys: pytest.CaptureFixture[str]) -> None:
    before = os.getloadavg()[0]
    found = figures()
    with capsys.disabled():
        print(f"\nload before {before:.1f}, after {os.getloadavg()[0]:.1f}")
        for figure in found:
            print(figure)
    assert all(figure.value > 0 for figure in found)

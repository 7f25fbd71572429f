"""Do the engine's functions, as plain Python, make the slow references' schedules?

The same properties as compiled code has, in a process without Numba's compiler: after a change of the engine compiling
takes minutes, in which a fault would not be seen. Ops cost by rooflines there.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

REFERENCES = {
    "test_policies.py": "not memory_for_one",
    "test_prefix_cache.py": "not sglang and not resume and not system_prompt",
    "test_scheduler.py": "test_same_schedule and (llama-3-8b-h100-x1 or windowed-h100-x1)",
    "test_composed.py": "reference",
    "test_disaggregation.py": "two_queues",
    "test_kv_tiers.py": "llama-3-8b-h100-x1-uniform or larger or never_cheaper",
}
"""Files, and which of their tests are quick."""
MOST_S = 60
"""Seconds of a processor, of which a file takes 15: a schedule that never ends is a fault too."""


@pytest.mark.parametrize("file", REFERENCES)
def test_as_the_slow_reference(file: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning",
         "-k", REFERENCES[file], str(Path(__file__).with_name(file))],
        env={name: x for name, x in os.environ.items() if name != "OPBYTE_DATA"} | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (MOST_S, MOST_S)),
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]

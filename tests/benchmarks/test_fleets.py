"""What do fleets take, from one replica to a thousand, with the settings that the command has by itself?

CPU time and the most memory of the command's process. Bounds of the fleets that look at loads are the bars of
this round; the others are twice what was measured on two cores that others used too.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.benchmark

TABLE: tuple[tuple[int, int, str, float, float], ...] = (
    # Replicas, requests, router, most CPU seconds, most MiB.
    (1_000, 2, "least-loaded", 12.0, 600),
    (1, 1_000_000, "round-robin", 20.0, 1000),
    (100, 1_000_000, "round-robin", 30.0, 1000),
    (100, 1_000_000, "least-loaded", 8.0, 800),
    (1_000, 1_000_000, "round-robin", 40.0, 2600),
    (1_000, 1_000_000, "least-loaded", 25.0, 1500),
)


@pytest.mark.parametrize(("replicas", "requests", "router", "most_s", "most_MiB"), TABLE)
def test_fleets(
    replicas: int, requests: int, router: str, most_s: float, most_MiB: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """12 requests/s a replica, 512 + 128 tokens lognormal, vLLM's policy: its limits and its prefix cache."""
    words = (
        f"simulate llama-3-8b --system h100-x1 --replicas {replicas} --rate {12 * replicas} --requests {requests} "
        f"--input-len 512 --output-len 128 --lengths lognormal --policy vllm --router {router} --json"
    )
    command = [sys.executable, "-m", "opbyte", *words.split()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took, most = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    with capsys.disabled():
        print(
            f"\n{replicas:6,} replicas, {requests:10,} requests, {router}: {took:6.1f} CPU s, {most:,.0f} MiB", end=""
        )
    assert process.returncode == 0
    assert took < most_s
    assert most < most_MiB

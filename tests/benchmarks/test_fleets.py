"""What do fleets take, from one replica to ten thousand?

CPU time and the most memory of a process of its own for each, since memory that was taken once tells nothing of
the next. Bounds are at least twice what was measured on two cores that others used too.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.benchmark

TABLE: tuple[tuple[int, int, str, float, float], ...] = (
    # Replicas, requests, router, most CPU seconds, most GB.
    (1, 1_000_000, "round-robin", 10.0, 1.0),
    (10, 1_000_000, "round-robin", 12.0, 1.0),
    (100, 1_000_000, "round-robin", 15.0, 1.2),
    (1_000, 200_000, "round-robin", 6.0, 1.2),
    (1_000, 1_000_000, "round-robin", 25.0, 1.5),
    (1_000, 1_000_000, "least-loaded", 50.0, 1.5),
    (1_000, 10_000_000, "round-robin", 120.0, 3.0),
    (1_000, 100_000_000, "round-robin", 900.0, 4.5),
    (10_000, 10_000_000, "round-robin", 300.0, 4.0),
)

ONE = """
import resource, sys, time
from opbyte.devices.catalog import load_system
from opbyte.simulator.batching.policies import make_policy
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.serving.fleet import Fleet
from opbyte.simulator.serving.run import run
from opbyte.workloads.catalog import load_model
from opbyte.workloads.requests import open_requests
replicas, requests, router = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
deployment, policy = deploy(load_model("llama-3-8b"), load_system("h100-x1")), make_policy("chunked")
def play(replicas, limit):
    stream = open_requests(
        rate=50.0 * replicas, limit=limit, input_len=512, output_len=128, lengths="lognormal"
    )
    return run(deployment, policy, stream, fleet=Fleet(router, replicas))
play(min(replicas, 2), 40)  # compiles
began = time.process_time()
found = play(replicas, requests)
took = time.process_time() - began
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(took, most, found.iterations, len(found.requests))
"""


@pytest.mark.parametrize(("replicas", "requests", "router", "most_s", "most_GB"), TABLE)
def test_fleets(
    replicas: int, requests: int, router: str, most_s: float, most_GB: float, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [sys.executable, "-c", ONE, str(replicas), str(requests), router]
    out = subprocess.run(told, capture_output=True, text=True, check=True, env=dict(os.environ))
    took, most, steps, count = map(float, out.stdout.split())
    with capsys.disabled():
        print(
            f"\n{replicas:6,} replicas, {requests:10,} requests, {router}: {took:6.1f} CPU s, {most:.2f} GB, "
            f"{requests / took:,.0f} requests/s, {took / steps * 1e6:.2f} us a step",
            end="",
        )
    assert count == requests
    assert took < most_s
    assert most < most_GB

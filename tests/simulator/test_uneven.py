"""Does what unequal contexts add reach the steps of an engine, the same on both paths?"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.policies import POLICIES, make_policy
from opbyte.simulator.step.lowering import lower
from opbyte.simulator.step.unequal import graph_batch, unequal_seconds
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.jit import compiled
from opbyte.workloads.requests import RequestBlock

from .two_paths import check_paths


@compiled
def sizes(counts: np.ndarray, captured: int, out: np.ndarray) -> None:
    for i in range(counts.size):
        out[i] = graph_batch(counts[i], captured)


@pytest.mark.parametrize("sequences", [1, 5, 32, 128, 200, 1024])
def test_captured_sizes(sequences: int) -> None:
    """The next of vLLM's sizes; batches beyond the largest run as they are."""
    captured = make_policy("vllm", max_sequences=sequences).captured
    known = [1, 2, 4, *range(8, 256, 8), *range(256, captured + 1, 16)]
    known = [n for n in known if n <= captured]
    counts = np.arange(1, 600)
    out = np.empty(len(counts), dtype=np.int64)
    sizes(counts, captured, out)
    for n, found in zip(counts, out, strict=True):
        larger = [k for k in known if k >= n]
        assert found == (larger[0] if larger else n)
    assert POLICIES["chunked"].captured == 0


@pytest.fixture
def measured(data_set: Callable[[str], Path]) -> Deployment:
    tables = data_set("serving_runs") / "rtxpro6000--llama-3.1-8b" / "kernels"
    system = load_system("rtx-pro-6000-x1")
    return deploy(load_model("llama-3.1-8b"), system, kernels=(str(tables),))


def batches() -> list[Batch]:
    rng = np.random.default_rng(3)
    uneven = [rng.integers(100, 3000, n).tolist() for n in (2, 9, 30, 70, 128)]
    return [Batch.of(c) for c in uneven] + [Batch.of(uneven[2], [(300, 0)]), Batch.of([900] * 40)]


def test_paths_agree(measured: Deployment) -> None:
    plan, _ = lower(measured)
    for batch in batches():
        check_paths(measured, [[batch]], captured=256, plan=plan)


def test_only_unequal_decodes_change(measured: Deployment) -> None:
    *unequal, equal = (unequal_seconds(measured, b, 256) for b in batches())
    assert equal == 0.0
    assert all(abs(added) > 1e-7 for added in unequal)
    assert unequal_seconds(measured, Batch.of([3000], [(300, 0), (20, 900)]), 256) == 0.0
    near = Batch.of([900 + i for i in range(40)])  # within one tile of keys
    assert unequal_seconds(measured, near, 256) == 0.0


def slower_with_a_long_context(deployment: Deployment) -> float:
    """Two engines with the same keys in all: the one with a long context, over the other."""
    ends = []
    for inputs in ([1200] * 40, [1100] * 39 + [5100]):
        engine = Engine(deployment, make_policy("vllm", 100_000, 64))
        count = len(inputs)
        engine.submit(RequestBlock(np.arange(count), np.zeros(count), np.array(inputs), np.full(count, 100)))
        engine.advance(math.inf)
        stamps = engine.state.requests[:count]
        ends.append(float((stamps.last - stamps.first).max()))
    return ends[1] / ends[0]


def test_one_long_context_slows_the_others(measured: Deployment) -> None:
    assert 1.05 < slower_with_a_long_context(measured) < 1.5


def test_also_in_a_pipeline(data_set: Callable[[str], Path]) -> None:
    tables = data_set("serving_runs") / "rtxpro6000--llama-3.1-8b" / "kernels"
    system = load_system("rtx-pro-6000-x2")
    d = deploy(load_model("llama-3.1-8b"), system, tp=1, pp=2, kernels=(str(tables),))
    assert 1.02 < slower_with_a_long_context(d) < 1.5

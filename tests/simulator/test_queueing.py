"""Does an engine that serves one request at a time queue as M/D/1, and as M/M/1?

Equal prompts with one output token take one step each, always of the same length. With Poisson
arrivals at utilisation rho the mean wait is rho S / (2 (1 - rho)) (Pollaczek and Khinchine).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.requests import RequestBlock

from .deployments import small

PROMPT = 64
REQUESTS = 60_000


@pytest.mark.parametrize("rho", [0.3, 0.7])
def test_mean_wait(rho: float) -> None:
    deployment = small("llama-3-8b")
    service = explicit_stage(deployment, [Batch.of([], [(PROMPT, 0)])]).seconds
    gaps = np.random.default_rng(7).exponential(service / rho, REQUESTS)
    engine = Engine(deployment, make_policy("chunked", max_sequences=1))
    size = np.full(REQUESTS, PROMPT)
    engine.submit(RequestBlock(np.arange(REQUESTS), np.cumsum(gaps), size, np.ones_like(size)))
    engine.advance(math.inf)
    rows = engine.state.requests[:REQUESTS]
    assert rows.last - rows.scheduled == pytest.approx(service, rel=1e-6)
    waits = rows.scheduled - rows.arrival
    batches = waits.reshape(60, -1).mean(axis=1)  # long enough to be nearly independent
    error = batches.std(ddof=1) / math.sqrt(len(batches))
    expected = rho * service / (2 * (1 - rho))
    assert abs(waits.mean() - expected) < 3 * error
    assert error < 0.1 * expected
    assert engine.state.clocks[0].busy / engine.now == pytest.approx(rho, rel=0.02)


def test_exponential_service_queues_as_m_m_1() -> None:
    """Exponential output lengths make service times exponential: M/M/1, one request at a time.

    Mean wait rho S / (1 - rho), and P(wait > t) = rho exp(-(1 - rho) t / S).
    """
    deployment, rho, count = small("llama-3-8b"), 0.6, 20_000
    rng = np.random.default_rng(11)
    outputs = np.ceil(rng.exponential(50.0, count)).astype(np.int64)
    policy, prompts = make_policy("chunked", max_sequences=1), np.ones(count, dtype=np.int64)
    alone = Engine(deployment, policy)
    alone.submit(RequestBlock(np.arange(count), np.zeros(count), prompts, outputs))
    service = alone.advance(math.inf) / count
    gaps = rng.exponential(service / rho, count)
    engine = Engine(deployment, policy)
    engine.submit(RequestBlock(np.arange(count), np.cumsum(gaps), prompts, outputs))
    engine.advance(math.inf)
    rows = engine.state.requests[:count]
    spent = rows.last - rows.scheduled
    assert spent.std() / spent.mean() == pytest.approx(1.0, abs=0.03)
    waits = rows.scheduled - rows.arrival
    batches = waits.reshape(40, -1).mean(axis=1)
    error = batches.std(ddof=1) / math.sqrt(len(batches))
    assert abs(waits.mean() - rho * service / (1 - rho)) < 3 * error
    for t in (0.0, 1.0, 3.0):
        expected = rho * math.exp(-(1 - rho) * t)
        assert (waits > t * service + 1e-12).mean() == pytest.approx(expected, abs=0.03)

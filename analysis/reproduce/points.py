"""Many simulations, each small: run on all cores, in an order that does not matter."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Point:
    """One closed-loop or Poisson run of the Duplex paper's kind.

    Attributes
    ----------
    model, system, placement : str
        Catalog names; placement "" is the system's own.
    batch : int
        Requests in flight (closed loop) or at most at once (`rate` given).
    input_len, output_len : int
        Mean lengths; drawn from the paper's Gaussian.
    rate : float or None
        Poisson arrivals per second [1/s]; None is a closed loop.
    seed : int
    routing : str
    requests, warmup : int
        Completions in all and left out.
    """

    model: str
    system: str
    batch: int
    input_len: int
    output_len: int
    seed: int
    routing: str = "uniform"
    rate: float | None = None
    requests: int = 0
    warmup: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What a point yields; times in seconds, rates per second."""

    output_tokens_per_s: float
    joules_per_token: float
    tbt_p50: float
    tbt_p90: float
    tbt_p99: float
    t2ft_p50: float
    e2e_p50: float
    e2e_mean: float
    completion_rate: float
    t2ft_growth: float


def run_point(point: Point) -> Measured:
    """Simulate one point."""
    import numpy as np

    from ..simulate import Simulation, simulate

    result = simulate(
        point.model,
        point.system,
        rate=point.rate,
        closed_loop=None if point.rate is not None else point.batch,
        requests=point.requests,
        input_len=point.input_len,
        output_len=point.output_len,
        lengths="gaussian",
        policy="mixed",
        max_seqs=point.batch,
        routing=point.routing,
        warmup=point.warmup,
        seed=point.seed,
    )
    assert isinstance(result, Simulation)
    run, table = result.run, result.run.requests
    late = table.order >= point.warmup
    ends = np.sort(table.last_token_s[late])
    t2ft = (table.first_token_s - table.arrival_s)[late]
    quarter = len(t2ft) // 4
    growth = np.median(t2ft[-quarter:]) / np.median(t2ft[quarter : 2 * quarter])
    return Measured(
        output_tokens_per_s=run.output_tokens_per_s or 0.0,
        joules_per_token=run.joules_per_token or 0.0,
        tbt_p50=run.tbt_s.p50 or 0.0,
        tbt_p90=run.tbt_s.p90 or 0.0,
        tbt_p99=run.tbt_s.p99 or 0.0,
        t2ft_p50=run.ttft_s.p50 or 0.0,
        e2e_p50=run.e2e_s.p50 or 0.0,
        e2e_mean=run.e2e_s.mean or 0.0,
        completion_rate=(len(ends) - 1) / float(ends[-1] - ends[0]),
        t2ft_growth=float(growth),
    )


def run_points(points: Sequence[Point], told: Told | None = None) -> dict[Point, Measured]:
    """Simulate points on all cores; the longest first, so that none is left over at the end."""
    unique = list(dict.fromkeys(points))
    unique.sort(key=lambda p: -p.requests * p.output_len / p.batch)
    workers = min(os.cpu_count() or 1, len(unique))
    done: dict[Point, Measured] = {}
    run_point(unique[-1])  # compile once, before the workers would each do it
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run_point, point): point for point in unique}
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            if told is not None:
                told(len(done), len(unique))
    return {point: done[point] for point in unique}
